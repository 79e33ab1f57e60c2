"""Parameters of several axes of which `make test` runs a diagonal and `make test-all` every combination."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest


def diagonal(*axes: Sequence[Any]) -> list[Any]:
    """Every combination of the axes' values, for `parametrize`; slow but for those that meet each value at least once.

    Those are the first values together, then the second ones, and so on to the end of the longest axis; shorter axes
    begin again. For axes that are handled by code of their own. One that is a list of tuples adds these as they are.
    """
    at = range(max(map(len, axes)))
    fast = {tuple(step % len(axis) for axis in axes) for step in at}
    return [
        pytest.param(*_flat(axes, places), marks=[] if places in fast else pytest.mark.slow)
        for places in product(*(range(len(axis)) for axis in axes))
    ]


def _flat(axes: Sequence[Sequence[Any]], places: Sequence[int]) -> list[Any]:
    values = [axis[place] for axis, place in zip(axes, places, strict=True)]
    return [item for value in values for item in (value if isinstance(value, tuple) else (value,))]
