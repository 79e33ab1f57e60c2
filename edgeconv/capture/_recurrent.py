"""Recurrent layers of files that lie batch first: ``layout`` 1, which onnxruntime refuses to load, becomes 0."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.capture._steps import Steps, is_taken, sizes_of

_LAYERS = ("GRU", "LSTM", "RNN")
_STATES = (5, 6)  # inputs


def settle_layouts(graph: ir.Graph) -> None:
    """Changes in place, with a Transpose of each input and output that has the batch; all shapes must be static."""
    for node in list(graph):
        if node.op_type in _LAYERS and node.domain == "" and node.attributes.get_int("layout", 0) != 0:
            _settle(graph, node)


def _settle(graph: ir.Graph, node: ir.Node) -> None:
    steps = Steps(graph, node)
    node.attributes.pop("layout")
    inputs = list(node.inputs)
    for index in (0, *_STATES):
        value = inputs[index] if index < len(inputs) else None
        if value is not None:
            inputs[index] = steps.transpose(value, (1, 0, 2), f"input_{index}")
    layer = ir.node(node.op_type, inputs, dict(node.attributes), num_outputs=len(node.outputs))
    steps.insert(layer)
    results = {}
    for index, (result, made) in enumerate(zip(node.outputs, layer.outputs, strict=True)):
        made.name = ""
        if not is_taken(result):
            continue
        sizes = sizes_of(result)
        made.type = result.type
        made.shape = ir.Shape(
            [sizes[1], sizes[2], sizes[0], sizes[3]] if index == 0 else [sizes[1], sizes[0], sizes[2]]
        )
        made.name = steps.name(f"output_{index}")
        results[result] = steps.transpose(made, (2, 0, 1, 3) if index == 0 else (1, 0, 2), f"moved_{index}")
    steps.replace(results)
