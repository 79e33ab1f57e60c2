"""The arithmetic that a runtime computes in: formats of numbers, and how accurate its functions are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeconv.core.blocks import by_blocks, is_any
from edgeconv.core.values import one_of
from edgeconv.errors import ParityError

Array = npt.NDArray[Any]
RUNTIMES = ("any", "onnxruntime", "xnnpack", "tflite")
FORMATS = ("float32", "float16")


def is_zero(error: Array) -> bool:
    """Whether an error is a single 0, which sums need not be formed with."""
    return not error.ndim and not error


@dataclass(frozen=True)
class Accuracy:
    """How far a runtime's function of an exact operand may lie from the exact value.

    Attributes:
        relative: in units of u times the value.
        absolute: in units of u.
        lowest: the smallest magnitude of an operand that the kernel is made for.
        highest: the largest; beyond these two, any value is possible.
        argument: of a function that reduces its operand by a period: relative error of that, in units of u.
    """

    relative: float
    absolute: float = 0.0
    lowest: float = 0.0
    highest: float = math.inf
    argument: float = 0.0


# By function and runtime; where a runtime has no entry, the largest of the others counts. No runtime states these but
# XNNPACK, whose tests allow what its kernels must keep (test/unary-ops.h). Measured on every 1021st of all 2^32 float32
# operands, x86-64 with AVX-512, ONNX Runtime 1.32 and LiteRT 2.3, and doubled; what XNNPACK allows where that is more
# and no number in 0 to 1 would lose its meaning. tests/parity/test_bounds_functions.py measures again.
ACCURACY: Mapping[str, Mapping[str, Accuracy]] = {
    # XNNPACK's rounds x log2(e) once, so that it is off by |x| u of itself, and overflows from 88.38 on, where
    # `Bounded.function` allows infinity in the last binade.
    "exp": {"onnxruntime": Accuracy(3), "xnnpack": Accuracy(5, argument=2.5), "tflite": Accuracy(3)},
    "expm1": {"onnxruntime": Accuracy(3, 3), "xnnpack": Accuracy(4), "tflite": Accuracy(4)},
    "tanh": {"onnxruntime": Accuracy(10), "xnnpack": Accuracy(9), "tflite": Accuracy(13)},
    # MLAS clamps its operand to 18, TFLite's reference kernel takes exp(x) below -9: absolute errors.
    "sigmoid": {
        "onnxruntime": Accuracy(2, 3),
        "xnnpack": Accuracy(9, highest=2.0**90),
        "tflite": Accuracy(17, 1),
    },
    # XNNPACK and TFLite have it inside of GELU alone; measured there, as an error of 1 + erf.
    "erf": {"onnxruntime": Accuracy(3), "xnnpack": Accuracy(4, 4), "tflite": Accuracy(4, 1)},
    "log": {"onnxruntime": Accuracy(8), "xnnpack": Accuracy(4, 4, highest=2.0**127), "tflite": Accuracy(3)},
    "sin": {"onnxruntime": Accuracy(6), "xnnpack": Accuracy(0, 20, argument=2.0**-13), "tflite": Accuracy(3)},
    "cos": {"onnxruntime": Accuracy(6), "xnnpack": Accuracy(0, 20, argument=2.0**-13), "tflite": Accuracy(3)},
    # Rounded correctly by IEEE 754; XNNPACK promises 2 eps, for processors that only estimate it.
    "sqrt": {"onnxruntime": Accuracy(1), "xnnpack": Accuracy(4, highest=2.0**126), "tflite": Accuracy(1)},
    # XNNPACK's gives no number at 0, and, as its sqrt and log do, a wrong one for the largest operands.
    "rsqrt": {
        "onnxruntime": Accuracy(3),
        "xnnpack": Accuracy(4, lowest=2.0**-126, highest=2.0**126),
        "tflite": Accuracy(3),
    },
    "softplus": {"onnxruntime": Accuracy(10)},
    "pow": {"onnxruntime": Accuracy(4), "tflite": Accuracy(4)},
    "atan2": {"tflite": Accuracy(4)},
    "tan": {"onnxruntime": Accuracy(4)},
    "asin": {"onnxruntime": Accuracy(13)},
    "acos": {"onnxruntime": Accuracy(9)},
    "atan": {"onnxruntime": Accuracy(9)},
    "sinh": {"onnxruntime": Accuracy(5)},
    "cosh": {"onnxruntime": Accuracy(5)},
    "asinh": {"onnxruntime": Accuracy(5)},
    "acosh": {"onnxruntime": Accuracy(5)},
    "atanh": {"onnxruntime": Accuracy(5)},
}


@dataclass(frozen=True)
class Arithmetic:
    """What an operator is computed in.

    Attributes:
        storage: of results: ``float32`` or ``float16``.
        inner_storage: of the results inside of an operator that a runtime computes by its function body; those of
            `storage` where it is empty. A runtime may hand a result on before it is rounded, and round the inner ones.
        compute: of every step inside of an operator, sums among them: of float16 files ``float32`` where the runtime
            computes in float32 and rounds the result once, ``float16`` where it adds up in float16.
        runtime: whose functions and integer kernels: ``onnxruntime``, ``xnnpack`` (LiteRT by default), ``tflite``
            (LiteRT's built-in kernels, its reference kernels among them), or ``any``: the widest of all.
        winograd: the output tile of a fast convolution F(m x m, 3 x 3): 2 or 4; 0 for direct ones. The docstring of
            `edgeconv.parity.bounds` says which runtime has which.
        flushes: whether numbers below the smallest normal one may become 0.
        deviations: lambda of the likely bound (Higham and Mary 2019): a sum of n terms leaves it with a probability
            below 2 n exp(-lambda^2 / 2).

    Raises:
        ParityError: an unknown format, runtime or tile.
    """

    storage: str = "float32"
    compute: str = "float32"
    runtime: str = "any"
    winograd: int = 0
    flushes: bool = True
    deviations: float = 6.0
    inner_storage: str = ""

    def __post_init__(self) -> None:
        one_of(self.storage, "storage", FORMATS, ParityError)
        one_of(self.compute, "compute", FORMATS, ParityError)
        one_of(self.inner_storage, "inner_storage", ("", *FORMATS), ParityError)
        one_of(self.runtime, "runtime", RUNTIMES, ParityError)
        if self.winograd not in (0, 2, 4):
            raise ParityError(f"it is {self.winograd}", where="winograd", hint="choose of 0, 2, 4")

    @property
    def unit(self) -> float:
        """Unit roundoff u of the steps: 2^-24 for float32, 2^-11 for float16."""
        return float(np.finfo(self.compute).eps) / 2

    @property
    def smallest_normal(self) -> float:
        """The smallest normal number; functions are flushed to 0 below, or clamped, by all runtimes."""
        return float(np.finfo(self.compute).smallest_normal)

    @property
    def least(self) -> float:
        """Absolute error of a step whose result is tiny: the smallest normal number, or the smallest of all."""
        return self.smallest_normal if self.flushes else float(np.finfo(self.compute).smallest_subnormal)

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return float(np.finfo(self.compute).max)

    def flushed(self, values: Array) -> Array:
        """What becomes of numbers that are read as 0: their magnitude, where they are below the smallest normal one.

        A single 0 where there are none of these: weights of a gigabyte would have two more of zeros.
        """
        if not is_any(self._is_flushed, values):
            return np.zeros(())
        (errors,) = by_blocks(lambda block: (np.where(self._is_flushed(block), np.abs(block), 0.0),), values)
        return errors

    def read(self, values: Array) -> Array:
        """Real numbers as a step that flushes reads them, see `flushed`; the same array where none becomes 0."""
        if values.dtype.kind != "f" or not is_any(self._is_flushed, values):
            return values
        return np.where(self._is_flushed(values), np.zeros((), values.dtype), values)

    def _is_flushed(self, values: Array) -> Array:
        """Where numbers other than 0 are read as 0."""
        magnitude = np.abs(values)
        return np.asarray((magnitude < (self.smallest_normal if self.flushes else 0.0)) & (magnitude > 0))

    def accuracy(self, function: str) -> Accuracy:
        """How accurate a function is on the runtime."""
        stated = ACCURACY[function]
        if self.runtime in stated:
            return stated[self.runtime]
        rows = stated.values()
        return Accuracy(
            max(row.relative for row in rows),
            max(row.absolute for row in rows),
            max(row.lowest for row in rows),
            min(row.highest for row in rows),
            max(row.argument for row in rows),
        )

    def summed(
        self, total: Array, magnitude: Array, count: Array | float, spread: Array | float
    ) -> tuple[Array, Array]:
        """Rounding of a sum in any order: worst and likely.

        Each of the n - 1 additions rounds a partial sum, and none of these is larger than the positive or the negative
        terms together (Higham, ch. 4: |error| <= u * sum of the partial sums' magnitudes).

        Args:
            total: the exact sum.
            magnitude: the sum of the terms' magnitudes, their own errors included.
            count: the number of terms n.
            spread: the sum of the terms' own errors.
        """
        u, additions = self.unit, np.maximum(np.asarray(count, np.float64) - 1, 0)
        # max(P, N) of the package's docstring: P + N is the magnitude, P - N the total.
        partial = magnitude + np.abs(total)
        partial = (partial if is_zero(np.asarray(spread)) else partial + spread) * 0.5
        ratio = additions * u
        # Beyond the first order: a rounded partial sum may itself be larger than the exact one.
        growth = np.where(ratio < 1, 1 + 2 * ratio / (1 - np.minimum(ratio, 0.999)), np.inf)
        worst = partial * (np.where(ratio < 1, ratio, np.inf) * growth) + additions * self.least
        # Higham and Mary (2019), theorem 2.4: exp(lambda sqrt(n) u + n u^2 / (1 - u)) - 1.
        exponent = self.deviations * np.sqrt(additions) * u + additions * u * u / (1 - u)
        likely = partial * (np.expm1(exponent) * (1 + 2 * exponent)) + additions * self.least
        return worst, np.minimum(likely, worst)


FLOAT32 = Arithmetic()
FLOAT16 = Arithmetic("float16", "float16")
