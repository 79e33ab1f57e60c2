"""Functions of one number as operators that each read the result of the one before, or as sums of two such chains.

Of a function that is zero on one side of a number, either chain is zero, exactly, wherever the other is not: their
integers, of the same steps, are added without being rounded again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Operator
from edgeconv.emit.tflite.integer._rules import TABLE

_LEAST = 2.0**-100  # in place of numbers that a function has no result for: its images lie beyond any range
_STEEP = 2.0**64  # a float32 number that is above another one of 1e-12 and more is above it by 1 if multiplied by that


class Step(NamedTuple):
    """An operator of one number, or of one and a constant; DIV divides the constant."""

    code: str
    number: float | None = None


class Chain(NamedTuple):
    """Steps to the function's value.

    Attributes:
        steps: in their order.
        gates: whether the steps lead to 0 and 1 instead, by which the number itself is multiplied then.
    """

    steps: tuple[Step, ...]
    gates: bool = False


def chains_of(operator: Operator) -> tuple[Chain, ...]:
    """The chains whose sum an operator of one number computes; none where none are known.

    Args:
        operator: of int8; a look-up states ONNX's operator, and its numbers.
    """
    name = str(operator.options["operator"]) if operator.code == TABLE else operator.code
    if name in _CHAINS:
        return (Chain(_CHAINS[name]),)
    sums = _SUMS.get(name) if operator.code == TABLE else None
    return () if sums is None else sums(operator.options["numbers"])


def computed(steps: tuple[Step, ...], values: Array) -> Array:
    """What the steps make of float32 numbers, in float32."""
    with np.errstate(all="ignore"):
        for step in steps:
            number = () if step.number is None else (np.float32(step.number),)
            values = _NUMPY[step.code](values, *number)
    return values


_NUMPY: Mapping[str, Callable[..., Array]] = {
    "ABS": np.abs,
    "ADD": np.add,
    "COS": np.cos,
    "DIV": lambda x, number: np.divide(number, x),
    "EXP": np.exp,
    "LOG": np.log,
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
    "MUL": np.multiply,
    "RELU": lambda x: np.maximum(x, np.float32(0)),
    "RSQRT": lambda x: np.reciprocal(np.sqrt(x)),
    "SIN": np.sin,
    "SQRT": np.sqrt,
}
_LOG = (Step("MAXIMUM", _LEAST), Step("LOG"))
_CHAINS: Mapping[str, tuple[Step, ...]] = {
    "ABS": (Step("ABS"),),
    "EXP": (Step("EXP"),),
    "LOG": _LOG,
    "RSQRT": (Step("MAXIMUM", _LEAST), Step("RSQRT")),
    "Cos": (Step("COS"),),
    "Log": _LOG,
    "Reciprocal": (Step("ADD", _LEAST), Step("DIV", 1.0)),  # of all numbers the sum moves zero alone
    "Sin": (Step("SIN"),),
    "Softplus": (Step("EXP"), Step("ADD", 1.0), Step("LOG")),
    "Sqrt": (Step("MAXIMUM", 0.0), Step("SQRT")),
}
"""By the operator of TFLite, or by ONNX's of a look-up: operators that every runtime has."""


def _exponential(numbers: Mapping[str, float]) -> tuple[Chain, ...]:
    """Elu, Selu and Celu: scale·(max(x, 0) + alpha·(exp(min(x, 0) / width) - 1))."""
    scale, alpha, width = (numbers[name] for name in ("scale", "alpha", "width"))
    below = (Step("MINIMUM", 0.0), *_times(1 / width), Step("EXP"), Step("ADD", -1.0), *_times(alpha * scale))
    return Chain((Step("RELU"), *_times(scale))), Chain(below)


def _shrink(numbers: Mapping[str, float]) -> tuple[Chain, ...]:
    """Zero within the reach; beyond it the number itself, or by the reach nearer to zero. None of another bias."""
    reach, bias = numbers["lambd"], numbers["bias"]
    if reach < 0 or bias not in (0, reach):
        return ()
    if bias == 0:
        return _threshold({"alpha": reach, "of_magnitude": 1.0})
    return Chain((Step("ADD", -reach), Step("RELU"))), Chain((Step("ADD", reach), Step("MINIMUM", 0.0)))


def _threshold(numbers: Mapping[str, float]) -> tuple[Chain, ...]:
    """The number where it, or its magnitude, is above a limit, and elsewhere a value."""
    limit, value = numbers["alpha"], numbers.get("value", 0.0)
    beyond = (() if limit == 0 else (Step("ADD", -limit),)) + (Step("MUL", _STEEP), Step("RELU"), Step("MINIMUM", 1.0))
    is_above = (Step("ABS"), *beyond) if numbers.get("of_magnitude") else beyond
    number = Chain(is_above, gates=True)
    return (number,) if value == 0 else (number, Chain((*is_above, Step("MUL", -value), Step("ADD", value))))


def _times(factor: float) -> tuple[Step, ...]:
    return () if factor == 1 else (Step("MUL", factor),)


_SUMS: Mapping[str, Callable[[Mapping[str, float]], tuple[Chain, ...]]] = {
    **dict.fromkeys(("Celu", "Elu", "Selu"), _exponential),
    "Shrink": _shrink,
    **dict.fromkeys(("Threshold", "ThresholdedRelu"), _threshold),
}
