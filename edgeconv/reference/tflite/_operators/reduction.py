"""Reductions over axes, in real numbers and in integers.

Specification: MEAN, SUM, REDUCE_*; tensorflow/lite/kernels/reduce.cc and internal/reference/reduce.h.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._fixed_point import Factor, factor, multiplied, wrapped
from edgeconv.reference.tflite._graph import Array


def _axes(call: Call) -> tuple[int, ...]:
    return tuple(sorted({call.axis(axis, call[0].ndim) for axis in call.ints(1)})) if call[0].ndim else ()


def _reduced(function: Callable[..., Array]) -> Callable[[Call], Array]:
    """Reduces real numbers and plain integers, and quantized ones where these are only compared."""

    def compute(call: Call) -> Array:
        if call.quantized and function in (np.sum, np.prod):
            raise call.refuse("of quantized integers is not computed")
        keep = {"dtype": call[0].dtype} if function in (np.sum, np.prod) else {}
        return np.asarray(function(call[0], axis=_axes(call), keepdims=call.flag("keep_dims"), **keep))

    return compute


def _sum(call: Call) -> Array:
    return _scaled_sum(call, 1) if call.quantized else _reduced(np.sum)(call)


def _mean(call: Call) -> Array:
    """The mean; of plain integers, truncated toward zero."""
    axes = _axes(call)
    count = math.prod(call[0].shape[axis] for axis in axes)
    if not count:
        raise call.refuse("is over no elements")
    if call.quantized:
        return _scaled_sum(call, count)
    total = call[0].sum(axis=axes, keepdims=call.flag("keep_dims"))
    return np.asarray(total / count if call.result.floating else np.sign(total) * (np.abs(total) // count))


def _scaled_sum(call: Call, count: int) -> Array:
    """The sum of quantized integers times one factor, which is divided by the count with as many bits as 32 allow."""
    total = call.integers(0).sum(axis=_axes(call), keepdims=call.flag("keep_dims"))
    by = factor(float(call.scale(0)) / float(call.scale(call.result)))
    if count > 1:
        # QuantizedMeanOrSum (kernels/internal/reference/reduce.h): the shift is what the division by the count loses.
        shift = min(count.bit_length() - 1, 32, 31 + int(by.shift))
        by = Factor(np.int64((int(by.multiplier) << shift) // count), by.shift - shift)  # type: ignore[arg-type]
    return call.saturated(multiplied(wrapped(np.asarray(total)), by) + call.zero_point(call.result))


OPERATORS: Mapping[str, Kernel] = {
    "MEAN": _mean,
    "REDUCE_ALL": _reduced(np.all),
    "REDUCE_ANY": _reduced(np.any),
    "REDUCE_MAX": _reduced(np.max),
    "REDUCE_MIN": _reduced(np.min),
    "REDUCE_PROD": _reduced(np.prod),
    "SUM": _sum,
}
