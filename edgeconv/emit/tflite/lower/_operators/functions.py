"""Functions of one number that TFLite lacks: hyperbolic ones, their inverses, arcs, exponentials less 1, and more.

Written with its own operators such that small numbers keep all their digits: no difference of nearly equal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.activation import clipped, in_best_form, per_element, read, times

_BOOL = np.dtype(np.bool_)
_WITH_A_SQUARE = 1e18  # in float32, and next to which 1 is nothing


def sinh(low: Lowering, x: Tensor) -> Tensor:
    """Its series below 1, whose next term is 2.5e-8 of it; else the half difference of the exponentials."""
    series = _polynomial(low, low.emit("SQUARE", [x], x.shape), [1 / math.factorial(2 * n + 1) for n in range(5)])
    series = low.emit("MUL", [x, series], x.shape)
    halves = low.emit("SUB", _exponentials(low, x), x.shape)
    return _where(low, "LESS", low.emit("ABS", [x], x.shape), 1.0, series, halves)


def _cosh(low: Lowering, x: Tensor) -> Tensor:
    """1 + d · d / 2 of d = exp(x / 2) - exp(-x / 2): never below 1, where acosh has no number.

    Float16 holds all of its constants. Half of the exponentials of x and -x would be those of x - ln(2), which it does
    not hold: 0.9998 at 0.
    """
    half = times(low, x, 0.5)
    exponentials = [low.emit("EXP", [argument], x.shape) for argument in (half, low.emit("NEG", [half], x.shape))]
    difference = low.emit("SUB", exponentials, x.shape)
    # Halved before it is squared: it overflows no earlier than the result.
    rest = low.emit("MUL", [times(low, difference, 0.5), difference], x.shape)
    return low.emit("ADD", [rest, low.floats(1.0)], x.shape)


def _exponentials(low: Lowering, x: Tensor) -> list[Tensor]:
    """Half of the exponentials of x and -x, halved by their exponents: they overflow no earlier than their sum."""
    shift = low.floats(-math.log(2))
    arguments = [x, low.emit("NEG", [x], x.shape)]
    return [low.emit("EXP", [low.emit("ADD", [argument, shift], x.shape)], x.shape) for argument in arguments]


def _tan(low: Lowering, x: Tensor) -> Tensor:
    # The schema has SIN and COS, and no TAN.
    return low.emit("DIV", [low.emit(code, [x], x.shape) for code in ("SIN", "COS")], x.shape)


def _log1p(low: Lowering, x: Tensor) -> Tensor:
    """ln(1 + x), from -1/2 to 1/2 by a series.

    XNNPACK's LOG has errors of 6e-8 next to 1, whatever is left of it there.
    """
    plain = low.emit("LOG", [low.emit("ADD", [x, low.floats(1.0)], x.shape)], x.shape)
    return _where(low, "LESS", low.emit("ABS", [x], x.shape), 0.5, _log1p_series(low, x), plain)


def _log1p_series(low: Lowering, x: Tensor) -> Tensor:
    """ln(1 + x) from -1/2 to 1: twice the series of the area tangent of s = x / (2 + x).

    The term after its last is 8e-9 of it.
    """
    s = low.emit("DIV", [x, low.emit("ADD", [x, low.floats(2.0)], x.shape)], x.shape)
    series = _polynomial(low, low.emit("SQUARE", [s], x.shape), [2 / (2 * n + 1) for n in range(8)])
    return low.emit("MUL", [s, series], x.shape)


def _expm1(low: Lowering, x: Tensor) -> Tensor:
    """exp(x) - 1 as tanh(x / 2) · (exp(x) + 1), where nothing of a small x is lost."""
    # tanh(x / 2) is (exp(x) - 1) / (exp(x) + 1): for a small x it keeps all digits, and the other factor is near 2.
    tangent = low.emit("TANH", [times(low, x, 0.5)], x.shape)
    above = low.emit("ADD", [low.emit("EXP", [x], x.shape), low.floats(1.0)], x.shape)
    return low.emit("MUL", [tangent, above], x.shape)


def near_zero_of(low: Lowering, value: ir.Value, result: ir.Value, *, is_logarithm: bool) -> None:
    """ln(1 + x) or exp(x) - 1 of a value, for a group of nodes that spell it out."""
    x, form = in_best_form(low, value)
    low.bind(result, form, _log1p(low, x) if is_logarithm else _expm1(low, x))


def softplus(low: Lowering, node: ir.Node) -> None:
    """Softplus ln(1 + eˣ) as relu(x) + ln(1 + exp(-|x|))."""
    x, form = read(low, node)
    # exp(-|x|) lies in (0, 1], so that it cannot overflow, and the series holds.
    opposite = low.emit("NEG", [low.emit("ABS", [x], x.shape)], x.shape)
    rest = _log1p_series(low, low.emit("EXP", [opposite], x.shape))
    low.bind(node.outputs[0], form, low.emit("ADD", [low.emit("RELU", [x], x.shape), rest], x.shape))


def elu(low: Lowering, node: ir.Node) -> None:
    """Elu, Selu and Celu: scale·(max(x, 0) + alpha·(exp(min(x, 0) / width) - 1)).

    Spelled out, because TFLite's ELU has no alpha and LiteRT's reference kernels do not have the operator.
    """
    x, form = read(low, node)
    scale, alpha, width = exponential_numbers(node).values()
    # The two terms are added, so that of each element one has to be zero.
    below = low.emit("MINIMUM", [x, low.floats(0.0)], x.shape)
    below = _expm1(low, times(low, below, 1 / width))
    parts = [times(low, low.emit("RELU", [x], x.shape), scale), times(low, below, alpha * scale)]
    low.bind(node.outputs[0], form, low.emit("ADD", parts, x.shape))


def exponential_numbers(node: ir.Node) -> dict[str, float]:
    """The scale, the alpha and the width of an Elu, Selu or Celu, by name and in this order."""
    # ONNX's defaults of Selu are those of its paper (arXiv 1706.02515, appendix).
    default_alpha, default_scale = (1.6732632423543772, 1.0507009873554805) if node.op_type == "Selu" else (1.0, 1.0)
    alpha = node.attributes.get_float("alpha", default_alpha)
    scale = node.attributes.get_float("gamma", default_scale)
    return {"scale": scale, "alpha": alpha, "width": alpha if node.op_type == "Celu" else 1.0}


def _asinh(low: Lowering, x: Tensor) -> Tensor:
    """ln(1 + |x| + |x|·s / (1 + root(1 + s²))), with the sign of x; s is |x|, kept from an infinite square."""
    size = low.emit("ABS", [x], x.shape)
    bounded = clipped(low, size, -math.inf, _WITH_A_SQUARE)
    square = low.emit("ADD", [low.emit("SQUARE", [bounded], x.shape), low.floats(1.0)], x.shape)
    below = low.emit("ADD", [low.emit("SQRT", [square], x.shape), low.floats(1.0)], x.shape)
    rest = low.emit("MUL", [size, low.emit("DIV", [bounded, below], x.shape)], x.shape)
    positive = _log1p(low, low.emit("ADD", [size, rest], x.shape))
    return _where(low, "LESS", x, 0.0, low.emit("NEG", [positive], x.shape), positive)


def _acosh(low: Lowering, x: Tensor) -> Tensor:
    """ln(1 + t + root(t)·root(t + 2)) of t = x - 1: below 1 no number."""
    t = low.emit("SUB", [x, low.floats(1.0)], x.shape)
    # Not the root of x² - 1: next to 1 that is what rounding left of t, and from 1.8e19 on it is infinite.
    factors = [t, low.emit("ADD", [t, low.floats(2.0)], x.shape)]
    root = low.emit("MUL", [low.emit("SQRT", [factor], x.shape) for factor in factors], x.shape)
    return _log1p(low, low.emit("ADD", [t, root], x.shape))


def _atanh(low: Lowering, x: Tensor) -> Tensor:
    """Half of ln(1 + 2|x| / (1 - |x|)), with the sign of x: beyond 1 of a negative number, which has no logarithm."""
    size = low.emit("ABS", [x], x.shape)
    quotient = low.emit("DIV", [times(low, size, 2.0), low.emit("SUB", [low.floats(1.0), size], x.shape)], x.shape)
    positive = times(low, _log1p(low, quotient), 0.5)
    return _where(low, "LESS", x, 0.0, low.emit("NEG", [positive], x.shape), positive)


_ARC = (
    0.999999986, -0.333330942, 0.19993058, -0.142071588, 0.106547624, -0.0753383864, 0.0430411349, -0.0162840256,
    0.00290379357,
)  # fmt: skip
"""atan(x) / x in powers of x² for x up to 1: the smallest largest error of this degree, 1.4e-8."""


def _atan(low: Lowering, x: Tensor) -> Tensor:
    """A polynomial up to 1; beyond, what is left to a right angle by the reciprocal."""
    size = low.emit("ABS", [x], x.shape)
    # SELECT_V2 computes nothing by itself: quotients of all elements are made, and none may divide by zero.
    inverse = low.emit("DIV", [low.floats(1.0), low.emit("MAXIMUM", [size, low.floats(1.0)], x.shape)], x.shape)
    small = _where(low, "GREATER", size, 1.0, inverse, size)
    arc = low.emit("MUL", [small, _polynomial(low, low.emit("SQUARE", [small], x.shape), _ARC)], x.shape)
    arc = _where(low, "GREATER", size, 1.0, low.emit("SUB", [low.floats(math.pi / 2), arc], x.shape), arc)
    return _where(low, "LESS", x, 0.0, low.emit("NEG", [arc], x.shape), arc)


def _asin(low: Lowering, x: Tensor) -> Tensor:
    """The arc whose tangent is x / root(1 - x²)."""
    unit = low.floats(1.0)
    # (1 - x)(1 + x), and not 1 - x², whose rounding is all that is left of it next to ±1.
    factors = [low.emit(code, [unit, x], x.shape) for code in ("SUB", "ADD")]
    root = low.emit("SQRT", [low.emit("MUL", factors, x.shape)], x.shape)
    return _atan(low, low.emit("DIV", [x, root], x.shape))


def _acos(low: Lowering, x: Tensor) -> Tensor:
    """Twice the arc whose tangent is root((1 - x) / (1 + x))."""
    unit = low.floats(1.0)
    factors = [low.emit(code, [unit, x], x.shape) for code in ("SUB", "ADD")]
    return times(low, _atan(low, low.emit("SQRT", [low.emit("DIV", factors, x.shape)], x.shape)), 2.0)


_ERROR = (
    (1.12837915, 0.190406394, 0.0527487196, 0.00376561518, 0.000284882914, 2.05009102e-06),
    (1.0, 0.502076014, 0.114109087, 0.0149692133, 0.00116253548, 3.80917633e-05),
)
"""erf(x) / x as a quotient in powers of x², up to `_SATURATED`: the smallest largest relative error, 1.9e-8."""
_SATURATED = 3.92  # from where on float32 has no number between the error function and 1


def _erf(low: Lowering, x: Tensor) -> Tensor:
    # Rounded, the product may be the float behind 1, which no error function reaches.
    return clipped(low, nearly_erf(low, x), -1.0, 1.0)


def nearly_erf(low: Lowering, x: Tensor) -> Tensor:
    """The error function, up to a unit of float32 beyond 1: microcontrollers have no RELU_N1_TO_1."""
    z = clipped(low, x, -_SATURATED, _SATURATED)
    square = low.emit("SQUARE", [z], x.shape)
    quotient = low.emit("DIV", [_polynomial(low, square, part) for part in _ERROR], x.shape)
    return low.emit("MUL", [z, quotient], x.shape)


def _polynomial(low: Lowering, x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """The constant term first; by Horner's rule."""
    partial = low.emit("MUL", [x, low.floats(coefficients[-1])], x.shape)
    for coefficient in coefficients[-2:0:-1]:
        partial = low.emit("MUL", [x, low.emit("ADD", [partial, low.floats(coefficient)], x.shape)], x.shape)
    return low.emit("ADD", [partial, low.floats(coefficients[0])], x.shape)


def _where(low: Lowering, comparison: str, x: Tensor, limit: float, then: Tensor, other: Tensor) -> Tensor:
    condition = low.emit(comparison, [x, low.floats(limit)], x.shape, dtype=_BOOL)
    return low.emit("SELECT_V2", [condition, then, other], x.shape, dtype=then.dtype)


LOWERINGS: dict[str, Lower] = {
    "Acos": per_element(_acos),
    "Acosh": per_element(_acosh),
    "Asin": per_element(_asin),
    "Asinh": per_element(_asinh),
    "Atan": per_element(_atan),
    "Atanh": per_element(_atanh),
    "Cosh": per_element(_cosh),
    "Erf": per_element(_erf),
    "Sinh": per_element(sinh),
    "Tan": per_element(_tan),
    **dict.fromkeys(("Celu", "Elu", "Selu"), elu),
    "Softplus": softplus,
}
