"""What the integers of a tensor stand for: (q - zero_point) · scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeconv.core import Array

_LARGEST = {"int8": 127, "int16": 32767}


@dataclass(frozen=True)
class Quantization:
    """Quantisation parameters of a tensor.

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
    def limits(self) -> tuple[int, int]:
        """The least and the greatest integer."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    @property
    def interval(self) -> tuple[float, float]:
        """The real numbers that the least and the greatest integer stand for (one scale)."""
        low, high = ((limit - self.zero_point[0]) * self.scale[0] for limit in self.limits)
        return low, high

    def along(self, axis: int) -> bool:
        """Whether scales differ along no other axis than this."""
        return not self.per_channel or self.axis == axis

    def moved(self, axis: int) -> Quantization:
        """The same scales along another axis."""
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

    def quantise(self, array: Array) -> Array:
        """The nearest integers, ties to even, saturated."""
        shape = [-1 if axis == self.axis else 1 for axis in range(array.ndim)] if self.per_channel else []
        scale, zero = (
            np.array(values, np.float64).reshape(shape) if shape else values[0]
            for values in (self.scale, self.zero_point)
        )
        return np.clip(np.rint(array.astype(np.float64) / scale) + zero, *self.limits).astype(self.dtype)


def of_type(dtype: str, scale: Any, zero_point: Any, axis: int = 0) -> Quantization:
    """Parameters from arrays or numbers, the scales rounded to float32."""
    scales = tuple(float(np.float32(one)) for one in np.atleast_1d(scale))
    zeros = tuple(int(one) for one in np.broadcast_to(np.atleast_1d(zero_point), (len(scales),)))
    return Quantization(dtype, scales, zeros, axis)


def of_interval(lowest: float, highest: float, dtype: str) -> Quantization:
    """Parameters of a tensor whose numbers lie in an interval: int8 asymmetric, int16 symmetric; zero is exact."""
    low, high = min(lowest, 0.0), max(highest, 0.0)
    if dtype == "int16":
        return of_type(dtype, max(-low, high) / _LARGEST[dtype] or 1.0, 0)
    scale = np.float32((high - low) / 255 or 1.0)
    return of_type(dtype, scale, int(np.clip(np.rint(-128 - low / scale), -128, 127)))


def of_constant(array: Array, dtype: str) -> Quantization:
    """Parameters of a constant operand; a constant of a single magnitude is met exactly."""
    largest = float(np.max(np.abs(array), initial=0.0))
    magnitudes = np.unique(np.abs(array[array != 0]))
    if dtype == "int16" or len(magnitudes) <= 1:
        return of_type(dtype, largest / _LARGEST[dtype] or 1.0, 0)
    return of_interval(float(array.min()), float(array.max()), dtype)


def of_weights(array: Array, axis: int | None) -> Quantization:
    """Symmetric int8 parameters of weights, per element of ``axis`` (None: one for all); -128 is not used."""
    if axis is None:
        return of_type("int8", float(np.max(np.abs(array))) / 127 or 1.0, 0)
    largest = np.max(np.abs(array.astype(np.float64)), axis=tuple(at for at in range(array.ndim) if at != axis))
    return of_type("int8", np.where(largest > 0, largest / 127, 1.0), 0, axis)
