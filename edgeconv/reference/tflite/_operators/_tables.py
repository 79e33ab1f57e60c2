"""Functions of quantized integers that kernels look up in tables, which they compute in float32.

Specification: LUTPopulate and LUTLookup in tensorflow/lite/kernels/internal/common.h. Integers of 8 bits have an entry
each; those of 16 bits have 513, corrected at the middle between two, and a straight line from one to the next. A C
library may differ in the last bit of the function, and so by 1 in the integer where that lies at a tie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeconv.reference.tflite._call import Call
from edgeconv.reference.tflite._fixed_point import rounded
from edgeconv.reference.tflite._graph import Array

Function = Callable[[Array], Array]
_STEPS = 512  # between which the kernel interpolates


def looked_up(call: Call, function: Function) -> Array:
    """A function of input 0 in real numbers, as the integers of the output.

    Args:
        call: the operator, quantized in 8 or 16 bits.
        function: of a float64 array.
    """
    low, high = call.range_of(call.source(0))
    if call.source(0).dtype == "int16":
        scales = (call.scale(0), call.scale(call.result))
        points = (call.zero_point(0), call.zero_point(call.result))
        return interpolated(call[0], table_16(function, scales, points))
    values = call.scale(0) * np.arange(low - call.zero_point(0), high - call.zero_point(0) + 1).astype(np.float32)
    inverse = np.float32(1) / call.scale(call.result)
    scaled = rounded(function(values.astype(np.float64)).astype(np.float32) * inverse)
    table = call.saturated(np.nan_to_num(scaled).astype(np.float64) + call.zero_point(call.result)).astype(np.int64)
    return np.asarray(table[call[0].astype(np.int64) - low])


def table_16(function: Function, scales: tuple[np.floating[Any], np.floating[Any]], points: tuple[int, int]) -> Array:
    """The 513 entries, int64, of a function between tensors of 16 bits, computed in the precision of the scales."""
    kind = type(scales[0])
    least, most = (kind(scales[0] * kind(bound - points[0])) for bound in (-(2**15), 2**15 - 1))
    low, high = (kind(scales[1] * kind(bound - points[1])) for bound in (-(2**15), 2**15 - 1))
    step = kind((most - least) / _STEPS)
    inverse = kind(kind(2**16) / (high - low))
    at = least + np.arange(_STEPS).astype(kind) * step
    here, middle, following = (
        function(position.astype(np.float64)).astype(kind) * inverse
        for position in (at, at + step / kind(2), least + np.arange(1, _STEPS + 1).astype(kind) * step)
    )
    error = rounded((following + rounded(here)) / 2) - rounded(middle)
    last = rounded(function(np.full(1, most, np.float64)).astype(kind) * inverse)
    entries = np.append(rounded(here) - rounded(error / 2), last)
    whole: Array = np.clip(np.nan_to_num(entries), -(2**15), 2**15 - 1).astype(np.int64)
    return whole


def interpolated(values: Array, table: Array) -> Array:
    """Linear interpolation between the entries of a table of 16 bits (LUTLookup of int16 in common.h)."""
    values = values.astype(np.int64)
    index = 256 + (values >> 7)
    base = table[index]
    return np.asarray(base + (((table[index + 1] - base) * (values & 0x7F) + 64) >> 7))
