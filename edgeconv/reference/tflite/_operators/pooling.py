"""Poolings, in real numbers and in integers.

Specification: AVERAGE_POOL_2D, MAX_POOL_2D, L2_POOL_2D; tensorflow/lite/kernels/pooling.cc. Averages do not count
padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._graph import Array
from edgeconv.reference.tflite._operators._windows import Axis, axis_of

_Merge = Callable[[Array, Array], Array]


def _average(call: Call) -> Array:
    axes = _axes(call)
    if not call.quantized:
        return call.activated(_pooled(call, call.real(0), axes, np.add, 0.0) / _counts(axes))
    total = _pooled(call, call[0].astype(np.int64), axes, np.add, 0)
    return call.saturated(rounded_quotient(total, _counts(axes)), activation=True)


def rounded_quotient(total: Array, count: Array | int) -> Array:
    """Integers divided by a positive count, to the nearest, ties away from zero."""
    # AveragePool in kernels/internal/reference/integer_ops/pooling.h.
    half = np.where(total > 0, count // 2, -(count // 2))
    return np.asarray(np.sign(total + half) * (np.abs(total + half) // count))


def _maximum(call: Call) -> Array:
    axes = _axes(call)
    if not call.quantized:
        value = call[0]
        lowest = -np.inf if value.dtype.kind == "f" else int(np.iinfo(value.dtype).min)
        return call.activated(_pooled(call, value, axes, np.maximum, lowest))
    low, _ = call.range_of(call.result)
    return call.saturated(_pooled(call, call[0].astype(np.int64), axes, np.maximum, low), activation=True)


def _root_mean_square(call: Call) -> Array:
    axes = _axes(call)
    return call.activated(np.sqrt(_pooled(call, call.real(0) ** 2, axes, np.add, 0.0) / _counts(axes)))


def _axes(call: Call) -> tuple[Axis, Axis]:
    if call[0].ndim != 4:
        raise call.refuse(f"has an input of {call[0].ndim} axes where it takes 4")
    _, height, width, _ = call[0].shape
    return (
        axis_of(call, height, call.integer("filter_height"), call.integer("stride_h")),
        axis_of(call, width, call.integer("filter_width"), call.integer("stride_w")),
    )


def _pooled(call: Call, x: Array, axes: tuple[Axis, Axis], merge: _Merge, start: float) -> Array:
    """Combines the elements of each window, along the height first, then along the width."""
    high, wide = axes
    rows = np.full(call.sized((x.shape[0], high.count, *x.shape[2:])), start, x.dtype)
    for _, windows, seen in high.taps():
        rows[:, windows] = merge(rows[:, windows], x[:, seen])
    result = np.full(call.sized((x.shape[0], high.count, wide.count, x.shape[3])), start, x.dtype)
    for _, windows, seen in wide.taps():
        result[:, :, windows] = merge(result[:, :, windows], rows[:, :, seen])
    return result


def _counts(axes: tuple[Axis, Axis]) -> Array:
    """The number of elements of the input in each window, (height, width, 1)."""
    along = []
    for axis in axes:
        count = np.zeros(axis.count, np.int64)
        for _, windows, _ in axis.taps():
            count[windows] += 1
        along.append(count)
    return np.multiply.outer(*along)[:, :, None]


OPERATORS: Mapping[str, Kernel] = {
    "AVERAGE_POOL_2D": _average,
    "L2_POOL_2D": _root_mean_square,
    "MAX_POOL_2D": _maximum,
}
