"""Reductions over axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Result, Unsupported, sizes_of

Axes = int | Sequence[int] | None


def reduction(op_type: str) -> Entry:
    """A ``Reduce…`` of ONNX over some axes, or over all where none are named, in the dtype of torch's result."""

    def entry(b: Builder, x: ir.Value, dim: Axes = None, keepdim: bool = False, dtype: object = None) -> ir.Value:
        return b.reduce(op_type, b.cast(x, b.dtype), axes_of(x, dim), keepdims=keepdim)

    return entry


def largest(op_type: str) -> Entry:
    """``amax``, ``amin``, ``max()``, ``min()``: ReduceMax or ReduceMin; of booleans as int32 (ONNX: opset 20)."""

    def entry(b: Builder, x: ir.Value, dim: Axes = None, keepdim: bool = False) -> ir.Value:
        if b.dtype is ir.DataType.BOOL:  # whether any is true, or all are
            number = b.reduce(op_type, b.cast(x, ir.DataType.INT32), axes_of(x, dim), keepdims=keepdim)
            return b.cast(number, ir.DataType.BOOL)
        return b.reduce(op_type, x, axes_of(x, dim), keepdims=keepdim)

    return entry


def aminmax(b: Builder, x: ir.Value, dim: int | None, keepdim: bool) -> Result:
    """The smallest and the largest over one axis or all: ReduceMin and ReduceMax."""
    axes = None if dim is None else [dim]
    if dim is None and keepdim and b.shape:
        axes = list(range(len(sizes_of(x))))
    return [largest(op_type)(b, x, axes, keepdim) for op_type in ("ReduceMin", "ReduceMax")]  # type: ignore[misc]


def largest_with_index(op_type: str, index_type: str) -> Entry:
    """``max(dim)``: ReduceMax, and ArgMax where anybody takes the int64 indices."""

    def entry(b: Builder, x: ir.Value, dim: int, keepdim: bool) -> Result:
        values = b.reduce(op_type, x, [dim], keepdims=keepdim) if b.is_used(0) else None
        index = _arg(b, index_type, x, dim, keepdim, b.shapes[1]) if b.is_used(1) else None
        return [values, index]

    return entry


def arg(op_type: str) -> Entry:
    """``argmax``: int64 positions along an axis; without one, the position in the flattened tensor.

    ``keepdim`` without an axis is refused.
    """

    def entry(b: Builder, x: ir.Value, dim: int | None, keepdim: bool) -> ir.Value:
        if dim is None:
            if keepdim:
                raise Unsupported("keepdim without dim")
            return _arg(b, op_type, b.reshape(x, (math.prod(sizes_of(x)),)), 0, False, ())
        return _arg(b, op_type, x, dim, keepdim, b.shape)

    return entry


def _arg(b: Builder, op_type: str, x: ir.Value, dim: int, keepdim: bool, shape: Sequence[int]) -> ir.Value:
    """The first of equal elements, as on torch's CPU."""
    return b.add(op_type, x, shape=shape, dtype=ir.DataType.INT64, axis=dim, keepdims=int(keepdim), select_last_index=0)


def variance(b: Builder, x: ir.Value, dim: Axes, correction: float | None, keepdim: bool) -> ir.Value:
    """The mean of (x - mean)², times n / (n - correction). In two passes: mean(x²) - mean² would lose digits.

    Refused where n ≤ correction (torch gives NaN or infinity).
    """
    axes = axes_of(x, dim)
    count = math.prod(sizes_of(x)[axis] for axis in axes)
    freedom = count - (1 if correction is None else correction)
    if freedom <= 0 or not axes:
        raise Unsupported("no degrees of freedom")
    deviation = b.add("Sub", x, b.reduce("ReduceMean", x, axes, keepdims=True))
    y = b.reduce("ReduceMean", b.add("Mul", deviation, deviation), axes, keepdims=keepdim)
    return y if freedom == count else b.add("Div", b.add("Mul", y, b.scalar(count)), b.scalar(freedom))


def var_unbiased(b: Builder, x: ir.Value, dim: Axes = None, unbiased: bool = True, keepdim: bool = False) -> ir.Value:
    """`variance` by the older schema: ``unbiased`` is a correction of 1."""
    return variance(b, x, dim, int(unbiased), keepdim)


def std(b: Builder, x: ir.Value, dim: Axes, correction: float | None, keepdim: bool) -> ir.Value:
    """The root of `variance`."""
    return b.add("Sqrt", variance(b, x, dim, correction, keepdim))


def std_unbiased(b: Builder, x: ir.Value, dim: Axes = None, unbiased: bool = True, keepdim: bool = False) -> ir.Value:
    """The root of `var_unbiased`."""
    return b.add("Sqrt", variance(b, x, dim, int(unbiased), keepdim))


def with_mean(spread: Entry) -> Entry:
    """``var_mean`` and ``std_mean``: the spread, and a ReduceMean."""

    def entry(b: Builder, x: ir.Value, dim: Axes = None, keepdim: bool = False, **freedom: float | None) -> Result:
        mean = b.reduce("ReduceMean", x, axes_of(x, dim), keepdims=keepdim)
        return [spread(b, x=x, dim=dim, keepdim=keepdim, **freedom), mean]  # type: ignore[list-item]  # one value

    return entry


