"""Operators that move elements: reshape, transpose, concat, split, slice, gather, …"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.defaults import MOST_JOINED
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import (
    Form,
    before_reshape,
    first,
    last,
    permuted,
    through_reshape,
    through_transpose,
)
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.activation import read
from edgeconv.emit.tflite.lower._operators.elementwise import common_form, operand
from edgeconv.emit.tflite.lower._operators.indexing import gather_computed, gather_nd_computed
from edgeconv.emit.tflite.lower._operators.padding import joined
from edgeconv.graph.constants import permutation_of


def reshape(low: Lowering, node: ir.Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: one RESHAPE in a form in which the bytes stay, else a transpose first."""
    x, y = low.input(node), node.outputs[0]
    before, after = low.shape(x), low.shape(y)
    # 1. A form that exists and whose bytes the reshape leaves in order: no TRANSPOSE.
    forms = dict.fromkeys([low.form(x), *low.forms[x]])
    for form in forms:
        result = through_reshape(before, after, form)
        if result is not None:
            low.bind(y, result, low.tensor(x, form))
            return
    # 2. A Flatten in front of a layer: the layer's weights take the features in the order in which they lie.
    if len(after) == 2 and _only_feeds_weights(y):
        _permute_features(low, x, y)
        return
    # 3. An image that is wanted channels-last: transposed before, where that form has the right bytes afterwards.
    if len(after) == 4 and first(len(before)) not in low.forms[x]:
        earlier = before_reshape(before, after, last(4))
        if earlier is not None:
            low.bind(y, last(4), low.tensor(x, earlier))
            return
    # 4. In torch's order, in which any reshape leaves the bytes.
    low.bind(y, first(len(after)), low.tensor(x, first(len(before))))


def _only_feeds_weights(value: ir.Value) -> bool:
    """Whether every reader multiplies the value by a constant matrix, whose rows can be permuted instead."""
    if value.is_graph_output() or value.dtype is None or not value.dtype.is_floating_point():
        return False
    for reader, index in value.uses():
        is_transposed = bool(reader.attributes.get_int("transA", 0))
        if reader.op_type not in ("Gemm", "MatMul") or index != 0 or is_transposed:
            return False
        matrix = reader.inputs[1]
        if matrix is None or matrix.const_value is None or len(matrix.shape or ()) != 2:
            return False
    return True


def _permute_features(low: Lowering, x: ir.Value, y: ir.Value) -> None:
    """Flattens the tensor as it lies, and notes where each feature comes from."""
    shape, form = low.shape(x), low.form(x)
    places = np.arange(int(np.prod(shape))).reshape(shape).transpose(form)
    rows, columns = low.shape(y)
    order = places.reshape(rows, columns)
    if rows != 1 and (form[0] != 0 or shape[0] != rows):
        low.bind(y, first(2), low.tensor(x, first(len(shape))))
        return
    tensor = low.reshape(low.tensor(x, form), (rows, columns), f"{y.name}/features")
    low.feature_orders[y] = (tensor, order[0])


def transpose(low: Lowering, node: ir.Node) -> None:
    """Transpose: nothing moves until a reader wants a form that is not there."""
    x, y = low.input(node), node.outputs[0]
    rank = len(low.shape(x))
    perm = permutation_of(node, rank)
    for form, tensor in low.forms[x].items():
        low.bind(y, through_transpose(form, perm), tensor)


def concat(low: Lowering, node: ir.Node) -> None:
    """Concat, always as one operator.

    XNNPACK takes up to five tensors (four in 2.14); a tree of smaller ones would keep more inputs in the delegate, but
    copies twice and was 5 to 15 % slower than the builtin kernel between two partitions (6 to 20 inputs, LiteRT 2.3).
    """
    y = node.outputs[0]
    form = common_form(low, node.inputs, len(low.shape(y)))
    axis = node.attributes.get_int("axis") % len(form)
    tensors = [low.tensor(low.required(value), form) for value in node.inputs]
    joint = low.emit("CONCATENATION", tensors, permuted(low.shape(y), form), axis=form.index(axis))
    low.bind(y, form, joint)


