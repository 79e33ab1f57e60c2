"""Rounding to integers that a module was trained with: QuantizeLinear and DequantizeLinear, at its own scales.

torch rounds to ``clamp(round(x / scale) + zero_point, quant_min, quant_max)``, half to even; ONNX clamps to the bounds
of the integers' type. Where these are wider, what lies beyond is cut off first, which gives the same integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from edgeconv.capture.torch._builder import Builder, Entry, Unsupported, sizes_of
from edgeconv.core.affine import limits_of, saturated, spread

_TYPES = {"int8": 10, "uint8": 10, "int16": 21, "uint16": 21}  # and the first opset in which QuantizeLinear has them


def by_tensor(
    b: Builder, x: ir.Value, scale: float | ir.Value, zero_point: int | ir.Value, quant_min: int, quant_max: int
) -> ir.Value:
    """One scale for all elements."""
    scales, zeros = (_numbers(b, operand).reshape(-1) for operand in (scale, zero_point))
    if scales.size != 1 or zeros.size != 1:
        raise Unsupported("scales of several elements")
    return _rounded(b, x, scales, zeros, None, (quant_min, quant_max))


def by_channel(
    b: Builder, x: ir.Value, scale: ir.Value, zero_point: ir.Value, axis: int, quant_min: int, quant_max: int
) -> ir.Value:
    """A scale per element of one axis."""
    scales, zeros = _numbers(b, scale), _numbers(b, zero_point)
    return _rounded(b, x, scales, zeros, axis % len(sizes_of(x)), (quant_min, quant_max))


def _numbers(b: Builder, operand: float | ir.Value) -> np.ndarray:
    if not isinstance(operand, ir.Value):
        return np.array(operand, np.float64)
    constant = b.constant_of(operand)
    if constant is None:
        raise Unsupported("scales that are computed")
    return np.asarray(constant.detach().double().numpy(), np.float64)


def _rounded(
    b: Builder, x: ir.Value, scales: np.ndarray, zeros: np.ndarray, axis: int | None, limits: tuple[int, int]
) -> ir.Value:
    low, high = limits
    if (zeros != zeros.round()).any():
        raise Unsupported("zero points that are no integers")
    types = [name for name, opset in _TYPES.items() if opset <= b.opset]
    kind = next((name for name in types if limits_of(name)[0] <= low and high <= limits_of(name)[1]), None)
    if kind is None:
        raise Unsupported(f"integers from {low} to {high}")
    shape = () if axis is None else (scales.size,)
    parameters = [b.constant(scales.astype(np.float32).reshape(shape)), b.constant(zeros.astype(kind).reshape(shape))]
    sizes, along = sizes_of(x), {"axis": axis}
    weight = b.constant_of(x)
    if weight is not None:
        scale, zero = (spread(numbers, axis, len(sizes)) for numbers in (scales.astype(np.float32), zeros))
        steps = saturated(weight.detach().double().numpy() / scale, limits, zero)
        integers = b.exactly(torch.from_numpy(steps.astype(kind)), ir.DataType.from_numpy(np.dtype(kind)))
    else:
        cut = _cut_off(b, x, scales, zeros, axis, limits, limits_of(kind))
        integers = b.add("QuantizeLinear", cut, *parameters, shape=sizes, dtype=parameters[1].dtype, **along)
    return b.add("DequantizeLinear", integers, *parameters, shape=sizes, dtype=ir.DataType.FLOAT, **along)


def _cut_off(
    b: Builder,
    x: ir.Value,
    scales: np.ndarray,
    zeros: np.ndarray,
    axis: int | None,
    limits: Sequence[int],
    own: Sequence[int],
) -> ir.Value:
    """x within what the least and the greatest integer stand for, where their type has others beyond them."""
    if list(limits) == list(own):
        return x
    if axis is not None:
        raise Unsupported("activations with a scale per channel and few integers")
    ends = [float((limit - zeros[0]) * scales[0]) for limit in limits]
    bounds = [None if limit == end else b.scalar(number) for limit, end, number in zip(limits, own, ends, strict=True)]
    return b.add("Clip", x, *bounds) if bounds[1] is not None else b.add("Clip", x, bounds[0])


TABLE: Mapping[str, Entry] = {
    "aten.fake_quantize_per_tensor_affine.default": by_tensor,
    "aten.fake_quantize_per_tensor_affine.tensor_qparams": by_tensor,
    "aten.fake_quantize_per_channel_affine.default": by_channel,
}
