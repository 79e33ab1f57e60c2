"""Quantizes the operands of a layer that is cut out, so that it saturates where the whole file does."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeconv.core import Array
from edgeconv.core.affine import limits_of

_NEARLY = 1e-6  # of a step: float32 scales put a half a little off


def as_integers(array: Array, scale: float, zero_point: int, dtype: np.dtype[Any]) -> Array:
    """The nearest integers; half a step from an end of the range it is that end, which all beyond have become."""
    least, greatest = limits_of(dtype)
    steps = array / scale + zero_point
    nearest = np.clip(np.rint(steps), least, greatest)
    nearest = np.where(steps <= least + 0.5 + _NEARLY, least, nearest)
    return np.asarray(np.where(steps >= greatest - 0.5 - _NEARLY, greatest, nearest), dtype)
