"""Arithmetic, element by element: operands are brought to the dtype of torch's result first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Operand, Unsupported, sizes_of


def unary(op_type: str) -> Entry:
    """An elementwise operator of ONNX that computes what torch does, in the dtype of torch's result."""

    def entry(b: Builder, x: ir.Value) -> ir.Value:
        return b.add(op_type, b.cast(x, b.dtype))

    return entry


def binary(op_type: str) -> Entry:
    """A broadcasting operator of ONNX, in the dtype of torch's result; of booleans the same in logic (``_LOGIC``)."""

    def entry(b: Builder, x: Operand, other: Operand) -> ir.Value:
        named = _LOGIC[op_type] if b.dtype is ir.DataType.BOOL else op_type
        return b.add(named, b.tensor(x), b.tensor(other))

    return entry


def add(b: Builder, x: Operand, other: Operand, alpha: float) -> ir.Value:
    """x + alpha · other: Add; of booleans Or."""
    return _sum(b, "Add", x, other, alpha)


def sub(b: Builder, x: Operand, other: Operand, alpha: float) -> ir.Value:
    """x - alpha · other: Sub; of booleans refused, as torch refuses it."""
    return _sum(b, "Sub", x, other, alpha)


def rsub(b: Builder, x: Operand, other: Operand, alpha: float) -> ir.Value:
    """other - alpha · x: Sub."""
    return _sum(b, "Sub", other, x, alpha)


def _sum(b: Builder, op_type: str, x: Operand, other: Operand, alpha: float) -> ir.Value:
    if b.dtype is ir.DataType.BOOL:
        if op_type not in _LOGIC or alpha != 1:
            raise Unsupported("arithmetic of booleans")
        return b.add(_LOGIC[op_type], b.tensor(x), b.tensor(other))
    term = b.tensor(other)
    if alpha != 1:
        term = b.add("Mul", term, b.scalar(alpha))
    return b.add(op_type, b.tensor(x), term)


def divide(b: Builder, x: Operand, other: Operand, rounding_mode: str | None = None) -> ir.Value:
    """The quotient: exact, truncated (``trunc``) or rounded down (``floor``): Div, then Sign · Floor(Abs) or Floor.

    ONNX's Div of integers truncates (specification of Div), so that only ``floor`` needs a correction there.
    """
    dividend, divisor = b.tensor(x), b.tensor(other)
    quotient = b.add("Div", dividend, divisor)
    if rounding_mode == "floor" and not b.dtype.is_floating_point():
        return _floored(b, quotient, dividend, divisor)
    if rounding_mode is None or not b.dtype.is_floating_point():
        return quotient
    if rounding_mode == "floor":
        return b.add("Floor", quotient)
    return trunc(b, quotient)


def _floored(b: Builder, quotient: ir.Value, dividend: ir.Value, divisor: ir.Value) -> ir.Value:
    """Rounds a truncated quotient of integers down: one less where remainder and divisor differ in sign.

    The shorter (dividend - Mod) / divisor would overflow near the lower end of the type.
    """
    # For unsigned integers truncation rounds down.
    if divisor.dtype is ir.DataType.UINT8:
        return quotient
    remaining = b.add("Sub", dividend, b.add("Mul", quotient, divisor))
    signs = b.add("Mul", b.add("Sign", remaining), b.add("Sign", divisor))
    is_above = b.add("Less", signs, b.scalar(0, quotient.dtype), dtype=ir.DataType.BOOL)
    return b.add("Sub", quotient, b.add("Cast", is_above, dtype=quotient.dtype, to=int(quotient.dtype or b.dtype)))


def shift_left(b: Builder, x: Operand, other: Operand) -> ir.Value:
    """x << n as a product with a power of 2, in int64, as ONNX's BitShift takes unsigned integers only.

    For a negative n, or n of all bits or more, the result is 0, as in torch.
    """
    bits = int(8 * b.dtype.itemsize)
    # The last element is for all other exponents: their product is 0.
    powers = np.array([1 << place for place in range(bits)] + [0], np.uint64).astype(np.int64)
    return b.cast(b.add("Mul", b.tensor(x, _INT64), _power_of_2(b, other, powers, bits)), b.dtype)


