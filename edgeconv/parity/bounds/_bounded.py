"""Numbers with the error that a runtime's may have: running error analysis, array by array.

Formulas are written in +, -, *, /, @ and functions, in the order of a kernel's steps; every step carries the errors of
its operands on and adds its own rounding (Higham, Accuracy and Stability, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np

from edgeconv.core.blocks import by_blocks
from edgeconv.core.selection import selected
from edgeconv.parity.bounds._arithmetic import Arithmetic, Array, is_zero
from edgeconv.parity.bounds._functions import FUNCTIONS
from edgeconv.parity.bounds._later import Later

_Pair = tuple[Array, Array]
_Three = tuple[Array, Array, Array]
_PARTS = ("value", "worst", "likely")


@dataclass(frozen=True, eq=False)
class Bounded:
    """An array, and how far a runtime's may lie from it.

    Most often `worst` and `likely` are the same array object, and are told to be so by identity (`is`): every step then
    computes one error instead of two.

    Attributes:
        value: exact, float64.
        worst: the largest error that is possible, of the same shape or one that broadcasts to it.
        likely: the largest error that is to be expected, likewise.
        arithmetic: of the steps that follow.
    """

    value: Array
    worst: Array
    likely: Array
    arithmetic: Arithmetic

    # Entering

    @classmethod
    def of(cls, values: Array | float, arithmetic: Arithmetic) -> Bounded:
        """An operand: exact, but for numbers that the runtime reads as 0."""
        values = np.asarray(values)
        error = arithmetic.flushed(values)
        parts = {"value": values} if values.dtype == np.float64 else {}
        return cls.later(Later(_entering, (values, error)), arithmetic, **parts, worst=error, likely=error)

    @classmethod
    def later(cls, later: Later, arithmetic: Arithmetic, **parts: Array) -> Bounded:
        """Of value, worst and likely errors that are left until one asks for a part that is not among these."""
        result = object.__new__(cls)
        result.__dict__.update(parts, arithmetic=arithmetic, _later=later)
        return result

    def __getattr__(self, name: str) -> Array:
        if name not in _PARTS or self.__dict__.get("_later") is None:
            raise AttributeError(name)
        unknown = [part for part in _PARTS if part not in self.__dict__]
        arrays = self.left.whole([_PARTS.index(part) for part in unknown])
        self.__dict__.update(zip(unknown, arrays, strict=True), _later=None)
        return np.asarray(self.__dict__[name])

    @property
    def left(self) -> Later:
        """What its parts are computed by."""
        later: Later | None = self.__dict__.get("_later")
        return later or Later.known(self.value, self.worst, self.likely)

    def carrying(self, errors: Later) -> Bounded:
        """With errors, worst and likely, that it has from before."""

        def carried(value: Array, worst: Array, likely: Array, worst_before: Array, likely_before: Array) -> _Three:
            first = worst + worst_before
            is_one = worst is likely and worst_before is likely_before
            return value, first, first if is_one else likely + likely_before

        parts = {"value": self.value} if "value" in self.__dict__ else {}
        return Bounded.later(self.left.beside(errors).then(carried), self.arithmetic, **parts)

    def constant(self, number: float) -> Bounded:
        """A constant of a formula, as the kernel's format holds it."""
        rounded = float(np.dtype(self.arithmetic.compute).type(number))
        error = np.asarray(0.0 if rounded == number else abs(number) * self.arithmetic.unit)
        return Bounded(np.asarray(number, np.float64), error, error, self.arithmetic)

    def _other(self, other: Bounded | float) -> Bounded:
        return other if isinstance(other, Bounded) else self.constant(other)

    # Steps

    def _errors(self, rule: Callable[[Array], Array]) -> _Pair:
        return _of_both(rule, self.worst, self.likely)

    def by_blocks(self, formula: Callable[[Bounded], Bounded]) -> Bounded:
        """A formula of each element, whose steps read a cache."""

        def block(value: Array, worst: Array, likely: Array) -> _Three:
            result = formula(Bounded(value, worst, likely, self.arithmetic))
            return result.value, result.worst, result.likely

        return Bounded.later(self.left.then(block), self.arithmetic)

    def rounded(self, value: Array, errors: _Pair, units: float | Array = 1.0) -> Bounded:
        """A step's result: the carried errors, and so many roundings of what the runtime may have."""
        return self._later_errors(self._rounded, value, *errors, units)

    def _later_errors(self, rule: Callable[..., _Pair], value: Array, *operands: Array | float) -> Bounded:
        """A value with the errors that a rule makes of it and of others."""
        arrays = tuple(map(np.asarray, (value, *operands)))
        return Bounded.later(Later(lambda *parts: (parts[0], *rule(*parts)), arrays), self.arithmetic, value=arrays[0])

    def _rounded(self, value: Array, worst: Array, likely: Array, units: Array) -> _Pair:
        u, least, size = self.arithmetic.unit, self.arithmetic.least, np.abs(value)

        def rounded(error: Array) -> Array:
            if is_zero(error):
                return np.asarray(units * u * size + least)
            return np.asarray(error + units * u * (size + error) + least)

        return self._within_of(size, *_of_both(rounded, worst, likely))

    def within(self, value: Array, worst: Array, likely: Array) -> Bounded:
        """With infinite errors where the interval reaches the largest number, or nothing is known."""
        return self._later_errors(self._within, value, worst, likely)

    def _within(self, value: Array, worst: Array, likely: Array) -> _Pair:
        return self._within_of(np.abs(value), worst, likely)

    def _within_of(self, size: Array, worst: Array, likely: Array) -> _Pair:
        """The same, of the magnitudes of the values."""
        if size.max(initial=0.0) + worst.max(initial=0.0) < self.arithmetic.largest:  # no element reaches it
            return worst, likely
        reaches = ~(size + worst < self.arithmetic.largest)
        return _of_both(lambda error: np.where(reaches, np.inf, error), worst, likely)

    def __add__(self, other: Bounded | float) -> Bounded:
        b = self._other(other)
        return self.rounded(self.value + b.value, _of_pairs(np.add, self, b))

    def __sub__(self, other: Bounded | float) -> Bounded:
        b = self._other(other)
        return self.rounded(self.value - b.value, _of_pairs(np.add, self, b))

    def __mul__(self, other: Bounded | float) -> Bounded:
        b = self._other(other)
        operands = (self.value, self.worst, self.likely, b.value, b.worst, b.likely)
        return Bounded.later(Later(self._product, tuple(map(np.asarray, operands))), self.arithmetic)

    def _product(self, a: Array, a_worst: Array, a_likely: Array, b: Array, b_worst: Array, b_likely: Array) -> _Three:
        # |(a + d)(b + e) - ab| <= |a| e + |b| d + d e.
        value = np.asarray(a * b)
        worst = likely = _carried_by_product(a, b, a_worst, b_worst)
        if a_likely is not a_worst or b_likely is not b_worst:
            likely = _carried_by_product(a, b, a_likely, b_likely)
        return value, *self._rounded(value, worst, likely, np.ones(()))

    def __truediv__(self, other: Bounded | float) -> Bounded:
        b = self._other(other)
        value = self.value / b.value
        # |(a + d) / (b + e) - a / b| <= (d + |a / b| e) / (|b| - e); any value where b may be 0.
        errors = [
            np.where(np.abs(b.value) > of_b, (of_a + np.abs(value) * of_b) / (np.abs(b.value) - of_b), np.inf)
            for of_a, of_b in ((self.worst, b.worst), (self.likely, b.likely))
        ]
        return self.rounded(value, (errors[0], errors[1]))

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Bounded:
        return replace(self, value=-self.value)

    def __rsub__(self, other: float) -> Bounded:
        return self.constant(other) - self

    def __rtruediv__(self, other: float) -> Bounded:
        return self.constant(other) / self

    def __matmul__(self, other: Bounded) -> Bounded:
        """Products of matrices, by numpy's rules; sums in any order."""
        a, b = np.abs(self.value), np.abs(other.value)
        total, magnitude = self.value @ other.value, a @ b
        spreads = []
        for of_a, of_b in ((self.worst, other.worst), (self.likely, other.likely)):
            spread = np.zeros(())
            if of_b.any():
                of_b = np.broadcast_to(of_b, b.shape)
                spread = a @ of_b  # of |a| e + d (|b| + e), as for single products
            if of_a.any():
                spread = spread + np.broadcast_to(of_a, a.shape) @ (b + of_b)
            spreads.append(spread)
        return self.sum_of_products(total, magnitude, self.value.shape[-1], (spreads[0], spreads[1]))

    def sum_of_products(
        self, total: Array, magnitude: Array, count: Array | float, spreads: _Pair, *, terms: int = 0
    ) -> Bounded:
        """Sums of products in any order, fused or not.

        Args:
            total: the exact sums.
            magnitude: the same of the operands' magnitudes.
            count: the number of products.
            spreads: the same of the operands' errors, worst and likely.
            terms: further terms that are no products: a bias.
        """
        return self._later_errors(partial(self._summed, terms), total, magnitude, count, *spreads)

    def _summed(self, terms: int, total: Array, magnitude: Array, count: Array, worst: Array, likely: Array) -> _Pair:
        """The errors of sums of so many products and further terms, of the errors of what is summed."""
        u, least = self.arithmetic.unit, self.arithmetic.least
        # A partial sum may overflow though the total does not.
        reaches = not magnitude.max(initial=0.0) + worst.max(initial=0.0) < self.arithmetic.largest
        largest = np.where(magnitude + worst < self.arithmetic.largest, 0.0, np.inf) if reaches else 0.0
        # Without errors of the operands, the general formula below with a spread of 0, in fewer passes.
        if not (worst.any() or likely.any()):
            own = u * (1 + 2 * count * u) * magnitude + (count * least + largest)
            roundings = self.arithmetic.summed(total, magnitude, count + terms, 0.0)
            return self._within(total, roundings[0] + own, roundings[1] + own)
        errors = []
        for index, spread in enumerate((worst, likely)):
            whole = magnitude + spread
            rounding = self.arithmetic.summed(total, whole, count + terms, spread)[index]
            errors.append(spread + rounding + u * (1 + 2 * count * u) * whole + (count * least + largest))
        return self._within(total, errors[0], errors[1])

    def sum(self, axes: Sequence[int] | int, *, keepdims: bool = True) -> Bounded:
        """Sums in any order."""
        axes = (axes,) if isinstance(axes, int) else tuple(axes)
        count = math.prod(self.value.shape[axis] for axis in axes)
        total, magnitude = (
            np.asarray(array.sum(axis=axes, keepdims=keepdims)) for array in (self.value, np.abs(self.value))
        )
        errors = []
        for index, error in enumerate((self.worst, self.likely)):
            spread = np.broadcast_to(error, self.value.shape).sum(axis=axes, keepdims=keepdims)
            errors.append(spread + self.arithmetic.summed(total, magnitude + spread, count, spread)[index])
        largest = np.where(magnitude < self.arithmetic.largest, 0.0, np.inf)
        return self.within(total, errors[0] + largest, errors[1] + largest)

    def mean(self, axes: Sequence[int] | int, *, keepdims: bool = True) -> Bounded:
        """A sum that is divided by the count, or multiplied by its rounded reciprocal: kernels have both."""
        axes = (axes,) if isinstance(axes, int) else tuple(axes)
        count = float(math.prod(self.value.shape[axis] for axis in axes))
        total = self.sum(axes, keepdims=keepdims)
        return widest(total / count, total * (1 / count))

    # Functions

    def function(self, name: str) -> Bounded:
        """One of `ACCURACY`, of each element."""
        return self.by_blocks(lambda block: block._function(name))

    def _function(self, name: str) -> Bounded:
        function, accuracy = FUNCTIONS[name], self.arithmetic.accuracy(name)
        u, magnitude, value = self.arithmetic.unit, np.abs(self.value), function.value(self.value)

        def own_error(error: Array) -> Array:
            error = error + accuracy.argument * u * magnitude
            carried = self._carried(function.value, error, monotone=function.monotone)
            own = (
                accuracy.relative * u * (np.abs(value) + carried)
                + accuracy.absolute * u
                # XNNPACK's e^x = 2^n + p · (t · 2^n): t · 2^n flushed to zero takes p of it along, and p < 2.
                + 2 * self.arithmetic.smallest_normal
            )
            small = (accuracy.lowest > 0) & (magnitude - error < accuracy.lowest)
            beyond = small | (magnitude + error > accuracy.highest)
            error = np.where(beyond, np.inf, carried + own)
            if function.grows:  # kernels scale by powers of two, and overflow within the last one
                error = np.where(np.abs(value) + error > self.arithmetic.largest / 2, np.inf, error)
            return error

        return self.within(value, *self._errors(own_error))

    def _carried(self, function: Callable[[Array], Array], error: Array, *, monotone: bool) -> Array:
        """What a function makes of its operand's error; the largest slope of those that are not monotone is 1."""
        if not monotone:
            return np.asarray(error)
        value = function(self.value)
        steps = [np.abs(function(self.value + end * error) - value) for end in (-1, 1)]
        return np.where(error == 0, 0.0, np.where(np.isfinite(error), np.maximum(*steps), np.inf))

    def monotone(self, function: Callable[[Array], Array]) -> Bounded:
        """A function that rounds nothing: a clamp, a choice by sign."""
        value = function(self.value)
        worst, likely = self._errors(lambda error: self._carried(function, error, monotone=True))
        return replace(self, value=value, worst=worst, likely=likely)

    def clip(self, low: float, high: float) -> Bounded:
        """Held between two numbers."""

        return self.by_blocks(lambda block: block.monotone(lambda x: np.clip(x, low, high)))

    def absolute(self) -> Bounded:
        """The absolute value."""
        return replace(self, value=np.abs(self.value))

    def root(self) -> Bounded:
        """The square root of what no runtime computes as negative."""
        return self.clip(0.0, np.inf).function("sqrt")

    def inverse_root(self) -> Bounded:
        """1 / sqrt of what no runtime computes as negative: a quotient, or a function of its own."""
        # Where the operand may be 0, the result may be infinite.
        low = np.maximum(self.value - self.worst, 0.0)
        unsure = np.where((low == 0) & (self.worst > 0), np.inf, 0.0)
        quotient = 1.0 / self.root()
        return replace(quotient, worst=quotient.worst + unsure, likely=quotient.likely + unsure)

    # Moves

    def move(self, function: Callable[[Array], Array]) -> Bounded:
        """Elements in other places: an index, a shape, an order of axes."""
        parts = (np.broadcast_to(part, self.value.shape) for part in (self.worst, self.likely))
        worst, likely = (function(part) for part in parts)
        return replace(self, value=function(self.value), worst=worst, likely=likely)

    def reshape(self, *shape: int) -> Bounded:
        """The same elements in another shape; without sizes, a single number."""
        return self.move(lambda array: array.reshape(shape))

    def widened(self, error: Array | float) -> Bounded:
        """The same numbers with a further error."""
        return self.within(self.value, self.worst + error, self.likely + error)

    def stored(self) -> Bounded:
        """Rounded once more, where results are stored in a narrower format than they are computed in."""
        return self._stored_as(self.arithmetic.storage)

    def stored_inside(self) -> Bounded:
        """The same of a result inside of a function body."""
        return self._stored_as(self.arithmetic.inner_storage or self.arithmetic.storage)

    def _stored_as(self, storage: str) -> Bounded:
        if storage == self.arithmetic.compute:
            return self
        # A conversion rounds the smallest numbers as it does all others, whatever arithmetic does with them.
        narrow = replace(self, arithmetic=replace(self.arithmetic, compute=storage, flushes=False))
        rounded = narrow.rounded(self.value, (self.worst, self.likely))
        return replace(rounded, arithmetic=self.arithmetic)


