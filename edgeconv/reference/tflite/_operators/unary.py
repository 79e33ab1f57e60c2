"""Functions of each element.

Specification: tensorflow/lite/kernels/elementwise.cc, exp.cc, neg.cc, floor.cc, ceil.cc, round.cc, sign.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._fixed_point import Factor, factor, inverse_root, multiplied
from edgeconv.reference.tflite._graph import Array
from edgeconv.reference.tflite._operators._tables import looked_up


def _real(function: Callable[[Array], Array]) -> Kernel:
    """A function of real numbers and plain integers only."""

    def compute(call: Call) -> Array:
        if call.quantized:
            raise call.refuse("of quantized integers is not computed")
        return function(call[0])

    return compute


def _absolute(call: Call) -> Array:
    if not call.quantized:
        return np.abs(call[0])
    magnitude = np.abs(call.integers(0))
    if call.scale(0) != call.scale(call.result):
        magnitude = multiplied(magnitude, factor(float(call.scale(0) / call.scale(call.result))))
    return call.saturated(magnitude + call.zero_point(call.result))


def _negative(call: Call) -> Array:
    """Of quantized numbers only where 0 is the integer 0, in one scale: kernels change the integers' sign alone."""
    if not call.quantized:
        return np.negative(call[0])
    sources = call.source(0).quantization, call.result.quantization
    if sources[0] != sources[1] or call.zero_point(0):
        raise call.refuse("has scales of its own, or a zero point, which kernels ignore")
    low, _ = call.range_of(call.result)
    return np.where(call[0] == low, low, -call[0].astype(np.int64))  # int8(128) is -128


def _exponential(call: Call) -> Array:
    return looked_up(call, np.exp) if call.quantized else np.exp(call[0])


def _logarithm(call: Call) -> Array:
    """Where a quantized input is not positive, the least number that the output holds."""
    if not call.quantized:
        return np.log(call[0])
    low, _ = call.range_of(call.result)
    least = float(np.float32(low - call.zero_point(call.result)) * call.scale(call.result))
    return looked_up(call, lambda x: np.where(x > 0, np.log(np.where(x > 0, x, 1.0)), least))


def _root(call: Call) -> Array:
    """The root; of quantized integers truncated, not rounded, as the kernel does."""
    if not call.quantized:
        return np.sqrt(call[0])
    values = call.scale(0) * call.integers(0).astype(np.float32)
    if (values < 0).any():
        raise call.refuse("has a negative operand")
    # SqrtEvalQuantized of kernels/elementwise.cc casts, and does not round.
    whole = np.trunc(np.sqrt(values) / call.scale(call.result)).astype(np.int64)
    return call.saturated(whole + call.zero_point(call.result))


def _inverse_root(call: Call) -> Array:
    if not call.quantized:
        return np.asarray(1 / np.sqrt(call[0]))
    if call.result.dtype == "int8":
        return _inverse_root_8(call)
    if call.result.dtype != "int16":
        raise call.refuse(f"of quantized {call.result.dtype} is not computed")
    most = float(np.float32(2**15 - 1) * call.scale(call.result))
    return looked_up(call, lambda x: np.where(x > 0, 1 / np.sqrt(np.where(x > 0, x, 1.0)), most))


def _inverse_root_8(call: Call) -> Array:
    """By a fixed-point root of 31 bits; 0 becomes the largest number that the output holds."""
    x = call.integers(0)
    if (x < 0).any():
        raise call.refuse("has a negative operand")
    # RsqrtEvalQuantizedInt8 of kernels/elementwise.cc; kShift bits keep 1 / sqrt an integer.
    root = inverse_root(x)
    whole = multiplied(np.ones_like(x), Factor(root.multiplier, root.shift + 20))
    scale = factor(1.0 / float(np.sqrt(call.scale(0)) * call.scale(call.result)))
    result = multiplied(whole, Factor(scale.multiplier, scale.shift - 20)) + call.zero_point(call.result)
    return np.where(x == 0, call.range_of(call.result)[1], call.saturated(result))


OPERATORS: Mapping[str, Kernel] = {
    "ABS": _absolute,
    "CEIL": _real(np.ceil),
    "COS": _real(np.cos),
    "EXP": _exponential,
    "FLOOR": _real(np.floor),
    "LOG": _logarithm,
    "NEG": _negative,
    "ROUND": _real(np.round),  # ties to even
    "RSQRT": _inverse_root,
    "SIGN": _real(np.sign),
    "SIN": _real(np.sin),
    "SQRT": _root,
    "SQUARE": _real(np.square),
}
