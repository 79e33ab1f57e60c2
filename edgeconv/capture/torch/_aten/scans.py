"""Cumulative products and extremes along an axis; the k-th smallest and the most frequent element of an axis.

A scan of n elements takes log2(n) steps (Hillis and Steele, Data Parallel Algorithms, 1986): in each, every element is
combined with the one that is 1, 2, 4, … places before it, and then covers twice as many elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Result, Unsupported, sizes_of

_INT64 = ir.DataType.INT64


def cumprod(b: Builder, x: ir.Value, dim: int, dtype: object) -> ir.Value:
    """Cumulative products, as Concat and Mul.

    A product of 2^k neighbors may leave the range of the type although no product from the start does. In float16
    that happens for ordinary numbers, so these nodes stay float32 in a float16 file. In float32 it takes neighbors
    whose product is above 3e38 or below 1e-38, after others that compensate; the result is then infinite, NaN or 0.
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
        # The index of an extreme is the last position up to here at which an element equals the extreme so far.
        places = np.arange(sizes[axis]).reshape([-1 if index == axis else 1 for index in range(len(sizes))])
        is_met = b.add("Equal", x, values, dtype=ir.DataType.BOOL)
        met = b.add("Where", is_met, b.constant(places), b.scalar(0, ir.DataType.INT64), dtype=ir.DataType.INT64)
        return [values, _extreme(b, "Max", met, axis)]

    return entry


def _extreme(b: Builder, op_type: str, x: ir.Value, axis: int) -> ir.Value:
    """The cumulative Max or Min; elements with too few before them are combined with themselves."""
    size, reach = sizes_of(x)[axis], 1
    while reach < size:
        before = b.concat([b.slice(x, axis, 0, reach), b.slice(x, axis, 0, size - reach)], axis)
        x = b.add(op_type, x, before)
        reach *= 2
    return x


def kthvalue(b: Builder, x: ir.Value, k: int, dim: int, keepdim: bool) -> list[ir.Value]:
    """The k-th smallest element of an axis (k from 1), and its int64 position: the last element of a TopK.

    TopK from the largest where that list is shorter.
    """
    if not sizes_of(x):
        raise Unsupported("a scalar")
    axis = dim % len(sizes_of(x))
    sizes = list(sizes_of(x))
    from_start = k <= (sizes[axis] + 1) // 2
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


def nanmedian(b: Builder, x: ir.Value, dim: int, keepdim: bool) -> Result:
    """The lower of two medians of the numbers of an axis that are not NaN; NaN where there are none.

    NaN is sorted as infinity, behind all others, and the median stands in the middle of those before. Its place is
    refused: an infinite median would have the place of a NaN.
    """
    if not b.dtype.is_floating_point():
        return median(b, x, dim, keepdim)
    if not sizes_of(x):
        raise Unsupported("a scalar")
    if b.is_used(1):
        raise Unsupported("the place of a median among NaN")
    axis = dim % len(sizes_of(x))
    is_nan = b.add("IsNaN", x, dtype=ir.DataType.BOOL)
    finite = b.add("Where", is_nan, b.scalar(math.inf), x, dtype=b.dtype)
    sizes = sizes_of(x)
    ranked = b.add_many("TopK", [finite, b.ints(sizes[axis])], [sizes, sizes], axis=axis, largest=0, sorted=1)
    ranked[1].dtype = _INT64
    lacking = b.reduce("ReduceSum", b.cast(is_nan, _INT64), [axis], keepdims=True)
    count = b.add("Sub", b.scalar(sizes[axis], _INT64), lacking)
    last = b.add("Max", b.add("Sub", count, b.scalar(1, _INT64)), b.scalar(0, _INT64))
    place = b.add("Div", last, b.scalar(2, _INT64))
    middle = b.add("GatherElements", ranked[0], place, shape=sizes_of(place), axis=axis)
    is_empty = b.add("Equal", count, b.scalar(0, _INT64), dtype=ir.DataType.BOOL)
    return [b.reshape(b.add("Where", is_empty, b.scalar(math.nan), middle, dtype=b.dtype), b.shape), None]


def nanmedian_of_all(b: Builder, x: ir.Value) -> ir.Value:
    """`nanmedian` of all elements, without axes."""
    line = b.reshape(x, (math.prod(sizes_of(x)),))
    result = nanmedian(b, line, 0, False)
    return result if isinstance(result, ir.Value) else result[0]  # type: ignore[return-value]  # the value is there


def mode(b: Builder, x: ir.Value, dim: int, keepdim: bool) -> Result:
    """The most frequent element of an axis, of equally frequent ones the smallest; every pair is compared.

    Its place is refused: torch gives that of any of its equals.
    """
    if not sizes_of(x):
        raise Unsupported("a scalar")
    if b.is_used(1):
        raise Unsupported("the place of the most frequent element")
    axis = dim % len(sizes_of(x))
    sizes = sizes_of(x)
    rows = b.reshape(x, (*sizes[: axis + 1], 1, *sizes[axis + 1 :]))
    columns = b.reshape(x, (*sizes[:axis], 1, *sizes[axis:]))
    shape = (*sizes[: axis + 1], *sizes[axis:])
    is_equal = b.add("Equal", rows, columns, shape=shape, dtype=ir.DataType.BOOL)
    counts = b.reduce("ReduceSum", b.cast(is_equal, ir.DataType.INT64), [axis + 1], keepdims=False)
    most = b.reduce("ReduceMax", counts, [axis], keepdims=True)
    is_mode = b.add("Equal", counts, most, dtype=ir.DataType.BOOL)
    beyond = math.inf if b.dtype.is_floating_point() else np.iinfo(b.dtype.numpy()).max
    candidates = b.add("Where", is_mode, x, b.scalar(beyond), dtype=b.dtype)
    return [b.reduce("ReduceMin", candidates, [axis], keepdims=keepdim), None]


TABLE: Mapping[str, Entry] = {
    "aten.cumprod.default": cumprod,
    "aten.cummax.default": cumulative("Max"),
    "aten.cummin.default": cumulative("Min"),
    "aten.kthvalue.default": kthvalue,
    "aten.median.dim": median,
    "aten.median.default": median_of_all,
    "aten.nanmedian.dim": nanmedian,
    "aten.nanmedian.default": nanmedian_of_all,
    "aten.mode.default": mode,
}
