"""What the integers of a tensor stand for, along an axis too; the arithmetic is that of `edgeconv.core.affine`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeconv.core import Array
from edgeconv.core.affine import (
    WEIGHT_LIMITS,
    asymmetric,
    dequantized,
    interval_of,
    limits_of,
    quantized,
    spread,
    symmetric,
)


@dataclass(frozen=True)
class Quantization:
    """Quantization parameters of a tensor.

    Attributes:
        dtype: numpy's name of the integer type.
        scale: one, or one per element of ``axis``; each is a float32 number.
        zero_point: as many as scales.
        axis: of the tensor, along which scales differ.
    """

    dtype: str
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        """Whether there is more than one scale."""
        return len(self.scale) > 1

    @property
    def interval(self) -> tuple[float, float]:
        """The real numbers that the least and the greatest integer stand for (one scale)."""
        return interval_of(self.scale[0], self.zero_point[0], self.dtype)

    def along(self, axis: int) -> bool:
        """Whether there is one scale, or one per element of this axis."""
        return not self.per_channel or self.axis == axis

    def moved(self, axis: int) -> Quantization:
        """These parameters with their scales along another axis."""
        return Quantization(self.dtype, self.scale, self.zero_point, axis)

    def repeated(self, times: int) -> Quantization:
        """The scales one after another several times, for as many groups of channels."""
        if not self.per_channel:
            return self
        return Quantization(self.dtype, self.scale * times, self.zero_point * times, self.axis)

    def picked(self, order: Array) -> Quantization:
        """The scales of the elements of the axis in another order."""
        if not self.per_channel:
            return self
        scale, zero = (tuple(values[at] for at in order.tolist()) for values in (self.scale, self.zero_point))
        return Quantization(self.dtype, scale, zero, self.axis)

    def quantized(self, array: Array) -> Array:
        """The nearest integers, ties to even, saturated."""
        return quantized(array, *self._spread(array.ndim), self.dtype)

    def dequantized(self, integers: Array) -> Array:
        """The real numbers that integers stand for, in float64."""
        return dequantized(integers, *self._spread(integers.ndim))

    def _spread(self, rank: int) -> tuple[Array, Array]:
        return spread(self.scale, self.axis, rank), spread(self.zero_point, self.axis, rank)


def of_type(dtype: str, scale: Any, zero_point: Any, axis: int = 0) -> Quantization:
    """Parameters from arrays or numbers, the scales rounded to float32."""
    scales = np.atleast_1d(np.asarray(scale, np.float32))
    zeros = np.broadcast_to(np.asarray(zero_point, np.int64), scales.shape)
    return Quantization(dtype, tuple(scales.tolist()), tuple(zeros.tolist()), axis)


def of_interval(lowest: float, highest: float, dtype: str) -> Quantization:
    """Parameters of a tensor whose numbers lie in an interval: int8 asymmetric, int16 symmetric; zero is exact."""
    if dtype == "int16":
        return of_type(dtype, symmetric(max(-lowest, highest, 0.0), limits_of(dtype)[1]), 0)
    return of_type(dtype, *asymmetric(lowest, highest, dtype))


def of_constant(array: Array, dtype: str) -> Quantization:
    """Parameters of a constant operand; a constant of a single magnitude is met exactly."""
    # A factor of 0.1, or ±0.1, is ±127 steps of 0.1 / 127: asymmetric, its scale would be 0.1 / 255 and its integer
    # 127.
    magnitudes = np.unique(np.abs(array[array != 0]))
    if dtype == "int16" or len(magnitudes) <= 1:
        return of_type(dtype, symmetric(np.max(magnitudes, initial=0.0), limits_of(dtype)[1]), 0)
    return of_interval(float(array.min()), float(array.max()), dtype)


def of_weights(array: Array, axis: int | None) -> Quantization:
    """Symmetric int8 parameters of weights, per element of ``axis`` (None: one for all); -128 is not used."""
    others = tuple(at for at in range(array.ndim) if at != axis)
    return of_type("int8", symmetric(np.max(np.abs(array), axis=others), WEIGHT_LIMITS[1]), 0, axis or 0)
