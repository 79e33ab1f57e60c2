"""TFLite's multiplication of an integer by a real number without floating point.

The real number becomes a multiplier of 31 bits and a power of two. The reference kernels, in their default build, round
twice: in the doubling high product and in the shift. For sums of 64 bits (int16 layers) they use 15 bits of the
multiplier, and round once. Specification: tensorflow/lite/kernels/internal/common.cc and quantization_util.cc; Jacob et
al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from edgeconv.reference.tflite._graph import Array

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1  # int32


class Factor(NamedTuple):
    """``multiplier * 2**(shift - 31)``; arrays where each channel has its own.

    Attributes:
        multiplier: int64, in [0, 2^31), or negative for a factor that is.
        shift: int64, to the left where positive.
    """

    multiplier: Array
    shift: Array


def factor(real: float | Iterable[float]) -> Factor:
    """The factor nearest to a real number, or to each of several."""
    reals = [real] if isinstance(real, int | float) else list(real)
    pairs = [_pair(float(item)) for item in reals]
    multipliers, shifts = (np.array(part, np.int64) for part in zip(*pairs, strict=True))
    return Factor(multipliers, shifts) if len(reals) > 1 else Factor(multipliers[0], shifts[0])


def _pair(real: float) -> tuple[int, int]:
    if real == 0 or not math.isfinite(real):
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = int(rounded(fraction * 2**31))
    # 31 bits and a sign hold no 2^31; a fraction next to 1 rounds up to it.
    if abs(multiplier) == 2**31:
        multiplier, shift = multiplier // 2, shift + 1
    # QuantizeMultiplier: a number that shifts out all bits of a sum is 0.
    return (0, 0) if shift < -31 else (multiplier, shift)


def rounded(values: Array | float) -> Array:
    """Rounds to the nearest integer, ties away from zero: C's ``round``."""
    values = np.asarray(values)
    whole = np.trunc(values)
    return np.asarray(whole + np.sign(values) * (np.abs(values - whole) >= 0.5))


def wrapped(values: Array) -> Array:
    """Integers wrapped into 32 bits, as int32 arithmetic overflows."""
    return (values - _LOWEST) % 2**32 + _LOWEST


def high_product(a: Array, b: Array | int) -> Array:
    """The rounded upper half of ``2 * a * b``, for operands of 32 bits."""
    product = a * b
    # SaturatingRoundingDoublingHighMul of gemmlowp (fixedpoint/fixedpoint.h): halves away from zero, by a division of
    # C.
    nudged = (product + np.where(product >= 0, 2**30, 1 - 2**30)).astype(np.int64)
    # Only the product of the two lowest numbers overflows; gemmlowp saturates it.
    return np.minimum(np.where(nudged >= 0, nudged >> 31, -(-nudged >> 31)), _HIGHEST)


def divided(values: Array, exponent: Array | int) -> Array:
    """Divides by a power of two, ties away from zero."""
    # RoundingDivideByPOT of gemmlowp.
    mask = (np.int64(1) << np.asarray(exponent, np.int64)) - 1
    threshold = (mask >> 1) + (values < 0)
    return np.asarray((values >> exponent) + ((values & mask) > threshold))


def multiplied(values: Array, by: Factor) -> Array:
    """Values of 32 bits times a factor, rounded twice (MultiplyByQuantizedMultiplier, kernels/internal/common.cc).

    Args:
        values: int64 arrays of numbers of 32 bits.
        by: one factor, or one per slice of the last axis.
    """
    left, right = np.maximum(by.shift, 0), np.maximum(-by.shift, 0)
    return divided(high_product(wrapped(values << np.minimum(left, 31)), by.multiplier), right)


def multiplied_wide(values: Array, by: Factor) -> Array:
    """Values of up to 48 bits times a factor of which 15 bits are used, rounded once."""
    # MultiplyByQuantizedMultiplier of an int64 (kernels/internal/common.cc): 48 bits and 15 are 63.
    reduced = np.where(by.multiplier < 0x7FFF0000, (by.multiplier + (1 << 15)) >> 16, 0x7FFF)
    total = 15 - by.shift
    return wrapped((values * reduced + (np.int64(1) << (total - 1))) >> total)
