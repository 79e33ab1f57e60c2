"""Numbers that a writer computed itself, as the graph demands them: solved from what both sides compute.

The graph does not have such a number (a reciprocal, an eps in another form, a row of a resize matrix), and a bound of
half a unit for each of several hides one that is a whole unit off. But all of them together have to make the file
compute what the graph computes: a system of equations in float64, as many as the value has elements. Where its solution
leaves nothing but float64's rounding, and determines a number better than that is stored, the stored one has to be the
nearest to it. No formula of the writer's is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing._ends import HALF_UNIT

_CHANGE = 2.0**-20  # relative: what a number is moved by for the slope
_MOST_STEPS = 4  # of Newton's method with one slope; a half is 2^-11 off at most, which each squares
_MOST_UNKNOWN = 512
_MOST_WORK = 1 << 23  # elements that are computed for the slopes: 0.1 s
_ROWS = 2048  # equations that are solved; all have to hold
_RANK = 1e-9  # relative singular values below this determine nothing
_SLACK = 2.0**-20  # relative
_IN_NULL_SPACE = 1e-6  # share of a number that the equations leave open

Compute = Callable[[Mapping[str, Array]], Array]
IsStored = Callable[[str, Array, Array], Array]


@dataclass(frozen=True, eq=False)
class Solved:
    """One number, or several equal ones of a constant.

    Attributes:
        name: the constant.
        places: where, in the flat constant.
        stored: what the file has there.
        exact: what the graph demands.
        doubt: how far off that may be; infinite where the equations do not tell.
    """

    name: str
    places: Array
    stored: float
    exact: float
    doubt: float

    def told(self, shape: tuple[int, ...]) -> str:
        """One line on the first of the places, in a constant of this shape, where what is stored is not the nearest."""
        place = [int(index) for index in np.unravel_index(int(self.places[0]), shape)]
        return (
            f"constant {self.name}: the graph does not have its numbers, and demands {self.exact:.9g} at {place}, "
            f"where it has {self.stored:.9g}, which is not the nearest"
        )


def solve(compute: Compute, constants: Mapping[str, Array], expected: Array, noise: float) -> list[Solved]:
    """The numbers with which a file computes what is expected; none where there are no such numbers, or too many.

    Args:
        compute: what the file makes of other numbers in its constants.
        constants: those of the writer's own, by name: float64.
        expected: what the graph computes.
        noise: what float64 may round of it.
    """
    for unknown in (list(_grouped(constants)), list(_single(constants)), list(_single(constants, zeros=True))):
        if not 0 < len(unknown) <= _MOST_UNKNOWN or len(unknown) * expected.size > _MOST_WORK:
            continue
        solved = _System(compute, constants, unknown, expected, noise).solved()
        if solved:
            return solved
    return []


def _grouped(constants: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Constant and places of each number other than zero; equal ones of a constant are one."""
    for name, array in constants.items():
        flat = array.reshape(-1)
        usable = np.flatnonzero((flat != 0) & np.isfinite(flat))
        numbers, which = np.unique(flat[usable], return_inverse=True)
        if numbers.size > _MOST_UNKNOWN:
            yield from ((name, usable[:1]) for _ in range(_MOST_UNKNOWN + 1))
            return
        yield from ((name, usable[which == at]) for at in range(numbers.size))


def _single(constants: Mapping[str, Array], *, zeros: bool = False) -> Iterator[tuple[str, Array]]:
    """Constant and place of each number by itself: without zeros, or with them where the constant has others.

    A number that became zero is none of the others; where they alone solve the equations, zeros are what they are.
    """
    for name, array in constants.items():
        flat = array.reshape(-1)
        usable = np.flatnonzero(((flat != 0) | (zeros and np.any(flat))) & np.isfinite(flat))
        yield from ((name, usable[at : at + 1]) for at in range(min(usable.size, _MOST_UNKNOWN + 1)))


def not_nearest(solved: Sequence[Solved], constants: Mapping[str, Array], is_stored: IsStored) -> Solved | None:
    """The first of some numbers that a file does not have the nearest to; None where it has all.

    Args:
        solved: of `solve`.
        constants: the file's, by name.
        is_stored: whether a constant of a name has the nearest in its type to exact numbers, known but for a doubt.
    """
    for number in solved:
        shape, places = constants[number.name].shape, number.places
        exact, doubt = np.zeros(shape), np.zeros(shape)
        exact.reshape(-1)[places], doubt.reshape(-1)[places] = number.exact, number.doubt
        if not is_stored(number.name, exact, doubt).reshape(-1)[places].all():
            return number
    return None