def split(low: Lowering, node: ir.Node) -> None:
    """Split: SPLIT for up to four equal parts, which is what XNNPACK takes; else one slice each.

    Of int64 and booleans, too, which the kernels of SPLIT do not take (int64 since TensorFlow Lite 2.15).
    """
    x, form = read(low, node)
    axis = form.index(node.attributes.get_int("axis", 0) % len(form))
    shapes = [permuted(low.shape(y), form) for y in node.outputs]
    # kernels/split.cc asks for parts of one size.
    is_equal = len({shape[axis] for shape in shapes}) == 1 and 1 < len(shapes) <= MOST_JOINED
    if is_equal and x.dtype not in (np.int64, np.bool_):
        parts = low.graph.add(
            "SPLIT", [low.integers(np.array(axis)), x], shapes, f"{low.base}/split", x.dtype, numSplits=len(shapes)
        )
    else:
        starts = np.cumsum([0, *(shape[axis] for shape in shapes)])
        parts = [
            low.slice(x, [int(start) if index == axis else 0 for index in range(len(form))], shape)
            for start, shape in zip(starts, shapes, strict=False)
        ]
    for y, tensor in zip(node.outputs, parts, strict=True):
        low.bind(y, form, tensor)


def slice_(low: Lowering, node: ir.Node) -> None:
    """Slice with any step; reversed axes are gathered."""
    x, form = read(low, node)
    value = low.input(node)
    rank, shape = len(form), list(low.shape(value))
    starts, ends = (low.constant(node.inputs[index], "bound").reshape(-1) for index in (1, 2))
    # Axes and steps may be left out: all of them, by ones.
    optional = [low.array(value) if value is not None else None for value in (*node.inputs[3:], None, None)]
    axes = range(len(starts)) if optional[0] is None else [int(axis) % rank for axis in optional[0].reshape(-1)]
    steps = np.ones(len(starts), np.int64) if optional[1] is None else optional[1].reshape(-1)
    ranges = [range(size) for size in shape]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        ranges[axis] = range(*slice(*_bounds(int(start), int(end), int(step))).indices(shape[axis]))
    placed = [ranges[axis] for axis in form]
    # In the fastest of three forms: XNNPACK has SLICE, and no STRIDED_SLICE with steps.
    if any(part.step < 0 for part in placed):
        cut = _gathered(low, x, placed)
    elif all(part.step == 1 or len(part) == 1 for part in placed):
        cut = low.slice(x, [part.start for part in placed], [len(part) for part in placed])
    else:
        bounds = [[getattr(part, field) for part in placed] for field in ("start", "stop", "step")]
        cut = low.emit("STRIDED_SLICE", [x, *map(low.integers, bounds)], [len(part) for part in placed])
    if cut is x:
        low.alias(node.outputs[0], value)
    else:
        low.bind(node.outputs[0], form, cut)


def _bounds(start: int, end: int, step: int) -> tuple[int, int | None, int]:
    """ONNX's bounds as Python's: an end far below zero means "through the first element" of a negative step."""
    return start, (None if step < 0 and end < -(2**31) else end), step


def _gathered(low: Lowering, x: Tensor, ranges: Sequence[range]) -> Tensor:
    for axis, part in enumerate(ranges):
        if part != range(x.shape[axis]):
            shape = [*x.shape[:axis], len(part), *x.shape[axis + 1 :]]
            x = low.emit("GATHER", [x, low.integers(list(part))], shape, axis=axis, batchDims=0)
    return x


def gather(low: Lowering, node: ir.Node) -> None:
    """Gather by a constant index: of rank 0 or 1 in any form, of a higher rank in torch's."""
    if low.array(node.inputs[1]) is None:
        gather_computed(low, node)
        return
    value, y = low.input(node), node.outputs[0]
    shape = low.shape(value)
    rank, axis = len(shape), node.attributes.get_int("axis", 0) % len(shape)
    index = low.constant(node.inputs[1], "index") % shape[axis]
    form = low.form(value) if index.ndim <= 1 else first(rank)
    x = low.tensor(value, form)
    place = form.index(axis)
    flat = index.reshape(-1)
    if flat.size == 1:
        begin = [int(flat[0]) if at == place else 0 for at in range(rank)]
        gathered = low.slice(x, begin, [1 if at == place else size for at, size in enumerate(x.shape)])
    else:
        options = {"axis": place, "batchDims": 0}
        gathered = low.emit(
            "GATHER", [x, low.integers(flat)], [*x.shape[:place], flat.size, *x.shape[place + 1 :]], **options
        )
    if index.ndim == 1:
        low.bind(y, form, gathered)
        return
    # The axes behind the gathered one are counted one lower where it vanishes.
    remaining = [at if at < axis else at - 1 for at in form if at != axis]
    result = tuple(remaining) if index.ndim == 0 else first(len(low.shape(y)))
    low.bind(y, result, gathered)


