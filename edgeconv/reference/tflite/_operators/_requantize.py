"""Scales sums of products to the integers of the output.

Specification: the quantization specification; PopulateConvolutionQuantizationParams and
CalculateActivationRangeQuantized in tensorflow/lite/kernels/kernel_util.cc.
"""

from __future__ import annotations

import numpy as np

from edgeconv.reference.tflite._call import Call
from edgeconv.reference.tflite._fixed_point import factor, multiplied, multiplied_wide, rounded
from edgeconv.reference.tflite._graph import Array

_INT32 = 2  # of TensorType


def requantized(call: Call, total: Array, *, x: int, weight: int, bias: int, dense: bool = False) -> Array:
    """Scales sums, with the output's channels last, into the output's integers; the fused activation included.

    Args:
        call: the operator.
        total: exact sums of products of centered integers, float64.
        x: the input that is the data.
        weight: the input that holds the weights, with one scale or one per output channel.
        bias: the input that holds the bias, if any.
        dense: whether it is FULLY_CONNECTED, whose signed sums LiteRT's reference kernels scale in double precision
            and round once. Its optimized ones, and all before it, have the others' fixed point, and may differ by 1.
    """
    values = total.astype(np.int64)
    terms = call.optional(bias)
    if terms is not None:
        values = values + terms.reshape(-1).astype(np.int64)
    filters = call.source(weight).quantization
    scales = [float(call.scale(weight))] if filters is None or not filters.per_channel else list(filters.scales)
    source, result = call.scale(x), float(call.scale(call.result))
    dtype = call.source(x).dtype
    reals = [float(source) * scale / result for scale in scales]
    if dtype == "uint8" and len(scales) == 1:
        reals = [float(source * call.scale(weight)) / result]
    if dense and dtype != "uint8":
        scaled = rounded(values * np.array(reals)).astype(np.int64)
    elif dtype == "int16" and call.operator.options.get("quantized_bias_type") != _INT32:
        scaled = multiplied_wide(values, factor(reals))
    else:
        scaled = multiplied(fitting(call, values), factor(reals))
    return call.saturated(scaled + call.zero_point(call.result), activation=True)


def fitting(call: Call, values: Array) -> Array:
    """Sums of integers that 32 bits hold.

    Raises:
        EmitError: one does not fit; what wraps is a matter of the kernel.
    """
    if values.size and max(int(values.max()), -int(values.min())) >= 2**31:
        raise call.refuse("has a sum of more than 32 bits, which no kernel defines")
    return values
