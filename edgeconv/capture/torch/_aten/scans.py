"""What goes along an axis: cumulative products and extremes; the element of a rank among the sorted ones.

A scan is written with as many steps as the length doubles: after each, an element stands for twice as many in front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Result, Unsupported, sizes_of


def cumprod(b: Builder, x: ir.Value, dim: int, dtype: object) -> ir.Value:
    """Products of twice as many neighbours with each step.

    They may leave the range where no product from the start does: float16's for ordinary numbers, so that they stay
    float32 in a file of halves; float32's only where as many neighbours in a row multiply to more than 3e38 or to less
    than 1e-38, behind others that make up for it. Then the result is infinite, not a number or 0.
    """
    x = b.cast(x, b.dtype)
    if not sizes_of(x):
        return x
    b.write_out()
    axis = dim % len(sizes_of(x))
    size, reach = sizes_of(x)[axis], 1
    while reach < size:
        ones = b.filled(1, *sizes_of(x)[:axis], reach, *sizes_of(x)[axis + 1 :])
        x = b.add("Mul", x, b.concat([ones, b.slice(x, axis, 0, size - reach)], axis))
        reach *= 2
    return x


def cumulative(op_type: str) -> Entry:
    """``cummax``, ``cummin``: the largest or smallest so far, and the last place where it was met (int64)."""

    def entry(b: Builder, x: ir.Value, dim: int) -> Result:
        if not sizes_of(x):
            raise Unsupported("a scalar")
        axis = dim % len(sizes_of(x))
        values = _extreme(b, op_type, x, axis)
        if not b.is_used(1):
            return [values, None]
        sizes = sizes_of(x)
        places = np.arange(sizes[axis]).reshape([-1 if index == axis else 1 for index in range(len(sizes))])
        is_met = b.add("Equal", x, values, dtype=ir.DataType.BOOL)
        met = b.add("Where", is_met, b.constant(places), b.scalar(0, ir.DataType.INT64), dtype=ir.DataType.INT64)
        return [values, _extreme(b, "Max", met, axis)]

    return entry


def _extreme(b: Builder, op_type: str, x: ir.Value, axis: int) -> ir.Value:
    size, reach = sizes_of(x)[axis], 1
    while reach < size:  # the first elements meet themselves
        before = b.concat([b.slice(x, axis, 0, reach), b.slice(x, axis, 0, size - reach)], axis)
        x = b.add(op_type, x, before)
        reach *= 2
    return x


def kthvalue(b: Builder, x: ir.Value, k: int, dim: int, keepdim: bool) -> list[ir.Value]:
    """The ``k``-th smallest of an axis, and its int64 place: the last of a TopK from the end that is nearer."""
    if not sizes_of(x):
        raise Unsupported("a scalar")
    axis = dim % len(sizes_of(x))
    sizes = list(sizes_of(x))
    from_start = k <= (sizes[axis] + 1) // 2  # the shorter list of the two
    count = k if from_start else sizes[axis] - k + 1
    sizes[axis] = count
    results = b.add_many(
        "TopK", [x, b.ints(count)], [sizes, sizes], axis=axis, largest=int(not from_start), sorted=1
    )  # fmt: skip
    results[1].dtype = ir.DataType.INT64
    return [b.reshape(b.slice(result, axis, count - 1, count), b.shape) for result in results]


def median(b: Builder, x: ir.Value, dim: int, keepdim: bool) -> Result:
    """The lower of two medians of an axis, as torch takes it, and its int64 place (see `kthvalue`)."""
    if not sizes_of(x):
        raise Unsupported("a scalar")
    return kthvalue(b, x, (sizes_of(x)[dim] + 1) // 2, dim, keepdim)


def median_of_all(b: Builder, x: ir.Value) -> ir.Value:
    """The lower median of all elements, without axes."""
    count = math.prod(sizes_of(x))
    return kthvalue(b, b.reshape(x, (count,)), (count + 1) // 2, 0, False)[0]


TABLE: Mapping[str, Entry] = {
    "aten.cumprod.default": cumprod,
    "aten.cummax.default": cumulative("Max"),
    "aten.cummin.default": cumulative("Min"),
    "aten.kthvalue.default": kthvalue,
    "aten.median.dim": median,
    "aten.median.default": median_of_all,
}
