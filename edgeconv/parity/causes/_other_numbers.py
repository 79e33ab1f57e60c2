"""Numbers of a constant that are estimated from what is due."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgeconv.core import Array
from edgeconv.errors import EdgeconvError
from edgeconv.parity.causes._fit import fitted
from edgeconv.parity.causes._piece import Evidence, Hypothesis

_MOST_MOVED = 1 << 24  # elements of results that single numbers are looked for in
_MOST_PAIRS = 256  # that are exchanged
_MOST_SLICES = 48  # along an axis
_MOST_SOLVED = 1 << 20  # elements of results that the numbers of slices are solved for in
_ROUNDS = 4  # of solving: a constant that is read twice enters squared
_NEARER = 0.8  # of what is left after a round; where more is left, no further one is near
_SLOPE = 2.0**-16  # of the largest number of a constant: a step for slopes
MOST_NUMBERS = 2048  # of a constant, each of which is tried alone


@dataclass(frozen=True, eq=False)
class OtherNumbers:
    """Numbers of a constant that are estimated from what is due: one factor, one term, one number, two, or all.

    Attributes:
        reading: the judged value with another array.
        called: the constant, in words.
        array: as the file has it.
    """

    reading: Callable[[Array], Array]
    called: str
    array: Array

    def hypotheses(self, evidence: Evidence, wrong: Array) -> Iterator[Hypothesis]:
        """The fewer numbers, the earlier."""
        yield from self._outlier()
        for factor in fitted(self._scaled, 1.0, evidence.actual):
            if factor:
                words = f"{self.called} is scaled by {1 / factor:.6g}"
                yield Hypothesis(words, partial(self._scaled, factor), fitted=1)
        for term in fitted(self._shifted, 0.0, evidence.actual):
            yield Hypothesis(f"{self.called} is shifted by {-term:.6g}", partial(self._shifted, term), fitted=1)
        if not 0 < self.array.size <= MOST_NUMBERS or self.array.size * wrong.size > _MOST_MOVED:
            return
        differs = _beyond(wrong, evidence)
        moves = np.array([self._moves(place, wrong) for place in range(self.array.size)])[:, differs]
        for place in np.flatnonzero(moves.all(axis=1)).tolist():
            held = float(self.array.reshape(-1)[place])
            for number in fitted(partial(self._with, place), held, evidence.actual):
                words = f"{self.called} is {held:.9g} instead of {number:.9g} at {index_of(self.array, place)}"
                yield Hypothesis(words, partial(self._with, place, number), fitted=1)
        slopes = self._all_slopes(wrong) if evidence.actual.dtype.kind == "f" else None
        if slopes is None:
            yield from self._exchanged(_covering(moves))
            yield from self._slices(evidence)
            return
        yield from self._exchanged(self._nearest(slopes, (evidence.actual - wrong).reshape(-1)))
        yield from self._slices(evidence)
        yield from self._solved(slopes, moves, evidence.actual, wrong)

    def _exchanged(self, pairs: Iterable[tuple[int, int]]) -> Iterator[Hypothesis]:
        for first, second in itertools.islice(pairs, _MOST_PAIRS):
            other = self.array.copy().reshape(-1)
            other[[first, second]] = other[[second, first]]
            places = f"{index_of(self.array, first)} and {index_of(self.array, second)}"
            words = f"{self.called} has its numbers at {places} exchanged"
            yield Hypothesis(words, partial(self.reading, other.reshape(self.array.shape)))

    def _nearest(self, slopes: Array, rest: Array) -> Iterator[tuple[int, int]]:
        """Pairs of numbers by how near the result comes to what is due where they are exchanged, by its slopes."""
        sound = np.isfinite(slopes).all(axis=0) & np.isfinite(rest)
        slopes, rest = slopes[:, sound], rest[sound]
        numbers = self.array.reshape(-1).astype(np.float64)
        gaps = numbers[None, :] - numbers[:, None]  # what the first of a pair is raised by, and the second lowered
        products, along = slopes @ slopes.T, slopes @ rest
        energies = np.diag(products)
        spread = energies[:, None] - 2 * products + energies[None, :]
        errors = gaps**2 * spread - 2 * gaps * (along[:, None] - along[None, :])
        first, second = np.triu_indices(len(numbers), 1)
        order = np.argsort(errors[first, second], kind="stable")[:_MOST_PAIRS]
        yield from zip(first[order].tolist(), second[order].tolist(), strict=True)

    def _slices(self, evidence: Evidence) -> Iterator[Hypothesis]:
        for axis, size in enumerate(self.array.shape):
            for place in range(size) if 1 < size <= _MOST_SLICES else ():
                where: tuple[slice | int, ...] = (*[slice(None)] * axis, place)
                compute = partial(self._scaled, where=where)
                for factor in fitted(compute, 1.0, evidence.actual):
                    words = f"{self.called} is scaled by {1 / (factor or 1):.6g} in its slice {place} along axis {axis}"
                    yield Hypothesis(words, partial(compute, factor), fitted=1)

    def _outlier(self) -> Iterator[Hypothesis]:
        """One number that is another than all others, which are one."""
        numbers, counts = np.unique(self.array, return_counts=True)
        if len(numbers) == 2 and counts.min() == 1 and counts.max() > 1:
            usual, other = numbers[np.argmax(counts)], numbers[np.argmin(counts)]
            place = int(np.flatnonzero(self.array == other)[0])
            words = f"{self.called} is {other:.9g} instead of {usual:.9g} at {index_of(self.array, place)}"
            yield Hypothesis(words, partial(self._with, place, float(usual)))

    def _solved(self, slopes: Array, moves: Array, due: Array, wrong: Array) -> Iterator[Hypothesis]:
        """All numbers of a slice at once, where they move all that is wrong."""
        indices = np.arange(self.array.size).reshape(self.array.shape)
        for axis, size in enumerate(self.array.shape):
            for place in range(size) if 1 < size <= _MOST_SLICES else ():
                places = np.take(indices, place, axis).reshape(-1)
                if moves[places].any(axis=0).all():
                    words = f"{self.called} has other numbers in its slice {place} along axis {axis}"
                    compute = partial(self._with_solved, places, slopes[places], due, wrong)
                    yield Hypothesis(words, compute, fitted=len(places))

    def _with_solved(self, places: Array, slopes: Array, due: Array, wrong: Array) -> Array:
        """With the numbers at some places with which the result is nearest to what is due (Gauss-Newton)."""
        array, result = self.array.astype(np.float64).reshape(-1), wrong
        rest = (due - result).reshape(-1)
        for number in range(_ROUNDS):
            slopes = self._slopes(array, places, result) if number else slopes
            if not (np.isfinite(rest).all() and np.isfinite(slopes).all() and np.any(slopes)):
                raise ValueError("no number changes it")
            array[places] += np.linalg.lstsq(slopes.T, rest, rcond=1e-9)[0]
            result = self.reading(array.reshape(self.array.shape))
            before, rest = rest, (due - result).reshape(-1)
            if not np.linalg.norm(rest) < _NEARER * np.linalg.norm(before):
                break
        return result

    def _all_slopes(self, wrong: Array) -> Array | None:
        """Of every number; None where there are too many, or the part takes no other ones."""
        if self.array.size * wrong.size > _MOST_SOLVED:
            return None
        try:
            return self._slopes(self.array.astype(np.float64).reshape(-1), range(self.array.size), wrong)
        except (EdgeconvError, ValueError):
            return None

    def _slopes(self, array: Array, places: Iterable[int], result: Array) -> Array:
        """What one more of each number adds to the result, [places, elements]."""
        step = _SLOPE * (float(np.abs(array).max(initial=0.0)) or 1.0)
        rows = []
        for place in places:
            moved = array.copy()
            moved[place] += step
            rows.append((self.reading(moved.reshape(self.array.shape)) - result).reshape(-1) / step)
        return np.array(rows)

    def _moves(self, place: int, wrong: Array) -> Array:
        """Which elements of the judged value another number at a place moves."""
        number = float(self.array.reshape(-1)[place])
        try:
            return np.asarray(self._with(place, number + (abs(number) or 1.0)) != wrong)
        except (EdgeconvError, ValueError):
            return np.zeros(wrong.shape, bool)

    def _with(self, place: int, number: float) -> Array:
        other = self.array.copy().reshape(-1)
        other[place] = number
        return self.reading(other.reshape(self.array.shape))

    def _scaled(self, factor: float, where: tuple[slice | int, ...] = ()) -> Array:
        other = self.array.copy()
        other[where] *= factor
        return self.reading(other)

    def _shifted(self, term: float) -> Array:
        return self.reading(self.array + term)


def _covering(moves: Array) -> Iterator[tuple[int, int]]:
    """Pairs of numbers that together move all that is wrong; of [numbers, elements], whether one moves the other."""
    shown = np.flatnonzero(moves.any(axis=1))
    left = (~moves[shown]).astype(np.float32)
    both = left @ left.T  # elements that neither moves
    first, second = np.nonzero(np.triu(both == 0, 1))
    yield from zip(shown[first].tolist(), shown[second].tolist(), strict=True)


def _beyond(wrong: Array, evidence: Evidence) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(~(np.abs(wrong - evidence.actual) <= evidence.tolerance(wrong)))


def index_of(array: Array, place: int) -> list[int]:
    """A place in a flattened array, as an index of the array."""
    return [int(index) for index in np.unravel_index(place, array.shape)]
