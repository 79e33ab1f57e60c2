"""What is told of a result: the exact values, and how far a runtime's may lie from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeconv.errors import ParityError
from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded

_SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)


@dataclass(frozen=True, eq=False)
class Bound:
    """One result of an operator on its own operands.

    Attributes:
        exact: float64 for real numbers, the tensor's integers or booleans else; in the file's layout.
        worst: float64, of the same shape: no correct evaluation lies further away. In the result's own unit: of
            quantized integers in steps. 0 where there is one correct result; infinite where any value is correct,
            infinities and NaN among them (an overflow that a step may have, an operand beyond a kernel's domain).
        likely: the same, at most `worst`: left with the probability that `Arithmetic.deviations` tells.
        saturates: whether a kernel may give the largest number of its sign in place of infinity.
    """

    exact: Array
    worst: Array
    likely: Array
    saturates: bool = False

    def used(self, result: Array, *, likely: bool = False) -> Array:
        """The share of the bound that a runtime's result uses: float64, of the result's shape; correct up to 1.

        Args:
            result: of the runtime.
            likely: of the likely bound.

        Raises:
            ParityError: it has another shape.
        """
        if result.shape != self.exact.shape:
            raise ParityError(f"the result has shape {result.shape}, and its bound {self.exact.shape}")
        bound = self.likely if likely else self.worst
        actual, exact = result.astype(np.float64), self.exact.astype(np.float64)
        with np.errstate(all="ignore"):
            error = np.abs(actual - exact)
            shares = np.divide(error, bound, out=np.zeros(error.shape), where=error != 0)
            if np.isfinite(shares).all():
                return shares
            same = (actual == exact) | (np.isnan(actual) & np.isnan(exact)) | np.isposinf(bound)
            if self.saturates and result.dtype.kind == "f":
                same |= np.isinf(exact) & (actual == np.sign(exact) * np.finfo(result.dtype).max)
            error = np.where(same, 0.0, np.abs(actual - exact))
            return np.where(error == 0, 0.0, np.where(np.isnan(error), np.inf, error) / bound)


def bound_of(exact: Array, bounded: Bounded | None) -> Bound:
    """A result's bound.

    Args:
        exact: of the reference.
        bounded: by a rule; None where nothing is rounded, and only what is below the smallest normal float32 may become
            0: a runtime that flushes does so in a ReLU, too.
    """
    if bounded is None:
        nothing = np.zeros(exact.shape)
        if exact.dtype.kind == "f":
            size = np.abs(exact).astype(np.float64)
            nothing = np.where(size < _SMALLEST_NORMAL, size, 0.0)
        return Bound(exact, nothing, nothing)
    # Float64's own rounding, of both sides: 2^-29 of a step's.
    slack = 1 + 2.0**-20 if exact.dtype.kind == "f" else 1.0
    worst, likely = (
        np.broadcast_to(np.where(np.isnan(error), np.inf, error) * slack, exact.shape)
        for error in (bounded.worst, bounded.likely)
    )
    if exact.dtype.kind == "f":
        infinite = np.isinf(exact)
        worst, likely = (np.where(infinite, 0.0, np.where(np.isnan(exact), np.inf, error)) for error in (worst, likely))
    return Bound(exact, worst, np.minimum(likely, worst))
