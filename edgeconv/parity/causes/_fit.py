"""A number that is read from a result: the one that a parameter must have had."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edgeconv.core import Array
from edgeconv.errors import EdgeconvError

_ROUNDS = 24
_LARGEST = float(np.finfo(np.float32).max)
_STEP = 2.0**-16  # relative


def fitted(compute: Callable[[float], Array], start: float, actual: Array) -> Iterator[float]:
    """The values of a parameter with which a result is nearest to the actual one: of float32, and of float64.

    By Gauss and Newton, from `start`; none where the result does not depend on it, or nothing is near.

    Args:
        compute: the result with a value of the parameter.
        start: what it should be.
        actual: of the same shape.
    """
    value = start
    for _ in range(_ROUNDS):
        try:
            with np.errstate(all="ignore"):
                change = _change(compute, value, actual)
        except (EdgeconvError, ValueError):
            return
        if change is None:
            return
        value += change
        if not np.isfinite(value) or not abs(change) > 1e-15 * abs(value):
            break
    if np.isfinite(value) and value != start and abs(value) < _LARGEST:
        yield float(np.float32(value))
        yield value


def _change(compute: Callable[[float], Array], value: float, actual: Array) -> float | None:
    result = compute(value)
    if result.shape != actual.shape or result.dtype.kind != "f":
        return None
    step = _STEP * max(abs(value), 1e-6)
    slope = (compute(value + step) - result) / step
    residual = actual - result
    sound = np.isfinite(slope) & np.isfinite(residual)
    slope, residual = slope[sound], residual[sound]
    energy = float(np.sum(slope * slope))
    return float(np.sum(slope * residual)) / energy if energy > 0 else None
