"""Parameters of which `make test` runs a part, of several axes a diagonal, and `make test-all` all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
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


def slow_but(fast: Collection[Any], members: Iterable[Any]) -> list[Any]:
    """The members of one axis, for `parametrize`; slow but ``fast``, which reach every line that the others do."""
    return [pytest.param(*_tuple(member), marks=[] if member in fast else pytest.mark.slow) for member in members]


def _flat(axes: Sequence[Sequence[Any]], places: Sequence[int]) -> list[Any]:
    values = [axis[place] for axis, place in zip(axes, places, strict=True)]
    return [item for value in values for item in _tuple(value)]


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
