"""Parts of tensors: slices, items, elements at constant or computed positions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch

from edgeconv.capture.torch._assignments import chosen, diagonal, replaced
from edgeconv.capture.torch._builder import Builder, Entry, Operand, Result, Unsupported, renamed, sizes_of


def slice_axis(b: Builder, x: ir.Value, dim: int, start: int | None, end: int | None, step: int) -> ir.Value:
    """``x[..., start:end:step]`` along one axis: Slice; nothing where it takes all."""
    axis = dim % len(sizes_of(x))
    low, high, _ = slice(start, end, step).indices(sizes_of(x)[axis])
    if b.shape == sizes_of(x):
        return x
    return b.slice(x, axis, low, max(low, high), step)


def narrow(b: Builder, x: ir.Value, dim: int, start: int, length: int) -> ir.Value:
    """`length` elements of an axis from `start`, which may be negative: Slice."""
    axis = dim % len(sizes_of(x))
    begin = start % sizes_of(x)[axis]
    return x if b.shape == sizes_of(x) else b.slice(x, axis, begin, begin + length)


def select(b: Builder, x: ir.Value, dim: int, index: int) -> ir.Value:
    """One element of an axis, which is removed: Gather by a scalar."""
    axis = dim % len(sizes_of(x))
    return b.add("Gather", x, b.scalar(index % sizes_of(x)[axis], ir.DataType.INT64), shape=b.shape, axis=axis)


def index_select(b: Builder, x: ir.Value, dim: int, index: ir.Value) -> ir.Value:
    """The elements at places of one axis, a vector of them: Gather."""
    flat = b.reshape(index, (sizes_of(index) or (1,)))
    return b.add("Gather", x, flat, shape=b.shape, axis=dim)


def embedding(
    b: Builder, weight: ir.Value, indices: ir.Value, padding_idx: int, scale_grad_by_freq: bool, sparse: bool
) -> ir.Value:
    """Rows of a table (rows, width) by indices of any shape: Gather; the other arguments concern gradients alone."""
    return b.add("Gather", weight, indices, shape=b.shape, axis=0)


def gather(b: Builder, x: ir.Value, dim: int, index: ir.Value, sparse_grad: bool) -> ir.Value:
    """For each element of the index the one of x at that place of the axis: GatherElements."""
    if not sizes_of(x):
        raise Unsupported("a scalar")
    return b.add("GatherElements", x, index, shape=b.shape, axis=dim)


def index(b: Builder, x: ir.Value, indices: Sequence[ir.Value | None]) -> ir.Value:
    """``x[i]``, ``x[:, i, j]``: a Gather by one index tensor; by several, side by side, a GatherND.

    Several that are computed, or that lie on axes apart, are refused, and so are masks, whose shape depends on values.
    """
    axes = [axis for axis, value in enumerate(indices) if value is not None]
    index_tensors = [value for value in indices if value is not None]
    if any(value.dtype is ir.DataType.BOOL or value.dtype is ir.DataType.UINT8 for value in index_tensors):
        raise Unsupported("a mask as an index: the shape depends on its values")
    if len(axes) == 1:
        return b.add("Gather", x, b.cast(index_tensors[0], ir.DataType.INT64), shape=b.shape, axis=axes[0])
    constants = [b.constant_of(value) for value in index_tensors]
    if not axes or axes != list(range(axes[0], axes[-1] + 1)):
        raise Unsupported("index tensors on axes apart")
    if any(value is None for value in constants):
        raise Unsupported("several index tensors that are computed")
    sizes = sizes_of(x)
    positive = [value % sizes[axis] for axis, value in zip(axes, constants, strict=True) if value is not None]
    grid = torch.stack(torch.broadcast_tensors(*positive), dim=-1)  # type: ignore[no-untyped-call]
    others = [axis for axis in range(len(sizes)) if axis not in axes]
    front = b.transpose(x, [*axes, *others])
    shape = (*grid.shape[:-1], *(sizes[axis] for axis in others))
    gathered = b.add("GatherND", front, b.exactly(grid, ir.DataType.INT64), shape=shape, batch_dims=0)
    # GatherND puts the axes of the indices in front; torch has them at the first indexed axis.
    lead, before = grid.ndim - 1, axes[0]
    return b.transpose(gathered, [*range(lead, lead + before), *range(lead), *range(lead + before, len(shape))])


def where(b: Builder, condition: ir.Value, x: Operand, other: Operand) -> ir.Value:
    """Elements of x where the condition holds, of other elsewhere, broadcast: Where (see `chosen`)."""
    return chosen(b, b.cast(condition, ir.DataType.BOOL), b.tensor(x), b.tensor(other), b.shape)


def masked_fill(b: Builder, x: ir.Value, mask: ir.Value, value: Operand) -> ir.Value:
    """The value where the mask is true, x elsewhere: Where."""
    return where(b, mask, value, x)


def index_put(
    b: Builder, x: ir.Value, indices: Sequence[ir.Value | None], values: ir.Value, accumulate: bool
) -> ir.Value:
    """``x[mask] = number``: a Where, of a mask over the first axes; ``x[places] = values``, of constant places.

    Refused: what adds (``accumulate``), several numbers under a mask that is computed, places that are computed.
    """
    mask = indices[0]
    if accumulate:
        raise Unsupported("an assignment that adds")
    if len(indices) == 1 and mask is not None and mask.dtype is ir.DataType.BOOL and b.constant_of(mask) is None:
        if sizes_of(values) not in ((), (1,)):
            raise Unsupported("an assignment of more than a number to the elements of a mask")
        sizes = sizes_of(mask)
        wide = b.reshape(mask, (*sizes, *(1 for _ in range(len(b.shape) - len(sizes)))))
        return where(b, wide, values, x)
    return _put(b, x, _constant_places(b, indices), values)


def _constant_places(b: Builder, indices: Sequence[ir.Value | None]) -> dict[int, torch.Tensor]:
    """The constant indices by axis; a constant mask stands for the places where it is true."""
    places: dict[int, torch.Tensor] = {}
    axis = 0
    for value in indices:
        constant = b.constant_of(value)
        if value is None:
            axis += 1
            continue
        if constant is None:
            raise Unsupported("an assignment to computed places")
        for line in constant.nonzero(as_tuple=True) if constant.dtype in (torch.bool, torch.uint8) else (constant,):
            places[axis] = line
            axis += 1
    return places


def _put(b: Builder, x: ir.Value, places: Mapping[int, torch.Tensor], values: ir.Value) -> ir.Value:
    """Assignment to constant places on adjacent axes: those are flattened into one axis, the indices with them.

    Args:
        b: appends the nodes.
        x: the tensor before.
        places: index tensors by axis, which broadcast.
        values: the new elements; the axes of the indices stand there in place of the indexed ones.
    """
    sizes, first, last = sizes_of(x), min(places), max(places)
    if list(places) != list(range(first, last + 1)):
        raise Unsupported("an assignment to places on axes apart")
    grid = torch.broadcast_tensors(*places.values())  # type: ignore[no-untyped-call]
    flat = torch.zeros_like(grid[0])
    for axis, places_on_axis in zip(places, grid, strict=True):
        flat = flat * sizes[axis] + places_on_axis % sizes[axis]
    shape = (*sizes[:first], *flat.shape, *sizes[last + 1 :])
    wide = b.cast(values, b.dtype)
    if sizes_of(wide) != shape:
        wide = b.add("Expand", wide, b.ints(*shape), shape=shape)
    wide = b.reshape(wide, (*sizes[:first], flat.numel(), *sizes[last + 1 :]))
    joined = b.reshape(x, (*sizes[:first], math.prod(sizes[first : last + 1]), *sizes[last + 1 :]))
    return b.reshape(replaced(b, joined, wide, flat.flatten().tolist(), first), sizes)


def index_fill(b: Builder, x: ir.Value, dim: int, index: ir.Value, value: Operand) -> ir.Value:
    """A number at constant places of one axis (see `replaced`)."""
    places = _constant_line(b, index)
    sizes, axis = sizes_of(x), dim % len(sizes_of(x))
    shape = (*sizes[:axis], len(places), *sizes[axis + 1 :])
    return replaced(b, x, b.add("Expand", b.tensor(value), b.ints(*shape), shape=shape), places, axis)


def index_copy(b: Builder, x: ir.Value, dim: int, index: ir.Value, source: ir.Value) -> ir.Value:
    """Other elements at constant places of one axis (see `replaced`)."""
    return replaced(b, x, source, _constant_line(b, index), dim % len(sizes_of(x)))


def _constant_line(b: Builder, index: ir.Value) -> list[int]:
    constant = b.constant_of(index)
    if constant is None or not b.shape:
        raise Unsupported("an assignment to computed places")
    return [int(place) for place in constant.flatten()]


def fill_diagonal(b: Builder, x: ir.Value, fill_value: float, wrap: bool) -> ir.Value:
    """A number on the diagonal of a matrix: Where with a constant mask; more axes, and ``wrap``, are refused."""
    if len(b.shape) != 2 or wrap:
        raise Unsupported("a diagonal of other than two axes")
    return where(b, b.exactly(torch.eye(*b.shape, dtype=torch.bool), ir.DataType.BOOL), fill_value, x)


def scatter(b: Builder, x: ir.Value, dim: int, index: ir.Value, src: Operand) -> ir.Value:
    """Elements, or a number, put at computed places of one axis: ScatterElements.

    Where indices of one line are equal, torch does not say which source is left, and neither does ONNX.
    """
    if not sizes_of(x):
        raise Unsupported("a scalar")
    updates = src if isinstance(src, ir.Value) else b.filled(src, *sizes_of(index))
    # torch reads the part of a larger source that the indices cover; ONNX requires equal shapes.
    if sizes_of(updates) != sizes_of(index):
        raise Unsupported("a source that is larger than the indices")
    return b.add("ScatterElements", x, index, updates, shape=b.shape, axis=dim)


def one_hot(b: Builder, x: ir.Value, num_classes: int) -> ir.Value:
    """Equal with the numbers of the classes, which become the last axis."""
    classes = b.ints(*range(b.shape[-1]))
    return b.cast(b.add("Equal", b.reshape(x, (*sizes_of(x), 1)), classes, dtype=ir.DataType.BOOL), b.dtype)


def copy(b: Builder, x: ir.Value, src: ir.Value) -> ir.Value:
    """``copy_``: the source in the target's dtype and shape."""
    value = b.cast(src, b.dtype)
    return value if sizes_of(value) == b.shape else b.add("Expand", value, b.ints(*b.shape), shape=b.shape)