def shift_right(b: Builder, x: Operand, other: Operand) -> ir.Value:
    """x >> n as a quotient by a power of 2, rounded down, in int64, as ONNX's BitShift takes unsigned integers only.

    For a negative n, or n of all bits or more, the result is 0 or -1 by the sign of x, as in torch.
    """
    bits, value = int(8 * b.dtype.itemsize), b.tensor(x, _INT64)
    powers = np.array([1 << min(place, _LARGEST_POWER) for place in range(bits + 1)], np.int64)
    power = _power_of_2(b, other, powers, bits)
    shifted = _floored(b, b.add("Div", value, power), value, power)
    if bits > _LARGEST_POWER:  # int64 has no 2⁶³: divide by 2⁶², then by 2
        beyond = _power_of_2(b, other, np.array([1] * (_LARGEST_POWER + 1) + [2, 2], np.int64), bits)
        shifted = _floored(b, b.add("Div", shifted, beyond), shifted, beyond)
    return b.cast(shifted, b.dtype)


def _power_of_2(b: Builder, exponent: Operand, powers: npt.NDArray[np.int64], beyond: int) -> ir.Value:
    """The element of a table of powers at an exponent; for exponents below 0 and from `beyond` on, the last one."""
    if not isinstance(exponent, ir.Value):
        within = 0 <= exponent < beyond
        return b.constant(np.array(powers[int(exponent) if within else beyond]))
    places = b.cast(exponent, _INT64)
    limit = b.scalar(beyond, _INT64)
    places = b.add(
        "Where", b.add("Less", places, b.scalar(0, _INT64), dtype=ir.DataType.BOOL), limit, places, dtype=_INT64
    )
    places = b.add("Min", places, limit)
    return b.add("Gather", b.constant(powers), places, shape=sizes_of(places), axis=0)


def remainder(b: Builder, x: Operand, other: Operand) -> ir.Value:
    """x - floor(x / other) · other, with the sign of the divisor, as in Python: Mod of integers; of floats written out.

    ONNX's Mod of floats has the sign of the dividend (``fmod=1``) only.
    """
    if not b.dtype.is_floating_point():
        # ONNX, Mod: with fmod=0, which is for integers alone, the sign is the divisor's.
        return b.add("Mod", b.tensor(x), b.tensor(other), fmod=0)
    divisor, dividend = b.tensor(other), b.tensor(x)
    whole = b.add("Floor", b.add("Div", dividend, divisor))
    return b.add("Sub", dividend, b.add("Mul", whole, divisor))


def fmod(b: Builder, x: Operand, other: Operand) -> ir.Value:
    """The remainder with the sign of the dividend, as in C: Mod with ``fmod=1``."""
    return b.add("Mod", b.tensor(x), b.tensor(other), fmod=1)


def trunc(b: Builder, x: ir.Value) -> ir.Value:
    """The integer part, towards zero, which ONNX lacks: Sign · Floor(Abs)."""
    return b.add("Mul", b.add("Sign", x), b.add("Floor", b.add("Abs", x)))


def power(b: Builder, x: Operand, exponent: Operand) -> ir.Value:
    """x to the power of the exponent, either of them a number or a tensor: Pow."""
    return b.add("Pow", b.tensor(x), b.tensor(exponent))


def square(b: Builder, x: ir.Value) -> ir.Value:
    """x · x: Mul."""
    return b.add("Mul", x, x)


def rsqrt(b: Builder, x: ir.Value) -> ir.Value:
    """1 / sqrt(x): Sqrt and Reciprocal."""
    return b.add("Reciprocal", b.add("Sqrt", b.cast(x, b.dtype)))


def expm1(b: Builder, x: ir.Value) -> ir.Value:
    """exp(x) - 1 as Exp and Sub, which the emitters write such that nothing of a small x is lost."""
    return b.add("Sub", b.add("Exp", b.cast(x, b.dtype)), b.scalar(1))


