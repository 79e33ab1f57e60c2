"""How each operator carries the batch: one rule per operator, in one table.

A rule takes a node of which some input carries the batch, rewrites constants that contain the batch size, and returns
where the results carry the batch. It refuses (`Batch.refuse`) what does not hold for every batch size. A number that
was computed from the batch size looks like any other to a rule; `edgeconv.rewrite.open_batch._compare` finds those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import integers, permutation_of, resized_axes
from edgeconv.graph.edit import input_of
from edgeconv.graph.traits import Trait, having
from edgeconv.rewrite.open_batch._axis import Batch, Place
from edgeconv.rewrite.open_batch._concat import concat
from edgeconv.rewrite.open_batch._recurrent import recurrent
from edgeconv.rewrite.open_batch._spread import spread

Rule = Callable[[Batch, ir.Node], Place]

_TO_THE_END = int(np.iinfo(np.int64).max)  # specification of Slice: an end beyond the size means the size


def elementwise(batch: Batch, node: ir.Node) -> Place:
    """Operators that broadcast: inputs that carry the batch do so on aligned axes; the others get one row there."""
    shared: Place | None = None  # with its axis counted from the last one, as broadcasting aligns axes
    for value in node.inputs:
        if value is not None and value in batch.places:
            place = batch.places[value]
            place = place.on(place.axis - batch.rank(node, value))
            if shared not in (None, place):
                batch.refuse(node, "meets the batch in two places")
            shared = place
    if shared is None:
        batch.refuse(node, "does not carry it")
    for index, value in enumerate(node.inputs):
        if value is not None and value not in batch.places:
            batch.free(node, index, batch.rank(node, value) + shared.axis, shared)
    return shared.on(batch.rank(node, node.outputs[0]) + shared.axis)


def image(batch: Batch, node: ir.Node) -> Place:
    """Operators that treat each element of axis 0 by itself: convolutions, pools, Resize."""
    place = batch.only(node)
    if place.axis:
        batch.refuse(node, f"works along the batch, which lies on axis {place.axis}")
    return place


def along(default: int) -> Rule:
    """Operators that work along the attribute ``axis`` and keep the shape."""
    return lambda batch, node: batch.untouched(node, [node.attributes.get_int("axis", default)])


def from_axis(batch: Batch, node: ir.Node) -> Place:
    """LayerNormalization: works along the attribute ``axis`` and all that follow."""
    rank = batch.rank(node, node.inputs[0])
    return batch.untouched(node, range(node.attributes.get_int("axis", -1) % rank, rank))


def last_two(batch: Batch, node: ir.Node) -> Place:
    """Operators on matrices."""
    return batch.untouched(node, (-2, -1))


def along_input(batch: Batch, node: ir.Node) -> Place:
    """CumSum: the axis is an input."""
    return batch.untouched(node, batch.constant(node, 1))


def reduce(batch: Batch, node: ir.Node) -> Place:
    """Reductions; axes as an input or an attribute."""
    rank = batch.rank(node, node.inputs[0])
    axes = node.attributes.get_ints("axes", ()) if input_of(node, 1) is None else batch.constant(node, 1)
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) != 0:
        return batch.only(node)
    return _without(batch, node, {axis % rank for axis in axes} or set(range(rank)))


def arg_reduce(batch: Batch, node: ir.Node) -> Place:
    """ArgMax, ArgMin."""
    rank = batch.rank(node, node.inputs[0])
    return _without(batch, node, {node.attributes.get_int("axis", 0) % rank})


def _without(batch: Batch, node: ir.Node, axes: set[int]) -> Place:
    place = batch.untouched(node, sorted(axes))
    if node.attributes.get_int("keepdims", 1):
        return place
    return place.on(place.axis - sum(axis < place.axis for axis in axes))


def gemm(batch: Batch, node: ir.Node) -> Place:
    """Gemm: the rows of A are images."""
    place = batch.place(node)
    if place.axis != node.attributes.get_int("transA", 0) or node.inputs[1] in batch.places:
        batch.refuse(node, "sums over the batch or takes it as its weights")
    if (term := input_of(node, 2)) is not None and term not in batch.places:
        batch.free(node, 2, batch.rank(node, term) - 2, place)
    return place.on(0)


def matmul(batch: Batch, node: ir.Node) -> Place:
    """MatMul: the batch is an axis of the stack of matrices, the rows of A or the columns of B, but is not summed over.

    A vector operand has one axis less in the result than a matrix, which moves the axes behind.
    """
    # Axes are counted from the last one (-1), as MatMul aligns its operands there.
    ranks = [batch.rank(node, value) for value in node.inputs]
    carried = {index: batch.places[value] for index, value in enumerate(node.inputs) if value in batch.places and value}
    behind = {index: place.axis - ranks[index] for index, place in carried.items()}
    summed = {0: -1, 1: -2 if ranks[1] > 1 else -1}  # by operand: its axis that is summed over
    out = batch.rank(node, node.outputs[0])
    if any(axis == summed[index] for index, axis in behind.items()):
        batch.refuse(node, "sums over the batch")
    if any(axis >= -2 for axis in behind.values()):
        if len(carried) > 1:
            batch.refuse(node, "multiplies images by one another")
        index, axis = next(iter(behind.items()))
        dropped = (index == 0 and ranks[1] == 1) or (index == 1 and ranks[0] == 1)
        return carried[index].on(out + axis + (1 if dropped and index == 0 else 0))
    if len({(axis, carried[index].outer, carried[index].inner) for index, axis in behind.items()}) > 1:
        batch.refuse(node, "meets the batch in two places")
    index, axis = next(iter(behind.items()))
    other = 1 - index
    if other not in carried:
        batch.free(node, other, ranks[other] + axis, carried[index])
    dropped = ranks[other] == 1
    return carried[index].on(out + axis + (1 if dropped else 0))


def reshape(batch: Batch, node: ir.Node) -> Place:
    """Reshape: the target size of the axis with the batch becomes -1."""
    place = batch.through_reshape(node)
    target = list(batch.shape(node, node.outputs[0]))
    # Specification of Reshape: 0 means "as in the input", and -1 cannot be inferred of an empty tensor.
    if 0 in target:
        batch.refuse(node, "has no elements")
    target[place.axis] = -1
    batch.rewrite(node, 1, target)
    return place


def squeeze(batch: Batch, node: ir.Node) -> Place:
    """Squeeze: its axes are made explicit, as a batch of 1 would otherwise be removed at run time."""
    place = batch.through_reshape(node)
    if len(node.inputs) < 2 or node.inputs[1] is None:
        batch.rewrite(node, 1, [axis for axis, size in enumerate(batch.shape(node, node.inputs[0])) if size == 1])
    return place


def reshaped(batch: Batch, node: ir.Node) -> Place:
    """Flatten, Unsqueeze: they have no constant that contains the batch size."""
    return batch.through_reshape(node)


def transpose(batch: Batch, node: ir.Node) -> Place:
    """Transpose."""
    place, rank = batch.only(node), batch.rank(node, node.inputs[0])
    return place.on(permutation_of(node, rank).index(place.axis))


def slice_(batch: Batch, node: ir.Node) -> Place:
    """Slice: of the batch it must take everything."""
    place, rank = batch.only(node), batch.rank(node, node.inputs[0])
    starts, ends = batch.constant(node, 1), batch.constant(node, 2)
    stated, steps = (integers(input_of(node, index)) for index in (3, 4))
    axes = [axis % rank for axis in stated or range(len(starts))]
    if place.axis not in axes:
        return place
    at, size = axes.index(place.axis), batch.shape(node, node.inputs[0])[place.axis]
    if range(*slice(starts[at], ends[at], (steps or [1] * len(axes))[at]).indices(size)) != range(size):
        batch.refuse(node, "takes a part of the batch")
    starts[at], ends[at] = 0, _TO_THE_END
    batch.rewrite(node, 1, starts)
    batch.rewrite(node, 2, ends)
    for index in range(3, len(node.inputs)):  # all of them must have one type, which is int64 now
        if node.inputs[index] is not None:
            batch.rewrite(node, index, batch.constant(node, index))
    return place


def pad(batch: Batch, node: ir.Node) -> Place:
    """Pad: never the batch."""
    place, rank = batch.only(node), batch.rank(node, node.inputs[0])
    amounts = batch.constant(node, 1)
    axes = list(range(rank))
    if input_of(node, 3) is not None:
        axes = [axis % rank for axis in batch.constant(node, 3)]
    if any(axis == place.axis and (amounts[at] or amounts[len(axes) + at]) for at, axis in enumerate(axes)):
        batch.refuse(node, "pads the batch")
    return place


def expand(batch: Batch, node: ir.Node) -> Place:
    """Expand: its target size for the batch becomes 1, which keeps the axis as it is."""
    place, rank = batch.only(node), batch.rank(node, node.inputs[0])
    target = batch.constant(node, 1)
    if len(target) - rank + place.axis >= 0:
        target[len(target) - rank + place.axis] = 1
        batch.rewrite(node, 1, target)
    return place.on(batch.rank(node, node.outputs[0]) - rank + place.axis)


def tile(batch: Batch, node: ir.Node) -> Place:
    """Tile: never the batch."""
    place = batch.only(node)
    if batch.constant(node, 1)[place.axis] != 1:
        batch.refuse(node, "repeats the batch")
    return place


def resize(batch: Batch, node: ir.Node) -> Place:
    """Resize: sizes are stated only for axes that change (attribute ``axes``), not for the batch."""
    place = image(batch, node)
    if input_of(node, 3) is not None:
        sizes, before = batch.constant(node, 3), batch.shape(node, node.inputs[0])
        axes = resized_axes(node, len(before))
        if 0 in axes:
            # tf_crop_and_resize has a region for each axis, those that keep their size too.
            resized = [at for at, axis in enumerate(axes) if sizes[at] != before[axis]]
            mode = node.attributes.get_string("coordinate_transformation_mode", "")
            if 0 in [axes[at] for at in resized] or mode == "tf_crop_and_resize":
                batch.refuse(node, "resizes the batch")
            node.attributes["axes"] = ir.AttrInt64s("axes", [axes[at] for at in resized])
            batch.rewrite(node, 3, [sizes[at] for at in resized])
    return place


def gather(batch: Batch, node: ir.Node) -> Place:
    """Gather along another axis than the batch; or of rows of a constant table by indices that carry the batch."""
    rank = batch.rank(node, node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % rank
    if node.inputs[0] not in batch.places:
        place = batch.only(node, 1)
        return place.on(axis + place.axis)
    # The axes of the index take the place of the gathered axis.
    place = batch.untouched(node, [axis])
    return place.on(place.axis if place.axis < axis else place.axis - 1 + batch.rank(node, node.inputs[1]))


def gather_nd(batch: Batch, node: ir.Node) -> Place:
    """GatherND by a constant index of other axes."""
    index = batch.shape(node, node.inputs[1])
    if node.attributes.get_int("batch_dims", 0):
        batch.refuse(node, "has batch_dims")
    place = batch.untouched(node, range(index[-1]))
    return place.on(len(index) - 1 + place.axis - index[-1])


def scatter_nd(batch: Batch, node: ir.Node) -> Place:
    """ScatterND by a constant index of other axes."""
    place, index = batch.place(node), batch.shape(node, node.inputs[1])
    # In the updates, the axes of the indices (without their last) stand in place of the indexed axes.
    aligned = place.on(len(index) - 1 + place.axis - index[-1])
    if node.inputs[1] in batch.places or place.axis < index[-1] or batch.places.get(node.inputs[2]) != aligned:  # type: ignore[arg-type]
        batch.refuse(node, "scatters along the batch, or what is the same for all of it")
    return place


def reverse_sequence(batch: Batch, node: ir.Node) -> Place:
    """ReverseSequence: the data carry the batch on ``batch_axis``, and the lengths carry it too."""
    place = batch.place(node)
    images = node.attributes.get_int("batch_axis", 1) % batch.rank(node, node.inputs[0])
    if place.axis != images or batch.place(node, 1) != place.on(0):
        batch.refuse(node, "reverses along the batch, or by lengths that do not carry it")
    return place


def gather_elements(batch: Batch, node: ir.Node) -> Place:
    """GatherElements along another axis; an input that does not carry the batch is repeated for each image."""
    return _alike(batch, node, (0, 1))


def scatter_elements(batch: Batch, node: ir.Node) -> Place:
    """ScatterElements along another axis; inputs that do not carry the batch are repeated for each image."""
    return _alike(batch, node, (0, 1, 2))


def _alike(batch: Batch, node: ir.Node, indices: Sequence[int]) -> Place:
    """The place of the batch in inputs of one rank that do not broadcast: the same in all of them."""
    carrying = [value for value in (node.inputs[index] for index in indices) if value in batch.places and value]
    places = {batch.places[value] for value in carrying}
    place = places.pop()
    if places:
        batch.refuse(node, "meets the batch in two places")
    if place.axis == node.attributes.get_int("axis", 0) % batch.rank(node, node.inputs[0]):
        batch.refuse(node, "works along the batch")
    for index in indices:
        if node.inputs[index] not in batch.places:
            spread(batch, node, index, place.axis, carrying[0])
    return place


def grid_sample(batch: Batch, node: ir.Node) -> Place:
    """GridSample: image and grid carry the batch on axis 0; one that does not is repeated for each image."""
    carrying = [value for value in node.inputs if value in batch.places and value]
    place = batch.places[carrying[0]]
    if any(batch.places[value] != place for value in carrying) or place.axis:
        batch.refuse(node, "works along the batch, or meets it in two places")
    for index in (0, 1):
        if node.inputs[index] not in batch.places:
            spread(batch, node, index, 0, carrying[0])
    return place


def first_input(batch: Batch, node: ir.Node) -> Place:
    """Operators that keep the shape of their first input and take parameters beside it."""
    return batch.only(node)


RULES: dict[str, Rule] = {
    **dict.fromkeys(having(Trait.BROADCASTS), elementwise),
    **dict.fromkeys(having(Trait.FUNCTION) | having(Trait.SCALED) | {"CastLike"}, first_input),
    **dict.fromkeys(having(Trait.BY_SAMPLE), image),
    **dict.fromkeys(having(Trait.REDUCES), reduce),
    **dict.fromkeys(having(Trait.REDUCES | Trait.RANKS), arg_reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "TopK"), along(-1)),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), from_axis),
    **dict.fromkeys(("Det", "Trilu"), last_two),
    **dict.fromkeys(("Flatten", "Unsqueeze"), reshaped),
    "Split": along(0),
    "CumSum": along_input,
    "Gemm": gemm,
    "MatMul": matmul,
    "Reshape": reshape,
    "ReverseSequence": reverse_sequence,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Concat": concat,
    "Slice": slice_,
    "Pad": pad,
    "Expand": expand,
    "Tile": tile,
    "Resize": resize,
    "Gather": gather,
    "GatherND": gather_nd,
    "GatherElements": gather_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "GridSample": grid_sample,
    **dict.fromkeys(("GRU", "LSTM", "RNN"), recurrent),
}

WITHOUT_RULE: Mapping[str, str] = {
    "DynamicQuantizeLinear": "the whole batch has one scale, so that images depend on one another",
    "MatMulInteger": "not written yet",
    "MaxUnpool": "its indices count through the whole batch",
}
"""Operators of the reference that can reach this table and have no rule, and why."""
