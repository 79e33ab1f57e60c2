"""Quantization: integers that stand for multiples of a scale.

Specification: QuantizeLinear, DequantizeLinear (per tensor, per axis, and in blocks since opset 21),
DynamicQuantizeLinear, and the integer operators QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger. The division
by the scale is float64's: where a float32 runtime rounds a tie the other way, the two differ by one step.
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from edgeconv.core.affine import saturated, scaled
from edgeconv.graph.edit import input_of
from edgeconv.reference._call import Call, Operator, Result, Tensor
from edgeconv.reference._dtypes import held_as, integer_range
from edgeconv.reference._operators.convolution import convolve


def _spread(call: Call, parameter: Tensor, x: Tensor) -> Tensor:
    """A scale or zero point in a shape that broadcasts over ``x``: one for all, along ``axis``, or in blocks of it."""
    if parameter.numel() == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    axis = call.axis(x.ndim, 1)
    if parameter.ndim == 1:
        return parameter.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    block = call.attribute("block_size", 0) or -(-x.shape[axis] // parameter.shape[axis])
    return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])


def _integers(steps: Tensor, zero_point: Tensor | None, dtype: ir.DataType) -> Tensor:
    """Multiples of a scale, rounded half to even, shifted by the zero point and saturated."""
    zero_point = None if zero_point is None else zero_point.to(torch.float64)
    return saturated(steps, integer_range(dtype), zero_point).to(torch.int64).to(held_as(dtype))


def _quantized_dtype(call: Call, index: int) -> ir.DataType:
    """The dtype of the zero point at ``index``, else ``output_dtype``, else uint8."""
    value = input_of(call.node, index)
    stated = ir.DataType(call.attribute("output_dtype", 0))
    dtype: ir.DataType | None = stated if stated != ir.DataType.UNDEFINED else None
    if value is not None:
        dtype = value.dtype or ir.DataType[str(call[index].dtype).removeprefix("torch.").upper()]
    dtype = dtype or ir.DataType.UINT8
    if not dtype.is_integer():
        raise call.refuse(f"to {dtype.name.lower()} is not known to the reference")
    return dtype


def _quantize(call: Call) -> Tensor:
    x, zero_point = call[0].to(torch.float64), call.optional(2)
    if zero_point is not None:
        zero_point = _spread(call, zero_point, x)
    return _integers(x / _spread(call, call[1], x), zero_point, _quantized_dtype(call, 2))


def _dequantize(call: Call) -> Tensor:
    x, zero_point = call[0].to(torch.float64), call.optional(2)
    if zero_point is not None:
        zero_point = _spread(call, zero_point.to(torch.float64), x)
    return scaled(x, _spread(call, call[1], x), zero_point)


def _dynamic(call: Call) -> Result:
    """DynamicQuantizeLinear: to uint8, by the range of the data, extended to include zero."""
    x = call[0]
    low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
    scale = (high - low) / 255
    zero_point = saturated(-low / scale, (0, 255)) if scale > 0 else torch.zeros_like(scale)
    steps = x / scale if scale > 0 else torch.zeros_like(x)
    return _integers(steps, zero_point, ir.DataType.UINT8), scale, zero_point.to(torch.uint8)


def _real(x: Tensor, scale: Tensor | None, zero_point: Tensor | None, axis: int | None = None) -> Tensor:
    """The real numbers of integers; parameters of more than one element are along ``axis``."""
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    factor = 1.0 if scale is None else _along(scale, shape)
    return scaled(x.to(torch.float64), factor, None if zero_point is None else _along(zero_point, shape))


def _along(parameter: Tensor, shape: list[int]) -> Tensor:
    parameter = parameter.to(torch.float64)
    if parameter.numel() == 1:
        return parameter.reshape(())
    return parameter.reshape(shape) if parameter.ndim == 1 else parameter


def _linear_convolution(call: Call) -> Tensor:
    bias = call.optional(8)
    scale = call[1].reshape(-1) * call[4].reshape(-1)
    bias = None if bias is None else bias.to(torch.float64) * scale
    y = convolve(call, _real(call[0], call[1], call[2]), _real(call[3], call[4], call[5], 0), bias)
    return _integers(y / call[6], call[7], _quantized_dtype(call, 7))


def _linear_product(call: Call) -> Tensor:
    a, b = call[0], call[3]
    rows = _real(a, call[1], call[2], a.ndim - 2)
    y = rows @ _real(b, call[4], call[5], b.ndim - 1)
    return _integers(y / call[6], call[7], _quantized_dtype(call, 7))


def _integer_convolution(call: Call) -> Tensor:
    weight = _real(call[1], None, call.optional(3), 0)
    return convolve(call, _real(call[0], None, call.optional(2)), weight, None).to(torch.int32)


def _integer_product(call: Call) -> Tensor:
    a, b = call[0], call[1]
    left = _real(a, None, call.optional(2), a.ndim - 2)
    return (left @ _real(b, None, call.optional(3), b.ndim - 1)).to(torch.int32)


OPERATORS: dict[str, Operator] = {
    "ConvInteger": _integer_convolution,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "MatMulInteger": _integer_product,
    "QLinearConv": _linear_convolution,
    "QLinearMatMul": _linear_product,
    "QuantizeLinear": _quantize,
}
