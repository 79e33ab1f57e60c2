"""Checks recurrent layers of files, and turns ``layout`` 1 (batch first) into 0, as onnxruntime does not load it.

onnx's checker and shape inference verify little of them.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.edit import input_of, is_taken
from edgeconv.graph.recurrence import DIRECTIONS, PARAMETERS, RECURRENT
from edgeconv.graph.steps import Steps, sizes_of

_STATES = (5, 6)  # inputs initial_h and initial_c
_VAGUE = ("affine", "scaledtanh", "thresholdedrelu")  # onnxruntime's defaults differ from the specification's


def settle_recurrent(graph: ir.Graph) -> None:
    """Checks the shapes of recurrent layers, and inserts Transposes around those of ``layout`` 1, in place.

    All shapes must be static.

    Raises:
        CaptureError: the shape of an input does not fit; names the node.
    """
    for node in list(graph):
        if node.op_type in RECURRENT and node.domain == "":
            _check(node)
            if node.attributes.get_int("layout", 0) != 0:
                _settle(graph, node)


def check_modes(graph: ir.Graph) -> None:
    """Checks directions and activations, before shapes are inferred, which depend on the direction.

    Raises:
        CaptureError: one is unknown, or an activation's parameter is left to a default that runtimes differ in; names
            the node.
    """
    for node in graph:
        if node.op_type in RECURRENT and node.domain == "":
            _check_modes(node)


def _check_modes(node: ir.Node) -> None:
    direction = node.attributes.get_string("direction", "forward")
    if direction not in DIRECTIONS:
        raise refused(node, f"{node.op_type} has no direction {direction!r}", f"choose of {', '.join(DIRECTIONS)}")
    count = DIRECTIONS[direction] * len(RECURRENT[node.op_type].activations)
    names = [name.lower() for name in node.attributes.get_strings("activations", ())]
    unknown = [name for name in names if name not in PARAMETERS]
    if unknown or len(names) not in (0, count):
        what = f"has no activation {unknown[0]!r}" if unknown else f"takes {len(names)} activations"
        raise refused(node, f"{node.op_type} {what}", f"name {count} of the specification's")
    for parameter in ("alpha", "beta"):
        attribute = f"activation_{parameter}"
        stated = len(node.attributes.get_floats(attribute, ()))
        missing = [name for name in names if parameter in PARAMETERS[name]][stated:]
        vague = [name for name in missing if name in _VAGUE]
        if vague:
            what = f"{node.op_type} states no {attribute} for {vague[0]!r}"
            raise refused(node, what, "state it: runtimes take different ones")


def _check(node: ir.Node) -> None:
    """Checks the shapes of the inputs (specification: LSTM, GRU, RNN; inputs B to P from index 3 on)."""
    count, gates = DIRECTIONS[node.attributes.get_string("direction", "forward")], RECURRENT[node.op_type].gates
    recurrence = sizes_of(node.inputs[2])
    hidden = node.attributes.get_int("hidden_size", recurrence[-1])
    batch_first = node.attributes.get_int("layout", 0) != 0
    first, second, inputs = sizes_of(node.inputs[0])
    batch = first if batch_first else second
    state = [batch, count, hidden] if batch_first else [count, batch, hidden]
    expected = {1: [count, gates * hidden, inputs], 2: [count, gates * hidden, hidden], 3: [count, 2 * gates * hidden]}
    expected |= {4: [batch], 5: state, 6: state, 7: [count, 3 * hidden]}
    for index, sizes in expected.items():
        value = input_of(node, index)
        if value is not None and sizes_of(value) != sizes:
            what = f"takes {value.name!r} of the shape {sizes_of(value)} where {sizes} is due"
            raise refused(node, f"{node.op_type} {what}", "correct the weights, or hidden_size")


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
    for index, (result, output) in enumerate(zip(node.outputs, layer.outputs, strict=True)):
        output.name = ""
        if not is_taken(result):
            continue
        # Y: (batch, length, directions, hidden) of layout 1 is (length, directions, batch, hidden) of layout 0; states
        # (batch, directions, hidden) are (directions, batch, hidden).
        to_steps_first, to_batch_first = ((1, 2, 0, 3), (2, 0, 1, 3)) if index == 0 else ((1, 0, 2), (1, 0, 2))
        output.type = result.type
        output.shape = ir.Shape([sizes_of(result)[axis] for axis in to_steps_first])
        steps.name(output, f"output_{index}")
        results[result] = steps.transpose(output, to_batch_first, f"moved_{index}")
    steps.replace(results)
