"""Operators that move elements and compute nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Unsupported, renamed, sizes_of

Ints = Sequence[int]


def identity(b: Builder, x: ir.Value, **_ignored: object) -> ir.Value:
    """Returns x, with a Cast if the dtype changes."""
    return b.cast(x, b.dtype)


def dropout(b: Builder, x: ir.Value, p: float, train: bool) -> ir.Value:
    """Returns x: dropout does nothing in eval mode. In training mode it is refused, as it draws random numbers."""
    if train and p > 0:
        raise Unsupported("training")
    return x


def reshaped(b: Builder, x: ir.Value, **_ignored: object) -> ir.Value:
    """``view``, ``reshape``, ``flatten``: Reshape to the shape that torch recorded."""
    return b.reshape(x, b.shape)


def squeeze(b: Builder, x: ir.Value, dim: int | Ints | None = None) -> ir.Value:
    """Removes axes of size 1: all, or those of `dim` that have that size. Squeeze."""
    sizes = sizes_of(x)
    named = range(len(sizes)) if dim is None else [dim] if isinstance(dim, int) else dim
    axes = [axis for axis in named if sizes and sizes[axis] == 1]
    if not axes:
        return x
    return b.reshape(x, b.shape) if x in b.exact else b.add("Squeeze", x, b.ints(*axes), shape=b.shape)


def unsqueeze(b: Builder, x: ir.Value, dim: int) -> ir.Value:
    """Inserts an axis of size 1: Unsqueeze."""
    return b.add("Unsqueeze", x, b.ints(dim), shape=b.shape)


def permute(b: Builder, x: ir.Value, dims: Ints) -> ir.Value:
    """The axes in another order: Transpose."""
    return b.transpose(x, [axis % len(dims) for axis in dims])


def transpose(b: Builder, x: ir.Value, dim0: int, dim1: int) -> ir.Value:
    """Two axes swapped: Transpose."""
    order = list(range(len(sizes_of(x))))
    if order:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    return b.transpose(x, order)


def reversed_axes(b: Builder, x: ir.Value) -> ir.Value:
    """``t``, ``numpy_T``: the axes in the opposite order, Transpose (nothing for a vector)."""
    return b.transpose(x, list(range(len(sizes_of(x))))[::-1])


def move_axes(b: Builder, x: ir.Value, source: Ints, destination: Ints) -> ir.Value:
    """Axes moved to other places, the others in their order: Transpose."""
    rank = len(sizes_of(x))
    moved = {to % rank: axis % rank for axis, to in zip(source, destination, strict=True)}
    others = iter([axis for axis in range(rank) if axis not in moved.values()])
    return b.transpose(x, [moved[axis] if axis in moved else next(others) for axis in range(rank)])


def expand(b: Builder, x: ir.Value, **_ignored: object) -> ir.Value:
    """Axes of size 1 repeated, and new ones in front: Expand."""
    if sizes_of(x) == b.shape:
        return x
    return b.add("Expand", x, b.ints(*b.shape), shape=b.shape)


def repeat(b: Builder, x: ir.Value, repeats: Ints) -> ir.Value:
    """Repeats the tensor along each axis: Tile. torch adds leading axes where `repeats` is longer than the shape."""
    sizes = sizes_of(x)
    wide = b.reshape(x, (*(1 for _ in range(len(repeats) - len(sizes))), *sizes))
    if all(number == 1 for number in repeats):
        return wide
    return b.add("Tile", wide, b.ints(*repeats), shape=b.shape)


def tile(b: Builder, x: ir.Value, dims: Ints) -> ir.Value:
    """`repeat`, with leading ones where `dims` is shorter than the shape."""
    rank = len(sizes_of(x))
    return repeat(b, x, [*(1 for _ in range(rank - len(dims))), *dims])


def cat(b: Builder, tensors: Sequence[ir.Value], dim: int) -> ir.Value:
    """Tensors one after another along an axis: Concat, without those of shape (0,), which torch skips."""
    values = [b.cast(value, b.dtype) for value in tensors if sizes_of(value) != (0,)]
    return values[0] if len(values) == 1 else b.add("Concat", *values, shape=b.shape, axis=dim)


def stack(b: Builder, tensors: Sequence[ir.Value], dim: int) -> ir.Value:
    """Tensors of one shape along a new axis: Unsqueeze of each, and Concat."""
    axis = dim % len(b.shape)
    rows = []
    for value in tensors:
        sizes = sizes_of(value)
        shape = (*sizes[:axis], 1, *sizes[axis:])
        rows.append(b.add("Unsqueeze", b.cast(value, b.dtype), b.ints(axis), shape=shape))
    return b.concat(rows, axis)


def _deepened(rank: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that ``atleast_1d``, ``atleast_2d`` and ``atleast_3d`` give a tensor, as NumPy's do."""
    if rank == 3 and len(sizes) in (1, 2):
        return (1, *sizes, 1) if len(sizes) == 1 else (*sizes, 1)
    return (*(1 for _ in range(rank - len(sizes))), *sizes)


