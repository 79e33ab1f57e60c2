"""Elements at places that are computed: gathers, scatters, the largest ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import first, permuted
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.activation import read
from edgeconv.emit.tflite.lower._operators.elementwise import aligned
from edgeconv.graph.edit import MEETING, input_of
from edgeconv.graph.traits import Trait, having


def gather_computed(low: Lowering, node: ir.Node) -> None:
    """Gather by an index that is computed, in torch's order."""
    value, y = low.input(node), node.outputs[0]
    rank = len(low.shape(value))
    axis = node.attributes.get_int("axis", 0) % rank
    places = _places(low, low.input(node, 1), low.shape(value)[axis])
    gathered = low.emit("GATHER", [low.tensor(value, first(rank)), places], low.shape(y), axis=axis, batchDims=0)
    low.bind(y, first(len(low.shape(y))), gathered)


def gather_nd_computed(low: Lowering, node: ir.Node) -> None:
    """GatherND by an index that is computed: a gather of rows, in torch's order; see `scatter_nd`."""
    value, index, y = low.input(node), low.input(node, 1), node.outputs[0]
    shape, shared = low.shape(value), node.attributes.get_int("batch_dims", 0)
    depth = shared + low.shape(index)[-1]
    rows = _computed_rows(low, index, shape[shared:])
    lead = shape[:shared] if math.prod(shape[:shared]) > 1 else ()
    rows = low.reshape(rows, (*lead, rows.shape[0] // math.prod(lead)))
    size = math.prod(shape[len(lead) : depth])
    flat = low.reshape(low.tensor(value, first(len(shape))), (*lead, size, *shape[depth:]))
    batched = {"axis": len(lead), "batchDims": len(lead)}
    gathered = low.emit("GATHER", [flat, rows], (*rows.shape, *shape[depth:]), **batched)
    low.bind(y, first(len(low.shape(y))), gathered)


def gather_elements(low: Lowering, node: ir.Node) -> None:
    """GatherElements as a gather of the flat tensor, or of each image of a batch, which may then be open."""
    value, y = low.input(node), node.outputs[0]
    shape, taken = low.shape(value), low.shape(y)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    is_batched = axis > 0 and shape[0] == taken[0] > 1 and low.array(node.inputs[1]) is None
    lead = shape[: int(is_batched)]
    places = _flat_places(low, node, shape, taken, len(lead))
    flat = low.reshape(low.tensor(value, first(len(shape))), (*lead, math.prod(shape[len(lead) :])))
    gathered = low.emit("GATHER", [flat, places], places.shape, axis=len(lead), batchDims=len(lead))
    low.bind(y, first(len(shape)), gathered)


def scatter_elements(low: Lowering, node: ir.Node) -> None:
    """ScatterElements into zeros or other data, by SCATTER_ND, which makes zeros and adds what meets in one place.

    Without a reduction the places have to differ (ONNX says so), but for updates that are all the same number.
    """
    value, updates, y = low.input(node), low.input(node, 2), node.outputs[0]
    reduction = node.attributes.get_string("reduction", "none")
    if MEETING in node.metadata_props:
        low.refuse(node.metadata_props[MEETING])
    shape, torch_order = low.shape(value), first(len(low.shape(value)))
    places = _flat_places(low, node, shape, low.shape(updates))
    constant, base = low.array(updates), low.array(value)
    total = int(np.prod(shape))
    ones = low.graph.constant(np.ones(places.shape, np.float32), f"{low.base}/ones")

    def scattered(flat: Tensor) -> Tensor:
        column = low.reshape(places, (*places.shape, 1))
        # ScatterNd (kernels/internal/reference/reference_ops.h) fills zeros and adds: updates of one place add up.
        sums = low.emit("SCATTER_ND", [column, flat, low.integers([total])], (total,), dtype=flat.dtype)
        return low.reshape(sums, shape)

    # 1. One number for all updates (a mask): wherever any lands, that number; places may meet.
    if constant is not None and constant.size and np.all(constant == constant.flat[0]) and reduction == "none":
        hit = low.emit("GREATER", [scattered(ones), low.floats(0.0)], shape, dtype=np.dtype(np.bool_))
        number = low.graph.constant(constant.reshape(-1)[:1], f"{low.base}/number")
        result = low.emit("SELECT_V2", [hit, number, low.tensor(value, torch_order)], shape, dtype=constant.dtype)
    # 2. Else the updates are scattered into zeros, and added to the old data, or chosen where any landed.
    else:
        flat = low.reshape(low.tensor(updates, first(len(low.shape(updates)))), places.shape)
        if reduction in _COMBINED:
            old = low.reshape(low.tensor(value, torch_order), (total,))
            flat = _combined(low, reduction, old, places, flat)
        result = scattered(flat)
        if base is None or np.any(base):
            old = low.tensor(value, torch_order)
            if reduction == "add":
                result = low.emit("ADD", [old, result], shape)
            else:
                hit = low.emit("GREATER", [scattered(ones), low.floats(0.0)], shape, dtype=np.dtype(np.bool_))
                result = low.emit("SELECT_V2", [hit, result, old], shape, dtype=old.dtype)
    low.bind(y, torch_order, result)


def scatter_nd(low: Lowering, node: ir.Node) -> None:
    """ScatterND of rows: the axes that the indices address become one, the others the rows' elements.

    At constant places old and new rows are joined and gathered in their order. What is computed goes through
    SCATTER_ND, which makes zeros and adds what meets in one row; without a reduction the places have to differ (ONNX
    says so).
    """
    value, index, updates, y = low.input(node), low.input(node, 1), low.input(node, 2), node.outputs[0]
    reduction = node.attributes.get_string("reduction", "none")
    shape, count = low.shape(value), low.shape(index)[-1]
    total, width = int(np.prod(shape[:count])), int(np.prod(shape[count:]))
    old = low.reshape(low.tensor(value, first(len(shape))), (total, width))
    number = int(np.prod(low.shape(index)[:-1]))
    new = low.reshape(low.tensor(updates, first(len(low.shape(updates)))), (number, width))
    constant = low.array(index)
    if reduction in _COMBINED:
        rows = low.integers([] if constant is None else _flat_rows(constant, shape))
        new, reduction = _combined(low, reduction, old, rows, new), "none"
    # 1. Constant places: old and new rows side by side, and a constant order that picks of both.
    if constant is not None and reduction == "none":
        order = np.arange(total)
        for item, place in enumerate(_flat_rows(constant, shape).tolist()):
            order[place] = total + item
        joined = low.emit("CONCATENATION", [old, new], (total + number, width), axis=0)
        rows_after = low.emit("GATHER", [joined, low.integers(order)], (total, width), axis=0, batchDims=0)
    # 2. Computed places, or sums: SCATTER_ND of the rows, and of ones to know where any landed.
    else:
        rows = low.integers(_flat_rows(constant, shape)) if constant is not None else _computed_rows(low, index, shape)
        column, sizes = low.reshape(rows, (number, 1)), low.integers([total, width])
        rows_after = low.emit("SCATTER_ND", [column, new, sizes], (total, width), dtype=new.dtype)
        if reduction == "add":
            rows_after = low.emit("ADD", [old, rows_after], (total, width))
        else:
            ones = low.graph.constant(np.ones((number, 1), np.float32), f"{low.base}/ones")
            hits = low.emit("SCATTER_ND", [column, ones, low.integers([total, 1])], (total, 1), dtype=ones.dtype)
            hit = low.emit("GREATER", [hits, low.floats(0.0)], (total, 1), dtype=np.dtype(np.bool_))
            rows_after = low.emit("SELECT_V2", [hit, rows_after, old], (total, width), dtype=old.dtype)
    low.bind(y, first(len(shape)), rows_after)


_COMBINED = {"max": "MAXIMUM", "min": "MINIMUM", "mul": "MUL"}


def _combined(low: Lowering, reduction: str, old: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """The new rows combined with the old ones in whose places they come, which have to be constants and to differ."""
    if rows.data is None or not rows.data.size or len(np.unique(rows.data)) < rows.data.size:
        low.refuse(f"its reduction is {reduction!r}, at places that are computed or meet")
    taken = low.emit("GATHER", [old, rows], new.shape, axis=0, batchDims=0)
    return low.emit(_COMBINED[reduction], [taken, new], new.shape)


def _flat_rows(index: Array, shape: tuple[int, ...]) -> Array:
    """The rows that indices address, counted from the start."""
    rows = np.zeros(index.shape[:-1], np.int64)
    for axis in range(index.shape[-1]):
        rows = rows * shape[axis] + index[..., axis] % shape[axis]
    return rows.reshape(-1)


def _computed_rows(low: Lowering, index: ir.Value, shape: tuple[int, ...]) -> Tensor:
    """As `_flat_rows`, where the indices are known at run time only."""
    number, count = int(np.prod(low.shape(index)[:-1])), low.shape(index)[-1]
    places = low.reshape(low.tensor(index, first(len(low.shape(index)))), (number, count))
    if places.dtype != np.int32:
        places = low.emit("CAST", [places], places.shape, dtype=np.dtype(np.int32))
    places = _from_start(low, places, shape[:count])
    if count == 1:
        return low.reshape(places, (number,))
    # Row-major: a step along an axis is the product of the sizes behind it.
    strides = [int(np.prod(shape[axis + 1 : count])) for axis in range(count)]
    places = low.emit("MUL", [places, low.integers(strides)], places.shape)
    return low.emit("SUM", [places, low.integers([1])], (number,), keepDims=False)


def _flat_places(
    low: Lowering, node: ir.Node, shape: tuple[int, ...], taken: tuple[int, ...], shared: int = 0
) -> Tensor:
    """The node's indices along its axis as int32 places in the flat tensor of a shape.

    Those behind as many shared axes, which stay, are places in what lies behind these.
    """
    axis = node.attributes.get_int("axis", 0) % len(shape)
    index = low.input(node, 1)
    strides = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
    grid = np.indices(taken[shared:])
    terms = [grid[at - shared] * strides[at] for at in range(shared, len(shape)) if at != axis]
    others = np.broadcast_to(np.sum(terms, axis=0), taken[shared:]).astype(np.int32)
    constant = low.array(index)
    if constant is not None:
        return low.integers((others + (constant % shape[axis]) * strides[axis]).reshape(-1))
    places = low.reshape(_places(low, index, shape[axis]), (*taken[:shared], others.size))
    if strides[axis] != 1:
        places = low.emit("MUL", [places, low.integers([strides[axis]])], places.shape)
    return low.emit("ADD", [places, low.integers(others.reshape(-1))], places.shape)


def _places(low: Lowering, index: ir.Value, size: int) -> Tensor:
    """An index in torch's order as int32, counted from the start."""
    tensor = low.tensor(index, first(len(low.shape(index))))
    if tensor.dtype != np.int32:
        tensor = low.emit("CAST", [tensor], tensor.shape, dtype=np.dtype(np.int32))
    producer = index.producer()
    if producer is not None and producer.op_type in having(Trait.RANKS):
        return tensor
    return _from_start(low, tensor, [size])  # what ranks elements gives no negative ones


def _from_start(low: Lowering, places: Tensor, sizes: Sequence[int]) -> Tensor:
    """Places counted from the start: ONNX counts negative ones from the end, TFLite's kernels refuse them.

    FLOOR_MOD would be one operator, but the microcontrollers' kernel of it takes no integers.
    """
    # -1 of a negative place, else 0: min(max(min(p, 0), -1), …) · size is subtracted.
    below = low.emit("MINIMUM", [places, low.integers([0])], places.shape)
    times = low.emit("MAXIMUM", [below, low.integers([-1])], places.shape)
    back = low.emit("MUL", [times, low.integers(sizes)], places.shape)
    return low.emit("SUB", [places, back], places.shape)


def _mirrored(low: Lowering, x: Tensor) -> Tensor:
    """Elements in the opposite order: negative, but integers from end to end, as the lowest one has no negative."""
    if x.dtype.kind == "f":
        return low.emit("NEG", [x], x.shape)
    ends = low.graph.constant(np.array([~np.zeros((), x.dtype)]), f"{low.base}/ends")
    return low.emit("SUB", [ends, x], x.shape)


def top_k(low: Lowering, node: ir.Node) -> None:
    """TopK over the last axis; the smallest are the largest of the mirrored ones."""
    value = low.input(node)
    rank = len(low.shape(value))
    axis = node.attributes.get_int("axis", -1) % rank
    count = int(low.constant(node.inputs[1], "count").reshape(-1)[0])
    form = low.form(value)
    if form[-1] != axis:
        form = (*(other for other in form if other != axis), axis)
    x = low.tensor(value, form)
    smallest = not node.attributes.get_int("largest", 1)
    if smallest:
        x = _mirrored(low, x)
    shape = (*x.shape[:-1], count)
    # kernels/topk_v2.cc asks for a single number, not for a list of one; int32 is what every version takes.
    number = low.graph.constant(np.array(count, np.int32), f"{low.base}/count")
    values, indices = low.graph.add("TOPK_V2", [x, number], [shape, shape], f"{low.base}/topk_v2")
    indices.dtype = np.dtype(np.int32)
    if smallest:
        values = _mirrored(low, values)
    low.bind(node.outputs[0], form, values)
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        low.bind(node.outputs[1], form, low.emit("CAST", [indices], shape, dtype=np.dtype(np.int64)))


def cumulative_sum(low: Lowering, node: ir.Node) -> None:
    """CumSum along a constant axis."""
    x, form = read(low, node)
    axis = int(low.constant(node.inputs[1], "axis").reshape(-1)[0]) % len(form)
    place = low.graph.constant(np.array(form.index(axis), np.int32), f"{low.base}/axis")
    options = {name: bool(node.attributes.get_int(name, 0)) for name in ("exclusive", "reverse")}
    low.bind(node.outputs[0], form, low.emit("CUMSUM", [x, place], x.shape, **options))


def reverse_sequence(low: Lowering, node: ir.Node) -> None:
    """ReverseSequence, by TFLite's own operator."""
    x, form = read(low, node)
    lengths = low.tensor(low.input(node, 1), first(1))
    time, images = (
        form.index(node.attributes.get_int(f"{name}_axis", at)) for at, name in enumerate(("time", "batch"))
    )
    result = low.emit("REVERSE_SEQUENCE", [x, lengths], x.shape, seqDim=time, batchDim=images)
    low.bind(node.outputs[0], form, result)


def triangle(low: Lowering, node: ir.Node) -> None:
    """Trilu: a choice between the input and zero by a constant mask."""
    x, form = read(low, node)
    offset = low.array(input_of(node, 1))
    if input_of(node, 1) is not None and offset is None:
        low.refuse("its diagonal is not a constant")
    cut: Array = np.ones(low.shape(low.input(node))[-2:], np.bool_)
    diagonal = 0 if offset is None else int(offset.reshape(-1)[0])
    inside = np.triu(cut, diagonal) if node.attributes.get_int("upper", 1) else np.tril(cut, diagonal)
    mask = low.graph.constant(aligned(inside, form), f"{low.base}/mask")
    zero = low.graph.constant(np.zeros(1, x.dtype), f"{low.base}/zero")
    shape = permuted(low.shape(node.outputs[0]), form)
    low.bind(node.outputs[0], form, low.emit("SELECT_V2", [mask, x, zero], shape, dtype=x.dtype))


LOWERINGS: dict[str, Lower] = {
    "GatherElements": gather_elements,
    "ReverseSequence": reverse_sequence,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TopK": top_k,
    "CumSum": cumulative_sum,
    "Trilu": triangle,
}
