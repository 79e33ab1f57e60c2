"""Fake quantization of quantization-aware training: QuantizeLinear and DequantizeLinear, with the module's own scales.

torch computes ``clamp(round(x / scale) + zero_point, quant_min, quant_max)`` and rounds half to even. ONNX clamps to
the range of the integer type; where that is wider than quant_min to quant_max, a Clip comes first, which gives the
same integers.

A fake quantization becomes both nodes. The programs of PT2E have one operator for each node, in the namespaces
``quantized_decomposed`` (torch's own) and ``torchao``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edgeconv.capture.torch._builder import DTYPES, Builder, Entry, Operand, Unsupported, renamed, sizes_of
from edgeconv.core.affine import limits_of, saturated, scaled, spread

# Integer types of QuantizeLinear, with the opset that introduced them there.
_TYPES = {"int8": 10, "uint8": 10, "int16": 21, "uint16": 21}


@dataclass(frozen=True)
class _Steps:
    """The parameters of a quantization.

    Attributes:
        scales: one, or one per element of `axis`.
        zeros: as many zero points.
        axis: along which the scales differ; None for one scale.
        limits: the least and the greatest integer.
        kind: numpy's name of the integer type.
    """

    scales: npt.NDArray[np.float64]
    zeros: npt.NDArray[np.float64]
    axis: int | None
    limits: tuple[int, int]
    kind: str

    def check(self, opset: int) -> None:
        """Checks that QuantizeLinear takes these parameters.

        Raises:
            Unsupported: it does not; says why.
        """
        if (self.zeros != self.zeros.round()).any():
            raise Unsupported("zero points that are no integers")
        if _TYPES.get(self.kind, opset + 1) > opset:
            raise Unsupported(f"integers of {self.kind} in opset {opset}")
        least, greatest = limits_of(self.kind)
        if self.zeros.min() < least or self.zeros.max() > greatest:
            raise Unsupported(f"zero points beyond {self.kind}")

    def parameters(self, b: Builder) -> list[ir.Value]:
        """Scale and zero point as operands of QuantizeLinear."""
        shape = () if self.axis is None else (self.scales.size,)
        arrays = (self.scales.astype(np.float32), self.zeros.astype(self.kind))
        return [b.constant(array.reshape(shape)) for array in arrays]


def by_tensor(b: Builder, x: ir.Value, scale: Operand, zero_point: Operand, quant_min: int, quant_max: int) -> ir.Value:
    """Fake quantization with one scale for all elements."""
    return _rounded(b, x, _fake(b, scale, zero_point, None, (quant_min, quant_max)))


def by_channel(
    b: Builder, x: ir.Value, scale: ir.Value, zero_point: ir.Value, axis: int, quant_min: int, quant_max: int
) -> ir.Value:
    """Fake quantization with a scale per element of one axis."""
    return _rounded(b, x, _fake(b, scale, zero_point, axis % len(sizes_of(x)), (quant_min, quant_max)))


def quantize(
    b: Builder,
    x: ir.Value,
    scale: Operand,
    zero_point: Operand | None,
    quant_min: Operand,
    quant_max: Operand,
    dtype: torch.dtype,
    axis: int | None = None,
) -> ir.Value:
    """``quantize_per_tensor``, ``quantize_per_channel``: floats to integers of `dtype`.

    Raises:
        Unsupported: the parameters are computed, or QuantizeLinear does not take them.
    """
    steps = _steps(b, scale, zero_point, axis, (quant_min, quant_max), dtype, len(sizes_of(x)))
    constant = b.constant_of(x)
    if constant is not None:
        # x · (1 / scale) in float32, as torch's quantize_per_tensor computes: near ties x / scale rounds elsewhere.
        rank, inverse = constant.ndim, np.float32(1) / steps.scales.astype(np.float32)
        multiples = constant.detach().float().numpy() * spread(inverse, steps.axis, rank).astype(np.float32)
        integers = saturated(multiples, steps.limits, spread(steps.zeros, steps.axis, rank))
        return b.exactly(torch.from_numpy(integers.astype(steps.kind)), DTYPES[dtype])
    steps.check(b.opset)
    return _quantized(b, x, steps)


def dequantize(
    b: Builder,
    x: ir.Value,
    scale: Operand,
    zero_point: Operand | None,
    quant_min: Operand,
    quant_max: Operand,
    dtype: torch.dtype,
    out_dtype: torch.dtype | None = None,
    axis: int | None = None,
) -> ir.Value:
    """Integers back to floats; a constant of int32, which a bias is, becomes a float constant."""
    steps = _steps(b, scale, zero_point, axis, (quant_min, quant_max), dtype, len(sizes_of(x)))
    constant = b.constant_of(x)
    if constant is not None and steps.kind not in _TYPES:
        parameters = (spread(numbers, steps.axis, constant.ndim) for numbers in (steps.scales, steps.zeros))
        return b.exactly(torch.from_numpy(scaled(constant.numpy().astype(np.float64), *parameters)), ir.DataType.FLOAT)
    steps.check(b.opset)
    return _dequantized(b, x, steps)


def quantize_blocks(
    b: Builder,
    x: ir.Value,
    block_size: Sequence[int],
    scale: Operand,
    zero_point: Operand | None,
    output_dtype: torch.dtype,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> ir.Value:
    """torchao's form of `quantize`, whose scales belong to blocks."""
    axis = _axis_of(block_size, sizes_of(x))
    limits = _stated(quant_min, quant_max, output_dtype)
    return quantize(b, x, scale, zero_point, *limits, output_dtype, axis)


