"""Elements of one array or another: as `np.where` has them, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

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
