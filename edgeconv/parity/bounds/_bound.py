"""The bound of a result: the exact values, and how far a runtime's may lie from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgeconv.core.blocks import BLOCK
from edgeconv.errors import ParityError
from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded
from edgeconv.parity.bounds._later import Later

_Pair = tuple[Array, Array]
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

    @classmethod
    def later(cls, exact: Array, later: Later) -> Bound:
        """Of errors that are left until somebody asks for them: `use` reads them block by block, and keeps none."""
        result = object.__new__(cls)
        result.__dict__.update(exact=exact, saturates=False, _later=later)
        return result

    def __getattr__(self, name: str) -> Array:
        if name not in ("worst", "likely") or self.__dict__.get("_later") is None:
            raise AttributeError(name)
        worst, likely = self._left.whole((0, 1))
        self.__dict__.update(worst=worst, likely=likely, _later=None)
        return np.asarray(self.__dict__[name])

    @property
    def _left(self) -> Later:
        later: Later | None = self.__dict__.get("_later")
        return later or Later.known(self.worst, self.likely)

    @property
    def errors(self) -> Later:
        """What `worst` and `likely` are computed by, where nobody has asked for them yet."""
        return self._left

    @property
    def has_errors(self) -> bool:
        """Whether a correct evaluation may lie elsewhere at all."""
        return self._left.is_any(0) if self.exact.size > BLOCK else bool(self.worst.any())

    def at_least(self, error: float) -> Bound:
        """The same with no worst error that is less."""
        left = self._left.then(lambda worst, likely: (np.maximum(worst, error), likely))
        result = Bound.later(self.exact, left)
        return result.saturating() if self.saturates else result

    def saturating(self) -> Bound:
        """The same, of a kernel that gives the largest number in place of infinity."""
        result = copy(self)
        result.__dict__.update(saturates=True)
        return result

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
            actual, exact = result.astype(np.float64), self.exact.astype(np.float64)
            return _shares(actual, exact, np.abs(actual - exact), bound, ceiling)

    def use(self, result: Array) -> Use:
        """What a runtime's result uses of the bound, at most and in all.

        Raises:
            ParityError: it has another shape.
        """
        self._require_shape(result)
        blocks = self._left.each(partial(_use, self._ceiling(result)), result, self.exact) if result.size else [Use()]
        most = max(blocks, key=lambda block: block.used)  # the first of equal ones
        return Use(
            *(most.used, most.error, most.bound),
            *(max(block.likely for block in blocks), max(block.widest for block in blocks)),
            *(sum(block.signal for block in blocks), sum(block.noise for block in blocks)),
        )

    def _ceiling(self, result: Array) -> float:
        """What may stand for infinity in a result; NaN where nothing may."""
        return float(np.finfo(result.dtype).max) if self.saturates and result.dtype.kind == "f" else np.nan

    def _require_shape(self, result: Array) -> None:
        if result.shape != self.exact.shape:
            raise ParityError(f"the result has shape {result.shape}, and its bound {self.exact.shape}")


def _use(ceiling: float, *operands: Array) -> Use:
    """Of a block that is not empty: of the result, the exact one, the worst and the likely errors."""
    arrays = {id(array): array.reshape(-1) for array in operands}
    result, exact, worst, likely = (arrays[id(array)] for array in operands)
    actual, exact = result.astype(np.float64, copy=False), exact.astype(np.float64, copy=False)
    error = actual - exact
    # Not by np.dot: BLAS would begin threads for so little, which then wait in turns with whoever computes.
    signal, noise = float(np.square(exact).sum()), float(np.square(error).sum())
    if not (np.isfinite(signal) and np.isfinite(noise)):
        finite = np.isfinite(exact) & np.isfinite(actual)
        signal, noise = (float(np.sum(np.square(array[finite]))) for array in (exact, error))
    widest = float(worst.max())
    np.abs(error, out=error)
    if not noise and not error.max():  # nor is any of them NaN
        return Use(bound=float(worst[0]), widest=widest, signal=signal)
    shares = _shares(actual, exact, error, worst, ceiling)
    at = int(np.argmax(shares))
    most = float(shares[at] if likely is worst else _shares(actual, exact, error, likely, ceiling).max())
    return Use(float(shares[at]), float(error[at]), float(worst[at]), most, widest, signal, noise)


def _shares(actual: Array, exact: Array, error: Array, bound: Array, ceiling: float) -> Array:
    """The share of a bound that each error, |actual - exact|, uses."""
    shares = np.asarray(error / bound)
    if np.isfinite(shares.max(initial=0.0)):  # the largest is NaN where any is
        return shares
    if np.isfinite(error.max(initial=0.0)):  # it is of 0 / 0, as bounds are never NaN
        return np.asarray(np.where(error == 0, 0.0, shares))
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
        with np.errstate(invalid="ignore"):  # an operand may be infinite, and so may its error
            ends = [evaluate({key: sign * getattr(bound, name) for key, bound in carried.items()}) for sign in (-1, 1)]
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
        return Bound.later(exact, Later(_flushed if exact.dtype.kind == "f" else _unrounded, (exact,)))
    # Float64's own rounding, of both sides: 2^-29 of a step's.
    slack = 1 + 2.0**-20 if exact.dtype.kind == "f" else 1.0
    return Bound.later(exact, bounded.left.then(partial(_bound_of, slack), exact))


def _flushed(exact: Array) -> _Pair:
    size = np.abs(exact).astype(np.float64, copy=False)
    error = np.where(size < _SMALLEST_NORMAL, size, 0.0)
    return error, error


def _unrounded(exact: Array) -> _Pair:
    nothing = np.zeros(exact.shape)
    return nothing, nothing


def _bound_of(slack: float, exact: Array, value: Array, worst: Array, likely: Array) -> _Pair:
    has_all = exact.dtype.kind != "f" or bool(np.isfinite(exact).all())

    def slackened(error: Array) -> Array:
        error = (np.where(np.isnan(error), np.inf, error) if np.isnan(error.max(initial=0.0)) else error) * slack
        # An exact infinity has to be one in every runtime; where the exact result is no number, any is correct.
        error = error if has_all else np.where(np.isinf(exact), 0.0, np.where(np.isnan(exact), np.inf, error))
        return np.broadcast_to(error, exact.shape)

    first = slackened(worst)
    return first, first if likely is worst else np.minimum(slackened(likely), first)