def _joined(b: Builder, tensors: Sequence[ir.Value], rank: int, axis: int) -> ir.Value:
    """Tensors of at least a rank, one after another along an axis: Reshape of each that is smaller, and Concat."""
    return cat(b, [b.reshape(value, _deepened(rank, sizes_of(value))) for value in tensors], axis)


def hstack(b: Builder, tensors: Sequence[ir.Value]) -> ir.Value:
    """Concat along axis 1; of vectors and numbers along axis 0."""
    return _joined(b, tensors, 1, min(1, len(b.shape) - 1))


def column_stack(b: Builder, tensors: Sequence[ir.Value]) -> ir.Value:
    """Concat along axis 1, where vectors and numbers are columns."""
    columns = [
        value if len(sizes_of(value)) > 1 else b.reshape(value, (math.prod(sizes_of(value)), 1)) for value in tensors
    ]
    return cat(b, columns, 1)


def at_least(b: Builder, tensors: Sequence[ir.Value]) -> list[ir.Value]:
    """Each tensor in the shape that torch recorded for it: Reshape."""
    return [b.reshape(value, shape) for value, shape in zip(tensors, b.shapes, strict=True)]


def pieces(b: Builder, x: ir.Value, dim: int, **_ignored: object) -> list[ir.Value]:
    """``split``, ``chunk``: Split to the lengths that torch recorded."""
    axis = dim % len(sizes_of(x))
    return b.split(x, axis, [shape[axis] for shape in b.shapes]) if len(b.shapes) > 1 else [x]


def unbind(b: Builder, x: ir.Value, dim: int) -> list[ir.Value | None]:
    """A Slice and a Squeeze for each item that is used."""
    axis = dim % len(sizes_of(x))
    items: list[ir.Value | None] = []
    for index, shape in enumerate(b.shapes):
        piece = b.slice(x, axis, index, index + 1) if b.is_used(index) else None
        items.append(None if piece is None else b.add("Squeeze", piece, b.ints(axis), shape=shape))
    return items


def flip(b: Builder, x: ir.Value, dims: Ints) -> ir.Value:
    """Reverses axes: a Slice with steps of -1."""
    count = len(dims)
    # Starts, ends, axes, steps. The end of a reversed slice lies before element 0; ONNX clamps the least int64 to that.
    bounds = [[-1] * count, [-(2**63)] * count, list(dims), [-1] * count]
    return b.add("Slice", x, *(b.ints(*bound) for bound in bounds), shape=b.shape) if count else x


