"""Averages as onnxruntime is fast with them: of images as pools, quantized ones of windows as convolutions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import WEIGHT_LIMITS
from edgeconv.graph.constants import new_constant, stated_axes
from edgeconv.graph.edit import dims, hand_on, producer_of, rank
from edgeconv.graph.names import unique_name
from edgeconv.graph.windows import counted_elements, dilations_of, stated_pads, strides_of

_MOST_TAPS = 25  # elements of a window
_IMAGE = 4  # axes
_HIGHEST = WEIGHT_LIMITS[1]


def means_as_pools(graph: ir.Graph) -> None:
    """Writes the mean of an image, whose rows and columns stay as one each, as GlobalAveragePool.

    onnxruntime 1.32 has it in the layout that its convolutions leave behind (channels in blocks in float32, last in
    integers) and fuses it with the QuantizeLinear around it; for a ReduceMean everything is moved or made a float
    before, and the mean over axes that are not the last is slow. Of EfficientNet-B0 in int8 17 means took 3.2 of 14.5
    ms and take 0.3, in float32 0.5 and 0.35 (Intel Xeon with AMX).
    """
    for node in graph:
        if node.domain == "" and rank(node.inputs[0]) == _IMAGE and (_is_mean(node) or _is_whole(node)):
            node.op_type = "GlobalAveragePool"
            node.resize_inputs(1)
            node.attributes.clear()


def _is_mean(node: ir.Node) -> bool:
    axes = stated_axes(node) if node.op_type == "ReduceMean" else None
    return (
        axes is not None and {axis % _IMAGE for axis in axes} == {2, 3} and node.attributes.get_int("keepdims", 1) == 1
    )


def _is_whole(node: ir.Node) -> bool:
    """Whether a pool has one window, which is the image."""
    sizes, counts = dims(node.inputs[0]), dims(node.outputs[0])
    if node.op_type != "AveragePool" or sizes is None or counts is None or counts[2:] != (1, 1):
        return False
    return tuple(node.attributes.get_ints("kernel_shape")) == sizes[2:] and not any(stated_pads(node, 2))


def averages_as_convolutions(graph: ir.Graph) -> None:
    """Writes an AveragePool between integers as a Conv of equal weights, which int8 holds exactly.

    Where all elements of every window of an image count, and these are at most 25. onnxruntime 1.32 fuses both, but its
    QLinearAveragePool is slower than the pool of floats: of 56x56x64 a pool of 2x2 took 0.33 ms and takes 0.05 ms, one
    of 3x3 with stride 2 0.49 and 0.07 ms (AVX-512 VNNI). No sum of two products overflows in a depthwise kernel.
    """
    for node in list(graph):
        if node.op_type == "AveragePool" and node.domain == "" and _is_between_integers(node) and _is_plain(node):
            _replace(graph, node)


def _is_between_integers(node: ir.Node) -> bool:
    source = producer_of(node.inputs[0])
    uses = list(node.outputs[0].uses())
    alone = uses and not node.outputs[0].is_graph_output()
    quantized = all(use.node.op_type == "QuantizeLinear" for use in uses)
    return bool(alone) and quantized and source is not None and source.op_type == "DequantizeLinear"


def _is_plain(node: ir.Node) -> bool:
    """Whether every window averages as many elements of an image as it has taps."""
    attributes, (source, result) = node.attributes, (node.inputs[0], node.outputs[0])
    kernel = attributes.get_ints("kernel_shape")
    shapes = [
        tuple(value.shape)[1:] if value is not None and value.shape is not None else () for value in (source, result)
    ]
    sizes, counts = ([size for size in shape if isinstance(size, int)] for shape in shapes)
    if len(sizes) != _IMAGE - 1 or len(counts) != _IMAGE - 1 or int(np.prod(kernel)) > _MOST_TAPS:
        return False
    rank = len(kernel)
    strides, dilations, pads = strides_of(node, rank), dilations_of(node, rank), stated_pads(node, rank)
    counted = [
        counted_elements(
            *(sizes[axis + 1], counts[axis + 1], taps, (pads[axis], pads[rank + axis])),
            stride=strides[axis],
            dilation=dilations[axis],
            with_padding=bool(attributes.get_int("count_include_pad", 0)),
        )
        for axis, taps in enumerate(kernel)
    ]
    return all((elements == taps).all() for elements, taps in zip(counted, kernel, strict=True))


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    source, old, kernel = node.inputs[0], node.outputs[0], list(node.attributes.get_ints("kernel_shape"))
    assert source is not None  # `_is_plain` read its shape
    assert source.shape is not None  # alike
    name, channels = unique_name(graph, f"{old.name}.share"), source.shape[1]
    assert isinstance(channels, int)  # alike
    # 127 · 1 / (127 · taps): each tap weighs exactly 1 / taps, but for the scale's rounding to float32.
    constants: dict[str, Array] = {
        ".quantized": np.full((channels, 1, *kernel), _HIGHEST, np.int8),
        ".scale": np.array(1 / (_HIGHEST * np.prod(kernel)), np.float32),
        ".zero_point": np.zeros((), np.int8),
    }
    integers = [new_constant(graph, f"{name}{end}", array) for end, array in constants.items()]
    share = ir.Value(name=name, type=source.type, shape=ir.Shape((channels, 1, *kernel)))
    attributes: dict[str, int | list[int]] = {"group": channels, "kernel_shape": kernel}
    for key in ("strides", "dilations", "pads"):
        if key in node.attributes:
            attributes[key] = list(node.attributes.get_ints(key))
    result = ir.Value(name=old.name, type=old.type, shape=old.shape)
    result.metadata_props.update(old.metadata_props)
    conv = ir.node("Conv", [source, share], attributes, outputs=[result])
    hand_on(node, conv)
    graph.insert_before(node, [ir.Node("", "DequantizeLinear", integers, outputs=[share]), conv])
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    result.name = old.name
