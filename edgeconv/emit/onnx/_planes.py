"""A cubic Resize among integers reads its planes one by one, where no layout can be told.

onnxruntime (1.32) gives the convolutions of integers the layout NHWC, moves the Transposes on through what lies between
them, and then refuses its own graph: its cubic Resize takes NCHW alone. It moves none through a Reshape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.capture.unique import unique_name

_RANK = 4
_SIZES = 3


def cubic_planes(graph: ir.Graph) -> None:
    """Writes every cubic Resize of a quantised graph as one of N·C images of one channel."""
    if not any(node.op_type == "QuantizeLinear" for node in graph):
        return
    for node in list(graph):
        if node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") == "cubic":
            _by_plane(graph, node)


def _by_plane(graph: ir.Graph, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    before, after = _shape(source), _shape(result)
    has_sizes = len(node.inputs) > _SIZES and node.inputs[_SIZES] is not None
    if source is None or before is None or after is None or before[:2] != after[:2] or "axes" in node.attributes:
        return
    if not all(isinstance(size, int) for size in (*before[1:], *after[1:], *(before[:1] if has_sizes else ()))):
        return
    name, count = result.name, 0 if isinstance(before[0], str) else int(before[0]) * int(before[1])
    planes = _reshaped(graph, node, source, f"{name}.planes", [count or -1, 1, *map(int, before[2:])])
    resized = ir.Value(name=unique_name(graph, f"{name}.resized"), type=result.type)
    resized.shape = ir.Shape([count or None, 1, *after[2:]])
    inputs = [planes, *node.inputs[1:]]
    if has_sizes:
        inputs[_SIZES] = _ints(graph, f"{name}.sizes", [count, 1, *map(int, after[2:])])
    graph.insert_before(node, ir.Node("", "Resize", inputs, list(node.attributes.values()), outputs=[resized]))
    back = _reshaped(graph, node, resized, f"{name}.joined", [int(before[0]) if count else -1, *map(int, after[1:])])
    back.shape = result.shape
    back.metadata_props.update(result.metadata_props)
    ir.convenience.replace_all_uses_with(result, back, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    back.name = name


def _shape(value: ir.Value | None) -> list[int | str] | None:
    if value is None or value.shape is None or len(value.shape) != _RANK:
        return None
    return [size if isinstance(size, int) else str(size) for size in value.shape]


def _reshaped(graph: ir.Graph, before: ir.Node, value: ir.Value, name: str, shape: Sequence[int]) -> ir.Value:
    """The value in another shape; -1 is the size that follows from the others."""
    result = ir.Value(name=unique_name(graph, name), type=value.type)
    result.shape = ir.Shape([size if size > 0 else None for size in shape])
    node = ir.Node("", "Reshape", [value, _ints(graph, f"{name}.shape", shape)], outputs=[result])
    graph.insert_before(before, node)
    return result


def _ints(graph: ir.Graph, name: str, numbers: Sequence[int]) -> ir.Value:
    array = np.array(numbers, np.int64)
    name = unique_name(graph, name)
    shape, kind = ir.Shape(array.shape), ir.TensorType(ir.DataType.INT64)
    value = ir.Value(name=name, type=kind, shape=shape, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value
