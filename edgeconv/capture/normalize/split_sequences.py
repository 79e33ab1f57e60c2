"""Sequences of tensors, which no mobile runtime takes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._origin import origin_of, set_origin
from edgeconv.graph.constants import integers
from edgeconv.graph.edit import add_initializer, constant, graph_of, hand_on, input_of
from edgeconv.graph.names import move_name, unique_name


class SplitSequencesPass(ir.passes.InPlacePass):
    """Replaces SplitToSequence and the SequenceAt nodes that read it by one Split, or by Gather nodes.

    1. Requires: constant sizes, a static size of the axis, and a sequence that only SequenceAt nodes with constant
       positions read.
    2. Ensures: neither operator is left for which (1) holds; the parts keep the names of the SequenceAt results.
    3. Exact: elements are moved, not computed. Without ``keepdims`` (torch's ``unbind``) a part is one index of the
       axis: a Gather.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replaces them in the graph's order."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type != "SplitToSequence" or node.domain != "":
                continue
            positions = _positions(node)
            sizes = _sizes(node)
            if positions is None or not sizes or not all(-len(sizes) <= at < len(sizes) for _, at in positions):
                continue
            if input_of(node, 1) is None and node.attributes.get_int("keepdims", 1) == 0:
                _gather(node, positions)
            else:
                _split(node, sizes, positions)
            modified = True
        return ir.passes.PassResult(model, modified)


def _positions(node: ir.Node) -> list[tuple[ir.Node, int]] | None:
    """The SequenceAt nodes and what they take; None when the sequence is used otherwise."""
    if node.outputs[0].is_graph_output():
        return None
    found = []
    for use in node.outputs[0].uses():
        position = integers(use.node.inputs[1]) if use.node.op_type == "SequenceAt" else None
        if position is None or len(position) != 1:
            return None
        found.append((use.node, position[0]))
    return found


def _sizes(node: ir.Node) -> list[int] | None:
    """The sizes of the parts; the last one is smaller where the division leaves a rest.

    None where the graph does not give them, or gives some that do not fill the axis.
    """
    source, axis = node.inputs[0], node.attributes.get_int("axis", 0)
    if source is None or source.shape is None or not -len(source.shape) <= axis < len(source.shape):
        return None
    extent = source.shape[axis]
    if not isinstance(extent, int):
        return None
    if input_of(node, 1) is None:
        return [1] * extent
    split = constant(node.inputs[1])
    if split is None or split.ndim > 1 or (split < 0).any():
        return None
    if split.ndim:
        return [int(size) for size in split] if int(split.sum()) == extent else None
    return [min(int(split), extent - start) for start in range(0, extent, int(split))] if split else None


def _split(node: ir.Node, sizes: list[int], positions: list[tuple[ir.Node, int]]) -> None:
    graph, axis = graph_of(node), node.attributes.get_int("axis", 0)
    base = node.outputs[0].name or "split"
    source = node.inputs[0]
    lengths = add_initializer(graph, unique_name(graph, f"{base}.sizes"), np.array(sizes, np.int64))
    parts = [_part(node, axis, size, unique_name(graph, f"{base}.part{index}")) for index, size in enumerate(sizes)]
    graph.insert_before(node, _node(node, "Split", [source, lengths], parts, axis))
    taken: set[int] = set()
    for reader, position in positions:
        old, new = reader.outputs[0], parts[position]
        if id(new) in taken:  # it already has the name of another SequenceAt
            new = _part(node, axis, sizes[position], old.name or unique_name(graph, base))
            graph.insert_before(reader, _node(node, "Identity", [parts[position]], [new], None))
        taken.add(id(new))
        _hand_over(old, new)
    graph.remove(node, safe=True)


def _gather(node: ir.Node, positions: list[tuple[ir.Node, int]]) -> None:
    graph, axis = graph_of(node), node.attributes.get_int("axis", 0)
    for reader, position in positions:
        old = reader.outputs[0]
        name = unique_name(graph, f"{old.name}.index")
        index = add_initializer(graph, name, np.array(position, np.int64))
        new = _part(node, axis, None, old.name or unique_name(graph, "part"))
        graph.insert_before(reader, _node(node, "Gather", [node.inputs[0], index], [new], axis))
        _hand_over(old, new)
    graph.remove(node, safe=True)


def _part(node: ir.Node, axis: int, size: int | None, name: str) -> ir.Value:
    """A value for a part of that size along the axis; without the axis when ``size`` is None."""
    source = node.inputs[0]
    if source is None or source.shape is None:
        raise ir.passes.PreconditionError(f"{node.op_type} {name} has an input of unknown shape")
    dimensions = list(source.shape)
    dimensions[axis : axis % len(dimensions) + 1] = [] if size is None else [size]
    return ir.Value(name=name, type=source.type, shape=ir.Shape(dimensions))


def _node(
    origin: ir.Node, op_type: str, inputs: list[ir.Value | None], outputs: list[ir.Value], axis: int | None
) -> ir.Node:
    attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
    node = ir.Node("", op_type, inputs, attributes, outputs=outputs, name=outputs[0].name)
    hand_on(origin, node)
    set_origin(node, origin_of(origin))
    return node


def _hand_over(old: ir.Value, new: ir.Value) -> None:
    """Lets ``new`` stand for ``old`` under its name, and removes the node of ``old``."""
    reader = old.producer()
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    move_name(old, new)
    new.metadata_props.update(old.metadata_props)
    if reader is not None:
        graph_of(reader).remove(reader, safe=True)
