"""Activations, in real numbers and in integers.

Specification: tensorflow/lite/kernels/activations.cc. Quantized LOGISTIC, TANH, ELU and GELU go through tables (see
``_tables``); those of 16 bits through one table of the logistic function at multiples of 1/24.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np

from edgeconv.core.blocks import by_blocks
from edgeconv.core.selection import selected
from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._fixed_point import divided, factor, high_product, multiplied, rounded
from edgeconv.reference.tflite._graph import Array
from edgeconv.reference.tflite._operators._tables import looked_up

_erfc = np.frompyfunc(math.erfc, 1, 1)


def _clamp(low: float, high: float) -> Kernel:
    """RELU, RELU6, …; quantized ones may change scale and zero point."""

    def compute(call: Call) -> Array:
        if not call.quantized:
            return np.clip(call[0], low, high)
        by = factor(float(call.scale(0) / call.scale(call.result)))
        values = multiplied(call.integers(0), by) + call.zero_point(call.result)
        least = call.quantize(low)
        most = call.quantize(high) if math.isfinite(high) else call.range_of(call.result)[1]
        return call.saturated(np.minimum(np.maximum(values, least), most))

    return compute


def _leaky(call: Call) -> Array:
    alpha = call.number("alpha")
    if not call.quantized:
        return by_blocks(lambda x: (selected(x > 0, x, x * alpha),), call[0])[0]
    source, result = call.scale(0), call.scale(call.result)
    values = call.integers(0)
    down = factor(float(source * np.float32(alpha) / result))
    negative = multiplied(values, down._replace(multiplier=np.abs(down.multiplier))) * np.sign(down.multiplier)
    scaled = np.where(values >= 0, multiplied(values, factor(float(source / result))), negative)
    return call.saturated(scaled + call.zero_point(call.result))


def _parametric(call: Call) -> Array:
    call.together(call[0], call[1])
    if call.quantized and call.source(1).dtype == "int16":
        raise call.refuse("has slopes of 16 bits, which kernels read as bytes")
    if not call.quantized:
        return selected(call[0] >= 0, call[0], call.real(0) * call.real(1))
    source, alpha, result = call.scale(0), call.scale(1), call.scale(call.result)
    values = call.integers(0)
    product = multiplied(values * call.integers(1), factor(float(source * alpha / result)))
    scaled = np.where(values >= 0, multiplied(values, factor(float(source / result))), product)
    return call.saturated(scaled + call.zero_point(call.result))


def _logistic_of(x: Array) -> Array:
    """The logistic function, without overflow on either side."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _logistic(call: Call) -> Array:
    if not call.quantized:
        return _logistic_of(call[0])
    _check_scale(call, {"int16": 2.0**-15}.get(call.result.dtype, 2.0**-8))
    if call.result.dtype != "int16":
        return looked_up(call, _logistic_of)
    values = _in_q12(call, lowest_shift=0)
    at = _interpolated(np.abs(values), bits=9)
    return np.where(values >= 0, at + (1 << 9), (1 << 25) - at + (1 << 9) - 1) >> 10


def _tanh(call: Call) -> Array:
    if not call.quantized:
        return np.tanh(call[0])
    if call.result.dtype != "int16":
        return looked_up(call, np.tanh)
    _check_scale(call, 2.0**-15)
    values = _in_q12(call, lowest_shift=1)
    at = _interpolated(np.abs(values), bits=8) - (1 << 23)
    return np.where(values >= 0, at + (1 << 7), -at + (1 << 7) - 1) >> 8


def _check_scale(call: Call, scale: float) -> None:
    if call.scale(call.result) != scale:
        raise call.refuse(f"has the output scale {call.scale(call.result)} where kernels take {scale} alone")


def _in_q12(call: Call, *, lowest_shift: int) -> Array:
    """An input of 16 bits times 3 * 4096, rounded: three steps of 1/24 in 9 bits each.

    A scale that is a power of two, 2^-12 (or, for TANH, 2^-11 too), needs no multiplier.
    """
    if call.zero_point(0) or call.zero_point(call.result):
        raise call.refuse("has 16 bits and a zero point")
    # SigmoidPrepare and TanhPrepare of kernels/activations.cc, which take as many bits of the factor as 16 hold.
    fraction, exponent = math.frexp(float(call.scale(0)))
    shift = 12 + exponent - 1
    if fraction == 0.5 and 0 <= shift <= lowest_shift:
        return call[0].astype(np.int64) * (3 << shift)
    # 3 · 4096 is 2^9 · 24: the upper bits count entries of the table, which lie 1/24 apart.
    real, shift = float(call.scale(0)) * 4096.0 * 3.0, 0
    while real <= 32767.0 / 2.0 and shift <= 30:
        real, shift = real * 2, shift + 1
    half = 1 << (shift - 1) if shift else 0
    return (call[0].astype(np.int64) * int(real) + half) >> shift


