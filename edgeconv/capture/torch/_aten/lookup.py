"""Lookups in tables: bags of embeddings (``embedding_bag``), and positions among sorted boundaries."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch

from edgeconv.capture.torch._aten.comparison import common_dtype
from edgeconv.capture.torch._builder import Builder, Entry, Operand, Result, Unsupported, sizes_of

_INT64, _BOOL = ir.DataType.INT64, ir.DataType.BOOL
_SUM, _MEAN, _MAX = range(3)  # torch's numbers of the modes


def embedding_bag(
    b: Builder,
    weight: ir.Value,
    indices: ir.Value,
    offsets: ir.Value,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: ir.Value | None,
    include_last_offset: bool,
    padding_idx: int | None = None,
) -> Result:
    """The sum, mean or maximum of the rows of each bag, (bags, width): Gathers and a reduction.

    Every bag is padded with row 0 to the length of the longest; a mask keeps the padding out. An empty bag gives 0, as
    in torch. Offsets that are computed are refused, as the lengths of the bags would depend on values.
    """
    if any(b.is_used(index) for index in range(1, 4)):
        raise Unsupported("what only its gradient needs")
    starts = b.constant_of(offsets)
    if starts is None:
        raise Unsupported("bags that begin at computed places")
    places, counts = _bags(starts.tolist(), sizes_of(indices)[0], include_last_offset)
    chosen = b.add("Gather", indices, b.constant(places), shape=places.shape, axis=0)
    is_row = None if counts.all() else b.constant(counts)
    if padding_idx is not None:
        padding = b.scalar(padding_idx % sizes_of(weight)[0], chosen.dtype)
        is_kept = b.add("Not", b.add("Equal", chosen, padding, dtype=_BOOL))
        is_row = is_kept if is_row is None else b.add("And", is_row, is_kept)
    rows = b.add("Gather", weight, chosen, shape=(*places.shape, sizes_of(weight)[1]), axis=0)
    if per_sample_weights is not None:
        factors = b.add("Gather", per_sample_weights, b.constant(places), shape=places.shape, axis=0)
        rows = b.add("Mul", rows, b.reshape(factors, (*places.shape, 1)))
    return [_reduced(b, rows, is_row, mode), None, None, None]


def _bags(starts: list[int], count: int, include_last_offset: bool) -> tuple[np.ndarray, np.ndarray]:
    """The positions of each bag's elements, int64 (bags, longest), and which of them are no padding."""
    ends = [*starts[1:], count]
    if include_last_offset:
        starts, ends = starts[:-1], starts[1:]
    longest = max(1, *(end - start for start, end in zip(starts, ends, strict=True)))
    reach = np.arange(longest)[None]
    first, lengths = np.array(starts)[:, None], (np.array(ends) - np.array(starts))[:, None]
    counts = reach < lengths
    return np.where(counts, first + reach, 0).astype(np.int64), counts


def _reduced(b: Builder, rows: ir.Value, is_row: ir.Value | None, mode: int) -> ir.Value:
    """Reduces rows (bags, longest, width) over the second axis, where `is_row` (bags, longest) is true."""
    if is_row is None:
        return b.reduce({_SUM: "ReduceSum", _MEAN: "ReduceMean", _MAX: "ReduceMax"}[mode], rows, [1], keepdims=False)
    wide = b.reshape(is_row, (*sizes_of(is_row), 1))
    weights = b.cast(wide, b.dtype)
    number = b.reduce("ReduceSum", weights, [1], keepdims=False)
    if mode == _MAX:
        low = b.scalar(float(torch.finfo(torch.float32).min))
        largest = b.reduce("ReduceMax", b.add("Where", wide, rows, low, dtype=b.dtype), [1], keepdims=False)
        return b.add("Where", b.add("Greater", number, b.scalar(0), dtype=_BOOL), largest, b.scalar(0), dtype=b.dtype)
    total = b.reduce("ReduceSum", b.add("Mul", rows, weights), [1], keepdims=False)
    return total if mode == _SUM else b.add("Div", total, b.add("Max", number, b.scalar(1)))


def _count_below(b: Builder, x: ir.Value, boundaries: ir.Value, *, right: bool) -> ir.Value:
    """The number of boundaries, along the last axis, below each number; with `right` also those equal to it."""
    kind = common_dtype(x, boundaries)
    pair = b.cast(x, kind), b.cast(boundaries, kind)
    below = b.add("GreaterOrEqual" if right else "Greater", *pair, dtype=_BOOL)
    count = b.reduce("ReduceSum", b.cast(below, _INT64), [-1], keepdims=False)
    return b.reshape(b.cast(count, b.dtype), b.shape)


def bucketize(b: Builder, x: Operand, boundaries: ir.Value, out_int32: bool, right: bool) -> ir.Value:
    """The number of boundaries (a sorted vector) below each element, with `right` at most it: a sum of comparisons.

    Every element is compared with every boundary, which suits short lists; ONNX has no binary search.
    """
    value = x if isinstance(x, ir.Value) else b.tensor(x, boundaries.dtype)
    return _count_below(b, b.reshape(value, (*sizes_of(value), 1)), boundaries, right=right)


def searchsorted(
    b: Builder,
    sorted_sequence: ir.Value,
    x: Operand,
    out_int32: bool,
    right: bool,
    side: str | None,
    sorter: ir.Value | None,
) -> ir.Value:
    """`bucketize`, with boundaries for each row where they have more axes than one; a ``sorter`` is refused."""
    if sorter is not None:
        raise Unsupported("boundaries that are sorted by another tensor")
    is_right, sizes = right or side == "right", sizes_of(sorted_sequence)
    if len(sizes) == 1:
        return bucketize(b, x, sorted_sequence, out_int32, is_right)
    if not isinstance(x, ir.Value):
        raise Unsupported("one number for several rows of boundaries")
    wide = b.reshape(sorted_sequence, (*sizes[:-1], 1, sizes[-1]))
    return _count_below(b, b.reshape(x, (*sizes_of(x), 1)), wide, right=is_right)


TABLE: Mapping[str, Entry] = {
    "aten.embedding_bag.padding_idx": embedding_bag,
    "aten.embedding_bag.default": embedding_bag,
    "aten.bucketize.Tensor": bucketize,
    "aten.bucketize.Scalar": bucketize,
    "aten.searchsorted.Tensor": searchsorted,
    "aten.searchsorted.Scalar": searchsorted,
}
