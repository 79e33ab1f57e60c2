"""Finds the parts that the outputs of a graph are concatenated of.

A detector joins boxes in pixels and scores of 0 to 1 in one tensor: an error relative to the largest element of the
whole would judge the scores by the boxes. Tolerances are therefore relative to each part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.core import Parts
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.traits import Trait, having

_HOLDS_ITS_SHAPE = having(Trait.SCALED) | {"Cast"}  # QuantizeLinear and the like keep every element at its place
_Divisions = dict[int, tuple[int, ...]]  # axis: sizes along it


def joints_of(graph: ir.Graph) -> dict[str, tuple[Parts, ...]]:
    """The parts of each output along its axes; outputs of a single part are left out.

    Parts are the operands of a Concat; the channels of a layer are one part. Transpose, Reshape and the like behind
    the Concat move its axis. Where two operands of a Concat have different parts along another axis (a detector whose
    scales are joined of different parts), that axis counts as undivided.
    """
    by_value: dict[ir.Value, _Divisions] = {}
    for node in graph:
        for value in node.outputs:
            by_value[value] = _divisions(node, by_value)
    joints = {}
    for value in graph.outputs:
        divisions = sorted(by_value.get(value, {}).items())
        if divisions:
            joints[value.name or ""] = tuple(Parts(axis, sizes) for axis, sizes in divisions)
    return joints


def _divisions(node: ir.Node, by_value: dict[ir.Value, _Divisions]) -> _Divisions:
    """The divisions of a node's results, from those of the values before it."""
    sources = [value for value in node.inputs if value is not None]
    if node.op_type in having(Trait.LAYER):
        return _channels(node)
    if node.op_type == "Concat":
        return _joined(node, sources, [by_value.get(value, {}) for value in sources])
    if not sources or not by_value.get(sources[0]):
        return {}
    if node.op_type in _HOLDS_ITS_SHAPE:
        return by_value[sources[0]]
    if node.op_type not in having(Trait.REARRANGES):
        return {}
    before, after = sizes_of(sources[0]), sizes_of(node.outputs[0])
    moved = {}
    for axis, sizes in by_value[sources[0]].items():
        place = place_after(node, axis, before, after)
        if place is not None:
            moved[place] = sizes
    return moved


def _channels(node: ir.Node) -> _Divisions:
    """The channel axis of a layer's result, as one part; none for a product of two activations."""
    shape = sizes_of(node.outputs[0])
    if constant(input_of(node, 1)) is None or len(shape) < 2:
        return {}
    axis = len(shape) - 1 if node.op_type == "MatMul" else 1
    return {axis: (shape[axis],)}


def _joined(node: ir.Node, sources: Sequence[ir.Value], before: Sequence[_Divisions]) -> _Divisions:
    """The divisions of a Concat: along its axis the parts of all operands, along others those that all share."""
    sizes = [sizes_of(value) for value in sources]
    if not all(sizes):
        return {}
    axis = node.attributes.get_int("axis") % len(sizes[0])
    common = {
        other: parts
        for other, parts in before[0].items()
        if other != axis and all(divisions.get(other) == parts for divisions in before)
    }
    own = [part for size, divisions in zip(sizes, before, strict=True) for part in divisions.get(axis, (size[axis],))]
    return common | ({axis: tuple(own)} if len(own) > 1 else {})


def place_after(node: ir.Node, axis: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    """The number of an axis after a node that rearranges elements; None if it is no axis any more.

    Args:
        node: REARRANGES holds for it.
        axis: before the node.
        before: the shape before, as of `sizes_of`.
        after: the shape after.
    """
    if not before or not after:
        return None
    if node.op_type == "Transpose":
        return list(node.attributes.get_ints("perm", range(len(before))[::-1])).index(axis)
    if node.op_type in having(Trait.BY_SAMPLE):  # DepthToSpace: a part of the channels goes into height and width
        return axis if axis == 0 else None
    ahead = math.prod(before[:axis])
    places = [place for place, size in enumerate(after) if size == before[axis] and math.prod(after[:place]) == ahead]
    return places[0] if places else None


def sizes_of(value: ir.Value) -> list[int]:
    """The shape, where it is known; an open batch counts as 1."""
    return [size if isinstance(size, int) else 1 for size in value.shape or ()]