def expand(low: Lowering, node: ir.Node) -> None:
    """Expand: a product with ones of the broadcast axes, which delegates take where BROADCAST_TO is not.

    Many ones are a product for each axis instead: the constants then add up, and do not multiply.
    """
    x, y = low.input(node), node.outputs[0]
    before, after = low.shape(x), low.shape(y)
    if before == after:
        low.alias(y, x)
        return
    form = common_form(low, node.inputs[:1], len(after))
    tensor = operand(low, x, form)
    full = (1,) * (len(after) - len(before)) + before
    ones = [size if old == 1 else 1 for old, size in zip(full, after, strict=True)]
    along = permuted(ones, form)
    steps = [along] if math.prod(along) <= _MOST_ONES else [_only(along, at) for at in range(len(along))]
    for step in steps:
        if any(size != 1 for size in step):
            constant = low.graph.constant(np.ones(step, tensor.dtype), f"{low.base}/ones")
            tensor = low.emit(
                "LOGICAL_AND" if tensor.dtype == np.bool_ else "MUL",
                [tensor, constant],
                np.broadcast_shapes(tensor.shape, step),
            )
    low.bind(y, form, tensor)


_MOST_ONES = 2**16  # elements of a constant; larger ones are made axis by axis, of short constants


def _only(shape: Form, axis: int) -> Form:
    return tuple(size if at == axis else 1 for at, size in enumerate(shape))


def tile(low: Lowering, node: ir.Node) -> None:
    """Tile, as one concatenation per axis: delegates do not take TILE."""
    x, form = read(low, node)
    repeats = low.constant(node.inputs[1], "repeats").reshape(-1)
    tiled = x
    for place, axis in enumerate(form):
        if repeats[axis] != 1:
            tiled = joined(low, [tiled] * int(repeats[axis]), place)
    if tiled is x:
        low.alias(node.outputs[0], low.input(node))
    else:
        low.bind(node.outputs[0], form, tiled)


def gather_nd(low: Lowering, node: ir.Node) -> None:
    """GatherND: the leading axes that the index addresses are merged to one, which is gathered.

    One axis, which is how torch writes ``x[:, [2, 0]]``, is gathered where it lies.
    """
    value, y = low.input(node), node.outputs[0]
    if low.array(low.input(node, 1)) is None:
        gather_nd_computed(low, node)
        return
    # Negative indices count from the end, and those of several axes become one number, row-major.
    index, before = _with_batch(low.constant(node.inputs[1], "index"), node), low.shape(value)
    depth = index.shape[-1]
    rows = np.ravel_multi_index(tuple(np.moveaxis(index % before[:depth], -1, 0)), before[:depth])
    if depth == 1 and index.ndim == 2:
        form = low.form(value)
        x, place = low.tensor(value, form), form.index(0)
    else:
        form = first(len(low.shape(y)))
        x, place = (
            low.reshape(low.tensor(value, first(len(before))), (int(np.prod(before[:depth])), *before[depth:])),
            0,
        )
    shape = [*x.shape[:place], rows.size, *x.shape[place + 1 :]]
    gathered = low.emit("GATHER", [x, low.integers(rows.reshape(-1))], shape, axis=place, batchDims=0)
    low.bind(y, form, gathered)


def _with_batch(index: Array, node: ir.Node) -> Array:
    """The index with what ``batch_dims`` leaves out: the places of those axes, each its own."""
    count = node.attributes.get_int("batch_dims", 0)
    if not count:
        return index
    own = np.indices(index.shape[:-1])[:count]
    return np.concatenate([np.moveaxis(own, 0, -1), index], axis=-1)


LOWERINGS: dict[str, Lower] = {
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "GatherND": gather_nd,
    "Expand": expand,
    "Tile": tile,
}