def _entering(values: Array, error: Array) -> _Three:
    return values.astype(np.float64, copy=False), error, error


def _carried_by_product(a: Array, b: Array, of_a: Array, of_b: Array) -> Array:
    """|a| e + |b| d + d e, without the terms that a factor has which is exact: `_within_of` sees to infinite ones."""
    if is_zero(of_a):
        return of_b if is_zero(of_b) else np.asarray(np.abs(a) * of_b)
    if is_zero(of_b):
        return np.asarray(np.abs(b) * of_a)
    return np.asarray(np.abs(a) * of_b + np.abs(b) * of_a + of_a * of_b)


def _of_both(rule: Callable[[Array], Array], worst: Array, likely: Array) -> _Pair:
    """A rule applied to both errors, only once where they are one array."""
    first = rule(worst)
    return first, first if likely is worst else rule(likely)


def _of_pairs(rule: Callable[[Array, Array], Array], a: Bounded, b: Bounded) -> _Pair:
    """The same of the errors of two operands."""
    first = rule(a.worst, b.worst)
    is_one = a.worst is a.likely and b.worst is b.likely
    return first, first if is_one else rule(a.likely, b.likely)


def widest(*formulas: Bounded) -> Bounded:
    """Of several ways to compute one value, the largest errors."""
    first = formulas[0]
    worst = likely = reduce(np.maximum, (formula.worst for formula in formulas))
    if any(formula.worst is not formula.likely for formula in formulas):
        likely = reduce(np.maximum, (formula.likely for formula in formulas))
    return replace(first, worst=worst, likely=likely)