def fill(b: Builder, x: ir.Value, value: Operand) -> ir.Value:
    """The value everywhere: Expand."""
    return b.add("Expand", b.tensor(value), b.ints(*b.shape), shape=b.shape)


def zero(b: Builder, x: ir.Value) -> ir.Value:
    """Zeros of x's shape: a constant."""
    return b.filled(0, *b.shape)


def triangle(upper: int) -> Entry:
    """The upper or the lower triangle of matrices."""

    def entry(b: Builder, x: ir.Value, diagonal: int) -> ir.Value:
        return b.add("Trilu", x, b.scalar(diagonal, ir.DataType.INT64), shape=b.shape, upper=upper)

    return entry


def topk(b: Builder, x: ir.Value, k: int, dim: int, largest: bool, sorted: bool) -> Result:  # noqa: A002 torch's name
    """The largest (or smallest) ``k`` of an axis, with their int64 places: TopK."""
    return _top_k(b, x, k, dim, largest=largest, ordered=sorted)


def sort(b: Builder, x: ir.Value, dim: int, descending: bool) -> Result:
    """TopK of all elements. The indices are refused: ONNX leaves the order of equal elements open."""
    if b.is_used(1):
        raise Unsupported("indices of a sort")
    return _top_k(b, x, sizes_of(x)[dim], dim, largest=descending, ordered=True)


