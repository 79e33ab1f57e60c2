"""The official path: torch.onnx without its optimizer."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import onnx_ir as ir
import torch
from torch.fx.node import Argument

from edgeconv.capture.torch._borders import onnx_errors
from edgeconv.capture.torch._calls import remember_values
from edgeconv.capture.torch._provenance import set_origins
from edgeconv.capture.torch._trace import quiet
from edgeconv.graph.constants import add_constant
from edgeconv.graph.names import unique_name
from edgeconv.graph.origin import origin_of, set_origin


def to_ir(program: torch.export.ExportedProgram, *, opset: int) -> ir.Model:
    """The official exporter's graph of a program, unoptimized; every node knows its `Origin`.

    Raises:
        CaptureError: an operator has no ONNX form.
    """
    _make_bounds_alike(program.graph_module)
    with quiet(), contextlib.redirect_stdout(io.StringIO()), onnx_errors(program):
        onnx_program = torch.onnx.export(
            program, (), dynamo=True, optimize=False, opset_version=opset, verbose=False, verify=False
        )
    if onnx_program is None:  # only the legacy exporter returns nothing; the type says it may
        raise RuntimeError("torch.onnx.export returned no program")
    model = onnx_program.model
    decomposed = onnx_program.exported_program or program
    set_origins(model, decomposed, program)
    _remember_values(model, decomposed)
    _write_log_sigmoids(model.graph)
    _write_hamming_windows(model.graph)
    _close_half_planes(model.graph)
    return model


def _remember_values(model: ir.Model, decomposed: torch.export.ExportedProgram) -> None:
    """The exporter names the value of each node of the decomposed program after it.

    Of programs with angles nothing is kept: what the exporter decomposes these to is corrected in the graph alone.
    """
    if any(origin_of(node).operation in _ANGLES for node in model.graph):
        return
    named = {value.name: value for node in model.graph for value in node.outputs}
    named |= {value.name: value for value in model.graph.inputs}
    nodes = [node.name for node in decomposed.graph.nodes if node.op in ("placeholder", "call_function")]
    outputs = decomposed.graph_signature.user_outputs
    if len(outputs) == len(model.graph.outputs):
        values = {name: named[name] for name in nodes if name in named}
        remember_values(model, decomposed, values, [name if isinstance(name, str) else "" for name in outputs])


def _make_bounds_alike(module: torch.fx.GraphModule) -> None:
    """Both bounds of a clamp as floats where one is, clamp(x, 0, 1.5): the result has the type of the float either way.

    Of an int and a float the exporter makes tensors, for which that overload of `clamp` has no place.
    """
    for node in module.graph.nodes:
        if node.target not in (torch.ops.aten.clamp.default, torch.ops.aten.clip.default):
            continue
        x, *bounds = node.args
        if {int, float} <= {type(bound) for bound in (*bounds, *node.kwargs.values())}:
            node.args = (x, *map(_as_float, bounds))
            node.kwargs = {name: _as_float(bound) for name, bound in node.kwargs.items()}


def _as_float(bound: Argument) -> Argument:
    return float(bound) if isinstance(bound, int) else bound


def _write_log_sigmoids(graph: ir.Graph) -> None:
    """ln(sigmoid(x)) as -softplus(-x), as the fast path has it: where the sigmoid underflows, torch's result is x."""
    for node in tuple(graph):
        sigmoid = node.inputs[0].producer() if node.op_type == "Log" and node.inputs[0] is not None else None
        if sigmoid is None or sigmoid.op_type != "Sigmoid" or origin_of(node).operation != "log_sigmoid":
            continue
        opposite = ir.node("Neg", [sigmoid.inputs[0]])
        soft = ir.node("Softplus", [opposite.outputs[0]])
        for new in (opposite, soft):
            new.outputs[0].shape, new.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
            set_origin(new, origin_of(node))
        graph.insert_before(node, [opposite, soft])
        node.op_type = "Neg"
        node.replace_input_with(0, soft.outputs[0])


def _write_hamming_windows(graph: ir.Graph) -> None:
    """Hamming windows with torch's factors: 0.54 and 0.46, where ONNX's operator has 25/46 and 21/46.

    0.54 - 0.46 cos is 0.08 + 0.92 (0.5 - 0.5 cos), of the window of Hann.
    """
    for node in tuple(graph):
        if node.op_type != "HammingWindow" or node.domain != "":
            continue
        node.op_type = "HannWindow"
        window = node.outputs[0]
        dtype = window.dtype or ir.DataType.FLOAT
        factor, floor = (
            add_constant(graph, unique_name(graph, f"{window.name}.{name}"), np.array(number), dtype)
            for name, number in (("factor", 0.92), ("floor", 0.08))
        )
        scaled = ir.node("Mul", [window, factor])
        raised = ir.node("Add", [scaled.outputs[0], floor])
        for new in (scaled, raised):
            new.outputs[0].shape, new.outputs[0].type = window.shape, window.type
            set_origin(new, origin_of(node))
        ir.convenience.replace_all_uses_with(window, raised.outputs[0], replace_graph_outputs=True)
        scaled.replace_input_with(0, window)
        graph.insert_after(node, [scaled, raised])


def _close_half_planes(graph: ir.Graph) -> None:
    """The angle of (-1, 0) is pi, as torch has it: the exporter tells half planes apart by y > 0, and writes -pi."""
    for node in graph:
        if node.op_type == "Greater" and node.domain == "" and origin_of(node).operation in _ANGLES:
            node.op_type = "GreaterOrEqual"


_ANGLES = ("angle", "arctan2", "atan2")
