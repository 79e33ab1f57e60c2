"""The functions that runtimes approximate, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeconv.parity.bounds._arithmetic import Array

_erf = np.frompyfunc(math.erf, 1, 1)


@dataclass(frozen=True)
class Function:
    """A function of real numbers.

    Attributes:
        value: in float64.
        monotone: around an operand, it changes most at the ends of the interval. Any other function here has slopes
            from -1 to 1, and does not enlarge an error.
        grows: exponentially, so that kernels overflow shortly before the exact value does.
    """

    value: Callable[[Array], Array]
    monotone: bool = True
    grows: bool = False


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def erf(x: Array) -> Array:
    """The error function."""
    return np.asarray(_erf(x), np.float64)


FUNCTIONS: Mapping[str, Function] = {
    "acos": Function(np.arccos),
    "acosh": Function(np.arccosh),
    "asin": Function(np.arcsin),
    "asinh": Function(np.arcsinh),
    "atan": Function(np.arctan),
    "atanh": Function(np.arctanh),
    "cos": Function(np.cos, monotone=False),
    "cosh": Function(np.cosh, grows=True),
    "erf": Function(erf),
    "exp": Function(np.exp, grows=True),
    "expm1": Function(np.expm1, grows=True),
    "log": Function(np.log),
    "rsqrt": Function(lambda x: 1 / np.sqrt(x)),
    "sigmoid": Function(sigmoid),
    "sin": Function(np.sin, monotone=False),
    "sinh": Function(np.sinh, grows=True),
    "softplus": Function(lambda x: np.logaddexp(x, 0.0)),
    "sqrt": Function(np.sqrt),
    "tan": Function(np.tan),
    "tanh": Function(np.tanh),
}