def log1p(b: Builder, x: ir.Value) -> ir.Value:
    """ln(1 + x) as Add and Log, which the emitters write such that nothing of a small x is lost."""
    return b.add("Log", b.add("Add", b.cast(x, b.dtype), b.scalar(1)))


def logarithm(base: float) -> Entry:
    """ln(x) / ln(base), by the natural logarithm of the base: ONNX has no log2 and no log10."""

    def entry(b: Builder, x: ir.Value) -> ir.Value:
        return b.add("Div", b.add("Log", b.cast(x, b.dtype)), b.scalar(base))

    return entry


def exp2(b: Builder, x: ir.Value) -> ir.Value:
    """2 to the power of x: Pow."""
    return b.add("Pow", b.scalar(2), b.cast(x, b.dtype))


def hypot(b: Builder, x: Operand, other: Operand) -> ir.Value:
    """sqrt(x² + other²) as larger · sqrt(1 + (smaller / larger)²), whose squares neither overflow nor underflow.

    An infinite operand gives infinity, whatever the other is (IEEE 754-2019, 9.2.1); two zeros give 0, without 0 / 0.
    """
    sizes = [b.add("Abs", b.tensor(x)), b.add("Abs", b.tensor(other))]
    larger, smaller = b.add("Max", *sizes), b.add("Min", *sizes)
    is_zero = b.add("Equal", larger, b.scalar(0.0), dtype=ir.DataType.BOOL)
    is_infinite = b.add("Or", *(_is_infinite(b, size) for size in sizes), dtype=ir.DataType.BOOL)
    is_end = b.add("Or", is_zero, is_infinite, dtype=ir.DataType.BOOL)
    ratio = b.add("Div", smaller, b.add("Where", is_end, b.scalar(1.0), larger, dtype=b.dtype))
    length = b.add("Sqrt", b.add("Add", b.add("Mul", ratio, ratio), b.scalar(1.0)))
    inner = b.add("Mul", larger, length)
    return b.add("Where", is_infinite, b.scalar(math.inf), inner, dtype=b.dtype)


def _is_infinite(b: Builder, size: ir.Value) -> ir.Value:
    return b.add("Equal", size, b.scalar(math.inf), dtype=ir.DataType.BOOL)


def finite_of(op_type: str) -> Entry:
    """The larger or smaller of two, and the other where one is NaN: Max or Min of operands without NaN."""

    def entry(b: Builder, x: Operand, other: Operand) -> ir.Value:
        if not b.dtype.is_floating_point():
            return b.add(op_type, b.tensor(x), b.tensor(other))
        values = []
        pair = b.tensor(x), b.tensor(other)
        for value, instead in (pair, pair[::-1]):
            missing = b.add("IsNaN", value, dtype=ir.DataType.BOOL)
            values.append(b.add("Where", missing, instead, value, dtype=b.dtype))
        return b.add(op_type, *values)

    return entry


def copysign(b: Builder, x: Operand, other: Operand) -> ir.Value:
    """|x| with the sign of the other operand. A zero shows its sign in its reciprocal, which is -inf of -0."""
    sign = b.tensor(other)
    is_zero = b.add("Equal", sign, b.scalar(0.0), dtype=ir.DataType.BOOL)
    nonzero = b.add("Where", is_zero, b.add("Reciprocal", sign), sign, dtype=b.dtype)
    is_negative = b.add("Less", nonzero, b.scalar(0.0), dtype=ir.DataType.BOOL)
    size = b.add("Abs", b.tensor(x))
    return b.add("Where", is_negative, b.add("Neg", size), size, dtype=b.dtype)


def addcmul(b: Builder, x: ir.Value, tensor1: ir.Value, tensor2: ir.Value, value: float) -> ir.Value:
    """x + value · tensor1 · tensor2: Mul and Add."""
    return _sum(b, "Add", x, b.add("Mul", b.tensor(tensor1), b.tensor(tensor2)), value)


