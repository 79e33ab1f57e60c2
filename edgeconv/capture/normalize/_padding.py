"""Circular padding, written as Slice and Concat: Pad has the mode ``wrap`` since opset 19 only, and few runtimes do."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.steps import Steps, sizes_of


def settle_circular_pads(graph: ir.Graph) -> None:
    """Replaces each Pad of mode ``wrap``, in place: each axis becomes its last elements, itself, its first elements."""
    for node in list(graph):
        if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "wrap":
            continue
        steps, pads = Steps(graph, node), constant(node.inputs[1])
        value, stated_axes = node.inputs[0], constant(input_of(node, 3))
        if pads is None or value is None or value.shape is None:
            continue
        rank = len(value.shape)
        axes = range(rank) if stated_axes is None else [int(axis) % rank for axis in stated_axes]
        for axis, before, after in zip(axes, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True):
            if before or after:
                value = _wrapped(steps, value, axis, int(before), int(after))
        result = node.outputs[0]
        ir.convenience.replace_all_uses_with(result, value, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _wrapped(steps: Steps, value: ir.Value, axis: int, before: int, after: int) -> ir.Value:
    size = sizes_of(value)[axis]
    parts = [value]
    if before:
        parts.insert(0, steps.slice(value, axis, size - before, size, f"{axis}.last"))
    if after:
        parts.append(steps.slice(value, axis, 0, after, f"{axis}.first"))
    return steps.concat(parts, axis, f"{axis}")
