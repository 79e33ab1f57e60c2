"""Arithmetic, comparison, logic and casts: element by element, with numpy's broadcasting.

Specification: section "Broadcasting in ONNX", and the pages of the operators. Integers divide towards zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import torch

from edgeconv.reference._call import Call, Operator, Tensor, each, pair
from edgeconv.reference._dtypes import held_as, wrapped


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of any number of inputs (Max, Sum)."""
    return lambda call: functools.reduce(function, call.tensors())


def _divide(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point():
        return a / b
    return torch.where(b == -1, -a, torch.div(a, _divisor(b), rounding_mode="trunc"))


def _divisor(b: Tensor) -> Tensor:
    """A divisor of integers with 1 for -1, which the caller handles: the smallest integer by -1 is a hardware fault.

    Raises:
        ZeroDivisionError: there is a 0 in it, which is such a fault as well.
    """
    if bool((b == 0).any()):
        raise ZeroDivisionError("an integer is divided by zero")
    return torch.where(b == -1, torch.ones_like(b), b)


def _power(a: Tensor, b: Tensor) -> Tensor:
    """Pow: the result has the dtype of the base; integers are computed as integers.

    Raises:
        ZeroDivisionError: an integer is taken to a negative power, which divides 1 by what may be 0.
    """
    if not a.is_floating_point() and bool((b < 0).any()):
        raise ZeroDivisionError("an integer is taken to a negative power")
    if b.numel() == 1 and a.is_floating_point():
        exponent = b.item()  # for a scalar exponent of 2 or 0.5, torch computes an exact product or root
        return torch.pow(a, exponent).expand(np.broadcast_shapes(a.shape, b.shape))
    return torch.pow(a, b).to(a.dtype)


def _modulo(call: Call) -> Tensor:
    """Mod: the result has the sign of the divisor; with ``fmod``, which floats require, that of the dividend."""
    function = torch.fmod if call.attribute("fmod", 0) else torch.remainder
    if call[0].is_floating_point():
        return function(call[0], call[1])
    return function(call[0], _divisor(call[1]))  # the remainder by 1 is 0, as by -1


def _is_infinite(call: Call) -> Tensor:
    positive = torch.isposinf(call[0]) & bool(call.attribute("detect_positive", 1))
    return positive | (torch.isneginf(call[0]) & bool(call.attribute("detect_negative", 1)))


def _shift(call: Call) -> Tensor:
    x, by = call[0].to(torch.int64), call[1].to(torch.int64)
    shifted = x << by if call.text("direction", "") == "LEFT" else x >> by
    return shifted.to(call[0].dtype)


def _cast(call: Call) -> Tensor:
    """Cast: between floats the identity; floats to integers truncated; to bool "is not zero"."""
    return _as(call, ir.DataType(call.attribute("to", 0)))


def _cast_like(call: Call) -> Tensor:
    like = call.node.inputs[1]
    return call[0].to(call[1].dtype) if like is None or like.dtype is None else _as(call, like.dtype)


def _as(call: Call, dtype: ir.DataType) -> Tensor:
    if dtype.is_floating_point() and dtype.bitwidth < 16:  # a cast to float8 is quantization, not the identity
        raise call.refuse(f"to {dtype.name.lower()} is not known to the reference")
    return wrapped(call[0].to(held_as(dtype)), dtype)


def _mean(call: Call) -> Tensor:
    return functools.reduce(torch.add, call.tensors()) / len(call.values)


OPERATORS: dict[str, Operator] = {
    "Abs": each(torch.abs),
    "Acos": each(torch.acos),
    "Acosh": each(torch.acosh),
    "Add": pair(torch.add),
    "And": pair(torch.logical_and),
    "Asin": each(torch.asin),
    "Asinh": each(torch.asinh),
    "Atan": each(torch.atan),
    "Atanh": each(torch.atanh),
    "BitShift": _shift,
    "BitwiseAnd": pair(torch.bitwise_and),
    "BitwiseNot": each(torch.bitwise_not),
    "BitwiseOr": pair(torch.bitwise_or),
    "BitwiseXor": pair(torch.bitwise_xor),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": each(torch.ceil),
    "Cos": each(torch.cos),
    "Cosh": each(torch.cosh),
    "Div": pair(_divide),
    "Equal": pair(torch.eq),
    "Erf": each(torch.erf),
    "Exp": each(torch.exp),
    "Floor": each(torch.floor),
    "Greater": pair(torch.gt),
    "GreaterOrEqual": pair(torch.ge),
    "IsInf": _is_infinite,
    "IsNaN": each(torch.isnan),
    "Less": pair(torch.lt),
    "LessOrEqual": pair(torch.le),
    "Log": each(torch.log),
    "Max": _fold(torch.maximum),
    "Mean": _mean,
    "Min": _fold(torch.minimum),
    "Mod": _modulo,
    "Mul": pair(torch.mul),
    "Neg": each(torch.neg),
    "Not": each(torch.logical_not),
    "Or": pair(torch.logical_or),
    "Pow": pair(_power),
    "Reciprocal": each(torch.reciprocal),
    "Round": each(torch.round),  # halves to even, as the specification asks
    "Sign": each(torch.sign),
    "Sin": each(torch.sin),
    "Sinh": each(torch.sinh),
    "Sqrt": each(torch.sqrt),
    "Sub": pair(torch.sub),
    "Sum": _fold(torch.add),
    "Tan": each(torch.tan),
    "Where": lambda call: torch.where(call[0], call[1], call[2]),
    "Xor": pair(torch.logical_xor),
}
