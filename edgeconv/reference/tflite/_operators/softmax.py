"""Softmax and other operators that divide by a sum along the last axis.

Specification: SOFTMAX, LOG_SOFTMAX, L2_NORMALIZATION, LOCAL_RESPONSE_NORMALIZATION; the quantized softmax of 8 bits is
gemmlowp's fixed-point exponential and reciprocal (gemmlowp/fixedpoint/fixedpoint.h), that of 16 bits two tables.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._fixed_point import (
    Factor,
    divided,
    factor,
    high_product,
    inverse_root,
    leading_zeros,
    multiplied,
    reciprocal,
)
from edgeconv.reference.tflite._graph import Array
from edgeconv.reference.tflite._operators._requantize import fitting
from edgeconv.reference.tflite._operators._tables import interpolated, table_16

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1  # int32
_DIFFERENCE_BITS = 5  # integer bits of x - max
_SUM_BITS = 12  # integer bits of the sum of exponentials
# exp(-2^k) for k = -2 to 4, in 31 bits after the point.
_EXPONENTIALS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def _softmax(call: Call) -> Array:
    beta = call.number("beta")
    if not call[0].ndim:
        raise call.refuse("has an input of no axes")
    if not call.quantized:
        powers = np.exp((call[0] - call[0].max(axis=-1, keepdims=True)) * beta)
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
    if call.source(0).dtype == "int16":
        return _softmax_16(call, beta)
    return _softmax_8(call, beta)


def _softmax_8(call: Call, beta: float) -> Array:
    low, high = call.range_of(call.result)
    # PreprocessSoftmaxScaling (kernels/internal/quantization_util.cc); QuantizeMultiplierGreaterThanOne aborts on
    # less than 1.
    real = min(beta * float(call.scale(0)) * 2.0 ** (31 - _DIFFERENCE_BITS), 2.0**31 - 1)
    if real <= 1:
        raise call.refuse(f"has the beta {beta} and the scale {call.scale(0)}, which no kernel takes")
    by = factor(real)
    # CalculateInputRadius (the same file): what lies further below the largest would overflow, and counts as 0.
    least = -math.floor((2**_DIFFERENCE_BITS - 1) * 2.0 ** (31 - _DIFFERENCE_BITS) / 2.0 ** int(by.shift))
    x = call[0].astype(np.int64)
    difference = x - x.max(axis=-1, keepdims=True)
    near = difference >= least
    powers = _exponential(multiplied(np.where(near, difference, 0), by))
    total = np.where(near, divided(powers, _SUM_BITS), 0).sum(axis=-1, keepdims=True)
    headroom = leading_zeros(total)
    # GetReciprocal (kernels/internal/common.h): of a sum shifted to [1, 2).
    inverse = reciprocal((total << headroom) - 2**31)
    exponent = _SUM_BITS - headroom + 31 - (16 if call.result.dtype == "int16" else 8)
    share = divided(high_product(inverse, powers), exponent.astype(np.int64)) + low
    return np.where(near, np.clip(share, low, high), low)


def _exponential(x: Array) -> Array:
    """exp(x) in 31 bits after the point, of x <= 0 with `_DIFFERENCE_BITS` before it."""
    fraction = 31 - _DIFFERENCE_BITS
    # exp_on_negative_values of gemmlowp: a quarter by a series, and each bit above it by a constant.
    quarter = 1 << (fraction - 2)
    within = (x & (quarter - 1)) - quarter  # of [-1/4, 0)
    remainder = within - x
    result = _near_zero(np.clip(within << _DIFFERENCE_BITS, _LOWEST, _HIGHEST))
    for place, constant in enumerate(_EXPONENTIALS, start=fraction - 2):
        result = np.where(remainder & (1 << place), high_product(result, constant), result)
    return np.where(x == 0, _HIGHEST, result)


def _near_zero(x: Array) -> Array:
    """exp(x) of [-1/4, 0), by its series around -1/8."""
    # exp_on_interval_between_negative_one_quarter_and_0_excl of gemmlowp: exp(-1/8) (1 + x + x²/2 + x³/6 + x⁴/24),
    # where 715827883 is 1/3 and 1895147668 exp(-1/8) in 31 bits.
    x = x + (1 << 28)
    square = high_product(x, x)
    cube, fourth = high_product(square, x), high_product(square, square)
    tail = divided(high_product(divided(fourth, 2) + cube, 715827883) + square, 1)
    return 1895147668 + high_product(x + tail, 1895147668)


@functools.cache
def _tables_16() -> tuple[Array, Array]:
    """exp on [-10, 0] and 1 / (1 + x) on [0, 1]."""
    width = 2.0**16 - 1
    scale = np.float64(2.0 / width)
    powers = table_16(np.exp, (np.float64(10.0 / width), scale), (2**15 - 1, 0))
    inverse = table_16(lambda x: 1.0 / (1.0 + x), (np.float64(1.0 / width), scale), (-(2**15), 0))
    return powers, inverse


def _softmax_16(call: Call, beta: float) -> Array:
    powers, inverse = _tables_16()
    x = call[0].astype(np.int64)
    by = factor(float(call.scale(0) * np.float32(beta)) / (10.0 / 65535.0))
    difference = multiplied(x - x.max(axis=-1, keepdims=True), by)
    shares = interpolated(np.clip(difference + 2**15 - 1, -(2**15), 2**15 - 1), powers)
    total = shares.sum(axis=-1, keepdims=True)
    headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    shifted = ((total << (headroom - 1)) + (1 << 13)) >> 14
    reciprocal = interpolated(np.clip(shifted - (1 << 15) - (1 << 16), -(2**15), 2**15 - 1), inverse)
    right = 31 - headroom
    return np.asarray(np.clip((shares * reciprocal + (np.int64(1) << (right - 1))) >> right, 0, 2**15 - 1))


def _log_softmax(call: Call) -> Array:
    if call.quantized:
        raise call.refuse("of quantized integers is not computed")
    shifted = call[0] - call[0].max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _unit_length(call: Call) -> Array:
    if call.quantized:
        return _unit_length_8(call)
    length = np.sqrt((call[0] ** 2).sum(axis=-1, keepdims=True))
    # epsilon of L2Normalization (kernels/internal/reference/l2normalization.h).
    return call.activated(call[0] / np.maximum(length, 1e-6))


def _unit_length_8(call: Call) -> Array:
    """Integers of 8 bits, whose result has 1/128 as its scale (Prepare of kernels/l2norm.cc) and 0 in the middle."""
    middle = {"int8": 0, "uint8": 128}.get(call.result.dtype)
    if (middle, 2.0**-7) != (call.zero_point(call.result), float(call.scale(call.result))):
        raise call.refuse("has a scale other than 1/128, or 0 elsewhere, which no kernel takes")
    x = call.integers(0)
    squares = (x**2).sum(axis=-1, keepdims=True)
    by = inverse_root(fitting(call, squares))
    if call.result.dtype == "uint8":
        # L2Normalization of kernels/internal/reference/l2normalization.h
        return call.saturated(divided(high_product(128 * x, by.multiplier), -by.shift) + 128)
    return call.saturated(multiplied(x, Factor(by.multiplier, by.shift + 7)))


def _local_response(call: Call) -> Array:
    """Divided by a power of the squares' sum over the neighboring channels on both sides.

    LiteRT's reference kernel leaves the last of them out; its optimized one, and TensorFlow, do not.
    """
    radius = min(max(0, call.integer("radius")), call[0].shape[-1])
    sums = np.concatenate([np.zeros((*call[0].shape[:-1], 1)), np.cumsum(call[0] ** 2, axis=-1)], axis=-1)
    channels = np.arange(call[0].shape[-1])
    high, low = np.minimum(channels + radius + 1, len(channels)), np.maximum(channels - radius, 0)
    total = call.number("bias") + call.number("alpha") * (sums[..., high] - sums[..., low])
    return np.asarray(call[0] / total ** call.number("beta"))


OPERATORS: Mapping[str, Kernel] = {
    "L2_NORMALIZATION": _unit_length,
    "LOCAL_RESPONSE_NORMALIZATION": _local_response,
    "LOG_SOFTMAX": _log_softmax,
    "SOFTMAX": _softmax,
}
