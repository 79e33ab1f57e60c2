"""Circular padding without mode ``wrap`` of Pad, which ONNX has only from opset 19 on and few runtimes know."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._constants import constant_value
from edgeconv.capture.normalize._origin import origin_of, set_origin


def settle_circular_pads(graph: ir.Graph) -> None:
    """Replaces each Pad of mode ``wrap``, in place, by its last elements, itself and its first ones, axis by axis."""
    for node in list(graph):
        if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "wrap":
            continue
        pads = constant_value(node.inputs[1])
        value, given_axes = node.inputs[0], constant_value(node.inputs[3]) if len(node.inputs) > 3 else None
        if pads is None or value is None or value.shape is None:
            continue
        axes = range(len(value.shape)) if given_axes is None else [int(axis) % len(value.shape) for axis in given_axes]
        for axis, before, after in zip(axes, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True):
            if before or after:
                value = _wrapped(graph, node, value, axis, int(before), int(after))
        result = node.outputs[0]
        ir.convenience.replace_all_uses_with(result, value, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _wrapped(graph: ir.Graph, node: ir.Node, value: ir.Value, axis: int, before: int, after: int) -> ir.Value:
    size = _size(value, axis)
    parts = [value]
    if before:
        parts.insert(0, _slice(graph, node, value, axis, size - before, size))
    if after:
        parts.append(_slice(graph, node, value, axis, 0, after))
    name = f"\3{node.outputs[0].name}.{axis}"  # nobody else's; `_names` gives the real ones
    return _inserted(graph, node, ir.node("Concat", parts, {"axis": axis}), axis, size + before + after, name)


def _slice(graph: ir.Graph, node: ir.Node, value: ir.Value, axis: int, start: int, end: int) -> ir.Value:
    name = f"\3{node.outputs[0].name}.{axis}.{start}.{end}"
    bounds = [
        ir.val(f"{name}.{kind}", const_value=ir.tensor(np.array([number], np.int64), name=f"{name}.{kind}"))
        for kind, number in (("starts", start), ("ends", end), ("axes", axis))
    ]
    for bound in bounds:
        graph.register_initializer(bound)
    return _inserted(graph, node, ir.node("Slice", [value, *bounds]), axis, end - start, name)


def _inserted(graph: ir.Graph, before: ir.Node, node: ir.Node, axis: int, size: int, name: str) -> ir.Value:
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None:
        raise ValueError(f"{node.op_type} without a shape")  # a bug of ours: shapes are checked before
    dims = list(source.shape)
    dims[axis] = size
    output.name, output.shape, output.type = name, ir.Shape(dims), source.type
    set_origin(node, origin_of(before))
    graph.insert_before(before, node)
    return output


def _size(value: ir.Value, axis: int) -> int:
    if value.shape is None:
        raise ValueError("a value without a shape")
    return int(str(value.shape[axis]))
