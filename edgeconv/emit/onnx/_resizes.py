"""Forms of Resize among integers that onnxruntime's change of layout leaves as they are.

onnxruntime (1.32) gives the convolutions of integers the layout NHWC, and moves the Transposes on through what lies
between them. It then refuses its own graph in two cases:

1. ``axes``: it takes the sizes for those of all axes, and orders them by the permutation. So all axes are stated; an
   open batch is read off an input when the file runs.
2. A cubic Resize takes NCHW alone. It reads its planes one by one, where no layout can be told: no Transpose moves
   through a Reshape that changes the shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import new_constant, resized_axes
from edgeconv.graph.edit import constant
from edgeconv.graph.names import unique_name

_ROI, _SCALES, _SIZES = 1, 2, 3  # inputs of Resize
_RANK = 4  # batch, channels and an image


def plain_resizes(graph: ir.Graph) -> None:
    """Writes every Resize of a quantized graph in a form that keeps its meaning in any layout."""
    if not any(node.op_type == "QuantizeLinear" for node in graph):
        return
    for node in list(graph):
        if node.op_type == "Resize" and node.domain == "":
            if "axes" in node.attributes:
                _state_all_axes(graph, node)
            if node.attributes.get_string("mode", "nearest") == "cubic":
                _by_plane(graph, node)


def _state_all_axes(graph: ir.Graph, node: ir.Node) -> None:
    before, after = _shape(node.inputs[0]), _shape(node.outputs[0])
    stretches = node.attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
    if before is None or after is None or not stretches:
        return
    rank = len(before)
    axes = resized_axes(node, rank)
    inputs = [*node.inputs, *[None] * (4 - len(node.inputs))]
    # Axes that are not resized: scale 1, and all of the axis as region of interest (0 to 1).
    for index, others in ((_SCALES, np.ones(rank)), (_ROI, np.repeat([0.0, 1.0], rank))):
        stated = constant(inputs[index])
        if stated is not None and stated.size:
            places = axes if index == _SCALES else [*axes, *(rank + axis for axis in axes)]
            full = others.astype(stated.dtype)
            full[places] = stated
            inputs[index] = new_constant(graph, f"{node.outputs[0].name}.all_axes", full)
    if inputs[_SIZES] is not None:
        inputs[_SIZES] = _sizes(graph, node, before, after)
        if inputs[_SIZES] is None:
            return
    for index, value in enumerate(inputs[: len(node.inputs)]):
        node.replace_input_with(index, value)
    node.attributes.pop("axes")


def _sizes(graph: ir.Graph, node: ir.Node, before: list[int | str], after: list[int | str]) -> ir.Value | None:
    """The sizes of all axes: a constant, or the batch of an input and a constant; None where others are open too."""
    name = f"{node.outputs[0].name}.all_sizes"
    sizes = [size for size in after if isinstance(size, int)]
    if len(sizes) == len(after):
        return new_constant(graph, name, np.array(sizes, np.int64))
    # Any input whose batch is the same symbol; Shape reads it when the file runs.
    source = next((value for value in graph.inputs if (_shape(value) or [0])[0] == before[0]), None)
    if source is None or len(sizes) != len(after) - 1 or isinstance(after[0], int):
        return None

    def insert(op_type: str, inputs: list[ir.Value], length: int, suffix: str, axis: int | None = None) -> ir.Value:
        result = ir.Value(name=unique_name(graph, f"{name}.{suffix}"), type=ir.TensorType(ir.DataType.INT64))
        result.shape = ir.Shape([length])
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        graph.insert_before(node, ir.Node("", op_type, inputs, attributes, outputs=[result]))
        return result

    bounds = [new_constant(graph, f"{name}.{bound}", np.array([bound], np.int64)) for bound in (0, 1)]
    shape = insert("Shape", [source], len(_shape(source) or ()), "shape")
    batch = insert("Slice", [shape, *bounds], 1, "batch")
    return insert(
        "Concat", [batch, new_constant(graph, f"{name}.rest", np.array(sizes, np.int64))], len(after), "joined", 0
    )


def _by_plane(graph: ir.Graph, node: ir.Node) -> None:
    """Writes a cubic Resize as one of N·C images of one channel."""
    source, result = node.inputs[0], node.outputs[0]
    before, after = _shape(source), _shape(result)
    has_sizes = len(node.inputs) > _SIZES and node.inputs[_SIZES] is not None
    if source is None or before is None or after is None or len(before) != _RANK or before[:2] != after[:2]:
        return
    roi = constant(node.inputs[_ROI]) if len(node.inputs) > _ROI else None
    if "axes" in node.attributes or (roi is not None and roi.size):
        return
    if not all(isinstance(size, int) for size in (*before[1:], *after[1:])):
        return
    count = 0 if isinstance(before[0], str) else int(before[0]) * int(before[1])
    planes_of = _planes(count, int(before[1]))
    name, output_shape = result.name, [*planes_of, *map(int, after[2:])]
    inputs, attributes = [source, *node.inputs[1:]], list(node.attributes.values())
    if has_sizes:  # of an open batch, for the image's axes alone: no layout moves between two Reshapes
        attributes += [] if count else [ir.AttrInt64s("axes", [2, 3])]
        stated = output_shape if count else output_shape[2:]
        inputs[_SIZES] = new_constant(graph, f"{name}.sizes", np.array(stated, np.int64))
    elif not planes_of:
        scales = constant(node.inputs[_SCALES])
        if scales is None:
            return
        inputs[_SCALES] = new_constant(graph, f"{name}.scales", scales[2:])
    inputs[0] = _reshaped(graph, node, source, f"{name}.planes", [*planes_of, *map(int, before[2:])])
    resized = ir.Value(name=unique_name(graph, f"{name}.resized"), type=result.type)
    resized.shape = ir.Shape([size if size > 0 else None for size in output_shape])
    graph.insert_before(node, ir.Node("", "Resize", inputs, attributes, outputs=[resized]))
    back = _reshaped(graph, node, resized, f"{name}.joined", [int(before[0]) if count else -1, *map(int, after[1:])])
    back.shape = result.shape
    back.metadata_props.update(result.metadata_props)
    ir.convenience.replace_all_uses_with(result, back, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    back.name = name


def _planes(count: int, channels: int) -> list[int]:
    """The leading axes of N·C images, such that the Reshape is not left out as one that does nothing.

    Args:
        count: of the images; 0 where the batch is open.
        channels: of each element of the batch.
    """
    if count == 1:
        return []
    return [1, -1] if not count and channels == 1 else [count or -1, 1]


def _shape(value: ir.Value | None) -> list[int | str] | None:
    if value is None or value.shape is None:
        return None
    return [size if isinstance(size, int) else str(size) for size in value.shape]


def _reshaped(graph: ir.Graph, before: ir.Node, value: ir.Value, name: str, shape: Sequence[int]) -> ir.Value:
    """The value in another shape; -1 is the size that follows from the others."""
    result = ir.Value(name=unique_name(graph, name), type=value.type)
    result.shape = ir.Shape([size if size > 0 else None for size in shape])
    target = new_constant(graph, f"{name}.shape", np.array(shape, np.int64))
    graph.insert_before(before, ir.Node("", "Reshape", [value, target], outputs=[result]))
    return result