def _top_k(b: Builder, x: ir.Value, count: int, axis: int, *, largest: bool, ordered: bool) -> Result:
    """TopK, with its values and int64 indices."""
    numbers = {"axis": axis, "largest": int(largest), "sorted": int(ordered)}
    values, indices = b.add_many("TopK", [x, b.ints(count)], b.shapes, None, **numbers)
    indices.dtype = ir.DataType.INT64
    return [values, indices]


TABLE: Mapping[str, Entry] = {
    "aten.slice.Tensor": slice_axis,
    "aten.narrow.default": narrow,
    "aten.select.int": select,
    "aten.index_select.default": index_select,
    "aten.embedding.default": embedding,
    "aten.gather.default": gather,
    "aten.index.Tensor": index,
    "aten.where.self": where,
    "aten.where.ScalarSelf": where,
    "aten.where.ScalarOther": where,
    "aten.where.Scalar": where,
    "aten.masked_fill.Scalar": masked_fill,
    "aten.masked_fill.Tensor": masked_fill,
    "aten.index_put.default": index_put,
    "aten.index_fill.int_Scalar": index_fill,
    "aten.index_fill.int_Tensor": index_fill,
    "aten.index_copy.default": index_copy,
    "aten.fill_diagonal_.default": fill_diagonal,
    "aten.diagonal.default": diagonal,
    "aten.scatter.src": scatter,
    "aten.scatter.value": renamed(scatter, value="src"),
    "aten.one_hot.default": one_hot,
    "aten.copy.default": copy,
    "aten.fill.Scalar": fill,
    "aten.fill.Tensor": fill,
    "aten.zero.default": zero,
    "aten.triu.default": triangle(1),
    "aten.tril.default": triangle(0),
    "aten.topk.default": topk,
    "aten.sort.default": sort,
}
