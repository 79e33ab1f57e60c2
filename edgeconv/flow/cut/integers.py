"""Quantizes the operands of a layer that is cut out, so that it saturates where the whole file does."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeconv.core import Array

_NEARLY = 1e-6  # of a step


def as_integers(array: Array, scale: float, zero_point: int, dtype: np.dtype[Any]) -> Array:
    """The nearest integers; half a step from an end of the range it is that end, which all beyond have become."""
    limits = np.iinfo(dtype)
    places = array / scale + zero_point
    nearest = np.clip(np.rint(places), limits.min, limits.max)
    nearest = np.where(places <= limits.min + 0.5 + _NEARLY, limits.min, nearest)
    return np.asarray(np.where(places >= limits.max - 0.5 - _NEARLY, limits.max, nearest), dtype)
