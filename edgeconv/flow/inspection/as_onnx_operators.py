"""Whether an ONNX graph computes what a `.tflite` file says, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import ParityError
from edgeconv.parity import KernelSite, allowance
from edgeconv.parity.bounds import Arithmetic, of_tflite
from edgeconv.reference import tflite
from edgeconv.reference.tflite import Operator, TfliteGraph, evaluate_operator

_ANY = Arithmetic("float32", "float32", "any")
_SINGLE = 1e-6  # constants that are computed, a scale times an integer, are rounded to float32 once
_WRAPS = 2.0**31 - 2.0**16  # steps, beyond which kernels wrap in 32 bits before they saturate
_TABLES = ("Softmax", "Tanh")  # whose int16 kernels may be more than a step off, as parity's own rules say
# Monotone functions, of which kernels of 16 bits draw straight lines from one entry of a table to the next: they are
# off by no more than the function changes in between (LUTLookup, kernels/internal/common.h).
_LINES, _BETWEEN = ("EXP", "LOG", "RSQRT"), 128


def difference(file: TfliteGraph, values: Mapping[str, Array]) -> str:
    """The first operator that computes something else in ONNX than the file says of the same operands.

    Quantize- and DequantizeLinear round real numbers where kernels round products of integers: each operator is held
    by itself to one step, or to what its kernel is known to be off, since steps add up over layers.

    Args:
        file: as it was read.
        values: of all tensors, by name: `edgeconv.reference.tflite.evaluate`.

    Returns:
        A line; empty where there is none.

    Raises:
        EmitError: an operator has no form in ONNX.
        RewriteError: a graph cannot be evaluated.
    """
    from edgeconv.reference import evaluate
    from edgeconv.reference.tflite.as_onnx import operators_alone

    for operator, model in operators_alone(file):
        inputs = {str(value.name): values[str(value.name)] for value in model.graph.inputs}
        results = [file.tensors[index] for index in operator.outputs]
        unrounded = {at: _before_rounding(model, tensor) for at, tensor in enumerate(results)}
        keep = [tensor.name for tensor in results] + [name for name, _ in filter(None, unrounded.values())]
        computed = evaluate(model, inputs, keep=keep)
        for at, (tensor, steps) in enumerate(zip(results, _steps(file, operator, model, values), strict=True)):
            real = unrounded[at]
            if real is not None and tensor.quantization is not None:
                name, is_first = real
                # The ONNX graph has channels on axis 1 there, the file has them last.
                whole = np.moveaxis(computed[name], 1, -1) if is_first else computed[name]
                steps = np.where(np.abs(whole) >= _WRAPS * tensor.quantization.scales[0], np.inf, steps)
            fault = _fault(tensor, computed[tensor.name], values[tensor.name], steps)
            if fault:
                return f"{operator.name} of {tensor.name!r} {fault}"
    return ""


def _before_rounding(model: ir.Model, tensor: tflite.Tensor) -> tuple[str, bool] | None:
    """The real numbers that are rounded to a result, and whether they are channels first; None where none are."""
    for node in model.graph:
        if node.op_type == "QuantizeLinear" and node.outputs[0].name == f"{tensor.name}/stored" and node.inputs[0]:
            is_first = any(user.op_type == "Transpose" for user in node.outputs[0].consumers())
            return str(node.inputs[0].name), is_first
    return None


def _fault(tensor: tflite.Tensor, value: Array, due: Array, steps: Array) -> str:
    """What is wrong with a result; empty where nothing is."""
    if value.shape != due.shape:
        return f"has the shape {list(value.shape)}, not {list(due.shape)}"
    if not tensor.floating:
        apart = np.abs(value.astype(np.int64) - due.astype(np.int64))
        return f"is {apart.max()} off" if (apart > steps).any() else ""
    close = np.allclose(value, due, rtol=0, atol=_SINGLE * _largest(due), equal_nan=True)
    return "" if close else f"is {np.nanmax(np.abs(value - due)):.3g} off"


def _largest(due: Array) -> float:
    return float(np.abs(due[np.isfinite(due)]).max(initial=0.0))


def _steps(file: TfliteGraph, operator: Operator, model: ir.Model, values: Mapping[str, Array]) -> list[Array]:
    """How far each result of integers may lie from the exact ones: numbers that stand for themselves are equal."""
    operands = {index: values[file.tensors[index].name] for index in operator.inputs if index >= 0}
    tensors = [file.tensors[index] for index in operator.outputs]
    try:
        worst = [bound.worst for bound in of_tflite(file, operator, operands, arithmetic=_ANY)]
    except ParityError:  # a form in real numbers that has no bound
        worst = [np.zeros(())] * len(tensors)
    least = [float(tensor.quantization is not None) * _tabulated(file, operator, model) for tensor in tensors]
    lines = _along_lines(file, operator, operands) if operator.name in _LINES else 0.0
    return [np.maximum(bound, step + lines) for bound, step in zip(worst, least, strict=False)]


def _along_lines(file: TfliteGraph, operator: Operator, operands: Mapping[int, Array]) -> Array | float:
    """How much the result changes between the entries of the kernel's table on both sides of each operand, in steps."""
    (index,) = operator.inputs
    tensor, x = file.tensors[index], operands[index].astype(np.int64)
    if tensor.dtype != "int16" or tensor.quantization is None:
        return 0.0
    below = x // _BETWEEN * _BETWEEN
    ends = [np.minimum(at, np.iinfo(np.int16).max).astype(np.int16) for at in (below, below + _BETWEEN)]
    low, high = (evaluate_operator(file, operator, {index: end})[0].astype(np.float64) for end in ends)
    return np.abs(high - low)


def _tabulated(file: TfliteGraph, operator: Operator, model: ir.Model) -> float:
    """The steps that a kernel's table may be off, as the proof allows it; 1 for an operator without such a table."""
    source, result = (file.tensors[indices[0]] for indices in (operator.inputs, operator.outputs))
    node = next((node for node in model.graph if node.op_type in _TABLES), None)
    if node is None or source.quantization is None or result.quantization is None:
        return 1.0
    if node.outputs[0].shape is None:
        node.outputs[0].shape = ir.Shape(result.shape)
    site = KernelSite(node, source.quantization.scales[0], result.quantization.scales[0], result.dtype)
    return float(max(1, allowance(site)[0]))