def vector_norm(b: Builder, x: ir.Value, ord: float, dim: Axes, keepdim: bool, dtype: object) -> ir.Value:  # noqa: A002
    """The norm over axes: of order 1 and 2 ReduceL1 and ReduceL2, of ±infinity ReduceMax or ReduceMin of Abs.

    Of order 0 it is the number of elements that are not 0, of any other order p the p-th root of the sum of Abs to the
    p-th power; as for float16, these powers are intermediates (`Builder.write_out`).
    """
    x, axes = b.cast(x, b.dtype), axes_of(x, dim)
    if ord in (1, 2):
        return b.reduce(f"ReduceL{int(ord)}", x, axes, keepdims=keepdim) if axes else b.add("Abs", x)
    if ord == 0:
        is_counted = b.add("Not", b.add("Equal", x, b.scalar(0), dtype=ir.DataType.BOOL))
        return b.reduce("ReduceSum", b.cast(is_counted, b.dtype), axes, keepdims=keepdim)
    lengths = b.add("Abs", x)
    if ord in (math.inf, -math.inf):
        return b.reduce("ReduceMax" if ord > 0 else "ReduceMin", lengths, axes, keepdims=keepdim)
    b.write_out()
    powers = b.reduce("ReduceSum", b.add("Pow", lengths, b.scalar(ord)), axes, keepdims=keepdim)
    return b.add("Pow", powers, b.scalar(1 / ord))


def norm(b: Builder, x: ir.Value, p: float | None = 2, dim: Axes = None, keepdim: bool = False) -> ir.Value:
    """``Tensor.norm``: `vector_norm` of order ``p``, which is 2 where it is None."""
    return vector_norm(b, x, 2 if p is None else p, dim, keepdim, None)


def logsumexp(b: Builder, x: ir.Value, dim: Axes, keepdim: bool) -> ir.Value:
    """ln(sum(exp(x))) over axes: ReduceLogSumExp."""
    return b.reduce("ReduceLogSumExp", b.cast(x, b.dtype), axes_of(x, dim), keepdims=keepdim)


def cumsum(b: Builder, x: ir.Value, dim: int, dtype: object) -> ir.Value:
    """Sums up to each element of an axis: CumSum."""
    if not sizes_of(x):
        return b.cast(x, b.dtype)
    return b.add("CumSum", b.cast(x, b.dtype), b.scalar(dim, ir.DataType.INT64), shape=b.shape, exclusive=0, reverse=0)


def truth(op_type: str) -> Entry:
    """``any`` and ``all`` over axes, as ReduceMax or ReduceMin of int32: ONNX reduces no booleans before opset 20."""

    def entry(b: Builder, x: ir.Value, dim: Axes = None, keepdim: bool = False) -> ir.Value:
        numbers = b.cast(b.cast(x, ir.DataType.BOOL), ir.DataType.INT32)
        return b.cast(b.reduce(op_type, numbers, axes_of(x, dim), keepdims=keepdim), ir.DataType.BOOL)

    return entry


def axes_of(x: ir.Value, dim: Axes) -> list[int]:
    """The axes that torch means: all of them by None or an empty list."""
    rank = len(sizes_of(x))
    if dim is None or (not isinstance(dim, int) and not dim):
        return list(range(rank))
    return [dim] if isinstance(dim, int) else list(dim)


TABLE: Mapping[str, Entry] = {
    "aten.mean.default": reduction("ReduceMean"),
    "aten.mean.dim": reduction("ReduceMean"),
    "aten.sum.default": reduction("ReduceSum"),
    "aten.sum.dim_IntList": reduction("ReduceSum"),
    "aten.prod.default": reduction("ReduceProd"),
    "aten.prod.dim_int": reduction("ReduceProd"),
    "aten.amax.default": largest("ReduceMax"),
    "aten.amin.default": largest("ReduceMin"),
    "aten.aminmax.default": aminmax,
    "aten.max.default": largest("ReduceMax"),
    "aten.min.default": largest("ReduceMin"),
    "aten.max.dim": largest_with_index("ReduceMax", "ArgMax"),
    "aten.min.dim": largest_with_index("ReduceMin", "ArgMin"),
    "aten.argmax.default": arg("ArgMax"),
    "aten.argmin.default": arg("ArgMin"),
    "aten.var.correction": variance,
    "aten.var.dim": var_unbiased,
    "aten.var.default": var_unbiased,
    "aten.std.correction": std,
    "aten.std.dim": std_unbiased,
    "aten.std.default": std_unbiased,
    "aten.var_mean.correction": with_mean(variance),
    "aten.var_mean.dim": with_mean(var_unbiased),
    "aten.var_mean.default": with_mean(var_unbiased),
    "aten.std_mean.correction": with_mean(std),
    "aten.std_mean.dim": with_mean(std_unbiased),
    "aten.std_mean.default": with_mean(std_unbiased),
    "aten.linalg_vector_norm.default": vector_norm,
    "aten.norm.ScalarOpt_dim": norm,
    "aten.norm.Scalar": norm,
    "aten.logsumexp.default": logsumexp,
    "aten.cumsum.default": cumsum,
    "aten.any.default": truth("ReduceMax"),
    "aten.any.dim": truth("ReduceMax"),
    "aten.all.default": truth("ReduceMin"),
    "aten.all.dim": truth("ReduceMin"),
}
