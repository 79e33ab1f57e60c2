"""A graph whose inputs and outputs are quantized integers, with the real numbers that these stand for in their place.

Files are compared in real numbers: what a graph quantizes itself is held at the border, whoever rounds it.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import dequantized
from edgeconv.graph.edit import constant, input_of, producer_of

_INTEGERS = "/integers"  # what the name of a border's integers ends in


def border_scales(graph: ir.Graph) -> dict[str, tuple[float, int]]:
    """Scale and zero point of each input and output of a graph that is quantized integers, by name."""
    scales = {}
    for value in graph.inputs:
        readers = [use.node for use in value.uses()]
        read = [_parameters(node) if node.op_type == "DequantizeLinear" else None for node in readers]
        if read and read[0] is not None and all(other == read[0] for other in read):
            scales[value.name or ""] = read[0]
    for value in graph.outputs:
        node = producer_of(value)
        written = _parameters(node) if node is not None and node.op_type == "QuantizeLinear" else None
        if written is not None:
            scales[value.name or ""] = written
    return scales


def _parameters(node: ir.Node) -> tuple[float, int] | None:
    """Scale and zero point; None of what is computed, or of an axis. A zero point that is left out is 0."""
    zero_input = input_of(node, 2)
    scale, zero = constant(node.inputs[1]), constant(zero_input)
    if scale is None or scale.size != 1 or (zero is None and zero_input is not None):
        return None
    return float(scale.reshape(())), 0 if zero is None else int(zero.reshape(()))


def with_real_borders(model: ir.Model) -> ir.Model:
    """A copy that quantizes these inputs and dequantizes these outputs, under their names; the graph if it has none."""
    scales = border_scales(model.graph)
    if not scales:
        return model
    graph = (model := model.clone()).graph
    for index, value in enumerate(list(graph.inputs)):
        if value.name not in scales:
            continue
        readers = [use.node for use in value.uses()]
        real = ir.Value(name=value.name, shape=value.shape, type=readers[0].outputs[0].type)
        graph.inputs[index] = real
        quantizer = ir.Node("", "QuantizeLinear", [real, *readers[0].inputs[1:]], num_outputs=1)
        quantizer.outputs[0].name, quantizer.outputs[0].type = f"{value.name}{_INTEGERS}", value.type
        quantizer.outputs[0].shape = value.shape
        graph.insert_before(graph[0], quantizer)
        for node in readers:
            node.replace_input_with(0, quantizer.outputs[0])
    for index, value in enumerate(list(graph.outputs)):
        maker = value.producer()
        if value.name not in scales or maker is None or maker.inputs[0] is None:
            continue
        real = ir.Value(name=value.name, shape=value.shape, type=maker.inputs[0].type)
        value.name = f"{value.name}{_INTEGERS}"
        graph.outputs[index] = real
        graph.append(ir.Node("", "DequantizeLinear", [value, *maker.inputs[1:]], outputs=[real]))
    return model


def real_inputs(inputs: Mapping[str, Array], graph: ir.Graph) -> dict[str, Array]:
    """What integers of a graph's inputs stand for, by name; inputs of other numbers as they are."""
    scales = border_scales(graph)
    return {name: dequantized(array, *scales[name]) if name in scales else array for name, array in inputs.items()}