def addcdiv(b: Builder, x: ir.Value, tensor1: ir.Value, tensor2: ir.Value, value: float) -> ir.Value:
    """x + value · tensor1 / tensor2: Div, Mul and Add."""
    return _sum(b, "Add", x, b.add("Div", b.tensor(tensor1), b.tensor(tensor2)), value)


def lerp(b: Builder, x: ir.Value, end: ir.Value, weight: Operand) -> ir.Value:
    """x + weight · (end - x): Sub, Mul and Add.

    For weights from 1/2 on torch starts at the other end, which differs by rounding only.
    """
    return b.add("Add", x, b.add("Mul", b.tensor(weight), b.add("Sub", end, x)))


# torch adds booleans by "or" and multiplies them by "and"; ONNX's arithmetic takes no booleans.
_LOGIC = {"Add": "Or", "Max": "Or", "Min": "And", "Mul": "And"}
_INT64 = ir.DataType.INT64
_LARGEST_POWER = 62  # of 2, in int64
# Overloads of both shifts: ``aten.__lshift__.Scalar``, ``aten.bitwise_left_shift.Tensor``, ….
_SHIFTS = (
    *(f"aten.__{{0:.1}}shift__.{overload}" for overload in ("Scalar", "Tensor")),
    *(f"aten.bitwise_{{0}}_shift.{overload}" for overload in ("Tensor", "Tensor_Scalar", "Scalar_Tensor")),
)

UNARY = {
    "neg": "Neg", "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "erf": "Erf", "floor": "Floor",
    "ceil": "Ceil", "round": "Round", "sign": "Sign", "reciprocal": "Reciprocal", "sin": "Sin", "cos": "Cos",
    "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh",
    "acosh": "Acosh", "atanh": "Atanh",
}  # fmt: skip

TABLE: Mapping[str, Entry] = {
    **{f"aten.{name}.default": unary(op_type) for name, op_type in UNARY.items()},
    "aten.add.Tensor": add,
    "aten.add.Scalar": add,
    "aten.sub.Tensor": sub,
    "aten.sub.Scalar": sub,
    "aten.subtract.Tensor": sub,
    "aten.rsub.Tensor": rsub,
    "aten.rsub.Scalar": rsub,
    "aten.mul.Tensor": binary("Mul"),
    "aten.mul.Scalar": binary("Mul"),
    "aten.multiply.Tensor": binary("Mul"),
    "aten.div.Tensor": divide,
    "aten.div.Scalar": divide,
    "aten.true_divide.Tensor": divide,
    "aten.div.Tensor_mode": divide,
    "aten.div.Scalar_mode": divide,
    "aten.floor_divide.default": partial(divide, rounding_mode="floor"),
    **{name.format("left"): shift_left for name in _SHIFTS},
    **{name.format("right"): shift_right for name in _SHIFTS},
    "aten.remainder.Tensor": remainder,
    "aten.remainder.Scalar": remainder,
    "aten.fmod.Tensor": fmod,
    "aten.fmod.Scalar": fmod,
    "aten.trunc.default": trunc,
    "aten.pow.Tensor_Scalar": power,
    "aten.pow.Tensor_Tensor": power,
    "aten.pow.Scalar": power,
    "aten.maximum.default": binary("Max"),
    "aten.minimum.default": binary("Min"),
    "aten.max.other": binary("Max"),
    "aten.min.other": binary("Min"),
    "aten.square.default": square,
    "aten.rsqrt.default": rsqrt,
    "aten.expm1.default": expm1,
    "aten.log1p.default": log1p,
    "aten.log2.default": logarithm(0.6931471805599453),  # ln 2
    "aten.log10.default": logarithm(2.302585092994046),  # ln 10
    "aten.exp2.default": exp2,
    "aten.hypot.default": hypot,
    "aten.fmax.default": finite_of("Max"),
    "aten.fmin.default": finite_of("Min"),
    "aten.copysign.Tensor": copysign,
    "aten.copysign.Scalar": copysign,
    "aten.addcmul.default": addcmul,
    "aten.addcdiv.default": addcdiv,
    "aten.lerp.Scalar": lerp,
    "aten.lerp.Tensor": lerp,
}
