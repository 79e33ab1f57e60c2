"""Numbers of a constant that are estimated: also of constants without any, and of parts that take no other ones."""

from __future__ import annotations

import numpy as np
import pytest

from edgeconv.errors import RewriteError
from edgeconv.parity.causes._other_numbers import OtherNumbers
from edgeconv.parity.causes._piece import Evidence, confirmed

HELD = np.array([[1.0, 2.0], [3.0, 4.0]])


def _causes(due: np.ndarray, held: np.ndarray = HELD) -> list[str]:
    """The words that are confirmed, where a part computes 3 x + 1 of its constant."""
    evidence, wrong = Evidence(3 * due + 1, 1e-9), 3 * held + 1
    hypotheses = OtherNumbers(lambda array: 3 * array + 1, "c", held).hypotheses(evidence, wrong)
    return [item.words for item in hypotheses if confirmed(item, evidence, evidence.beyond(wrong))]


def test_two_that_are_exchanged_are_told() -> None:
    assert "c has its numbers at [0, 1] and [1, 0] exchanged" in _causes(HELD.T)


def test_a_constant_without_numbers_has_none_that_are_wrong() -> None:
    evidence = Evidence(np.ones((2, 3)), 1e-9)
    assert list(OtherNumbers(lambda _: np.zeros((2, 3)), "c", np.zeros(0)).hypotheses(evidence, np.zeros((2, 3)))) == []


@pytest.mark.parametrize("error", [RewriteError("it has no such number"), ValueError("shapes")])
def test_a_part_that_takes_no_other_numbers_ends_nothing(error: Exception) -> None:
    def compute(_: np.ndarray) -> np.ndarray:
        raise error

    evidence = Evidence(3 * HELD, 1e-9)
    hypotheses = OtherNumbers(compute, "c", HELD).hypotheses(evidence, HELD)
    assert [item.words for item in hypotheses if confirmed(item, evidence, 4)] == []
