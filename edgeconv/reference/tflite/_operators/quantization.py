"""From real numbers to integers and back, and from one type to another.

Specification: QUANTIZE, DEQUANTIZE, CAST; tensorflow/lite/kernels/quantize.cc, dequantize.cc, cast.cc.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._fixed_point import factor, multiplied, rounded
from edgeconv.reference.tflite._graph import Array


def _quantize(call: Call) -> Array:
    """Real numbers to the nearest integer, divided in float32, ties away from zero; integers by a factor."""
    if not call.quantized:
        raise call.refuse("gives no quantized tensor")
    if not call.source(0).floating:
        by = factor(float(call.scale(0)) / float(call.scale(call.result)))
        return call.saturated(multiplied(call.integers(0), by) + call.zero_point(call.result))
    parameters, shape = call.result.quantization, [1] * call[0].ndim
    if parameters is not None and parameters.per_channel:
        shape[parameters.axis] = -1
    scales = np.array(parameters.scales if parameters is not None else ()).reshape(shape)
    points = np.array(parameters.zero_points if parameters is not None else ()).reshape(shape)
    ratio = call[0].astype(np.float32) / scales.astype(np.float32)
    return call.saturated(np.nan_to_num(rounded(ratio)).astype(np.float64) + points)


def _cast(call: Call) -> Array:
    """Real numbers are truncated toward zero, and held within the integer's range (C leaves that open)."""
    target, value = call.result.held_as, call[0]
    if value.dtype.kind == "f" and target.kind in "iu":
        limits = np.iinfo(target)
        whole = np.trunc(np.nan_to_num(value))
        held = whole.clip(limits.min, limits.max).astype(np.float64)
        return np.where(held >= limits.max, limits.max, np.where(held < limits.max, held, 0).astype(target)).astype(
            target
        )
    return np.asarray(value, target)


OPERATORS: Mapping[str, Kernel] = {
    "CAST": _cast,
    "DEQUANTIZE": lambda call: call.real(0),
    "QUANTIZE": _quantize,
}
