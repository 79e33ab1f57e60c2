"""Items that several threads compute come out as on one."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from edgeconv.core import threads
from edgeconv.core.threads import in_threads, one_ahead


@pytest.fixture(autouse=True)
def _three_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_processors", lambda: 3)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8])
def test_results_are_in_the_order_of_the_items(count: int) -> None:
    assert in_threads(lambda item: item * item, range(count)) == [at * at for at in range(count)]


def test_few_items_are_computed_by_the_caller_alone() -> None:
    assert set(in_threads(lambda _: threading.get_ident(), range(5), at_least=6)) == {threading.get_ident()}


def test_other_threads_have_the_error_state_of_the_caller() -> None:
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.simplefilter("error")
        assert in_threads(lambda item: np.ones(4)[item] / np.zeros(()), range(4)) == [np.inf] * 4


def test_an_error_of_any_item_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 // (item - 4), range(6))


def test_one_item_is_made_ahead_and_no_more() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for item in range(4):
            made.append(item)
            if item == 1:
                second.set()
            yield item

    ahead = one_ahead(items())
    assert next(ahead) == 0
    assert second.wait(10)
    assert made == [0, 1]
    assert [*ahead] == [1, 2, 3]


def test_an_error_of_making_an_item_comes_behind_those_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    ahead = one_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError):
        next(ahead)
