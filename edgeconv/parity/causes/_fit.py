"""Estimates a parameter from a result: the value that the runtime must have used."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edgeconv.core import Array
from edgeconv.errors import EdgeconvError

_ROUNDS = 24
_LARGEST = float(np.finfo(np.float32).max)
_STEP = 2.0**-16  # relative, of a slope: far above float64's rounding, and small enough for a straight line


def fitted(compute: Callable[[float], Array], start: float, actual: Array) -> Iterator[float]:
    """The value of a parameter with which a result is nearest to the actual one: rounded to float32, and as it is.

    By the Gauss-Newton method, from `start`. Yields nothing where the result does not depend on the parameter, or the
    iteration leaves the range of float32.

    Args:
        compute: the result with a value of the parameter.
        start: the value that the graph states.
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
    # Files store parameters as float32: that is tried first, and may fit exactly.
    if np.isfinite(value) and value != start and abs(value) < _LARGEST:
        yield float(np.float32(value))
        yield value


def _change(compute: Callable[[float], Array], value: float, actual: Array) -> float | None:
    """One Gauss-Newton step for one parameter: the residual projected on the slope; None where the slope is 0."""
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
