"""Elementwise operators, in the layout that their operands already have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.reference.tflite.as_onnx._site import Attribute, Rule, Site


def _unary(kind: str, **attributes: Attribute) -> Rule:
    return _of_one(lambda site, x: site.node(kind, [x], **attributes))


def _of_one(compute: Callable[[Site, ir.Value], ir.Value]) -> Rule:
    def rule(site: Site) -> None:
        first = site.builder.is_first(site.index(0))
        site.give(compute(site, site.first(0) if first else site[0]), first=first)

    return rule


def _operands(site: Site) -> tuple[list[ir.Value], bool]:
    """All operands in one layout: channels first if one is so already, and the others fit it or are constants."""
    places = range(len(site.call.operator.inputs))
    first = [site.builder.is_first(site.index(at)) for at in places]
    # An operand that broadcasts and is computed would need a Transpose of its own, so all are read as they lie.
    whole = [len(site.result) == 4 and site.shape(at) == site.result for at in places]
    spread = [site.index(at) in site.builder.constants and len(site.shape(at)) in (0, 1, 4) for at in places]
    if not any(first) or not all(a or b for a, b in zip(whole, spread, strict=True)):
        return [site[at] for at in places], False
    return [site.first(at) if whole[at] else _channels(site, at) for at in places], True


def _channels(site: Site, at: int) -> ir.Value:
    """A constant that broadcasts over an image, channels first."""
    shape = site.shape(at)
    if len(shape) == 4:
        return site.weights(at, (0, 3, 1, 2))
    return site[at] if not shape else site.node("Reshape", [site[at], site.sizes([1, shape[0], 1, 1])])


def _together(kind: str, *, fused: bool = False, inverted: bool = False) -> Rule:
    def rule(site: Site) -> None:
        operands, first = _operands(site)
        value = site.node(kind, operands)
        value = site.activated(value) if fused else value
        site.give(site.node("Not", [value]) if inverted else value, first=first)

    return rule


def _squared_difference(site: Site) -> None:
    operands, first = _operands(site)
    difference = site.node("Sub", operands)
    site.give(site.node("Mul", [difference, difference]), first=first)


def _rsqrt(site: Site, x: ir.Value) -> ir.Value:
    return site.node("Reciprocal", [site.node("Sqrt", [x])])


def _logarithm(site: Site, x: ir.Value) -> ir.Value:
    """LOG; for quantized numbers that are not positive, kernels give the least number of the output."""
    call, value = site.call, site.node("Log", [x])
    if not call.quantized:
        return value
    least = (call.range_of(call.result)[0] - call.zero_point(call.result)) * float(call.scale(call.result))
    return site.node("Where", [site.node("Greater", [x, site.number(0.0)]), value, site.number(least)])


def _leaky(site: Site, x: ir.Value) -> ir.Value:
    return site.node("LeakyRelu", [x], alpha=site.call.number("alpha"))


def _gelu(site: Site, x: ir.Value) -> ir.Value:
    return site.node("Gelu", [x], approximate="tanh" if site.call.flag("approximate") else "none")


def _clipped(least: float, most: float) -> Rule:
    return _of_one(lambda site, x: site.clipped(x, least, most))


def _floor_div(site: Site) -> None:
    """FLOOR_DIV. ONNX's Div of integers truncates, so the floored remainder is subtracted first: then it is exact."""
    _plain(site)
    operands, first = _operands(site)
    if site.call.result.floating:
        value = site.node("Floor", [site.node("Div", operands)])
    else:
        remainder = site.node("Mod", operands)
        value = site.node("Div", [site.node("Sub", [operands[0], remainder]), operands[1]])
    site.give(value, first=first)


def _floor_mod(site: Site) -> None:
    """FLOOR_MOD: the sign is the divisor's. ONNX's Mod of floats has that of the dividend, and is corrected."""
    _plain(site)
    operands, first = _operands(site)
    if not site.call.result.floating:
        site.give(site.node("Mod", operands), first=first)
        return
    remainder, zero = site.node("Mod", operands, fmod=1), site.number(0.0)
    signs = [site.node("Less", [value, zero]) for value in (remainder, operands[1])]
    is_off = site.node("And", [site.node("Xor", signs), site.node("Not", [site.node("Equal", [remainder, zero])])])
    site.give(site.node("Where", [is_off, site.node("Add", [remainder, operands[1]]), remainder]), first=first)


def _plain(site: Site) -> None:
    if site.call.quantized:
        raise site.call.refuse("divides quantized integers without their scales, which is not written in ONNX")


