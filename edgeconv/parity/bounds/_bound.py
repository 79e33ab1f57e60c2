"""The bound of a result: the exact values, and how far a runtime's may lie from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgeconv.errors import ParityError
from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._blocks import BLOCK, by_blocks
from edgeconv.parity.bounds._bounded import Bounded

_SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)


@dataclass(frozen=True)
class Use:
    """How much of a bound a result uses.

    Attributes:
        used: the largest share of the bound that an element uses; correct up to 1.
        error: of that element.
        bound: of that element.
        likely: the largest share of the likely bound.
        widest: the largest bound of an element.
        signal: sum of the squares of the exact values, where both are finite.
        noise: sum of the squares of the errors, likewise.
    """

    used: float = 0.0
    error: float = 0.0
    bound: float = 0.0
    likely: float = 0.0
    widest: float = 0.0
    signal: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True, eq=False)
class Bound:
    """One result of an operator on its own operands.

    Attributes:
        exact: float64 for real numbers, the tensor's integers or booleans else; in the file's layout.
        worst: float64, of the same shape: no correct evaluation lies further away. In the result's own unit: of
            quantized integers in steps. 0 where there is one correct result; infinite where any value is correct,
            infinities and NaN among them (an overflow that a step may have, an operand beyond a kernel's domain).
        likely: the same, at most `worst`: exceeded with the probability that `Arithmetic.deviations` stands for.
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
        self._require_shape(result)
        bound = self.likely if likely else self.worst
        with np.errstate(all="ignore"):
            ceiling = self._ceiling(result)
            return _shares(result.astype(np.float64), self.exact.astype(np.float64), bound, ceiling)

    def use(self, result: Array) -> Use:
        """What a runtime's result uses of the bound, at most and in all.

        Raises:
            ParityError: it has another shape.
        """
        self._require_shape(result)
        arrays = [array.reshape(-1) for array in (result, self.exact, self.worst)]
        arrays.append(arrays[2] if self.likely is self.worst else self.likely.reshape(-1))
        use, ceiling = Use(), self._ceiling(result)
        with np.errstate(all="ignore"):
            for start in range(0, result.size, BLOCK):
                actual, exact, worst, likely = (array[start : start + BLOCK] for array in arrays)
                block = _use(actual, exact, worst, worst if arrays[3] is arrays[2] else likely, ceiling=ceiling)
                most = use if start and block.used <= use.used else block  # the first of equal ones
                use = Use(
                    *(most.used, most.error, most.bound),
                    *(max(use.likely, block.likely), max(use.widest, block.widest)),
                    *(use.signal + block.signal, use.noise + block.noise),
                )
        return use

    def _ceiling(self, result: Array) -> float:
        """What may stand for infinity in a result; NaN where nothing may."""
        return float(np.finfo(result.dtype).max) if self.saturates and result.dtype.kind == "f" else np.nan

    def _require_shape(self, result: Array) -> None:
        if result.shape != self.exact.shape:
            raise ParityError(f"the result has shape {result.shape}, and its bound {self.exact.shape}")


def _use(result: Array, exact: Array, worst: Array, likely: Array, *, ceiling: float) -> Use:
    """Of a block that is not empty."""
    actual, exact = result.astype(np.float64), exact.astype(np.float64)
    error = actual - exact
    signal, noise = float(np.dot(exact, exact)), float(np.dot(error, error))
    if not (np.isfinite(signal) and np.isfinite(noise)):
        finite = np.isfinite(exact) & np.isfinite(actual)
        signal, noise = (float(np.sum(np.square(array[finite]))) for array in (exact, error))
    widest = float(worst.max())
    if not noise and not np.abs(error).max():  # nor is any of them NaN
        return Use(bound=float(worst[0]), widest=widest, signal=signal)
    shares = _shares(actual, exact, worst, ceiling)
    at = int(np.argmax(shares))
    most = float((shares if likely is worst else _shares(actual, exact, likely, ceiling)).max())
    difference = abs(float(actual[at]) - float(exact[at]))
    return Use(float(shares[at]), difference, float(worst[at]), most, widest, signal, noise)


def _shares(actual: Array, exact: Array, bound: Array, ceiling: float) -> Array:
    error = np.abs(actual - exact)
    # The usual case, in which no number is infinite or NaN, with few passes over the array.
    shares = np.divide(error, bound, out=np.zeros(error.shape), where=error != 0)
    if np.isfinite(shares).all():
        return np.asarray(shares)
    same = (actual == exact) | (np.isnan(actual) & np.isnan(exact)) | np.isposinf(bound)
    same |= np.isinf(exact) & (actual == np.sign(exact) * ceiling)
    error = np.where(same, 0.0, error)
    return np.asarray(np.where(error == 0, 0.0, np.where(np.isnan(error), np.inf, error) / bound))


def either(exact: Array, other: Array) -> Bound:
    """The bound of a result beside which another one is just as correct: their distance, of booleans as 0 and 1."""
    with np.errstate(invalid="ignore"):
        distance = np.abs(exact.astype(np.float64) - other.astype(np.float64))
    distance = np.where(np.isnan(distance), 0.0, distance)
    return Bound(exact, distance, distance)


def carried_over(
    results: Sequence[Array], carried: Mapping[int, Bound], evaluate: Callable[[Mapping[int, Array]], Sequence[Array]]
) -> tuple[Bound, ...]:
    """The bounds of an operator that rounds nothing: its results on both ends of its operands' errors.

    That is enough for moves, clamps, minima, maxima and magnitudes, whose results change most at the ends.

    Args:
        results: of the exact operands.
        carried: the operands that have an error, under the keys that `evaluate` knows them by.
        evaluate: the results with this added to each of them.
    """
    errors: list[list[Array]] = []
    is_one = all(bound.worst is bound.likely for bound in carried.values())
    for name in ("worst",) if is_one else ("worst", "likely"):
        ends = [evaluate({key: sign * getattr(bound, name) for key, bound in carried.items()}) for sign in (-1, 1)]
        with np.errstate(invalid="ignore"):
            distances = [
                np.maximum(np.abs(low - result), np.abs(high - result))
                for low, high, result in zip(*ends, results, strict=True)
            ]
        errors.append([np.where(np.isnan(distance), np.inf, distance) for distance in distances])
    return tuple(Bound(*ends) for ends in zip(results, errors[0], errors[-1], strict=True))


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
            (nothing,) = by_blocks(_flushed, exact)
        return Bound(exact, nothing, nothing)
    # Float64's own rounding, of both sides: 2^-29 of a step's.
    slack = 1 + 2.0**-20 if exact.dtype.kind == "f" else 1.0
    operands = (exact, bounded.worst, bounded.likely)
    worst, likely = by_blocks(partial(_bound_of, slack), *map(np.asarray, operands))
    first = np.broadcast_to(worst, exact.shape)
    return Bound(exact, first, first if likely is worst else np.broadcast_to(likely, exact.shape))


def _flushed(exact: Array) -> tuple[Array]:
    size = np.abs(exact).astype(np.float64)
    return (np.where(size < _SMALLEST_NORMAL, size, 0.0),)


def _bound_of(slack: float, exact: Array, worst: Array, likely: Array) -> tuple[Array, Array]:
    has_all = exact.dtype.kind != "f" or bool(np.isfinite(exact).all())

    def slackened(error: Array) -> Array:
        error = np.where(np.isnan(error), np.inf, error) * slack
        # An exact infinity has to be one in every runtime; where the exact result is no number, any is correct.
        return error if has_all else np.where(np.isinf(exact), 0.0, np.where(np.isnan(exact), np.inf, error))

    first = slackened(worst)
    return first, first if likely is worst else np.minimum(slackened(likely), first)
