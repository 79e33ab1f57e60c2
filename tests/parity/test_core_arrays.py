"""Faster forms of numpy's: elements of one array or another, arrays in the order of C; the same to the last bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeconv.core import moved
from edgeconv.core.selection import selected

ODD = np.array([0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, np.inf, -np.inf, np.nan, 1e308])
CONDITION = np.arange(100).reshape(10, 10) % 3 == 0


@pytest.mark.parametrize("b", [ODD, np.tile(ODD, (10, 1)), np.tile(ODD, (10, 1)).T, np.asarray(np.nan)])
@pytest.mark.parametrize(
    "a",
    [
        np.tile(ODD[::-1], (10, 1)),
        np.asarray(np.inf),
        ODD[:9].astype(np.float32)[CONDITION[:1].astype(int)],
        np.arange(10),
    ],
)
def test_selected_elements_are_those_of_where(a: np.ndarray, b: np.ndarray) -> None:
    for condition in (CONDITION, CONDITION.T, CONDITION[:, ::-1]):
        actual, due = selected(condition, np.asarray(a), np.asarray(b)), np.where(condition, a, b)
        assert actual.dtype == due.dtype
        assert actual.tobytes() == due.tobytes()


def test_a_single_condition_and_nothing_select_as_where_does() -> None:
    one, two = np.asarray(1.0), np.asarray(2.0)
    assert selected(np.asarray(True), one, two) == 1
    assert selected(np.zeros(0, np.bool_), one, two).shape == (0,)
    assert selected(np.ones((2, 0), np.bool_), np.ones((2, 0)), two).shape == (2, 0)


@pytest.mark.parametrize("shape", [(), (1,), (0, 3, 2), (7,), (5, 9), (1, 6, 4, 5), (3, 1, 5, 4), (2, 3, 4, 2, 3)])
def test_an_array_in_the_order_of_c_has_the_same_elements(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moved, "_PART", 4)
    monkeypatch.setattr(moved, "_LINE", 2)
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for axes in itertools.permutations(range(len(shape))):
        other = array.transpose(axes)
        views = [other, other[..., ::-1], other[::2]] if shape else [other]
        for view in (*views, np.broadcast_to(other, (3, *other.shape))):
            copied = moved.contiguous(view)
            assert copied.flags.c_contiguous
            assert copied.dtype == view.dtype
            np.testing.assert_array_equal(copied, view)
    assert moved.contiguous(array) is array
