"""Replaces sequences of tensors, which torch.onnx writes for ``chunk`` and ``unbind`` and no mobile runtime takes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import integers
from edgeconv.graph.edit import add_initializer, constant, graph_of, hand_on, input_of
from edgeconv.graph.names import move_name, unique_name
from edgeconv.graph.origin import origin_of, set_origin
from edgeconv.graph.steps import Steps, sizes_of


class SplitSequencesPass(ir.passes.InPlacePass):
    """Replaces sequences, and what reads them, by nodes of tensors.

    1. Requires: a sequence that SplitToSequence or SequenceConstruct makes, with constant sizes and static shapes, and
       that only SequenceAt at constant positions, SequenceLength and ConcatFromSequence read.
    2. Ensures: no such sequence is left. Where SequenceAt alone reads it, the parts are results of one Split and keep
       the readers' names; without ``keepdims`` (torch's ``unbind``) each part is a Gather of one index.
    3. Exact: elements are moved, not computed.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replaces them in the graph's order."""
        modified = False
        for node in tuple(model.graph):
            if node.domain != "" or node.op_type not in ("SplitToSequence", "SequenceConstruct"):
                continue
            positions = _positions(node) if node.op_type == "SplitToSequence" else None
            if positions is None:
                modified = _take_apart(node) or modified
                continue
            sizes = _sizes(node)
            if not sizes or not all(-len(sizes) <= at < len(sizes) for _, at in positions):
                continue
            # The parts lose the axis: a Gather does that by itself, a Split would need a Squeeze for each.
            if input_of(node, 1) is None and node.attributes.get_int("keepdims", 1) == 0:
                _gather(node, positions)
            else:
                _split(node, sizes, positions)
            modified = True
        return ir.passes.PassResult(model, modified)


def _take_apart(node: ir.Node) -> bool:
    """Makes every reader of a sequence read its elements, and removes the node; returns whether that is possible."""
    graph, sequence = graph_of(node), node.outputs[0]
    count = len(node.inputs) if node.op_type == "SequenceConstruct" else len(_sizes(node) or ())
    readers = list(dict.fromkeys(use.node for use in sequence.uses()))
    are_static = all(value is not None and value.shape is not None and value.shape.is_static() for value in node.inputs)
    if not count or not are_static or sequence.is_graph_output() or not all(_reads(r, count) for r in readers):
        return False
    elements = _elements(node)
    for reader in readers:
        steps = Steps(graph, reader)
        steps.replace({reader.outputs[0]: _read(steps, reader, elements)})
    graph.remove(node, safe=True)
    return True


def _reads(reader: ir.Node, count: int) -> bool:
    """Whether an operator reads a sequence of `count` elements in a way that (1) allows."""
    if reader.op_type == "SequenceAt":
        position = integers(reader.inputs[1])
        return position is not None and len(position) == 1 and -count <= position[0] < count
    return reader.op_type in ("SequenceLength", "ConcatFromSequence")


def _elements(node: ir.Node) -> list[ir.Value]:
    """The elements of a sequence: of SplitToSequence slices of an axis, without that axis if ``keepdims`` is 0."""
    if node.op_type == "SequenceConstruct":
        return [value for value in node.inputs if value is not None]
    steps, lengths = Steps(graph_of(node), node), _sizes(node) or []
    source = node.inputs[0]
    assert source is not None  # `_take_apart` has its sizes
    axis = node.attributes.get_int("axis", 0) % len(sizes_of(source))
    parts = steps.split(source, lengths, axis, "part")
    if input_of(node, 1) is not None or node.attributes.get_int("keepdims", 1) != 0:
        return parts
    return [steps.reshape(part, [n for at, n in enumerate(sizes_of(part)) if at != axis], "row") for part in parts]


def _read(steps: Steps, reader: ir.Node, elements: list[ir.Value]) -> ir.Value:
    """The result of an operator on a sequence, computed from the elements."""
    if reader.op_type == "SequenceLength":
        return steps.constant(np.array(len(elements), np.int64), "length")
    if reader.op_type == "SequenceAt":
        element = elements[(integers(reader.inputs[1]) or [0])[0]]
        return steps.add("element", "Identity", [element], sizes_of(element))
    axis = reader.attributes.get_int("axis", 0)
    if reader.attributes.get_int("new_axis", 0):
        at = axis % (len(sizes_of(elements[0])) + 1)
        wider = [[*sizes_of(value)[:at], 1, *sizes_of(value)[at:]] for value in elements]
        elements = [steps.reshape(value, sizes, "row") for value, sizes in zip(elements, wider, strict=True)]
    return steps.concat(elements, axis, "joined")


def _positions(node: ir.Node) -> list[tuple[ir.Node, int]] | None:
    """The SequenceAt nodes that read a sequence, with their positions; None where anything else reads it."""
    if node.outputs[0].is_graph_output():
        return None
    positions = []
    for use in node.outputs[0].uses():
        position = integers(use.node.inputs[1]) if use.node.op_type == "SequenceAt" else None
        if position is None or len(position) != 1:
            return None
        positions.append((use.node, position[0]))
    return positions


def _sizes(node: ir.Node) -> list[int] | None:
    """The sizes of the parts (specification: SplitToSequence); None where they are unknown or do not fill the axis.

    A scalar ``split`` is the size of all parts but the last, which may be smaller.
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
    replaced: set[int] = set()
    for reader, position in positions:
        old, new = reader.outputs[0], parts[position]
        if id(new) in replaced:  # the part already has the name of another SequenceAt's result
            new = _part(node, axis, sizes[position], old.name or unique_name(graph, base))
            graph.insert_before(reader, _node(node, "Identity", [parts[position]], [new], None))
        replaced.add(id(new))
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
    """A value for a part of `size` along the axis; without the axis if `size` is None."""
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
    """Replaces ``old`` by ``new``, which takes its name, and removes the node of ``old``."""
    reader = old.producer()
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    move_name(old, new)
    new.metadata_props.update(old.metadata_props)
    if reader is not None:
        graph_of(reader).remove(reader, safe=True)