class _System:
    def __init__(
        self,
        compute: Compute,
        constants: Mapping[str, Array],
        unknown: list[tuple[str, Array]],
        expected: Array,
        noise: float,
    ) -> None:
        self._compute, self._constants, self._unknown = compute, constants, unknown
        self._expected, self._noise = expected.reshape(-1), noise
        self._stored = np.array([constants[name].reshape(-1)[places[0]] for name, places in unknown])
        largest = {name: np.abs(array[np.isfinite(array)]).max(initial=0.0) for name, array in constants.items()}
        # What a number is moved by is its share; of zero, that of the constant's largest.
        self._units = np.where(self._stored == 0, [largest[name] for name, _ in unknown], self._stored)

    def solved(self) -> list[Solved]:
        """The numbers; none where no numbers make the equations hold."""
        slopes = self._slopes()
        if not np.isfinite(slopes).all():
            return []
        rows = _telling_rows(slopes)
        inverse, is_open = _inverse(slopes[rows])
        if np.count_nonzero(np.abs(slopes).max(axis=1) > self._noise) <= np.linalg.matrix_rank(inverse):
            return []  # any difference at all is explained by as many numbers as there are equations
        relative = np.zeros(len(self._unknown))
        for _ in range(_MOST_STEPS):
            rest = self._rest(relative)
            if not np.isfinite(rest).all() or np.abs(relative).max(initial=0.0) > 1:
                return []
            relative = relative + inverse @ rest[rows]
        if not np.abs(self._rest(relative)).max(initial=0.0) <= self._noise:
            return []
        doubts = np.where(is_open, np.inf, np.abs(inverse).sum(axis=1) * self._noise)
        exact = self._stored + self._units * relative
        return [
            Solved(name, places, float(self._stored[at]), float(exact[at]), float(doubts[at] * abs(self._units[at])))
            for at, (name, places) in enumerate(self._unknown)
        ]

    def _changed(self, relative: Array) -> Array:
        arrays = {name: array.astype(np.float64).reshape(-1).copy() for name, array in self._constants.items()}
        for (name, places), number in zip(self._unknown, self._stored + self._units * relative, strict=True):
            arrays[name][places] = number
        shaped = {name: array.reshape(self._constants[name].shape) for name, array in arrays.items()}
        return np.asarray(self._compute(shaped), np.float64).reshape(-1)

    def _rest(self, relative: Array) -> Array:
        """What is left of the equations."""
        with np.errstate(invalid="ignore"):
            rest = self._expected - self._changed(relative)
        return np.where(np.isnan(rest) & ~np.isfinite(self._expected), 0.0, rest)  # infinite on both sides

    def _slopes(self) -> Array:
        """By element and unknown: the slope by a relative change."""
        before = self._changed(np.zeros(len(self._unknown)))
        columns = []
        for at in range(len(self._unknown)):
            relative = np.zeros(len(self._unknown))
            relative[at] = _CHANGE
            with np.errstate(invalid="ignore"):
                moved = (self._changed(relative) - before) / _CHANGE
            columns.append(np.where(np.isnan(moved) & ~np.isfinite(before), 0.0, moved))
        return np.stack(columns, axis=1)


def _telling_rows(slopes: Array) -> Array:
    """The equations that say most of each unknown, and some from everywhere."""
    count = max(4, _ROWS // slopes.shape[1])
    if len(slopes) <= _ROWS:
        return np.arange(len(slopes))
    most = np.argpartition(-np.abs(slopes), count, axis=0)[:count]
    return np.unique(np.concatenate([most.reshape(-1), np.linspace(0, len(slopes) - 1, _ROWS // 4).astype(np.intp)]))


def _inverse(slopes: Array) -> tuple[Array, Array]:
    """The pseudo-inverse, and which unknowns the equations leave open."""
    left, values, right = np.linalg.svd(slopes, full_matrices=False)
    telling = values > _RANK * values.max(initial=0.0)
    inverse = (right[telling].T / values[telling]) @ left[:, telling].T
    is_open = 1 - np.square(right[telling]).sum(axis=0) > _IN_NULL_SPACE
    return inverse, is_open


def is_rounded(held: Array, exact: Array, doubt: Array) -> Array:
    """Whether floats are the nearest to exact numbers, element by element; to halves by way of float32, too."""
    least, most = exact - doubt, exact + doubt
    with np.errstate(over="ignore", invalid="ignore"):
        ways = [(end.astype(np.float32).astype(held.dtype), end.astype(held.dtype)) for end in (least, most)]
    return np.asarray((held >= np.minimum(*ways[0])) & (held <= np.maximum(*ways[1])))


def is_quantized(held: Array, steps: Array, exact: Array, doubt: Array, greatest: int) -> Array:
    """Whether the real numbers that integers stand for are the nearest to exact ones, element by element.

    A scale that brings the largest of them to the greatest integer, nearly, is that number's share, rounded to a
    float32: of the exact number, or of a float32 that it was rounded to before. Either rounding moves a number that
    lies between two integers to one side or the other of their middle: a reciprocal of 12, of 127.5 steps.

    Args:
        held: the real numbers.
        steps: of each; 0 where it does not matter.
        exact: what they should be.
        doubt: how far off that may be.
        greatest: of the integers, counted from the zero point.
    """
    near = np.abs(held - exact) <= steps / 2 * (1 + _SLACK) + 2 * HALF_UNIT * np.abs(held) + doubt
    least, most = np.abs(exact) - doubt, np.abs(exact) + doubt
    reach = steps * greatest
    largest = (np.rint(np.abs(held) / np.where(steps == 0, 1, steps)) == greatest) & (
        np.abs(reach - np.abs(exact)) <= _SLACK * reach
    )
    shares = [
        ((end / greatest).astype(np.float32), (end.astype(np.float32) / greatest).astype(np.float32))
        for end in (least, most)
    ]
    is_share = (steps >= np.minimum(*shares[0])) & (steps <= np.maximum(*shares[1]))
    for step in np.unique(steps[largest]):  # of numbers that are nearly as large one is the largest
        of_step = largest & (steps == step)
        near[of_step] &= bool(is_share[of_step].any())
    return np.asarray(near)
