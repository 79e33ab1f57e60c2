"""Inputs and outputs of quantized integers, as floats with a scale: before `_qdq` takes the pairs out of a graph.

1. An input of integers that only DequantizeLinear reads, with one scale, becomes the float that it stands for.
2. An output of integers that QuantizeLinear makes becomes the float that these stand for.
3. Any other DequantizeLinear of integers that no QuantizeLinear makes is written out: less the zero point, times the
   scale.

The file's inputs and outputs have the element types of the graph's, and the scales (`integer._convert`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeconv.emit.tflite._quantization import Quantization
from edgeconv.emit.tflite.lower._parameters import parameters_of, refused, signed
from edgeconv.errors import ONNX_ONLY
from edgeconv.graph.edit import constant, producer_of
from edgeconv.graph.steps import Steps

_TYPES = ("int8", "uint8", "int16")  # kernels/quantize.cc, Prepare: of integers none other is requantized


@dataclass(frozen=True)
class Border:
    """An input or output of integers.

    Attributes:
        dtype: element type in the graph, and in the file.
        parameters: as signed integers.
    """

    dtype: str
    parameters: Quantization


def float_borders(graph: ir.Graph) -> dict[str, Border]:
    """Gives the graph floats for its inputs and outputs of quantized integers, in place; these, by name.

    Raises:
        EmitError: TFLite has no such integers.
    """
    borders = {}
    for value in list(graph.inputs):
        border = _border_of_input(value)
        if border is not None:
            borders[value.name or ""] = border
            _dequantized_input(graph, value)
    for index, value in enumerate(graph.outputs):
        node = producer_of(value)
        if node is not None and node.op_type == "QuantizeLinear" and constant(node.inputs[0]) is None:
            borders[value.name or ""] = _border(node)
            graph.outputs[index] = _dequantized_output(graph, node)
    return borders


def written_out(graph: ir.Graph, node: ir.Node) -> None:
    """Puts Cast, Sub and Mul in the place of a DequantizeLinear; floats hold its numbers as they do."""
    source, result = node.inputs[0], node.outputs[0]
    parameters = parameters_of(node, len(source.shape) if source is not None and source.shape is not None else 0)
    sizes = [1] * (len(result.shape) if result.shape is not None else 0)
    if parameters.per_channel:
        sizes[parameters.axis] = len(parameters.scale)
    steps, name = Steps(graph, node), result.name
    shape: list[Any] = list(result.shape or ())  # of which some may be open
    real = steps.add("cast", "Cast", [source], shape, {"to": ir.DataType.FLOAT}, dtype=ir.DataType.FLOAT)
    if any(parameters.zero_point):
        zero = steps.constant(np.array(parameters.zero_point, np.float32).reshape(sizes), "zero_point")
        real = steps.add("difference", "Sub", [real, zero], shape)
    scale = steps.constant(np.array(parameters.scale, np.float32).reshape(sizes), "scale")
    real = steps.add("product", "Mul", [real, scale], shape)
    ir.convenience.replace_all_uses_with(result, real, replace_graph_outputs=True)
    result.name, real.name = f"{name}/before", name


def _border_of_input(value: ir.Value) -> Border | None:
    """What an input of quantized integers stands for; None for other inputs, and where its readers differ."""
    readers = [use.node for use in value.uses()]
    if value.is_graph_output() or not readers or any(node.op_type != "DequantizeLinear" for node in readers):
        return None
    if value.dtype is None or value.dtype.numpy().name not in _TYPES:
        return None
    borders = [_border(node) for node in readers]
    parameters = borders[0].parameters
    has_zero = parameters.dtype == "int16" and any(parameters.zero_point)  # which TFLite's 16 bits have not
    alike = all(border == borders[0] for border in borders)
    return borders[0] if alike and not has_zero and not parameters.per_channel else None


def _border(node: ir.Node) -> Border:
    own = parameters_of(node, len(node.inputs[0].shape or ()) if node.inputs[0] is not None else 0)
    return Border(own.dtype, signed(own))


def _dequantized_input(graph: ir.Graph, value: ir.Value) -> None:
    """Has the readers of an input read floats, which take its place and its name."""
    nodes = [use.node for use in value.uses()]
    real = ir.Value(name=value.name, type=nodes[0].outputs[0].type, shape=value.shape)
    graph.inputs[graph.inputs.index(value)] = real
    for node in nodes:
        result = node.outputs[0]
        if result.is_graph_output():  # which is no input at the same time
            copy = ir.Node("", "Identity", [real], outputs=[successor_of(result)])
            graph.insert_after(node, copy)
            ir.convenience.replace_all_uses_with(result, copy.outputs[0], replace_graph_outputs=True)
        else:
            ir.convenience.replace_all_uses_with(result, real)
        graph.remove(node, safe=True)


def successor_of(value: ir.Value) -> ir.Value:
    """A new value in the place of another, whose name it takes."""
    successor = ir.Value(name=value.name, type=value.type, shape=value.shape)
    value.name = f"{value.name}/before"
    return successor


def _dequantized_output(graph: ir.Graph, node: ir.Node) -> ir.Value:
    """The floats that an output of QuantizeLinear stands for, under its name."""
    integers, source = node.outputs[0], node.inputs[0]
    dtype = integers.dtype.numpy().name if integers.dtype is not None else "uint8"
    if dtype not in _TYPES:
        hint = f"quantize outputs to {', '.join(_TYPES)}, or {ONNX_ONLY}"
        raise refused(node, f"its integers are an output, and TFLite's QUANTIZE makes no {dtype}", hint)
    real = ir.Value(name=integers.name, type=source.type if source is not None else None, shape=integers.shape)
    attributes = [attribute for attribute in node.attributes.values() if attribute.name == "axis"]
    pair = ir.Node("", "DequantizeLinear", [integers, *node.inputs[1:]], attributes, outputs=[real])
    pair.metadata_props.update(node.metadata_props)
    graph.insert_after(node, pair)
    return real