def roll(b: Builder, x: ir.Value, shifts: Ints, dims: Ints) -> ir.Value:
    """Moves the last `shift` elements of each axis to its front: two Slices and a Concat."""
    if not dims:
        flat = b.reshape(x, (math.prod(b.shape),))
        return b.reshape(roll(b, flat, shifts, (0,)), b.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        axis, size = dim % len(sizes_of(x)), sizes_of(x)[dim]
        cut = (size - shift) % size
        if cut:
            x = b.concat([b.slice(x, axis, cut, size), b.slice(x, axis, 0, cut)], axis)
    return x


def repeat_interleave(b: Builder, x: ir.Value, repeats: int, dim: int | None, output_size: int | None) -> ir.Value:
    """Repeats every element of an axis in place: a Gather; without an axis, of the flattened tensor."""
    if dim is None:
        return b.reshape(repeat_interleave(b, b.reshape(x, (math.prod(sizes_of(x)),)), repeats, 0, None), b.shape)
    axis, sizes = dim % len(sizes_of(x)), list(sizes_of(x))
    places = [place for place in range(sizes[axis]) for _ in range(repeats)]
    sizes[axis] = len(places)
    return b.add("Gather", x, b.ints(*places), shape=sizes, axis=axis)


def difference(
    b: Builder, x: ir.Value, n: int, dim: int, prepend: ir.Value | None, append: ir.Value | None
) -> ir.Value:
    """The n-th differences of neighbors along an axis, which gets n shorter: Slice and Sub, n times."""
    axis = dim % len(sizes_of(x))
    x = b.concat([part for part in (prepend, x, append) if part is not None], axis)
    for _ in range(n):
        size = sizes_of(x)[axis]
        x = b.add("Sub", b.slice(x, axis, 1, size), b.slice(x, axis, 0, size - 1))
    return x


TABLE: Mapping[str, Entry] = {
    "aten.alias.default": identity,
    "aten.clone.default": identity,
    "aten.contiguous.default": identity,
    "aten.detach.default": identity,
    "aten.lift_fresh_copy.default": identity,
    "aten.lift_fresh.default": identity,
    "aten.to.dtype": identity,
    "aten.to.dtype_layout": identity,
    "aten.to.device": identity,
    "aten.to.other": identity,
    "aten._to_copy.default": identity,
    "aten.type_as.default": identity,
    "aten.dropout.default": dropout,
    "aten.feature_dropout.default": dropout,
    "aten.alpha_dropout.default": dropout,
    "aten.view.default": reshaped,
    "aten._unsafe_view.default": reshaped,
    "aten.reshape.default": reshaped,
    "aten.view_as.default": reshaped,
    "aten.reshape_as.default": reshaped,
    "aten.flatten.using_ints": reshaped,
    "aten.unflatten.int": reshaped,
    "aten.ravel.default": reshaped,
    "aten.squeeze.default": squeeze,
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.unsqueeze.default": unsqueeze,
    "aten.permute.default": permute,
    "aten.transpose.int": transpose,
    "aten.swapaxes.default": renamed(transpose, axis0="dim0", axis1="dim1"),
    "aten.swapdims.default": transpose,
    "aten.t.default": reversed_axes,
    "aten.numpy_T.default": reversed_axes,
    "aten.mT.default": partial(transpose, dim0=-2, dim1=-1),
    "aten.movedim.intlist": move_axes,
    "aten.movedim.int": lambda b, x, source, destination: move_axes(b, x, [source], [destination]),
    "aten.expand.default": expand,
    "aten.expand_as.default": expand,
    "aten.broadcast_to.default": expand,
    "aten.repeat.default": repeat,
    "aten.repeat_interleave.self_int": repeat_interleave,
    "aten.diff.default": difference,
    "aten.tile.default": tile,
    "aten.cat.default": cat,
    "aten.concat.default": cat,
    "aten.stack.default": stack,
    "aten.concatenate.default": cat,
    "aten.hstack.default": hstack,
    "aten.vstack.default": partial(_joined, rank=2, axis=0),
    "aten.row_stack.default": partial(_joined, rank=2, axis=0),
    "aten.dstack.default": partial(_joined, rank=3, axis=2),
    "aten.column_stack.default": column_stack,
    **dict.fromkeys((f"aten.atleast_{rank}d.default" for rank in (1, 2, 3)), reshaped),
    **dict.fromkeys((f"aten.atleast_{rank}d.Sequence" for rank in (1, 2, 3)), at_least),
    "aten.chunk.default": pieces,
    "aten.split.Tensor": pieces,
    "aten.split.sizes": pieces,
    "aten.split_with_sizes.default": pieces,
    "aten.tensor_split.sections": pieces,
    "aten.tensor_split.indices": pieces,
    "aten.unsafe_chunk.default": pieces,
    "aten.unsafe_split.Tensor": pieces,
    "aten.unsafe_split_with_sizes.default": pieces,
    "aten.unbind.int": unbind,
    "aten.flip.default": flip,
    "aten.roll.default": roll,
}
