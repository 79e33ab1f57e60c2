"""The parameters of a QuantizeLinear or DequantizeLinear node, and the refusal of one that TFLite has no form for."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.emit.tflite._quantization import Quantization, of_type
from edgeconv.errors import EmitError
from edgeconv.graph.edit import NODE, constant, input_of

# TFLite's quantization specification has signed integers alone; shifted with their zero point, they stand for the same
# numbers.
_SIGNED = {"uint8": ("int8", 128), "uint16": ("int16", 32768)}


def parameters_of(node: ir.Node, rank: int) -> Quantization:
    """Scale and zero point of a node of either kind.

    Args:
        node: QuantizeLinear or DequantizeLinear.
        rank: of what it reads, from which an axis below zero counts.

    Raises:
        EmitError: they are computed, or there is one scale per block.
    """
    scale = constant(node.inputs[1])
    zero_input = input_of(node, 2)
    zero = constant(zero_input)
    if scale is None or (zero is None and zero_input is not None):
        raise refused(node, "its scale or zero point is no constant", "quantize with constants")
    if node.attributes.get_int("block_size", 0) or scale.ndim > 1:
        raise refused(node, "it has a scale per block", "give one scale, or one per channel")
    dtype = zero.dtype.name if zero is not None else _integer_type(node)
    axis = node.attributes.get_int("axis", 1) if scale.size > 1 else 0
    return of_type(dtype, scale, 0 if zero is None else zero, axis + rank if axis < 0 else axis)


def _integer_type(node: ir.Node) -> str:
    value = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
    dtype = value.dtype if value is not None else None
    return dtype.numpy().name if dtype is not None else "uint8"


def signed(parameters: Quantization) -> Quantization:
    """Parameters of the same real numbers as signed integers."""
    if parameters.dtype not in _SIGNED:
        return parameters
    dtype, shift = _SIGNED[parameters.dtype]
    zero = tuple(point - shift for point in parameters.zero_point)
    return Quantization(dtype, parameters.scale, zero, parameters.axis)


def refused(node: ir.Node, why: str, hint: str) -> EmitError:
    """The error of a node that TFLite has no form for."""
    name = node.metadata_props.get(NODE) or (node.outputs[0].name if node.outputs else node.name)
    return EmitError(f"{node.op_type} cannot be written as TFLite: {why}", where=f"tflite, {name}", hint=hint)