def dequantize_blocks(
    b: Builder,
    x: ir.Value,
    block_size: Sequence[int],
    scale: Operand,
    zero_point: Operand | None,
    input_dtype: torch.dtype,
    quant_min: int | None = None,
    quant_max: int | None = None,
    output_dtype: torch.dtype | None = None,
) -> ir.Value:
    """torchao's form of `dequantize`, whose scales belong to blocks."""
    axis = _axis_of(block_size, sizes_of(x))
    limits = _stated(quant_min, quant_max, input_dtype)
    return dequantize(b, x, scale, zero_point, *limits, input_dtype, output_dtype, axis)


def _axis_of(block_size: Sequence[int], sizes: Sequence[int]) -> int | None:
    """The axis that blocks of one element divide: one scale per channel; None where one block holds everything.

    Raises:
        Unsupported: any other blocks.
    """
    pairs = enumerate(zip(block_size, sizes, strict=True))
    divided = [axis for axis, (block, size) in pairs if block not in (-1, size)]  # -1: the whole axis
    if not divided:
        return None
    if len(divided) > 1 or block_size[divided[0]] != 1:
        raise Unsupported("scales of blocks, which are neither one for all nor one per channel")
    return divided[0]


def _stated(low: int | None, high: int | None, dtype: torch.dtype) -> tuple[int, int]:
    """The limits of the integers, by default those of their type."""
    info = torch.iinfo(dtype)
    return info.min if low is None else int(low), info.max if high is None else int(high)


def _numbers(b: Builder, operand: Operand) -> npt.NDArray[np.float64]:
    """The values of a number or a constant.

    Raises:
        Unsupported: it is computed (dynamic quantization).
    """
    if not isinstance(operand, ir.Value):
        return np.array(operand, np.float64)
    constant = b.constant_of(operand)
    if constant is None:
        raise Unsupported("scales that are computed")
    return np.asarray(constant.detach().double().numpy(), np.float64)


def _fake(b: Builder, scale: Operand, zero_point: Operand, axis: int | None, limits: tuple[int, int]) -> _Steps:
    """The parameters of a fake quantization; its integers get the narrowest type that holds the limits."""
    low, high = limits
    types = [name for name, opset in _TYPES.items() if opset <= b.opset]
    kind = next((name for name in types if limits_of(name)[0] <= low and high <= limits_of(name)[1]), None)
    if kind is None:
        raise Unsupported(f"integers from {low} to {high}")
    steps = _of_numbers(b, scale, zero_point, axis, limits, kind)
    steps.check(b.opset)
    return steps


