"""Arrays in another precision: float16 as files hold constants, float32 as runtimes compute, float64 as the reference.

Integers and booleans are none of these, and stay what they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""Of any element type; docstrings say which."""

FLOAT16_LARGEST = float(np.finfo(np.float16).max)


def to_float16(array: Array) -> Array:
    """Rounds to float16; numbers beyond its range become its ends, infinities stay."""
    finite = np.isfinite(array)
    return np.where(finite, np.clip(array, -FLOAT16_LARGEST, FLOAT16_LARGEST), array).astype(np.float16)


def to_float32(array: Array) -> Array:
    """Rounds float64 to float32; an array of any other type stays as it is."""
    return array.astype(np.float32) if array.dtype == np.float64 else array


def to_float64(array: Array) -> Array:
    """Floats of any precision in float64, exactly; an array of any other type stays as it is."""
    return array.astype(np.float64) if array.dtype.kind == "f" else array