@functools.cache
def _sigmoids() -> Array:
    """The logistic function at multiples of 1/24, 256 of them, in 16 bits after the point.

    Each is raised by half of what a straight line to its neighbors lacks at the middle, to second order.
    """
    at = _logistic_of(np.arange(256) / 24)
    lacking = at * (1 - at) * (2 * at - 1) / 24**2 / 8
    table = rounded((at + lacking / 2) * 2**16).astype(np.int64)
    # sigmoid_table_uint16 (kernels/internal/common.h) ends with the largest number of 16 bits.
    table[-1] = 2**16 - 1
    table.flags.writeable = False
    return table


def _interpolated(magnitude: Array, *, bits: int) -> Array:
    """The table at a magnitude of which these bits lie between two entries, with as many further bits of result."""
    index = magnitude >> bits
    near = _sigmoids()[np.minimum(index, 254)]
    far = _sigmoids()[np.minimum(index + 1, 255)]
    at = (near << bits) + (magnitude & ((1 << bits) - 1)) * (far - near)
    return np.where(index >= 255, (0x7FFF << 10) if bits == 9 else (0xFFFF << 8), at)


def _hard_swish(call: Call) -> Array:
    """Quantized: x and relu6(x + 3) / 6 in 16 bits each, their product of 15 bits truncated."""
    if not call.quantized:
        return np.asarray(call[0] * np.clip(call[0] + 3, 0, 6) / 6)
    if call.result.dtype == "int16":
        raise call.refuse("of 16 bits is not computed")
    fine = np.float32(np.float32(1 / 128) * call.scale(0))
    output, output_shift = _factor_16(float(fine / call.scale(call.result)))
    gate, gate_shift = _factor_16(float(fine / np.float32(np.float32(3) / np.float32(32768))))
    if output_shift > 0:
        raise call.refuse("has an output scale that no kernel takes")
    # As far up as 16 bits let it, so that what follows loses little (HardSwish in
    # kernels/internal/reference/hard_swish.h).
    values = call.integers(0) * 128
    scaled = _high_product_16(values, output)
    # The last bit of the shift is applied after the product, as in the kernel, so that the same values saturate.
    relu = _saturated_16(values << max(gate_shift - 1, 0)) if gate_shift > 0 else values
    relu = _high_product_16(relu, gate)
    if gate_shift > 0:
        relu = _saturated_16(relu << 1)
    elif gate_shift < 0:
        relu = divided(relu, -gate_shift)
    # From -1 to 1 to 0 to 1, by the mean with 1.
    relu = (relu + (1 << 15)) >> 1
    product = relu * scaled
    whole = np.sign(product) * (np.abs(product) >> 15)
    return call.saturated(divided(whole, -output_shift) + call.zero_point(call.result))


def _factor_16(real: float) -> tuple[int, int]:
    """A real number as `factor` has it, with 15 bits."""
    wide = factor(real)
    return min((int(wide.multiplier) + (1 << 15)) >> 16, 2**15 - 1), int(wide.shift)


def _high_product_16(a: Array, b: int) -> Array:
    """The `high_product` of 16 bits: the same product, 16 bits lower."""
    return high_product(a << 16, b)


def _saturated_16(values: Array) -> Array:
    return np.clip(values, -(2**15), 2**15 - 1)


def _elu(call: Call) -> Array:
    def function(x: Array) -> Array:
        return np.where(x < 0, np.expm1(np.minimum(x, 0.0)), x)

    return looked_up(call, function) if call.quantized else function(call[0])


def _gelu(call: Call) -> Array:
    if call.flag("approximate"):

        def function(x: Array) -> Array:
            return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    else:

        def function(x: Array) -> Array:
            return np.asarray(0.5 * x * np.asarray(_erfc(-x * math.sqrt(0.5)), np.float64))

    return looked_up(call, function) if call.quantized else function(call[0])


OPERATORS: Mapping[str, Kernel] = {
    "ELU": _elu,
    "GELU": _gelu,
    "HARD_SWISH": _hard_swish,
    "LEAKY_RELU": _leaky,
    "LOGISTIC": _logistic,
    "PRELU": _parametric,
    "RELU": _clamp(0.0, math.inf),
    "RELU6": _clamp(0.0, 6.0),
    "RELU_0_TO_1": _clamp(0.0, 1.0),
    "RELU_N1_TO_1": _clamp(-1.0, 1.0),
    "TANH": _tanh,
}