def _steps(
    b: Builder,
    scale: Operand,
    zero_point: Operand | None,
    axis: int | None,
    limits: tuple[Operand, Operand],
    dtype: torch.dtype,
    rank: int,
) -> _Steps:
    low, high = (int(_numbers(b, limit)) for limit in limits)
    along = None if axis is None else axis % rank
    zero = 0 if zero_point is None else zero_point
    return _of_numbers(b, scale, zero, along, (low, high), str(dtype).removeprefix("torch."))


def _of_numbers(
    b: Builder, scale: Operand, zero_point: Operand, axis: int | None, limits: tuple[int, int], kind: str
) -> _Steps:
    scales, zeros = (_numbers(b, operand).reshape(-1) for operand in (scale, zero_point))
    if axis is None and (scales.size != 1 or zeros.size != 1):
        raise Unsupported("scales of several elements")
    return _Steps(scales, np.broadcast_to(zeros, scales.shape), axis, limits, kind)


def _rounded(b: Builder, x: ir.Value, steps: _Steps) -> ir.Value:
    """QuantizeLinear and DequantizeLinear; of a constant (a weight) its integers and DequantizeLinear."""
    weight = b.constant_of(x)
    if weight is None:
        return _dequantized(b, _quantized(b, x, steps), steps)
    scale, zero = (
        spread(numbers, steps.axis, weight.ndim) for numbers in (steps.scales.astype(np.float32), steps.zeros)
    )
    integers = saturated(weight.detach().double().numpy() / scale, steps.limits, zero).astype(steps.kind)
    return _dequantized(b, b.exactly(torch.from_numpy(integers), ir.DataType.from_numpy(integers.dtype)), steps)


def _quantized(b: Builder, x: ir.Value, steps: _Steps) -> ir.Value:
    parameters, sizes = steps.parameters(b), sizes_of(x)
    cut = _cut_off(b, x, steps)
    return b.add("QuantizeLinear", cut, *parameters, shape=sizes, dtype=parameters[1].dtype, axis=steps.axis)


def _dequantized(b: Builder, integers: ir.Value, steps: _Steps) -> ir.Value:
    sizes = sizes_of(integers)
    parameters = steps.parameters(b)
    return b.add("DequantizeLinear", integers, *parameters, shape=sizes, dtype=ir.DataType.FLOAT, axis=steps.axis)


def _cut_off(b: Builder, x: ir.Value, steps: _Steps) -> ir.Value:
    """x clipped to what the least and the greatest integer stand for, if the integer type has a wider range."""
    type_limits = limits_of(steps.kind)
    if steps.limits == type_limits:
        return x
    if steps.axis is not None:
        raise Unsupported("activations with a scale per channel and few integers")
    ends = [float((limit - steps.zeros[0]) * steps.scales[0]) for limit in steps.limits]
    float32 = ir.DataType.FLOAT
    bounds = [
        None if limit == type_limit else b.scalar(number, float32)
        for limit, type_limit, number in zip(steps.limits, type_limits, ends, strict=True)
    ]
    stated = bounds if bounds[1] is not None else bounds[:1]  # an absent last input is left out
    return b.add("Clip", x, *stated, shape=sizes_of(x))


_BY_CHANNEL = {"scales": "scale", "zero_points": "zero_point"}
TABLE: Mapping[str, Entry] = {
    "aten.fake_quantize_per_tensor_affine.default": by_tensor,
    "aten.fake_quantize_per_tensor_affine.tensor_qparams": by_tensor,
    "aten.fake_quantize_per_channel_affine.default": by_channel,
    "quantized_decomposed.fake_quant_per_channel.default": renamed(by_channel, **_BY_CHANNEL),
    **{
        f"quantized_decomposed.{name}_per_tensor.{overload}": entry
        for name, entry in (("quantize", quantize), ("dequantize", dequantize))
        for overload in ("default", "tensor", "tensor2")
    },
    "quantized_decomposed.quantize_per_channel.default": renamed(quantize, **_BY_CHANNEL),
    "quantized_decomposed.dequantize_per_channel.default": renamed(dequantize, **_BY_CHANNEL),
    "torchao.quantize_affine.default": quantize_blocks,
    "torchao.dequantize_affine.default": dequantize_blocks,
}