def chosen(condition: Array, a: Bounded, b: Bounded) -> Bounded:
    """Of ``a`` where a condition on exact numbers holds, of ``b`` elsewhere."""
    operands = (condition, a.value, b.value, a.worst, b.worst, a.likely, b.likely)
    value, worst, likely = by_blocks(_chosen, *map(np.asarray, operands))
    return replace(a, value=value, worst=worst, likely=likely)


def _chosen(condition: Array, *pairs: Array) -> list[Array]:
    value, worst, likely = zip(pairs[::2], pairs[1::2], strict=True)
    first = selected(condition, *worst)
    is_one = worst[0] is likely[0] and worst[1] is likely[1]
    return [selected(condition, *value), first, first if is_one else selected(condition, *likely)]


def by_sign(x: Bounded, above: Bounded, below: Bounded) -> Bounded:
    """``above`` where a number is not negative, ``below`` elsewhere; of functions that meet at 0."""
    result = chosen(x.value >= 0, above, below)
    # Where the sign itself is unsure, a runtime may take the other branch, from a place that is off by the error.
    near = np.abs(x.value) < x.worst if x.worst.any() else np.zeros((), np.bool_)
    if not near.any():
        return result
    either = widest(above, below)
    worst, likely = either.worst + x.worst, either.likely + x.likely
    return chosen(near, replace(result, worst=worst, likely=likely), result)


def stacked(parts: Sequence[Bounded], axis: int) -> Bounded:
    """Along a new axis."""
    return _together(parts, lambda arrays: np.stack(arrays, axis))


def joined(parts: Sequence[Bounded], axis: int) -> Bounded:
    """Along an axis that they have."""
    return _together(parts, lambda arrays: np.concatenate(arrays, axis))


def _together(parts: Sequence[Bounded], merge: Callable[[list[Array]], Array]) -> Bounded:
    value, worst, likely = (
        merge([np.broadcast_to(getattr(part, name), part.value.shape) for part in parts])
        for name in ("value", "worst", "likely")
    )
    return replace(parts[0], value=value, worst=worst, likely=likely)


def exact(like: Bounded, value: Array) -> Bounded:
    """Numbers that every runtime has: the largest of a row, 0 and 1."""
    return Bounded(np.asarray(value, np.float64), np.zeros(()), np.zeros(()), like.arithmetic)
