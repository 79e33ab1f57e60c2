"""Arithmetic of two tensors that broadcast, in real numbers and in integers.

Specification: ADD, SUB, MUL, DIV, MAXIMUM, MINIMUM, SQUARED_DIFFERENCE, POW, FLOOR_DIV, FLOOR_MOD, ADD_N, ATAN2;
tensorflow/lite/kernels/add.cc and the like. Sums of quantized integers are formed at twice the larger input scale, with
20 further bits (15 for int16, 7 for squared differences), and rounded once more into the output's scale.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._fixed_point import (
    divided,
    factor,
    high_product,
    leading_zeros,
    multiplied,
    reciprocal,
    wrapped,
)
from edgeconv.reference.tflite._graph import Array

_Pair = Callable[[Array, Array], Array]


def _sum(merge: _Pair) -> Kernel:
    """ADD or SUB."""

    def compute(call: Call) -> Array:
        call.together(call[0], call[1])
        if not call.quantized:
            return call.activated(merge(call[0], call[1]))
        scales = [call.scale(0), call.scale(1), call.scale(call.result)]
        # kernels/add.cc, Prepare: integers of 16 bits whose scales are powers of two are added by shifts alone.
        if call.result.dtype == "int16" and call.flag("pot_scale_int16") and all(map(_is_power_of_two, scales)):
            shifts = [_exponent(scales[2]) - _exponent(scale) for scale in scales[:2]]
            if min(shifts) != 0:
                raise call.refuse("has int16 scales, powers of two, that no kernel takes: one must be the output's")
            terms = [divided(call.integers(at), shift) for at, shift in enumerate(shifts)]
            return call.saturated(merge(*terms), activation=True)
        bits = 15 if call.result.dtype == "int16" else 20
        # At twice the larger scale the sum of both fits as each of them does (twice_max_input_scale of
        # kernels/add.cc).
        a, b, twice = _at_twice_the_larger(call, bits)
        by = factor(twice / float(np.float32(2.0**bits) * scales[2]))
        return call.saturated(multiplied(merge(a, b), by) + call.zero_point(call.result), activation=True)

    return compute


def _at_twice_the_larger(call: Call, bits: int) -> tuple[Array, Array, float]:
    """Both inputs at twice the larger of their scales, shifted left, and that scale."""
    twice = 2 * max(float(call.scale(0)), float(call.scale(1)))
    a, b = (multiplied(call.integers(at) << bits, factor(float(call.scale(at)) / twice)) for at in (0, 1))
    return a, b, twice


def _is_power_of_two(scale: np.float32) -> bool:
    return bool(np.frexp(scale)[0] == 0.5)


def _exponent(scale: np.float32) -> int:
    return int(np.frexp(scale)[1]) - 1


def _product(call: Call) -> Array:
    call.together(call[0], call[1])
    if not call.quantized:
        return call.activated(call[0] * call[1])
    by = factor(float(call.scale(0) * call.scale(1) / call.scale(call.result)))
    product = multiplied(call.integers(0) * call.integers(1), by)
    return call.saturated(product + call.zero_point(call.result), activation=True)


def _quotient(call: Call) -> Array:
    """The quotient; of integers, truncated toward zero."""
    call.together(call[0], call[1])
    if call.quantized:
        return _quantized_quotient(call)
    if call.result.floating:
        return call.activated(call[0] / call[1])
    _check_divisor(call)
    a, b = call[0].astype(np.int64), call[1].astype(np.int64)
    return call.activated(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)))


def _quantized_quotient(call: Call) -> Array:
    """The dividend, shifted to 31 bits, times the divisor's reciprocal in 31 bits, times the scales' quotient."""
    a, b = np.broadcast_arrays(call.integers(0), call.integers(1))
    if not b.all():
        raise call.refuse("divides by zero")
    a, b = a * np.sign(b), np.abs(b)
    # DivElementwise (kernels/internal/reference/div.h). CountLeadingSignBits leaves the sign's own bit.
    bits = leading_zeros(b)
    room = np.where(a >= 0, leading_zeros(np.maximum(a, 0)), leading_zeros(2 * np.maximum(-a, 1) - 1) + 1) - 1
    by = factor(float(call.scale(0) / (call.scale(1) * call.scale(call.result))))
    quotient = high_product(a << room, reciprocal((b << bits) - 2**31))
    # Beyond 31 the quotient is 0. LiteRT's kernels shift by more than 32 bits have, and some return the largest number.
    right = 31 - bits + room - by.shift
    result = divided(high_product(quotient, by.multiplier), np.where(a == 0, 0, right))
    return call.saturated(result + call.zero_point(call.result), activation=True)


def _check_divisor(call: Call) -> None:
    if not call.source(1).floating and not call[1].all():
        raise call.refuse("divides by zero")


def _floored(merge: _Pair) -> Kernel:
    """FLOOR_DIV or FLOOR_MOD, whose result has the divisor's sign."""

    def compute(call: Call) -> Array:
        call.together(call[0], call[1])
        _plain(call)
        _check_divisor(call)
        return merge(call[0], call[1])

    return compute


def _plain(call: Call) -> None:
    """Refuses quantized tensors of two scales, where the integers alone do not tell the result."""
    parameters = {tensor.quantization for tensor in (*call.sources, call.result) if tensor is not None}
    if call.quantized and len({(item.scales, item.zero_points) for item in parameters if item is not None}) > 1:
        raise call.refuse("has quantized tensors of different scales")


def _extreme(merge: _Pair) -> Kernel:
    """MAXIMUM or MINIMUM; quantized ones have one scale."""

    def compute(call: Call) -> Array:
        call.together(call[0], call[1])
        _plain(call)
        return merge(call[0], call[1])

    return compute


def _squared_difference(call: Call) -> Array:
    call.together(call[0], call[1])
    if not call.quantized:
        return (call[0] - call[1]) ** 2
    # left_shift of kernels/squared_difference.cc.
    a, b, twice = _at_twice_the_larger(call, 7)
    by = factor(twice * twice / float(np.float32(2.0**14) * call.scale(call.result)))
    return call.saturated(multiplied(wrapped((a - b) ** 2), by) + call.zero_point(call.result))


def _power(call: Call) -> Array:
    call.together(call[0], call[1])
    if not call.result.floating and (call[1] < 0).any():
        raise call.refuse("has a negative exponent of integers")
    return np.asarray(np.power(call[0], call[1]))


def _angle(call: Call) -> Array:
    """The angle of (x, y), of which y is input 0; both have one shape."""
    if call.quantized or call[0].shape != call[1].shape:
        raise call.refuse("has operands that are quantized, or of different shapes")
    return np.arctan2(call[0], call[1])


def _sum_of_many(call: Call) -> Array:
    values = [call[index] for index in range(len(call.values))]
    if call.quantized or any(value.shape != values[0].shape for value in values):
        raise call.refuse("has inputs that are quantized, or of different shapes")
    return functools.reduce(np.add, values)


OPERATORS: Mapping[str, Kernel] = {
    "ADD": _sum(np.add),
    "ADD_N": _sum_of_many,
    "ATAN2": _angle,
    "DIV": _quotient,
    "FLOOR_DIV": _floored(np.floor_divide),
    "FLOOR_MOD": _floored(np.mod),
    "MAXIMUM": _extreme(np.maximum),
    "MINIMUM": _extreme(np.minimum),
    "MUL": _product,
    "POW": _power,
    "SQUARED_DIFFERENCE": _squared_difference,
    "SUB": _sum(np.subtract),
}
