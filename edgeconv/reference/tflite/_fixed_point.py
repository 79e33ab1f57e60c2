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


def leading_zeros(values: Array) -> Array:
    """Of numbers in [0, 2^32), held in 32 bits."""
    return np.asarray(32 - np.frexp(values.astype(np.float64))[1]).astype(np.int64)


def reciprocal(x: Array) -> Array:
    """1 / (1 + x) in 31 bits after the point, of x in [0, 1), by three steps of Newton's method."""
    # one_over_one_plus_x_for_x_in_0_1 of gemmlowp: begins with 48/17 - 32/17 · (1 + x) / 2.
    total = x + _HIGHEST
    half = (total + np.where(total >= 0, 1, -1)) // 2
    guess = 1515870810 + high_product(half, -1010580540)
    for _ in range(3):
        error = (1 << 29) - high_product(half, guess)
        guess = guess + _shifted(high_product(guess, error), 2)
    return _shifted(guess, 1)


def inverse_root(values: Array) -> Factor:
    """1 / sqrt of integers of 32 bits that are not negative, by five steps of Newton's method; 0 counts as 1."""
    # GetInvSqrtQuantizedMultiplierExp (kernels/internal/common.h): the operand in [2^27, 2^29), three integer bits.
    small = values <= 1
    x = np.where(small, 1 << 27, values).astype(np.int64)
    shift = np.full(x.shape, 11, np.int64)
    while (large := x >= 1 << 29).any():
        x, shift = np.where(large, x // 4, x), shift + large
    pairs = (leading_zeros(x) - 1) // 2 - 1
    x, shift = x << (2 * pairs), shift - pairs
    half = divided(x >> 1, 1)
    root = np.full(x.shape, 1 << 28, np.int64)
    for _ in range(5):
        cube = _shifted(high_product(high_product(root, root), root), 6)
        root = _shifted(high_product(root, 3 << 27) - high_product(half, cube), 3)
    root = high_product(root, 1518500250)  # sqrt(1/2) in 31 bits
    multiplier = np.where(shift < 0, root << np.maximum(-shift, 0), root)
    return Factor(np.where(small, _HIGHEST, multiplier), np.where(small, 0, -np.maximum(shift, 0)))


def _shifted(values: Array, bits: int) -> Array:
    """Times a power of two, saturated to 32 bits (SaturatingRoundingMultiplyByPOT of gemmlowp)."""
    return np.asarray(np.clip(values << bits, _LOWEST, _HIGHEST))