def _angle(site: Site) -> None:
    """ATAN2: atan(y / x), plus or minus pi where x is negative; where x is 0, pi / 2 with the sign of y.

    -0 counts as 0, as ONNX cannot test the sign of a zero.
    """
    (y, x), first = _operands(site)
    zero, half, quarter = (site.number(part * math.pi) for part in (0.0, 1.0, 0.5))
    # Atan gives the angles of the right half; those of the left one lie half a turn further, by the sign of y.
    turn = site.node("Where", [site.node("Less", [y, zero]), site.node("Neg", [half]), half])
    angle = site.node("Atan", [site.node("Div", [y, x])])
    turned = site.node("Where", [site.node("Less", [x, zero]), site.node("Add", [angle, turn]), angle])
    upright = site.node("Mul", [site.node("Sign", [y]), quarter])
    site.give(site.node("Where", [site.node("Equal", [x, zero]), upright, turned]), first=first)


def _select(site: Site) -> None:
    """A vector of conditions has one for each slice along the first axis."""
    condition, rank = site[0], len(site.shape(1))
    if len(site.shape(0)) == 1 and rank > 1:
        condition = site.node("Reshape", [condition, site.sizes([-1, *[1] * (rank - 1)])])
    site.give(site.node("Where", [condition, site[1], site[2]]))


def _cast(site: Site, x: ir.Value) -> ir.Value:
    to = ir.DataType.FLOAT if site.call.result.floating else ir.DataType.from_numpy(np.dtype(site.call.result.dtype))
    return site.node("Cast", [x], to=int(to))


def _softmax(site: Site) -> None:
    beta = site.call.number("beta")
    x = site[0] if beta == 1 else site.node("Mul", [site[0], site.number(beta)])
    site.give(site.node("Softmax", [x], axis=-1))


def _dequantize(site: Site) -> None:
    """DEQUANTIZE, QUANTIZE: the same real numbers; a float16 constant stays a constant."""
    index, result = site.index(0), site.call.operator.outputs[0]
    if index in site.builder.constants and site.call.source(0).floating:
        site.builder.constants[result] = site.builder.constants[index]
        return
    first = site.builder.is_first(index)
    site.give(site.first(0) if first else site[0], first=first)


RULES: Mapping[str, Rule] = {
    **{
        name: _unary(kind)
        for name, kind in {
            "ABS": "Abs",
            "CEIL": "Ceil",
            "COS": "Cos",
            "ELU": "Elu",
            "EXP": "Exp",
            "FLOOR": "Floor",
            "HARD_SWISH": "HardSwish",
            "LOGICAL_NOT": "Not",
            "LOGISTIC": "Sigmoid",
            "NEG": "Neg",
            "RELU": "Relu",
            "ROUND": "Round",  # ties to even, in both languages
            "SIGN": "Sign",
            "SIN": "Sin",
            "SQRT": "Sqrt",
            "TANH": "Tanh",
        }.items()
    },
    **{
        name: _together(kind, fused=True)
        for name, kind in {"ADD": "Add", "DIV": "Div", "MUL": "Mul", "SUB": "Sub"}.items()
    },
    **{
        name: _together(kind)
        for name, kind in {
            "ADD_N": "Sum",
            "EQUAL": "Equal",
            "GREATER": "Greater",
            "GREATER_EQUAL": "GreaterOrEqual",
            "LESS": "Less",
            "LESS_EQUAL": "LessOrEqual",
            "LOGICAL_AND": "And",
            "LOGICAL_OR": "Or",
            "MAXIMUM": "Max",
            "MINIMUM": "Min",
            "POW": "Pow",
            "PRELU": "PRelu",
            "SELECT_V2": "Where",
        }.items()
    },
    "ATAN2": _angle,
    "CAST": _of_one(_cast),
    "DEQUANTIZE": _dequantize,
    "FLOOR_DIV": _floor_div,
    "FLOOR_MOD": _floor_mod,
    "GELU": _of_one(_gelu),
    "LEAKY_RELU": _of_one(_leaky),
    "LOG": _of_one(_logarithm),
    "LOG_SOFTMAX": lambda site: site.give(site.node("LogSoftmax", [site[0]], axis=-1)),
    "NOT_EQUAL": _together("Equal", inverted=True),
    "QUANTIZE": _dequantize,
    "RELU6": _clipped(0.0, 6.0),
    "RELU_0_TO_1": _clipped(0.0, 1.0),
    "RELU_N1_TO_1": _clipped(-1.0, 1.0),
    "RSQRT": _of_one(_rsqrt),
    "SELECT": _select,
    "SOFTMAX": _softmax,
    "SQUARE": _of_one(lambda site, x: site.node("Mul", [x, x])),
    "SQUARED_DIFFERENCE": _squared_difference,
}
