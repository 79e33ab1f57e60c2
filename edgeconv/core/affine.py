"""Affine quantization: integers that stand for multiples of a scale. Every stage takes its arithmetic from here.

    real = scale · (q - zero_point)
    q = saturate(round(real / scale) + zero_point)

``round`` is to nearest, halves to even; ``saturate`` is to the limits of the integer type, or to -127 and 127 of
weights. Scales are float32, which is how files hold them. All else is computed in float64, which holds every integer
of 32 bits and every product of a float32 scale with one of 16 bits. Where a device's own float32 is to be met, the
caller passes the precision.

Sources: ONNX, QuantizeLinear and DequantizeLinear (https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html); the 8-bit
quantization specification of TFLite (https://ai.google.dev/edge/litert/models/quantization_spec): int8 activations are
asymmetric, int16 ones and weights symmetric, and a bias has the scale of the input times that of the weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgeconv.core.precision import Array

if TYPE_CHECKING:
    import torch

_Floats = TypeVar("_Floats", Array, "torch.Tensor")
_Precision = type[np.float32] | type[np.float64]

WEIGHT_LIMITS = (-127, 127)
"""The range of int8 weights: symmetric, so that the negative of every weight is one, too."""
SCALE_LIMITS = (2.0**-126, 2.0**127)
"""Normal numbers of float32: runtimes may flush smaller ones to zero."""


def limits_of(dtype: str | np.dtype[Any]) -> tuple[int, int]:
    """The least and the greatest number of an integer type of numpy."""
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def saturated(steps: _Floats, limits: tuple[float, float], zero_point: Any = None) -> _Floats:
    """Rounds real multiples of a scale halves to even, moves them by the zero point, and keeps them within limits.

    Args:
        steps: floats, an array of numpy or a tensor of torch.
        limits: the least and the greatest integer.
        zero_point: that broadcasts to them; None for zero.

    Returns:
        Integers, in the float type of the steps; NaN stays NaN.
    """
    moved: _Floats = steps.round() if zero_point is None else steps.round() + zero_point
    return moved.clip(*limits)


def scaled(integers: _Floats, scale: Any, zero_point: Any = None) -> _Floats:
    """The real numbers that integers of a float type stand for; parameters as of `saturated`."""
    real: _Floats = (integers if zero_point is None else integers - zero_point) * scale
    return real


def quantized(
    real: Array, scale: Any, zero_point: Any, dtype: str | np.dtype[Any], precision: _Precision = np.float64
) -> Array:
    """The integers that stand for real numbers.

    Args:
        real: finite or infinite.
        scale: a number, or an array that broadcasts to them.
        zero_point: alike.
        dtype: of the integers, to whose limits they saturate.
        precision: that it is computed in.
    """
    least, greatest = limits_of(dtype)
    highest = precision(greatest)
    if int(highest) > greatest:  # of 64 bits in float64, say: the precision has the next power of two instead
        highest = np.nextafter(highest, precision(0))
    with np.errstate(over="ignore"):  # quotients by tiny scales are infinite, and saturate
        steps = real.astype(precision) / np.asarray(scale, precision)
    return np.asarray(saturated(steps, (least, float(highest)), np.asarray(zero_point, precision)).astype(dtype))


def dequantized(integers: Array, scale: Any, zero_point: Any, precision: _Precision = np.float64) -> Array:
    """The real numbers that integers stand for, in the precision that they are computed in; see `quantized`."""
    parameters = (np.asarray(parameter, precision) for parameter in (scale, zero_point))
    return np.asarray(scaled(integers.astype(precision), *parameters))


def spread(parameters: Sequence[float] | Array, axis: int | None, rank: int) -> npt.NDArray[np.float64]:
    """Scales or zero points along an axis in a shape that broadcasts to arrays of a rank; one, where there is one."""
    array = np.array(parameters, np.float64)
    return array.reshape([-1 if index == axis else 1 for index in range(rank)] if array.size > 1 else [])


def interval_of(scale: float, zero_point: int, dtype: str) -> tuple[float, float]:
    """The real numbers that the least and the greatest integer stand for."""
    low, high = (scale * (limit - zero_point) for limit in limits_of(dtype))
    return low, high


def asymmetric(low: float, high: float, dtype: str) -> tuple[float, int]:
    """The scale and zero point with which the integers of a type stand for an interval, widened to hold zero.

    Zero itself, which padding and rectified values are made of, is met exactly.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    least, greatest = limits_of(dtype)
    scale = float(normal((high - low) / (greatest - least) or 1.0))  # 1 where there is nothing but zeros
    return scale, int(saturated(np.array(least - low / scale), (least, greatest)))


def symmetric(largest: float | npt.NDArray[Any], greatest: int) -> npt.NDArray[np.float32]:
    """The scales with which the greatest integer stands for the largest magnitude; 1 where all is zero."""
    return normal(np.where(np.greater(largest, 0), np.divide(largest, greatest, dtype=np.float64), 1.0))


def normal(scale: float | npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Scales as float32 holds them, within its normal numbers."""
    return np.asarray(np.clip(scale, *SCALE_LIMITS), np.float32)


def are_scales(numbers: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which numbers can be scales: positive normal numbers of float32 whose inverse is one, too."""
    least, greatest = SCALE_LIMITS
    return np.asarray((numbers >= least) & (numbers <= greatest))  # NaN is neither


def bias_scales(source: float, weights: Sequence[float]) -> npt.NDArray[np.float32]:
    """The scales of a layer's bias, which are those of its accumulator: one per scale of its weights.

    Products in float32, as kernels compute them of the scales in a file.
    """
    return np.array(weights, np.float32) * np.float32(source)


def decibels(signal: float, noise: float) -> float:
    """10·log10(signal / noise), of powers; infinite without noise."""
    if noise == 0.0:
        return float("inf")
    with np.errstate(divide="ignore"):
        return float(10.0 * np.log10(np.float64(signal) / noise))
