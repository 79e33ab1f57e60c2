"""What is compared: a value as the file computes it and as the graph does, both from the same operands in float64."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgeconv.core import Array
from edgeconv.core.blocks import BLOCK, WORTH_THREADS
from edgeconv.core.threads import in_threads
from edgeconv.parity.writing._kinks import LARGER

_Result = TypeVar("_Result")

SECOND_ORDER = 1e-6  # relative: what a change of a half unit makes of a result, beyond its slope
GAMMA = 2.0**-40
"""Of what is summed: 2^13 roundings of float64 (u = 2^-53), about 1e-12.

A sum of n products is off by gamma_n |W| |x| at most, gamma_n = n u / (1 - n u) (Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1), and both sides round: 2^13 covers any order of 4096 terms, and with the square root
of n, which independent roundings grow with (Higham and Mary 2019), of millions.
"""
HALF_UNIT = 2.0**-24  # of float32, relative: the most that rounding a number to it moves it by
UNDERFLOW = 2.0**-1009
"""The least bound there is: as many roundings of numbers below the smallest normal float64, 2^-1022, which are lost
whole (Higham, section 2.3). A saturated sigmoid or softmax is there, and no float32 constant moves a result so little.
"""

NUDGE = 2.0**-26
"""Relative: what operands are changed by, far above float64's rounding; its square is far below."""

_FEW = 256  # elements, looked at first: two arrays that differ do so there already
_MOST_KEPT = 1 << 23  # elements of orders: 64 MB
_SMALLER = 2.0**-8  # what operands are lowered to: their variance is then about the eps of normalizations
_PATTERNS = 15  # of signs, that several numbers of a constant are moved by: in one of them, most do not cancel
_MANY = 3.0  # where a result depends on several numbers of a constant: more than one pattern shows


@dataclass(frozen=True)
class Operands:
    """What both sides compute from.

    Attributes:
        inputs: of the graph, by name.
        values: what the readers of a held value read, by name.
        expected: what the graph computes of these, before rounding, by name.
        all_finite: whether what is not finite on one side alone is a fault: these are operands of a user's.
        known: the values that the file computes as the graph does, whatever the operands are.
    """

    inputs: Mapping[str, Array]
    values: Mapping[str, Array]
    expected: Mapping[str, Array]
    all_finite: bool = True
    known: Collection[str] = frozenset()


@dataclass(frozen=True, eq=False)
class End:
    """One value on both sides.

    Attributes:
        value: its name in the graph.
        tensor: its name in the file.
        operator: of the file, that computes it.
        actual: as the file computes it, in the file's layout.
        expected: as the graph does, in the same.
        axes: of the graph's value, in the file's order.
    """

    value: str
    tensor: str
    operator: str
    actual: Array
    expected: Array
    axes: tuple[int, ...]

    def arranged(self, array: Array) -> Array:
        """An array of the graph's layout in the file's."""
        return array.transpose(self.axes).reshape(self.expected.shape)

    def moved_back(self, like: Array) -> Array:
        """The file's array in the graph's layout, which is that of an array."""
        return self.actual.reshape([like.shape[axis] for axis in self.axes]).transpose(np.argsort(self.axes))

    @property
    def fits(self) -> bool:
        """Whether both sides have the same shape."""
        return self.actual.shape == self.expected.shape


def errors(actual: Array, expected: Array) -> Array:
    """|a - b| in float64; infinite where only one side is finite, 0 where both are NaN or equal."""
    if expected.dtype.kind not in "f":
        return np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    with np.errstate(invalid="ignore"):
        distance = np.asarray(actual - expected)
        np.abs(distance, out=distance)
        if np.isfinite(distance.max(initial=0.0)):  # the largest is NaN where any is
            return distance
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        distance = np.where(same, 0.0, distance)
    return np.where(np.isnan(distance), np.inf, distance)


def share(error: float, bound: float) -> float:
    """How much of its bound an error uses: 0 for none, infinite for one where there may be none."""
    if error == 0:
        return 0.0
    return error / bound if bound else float("inf")


def magnitude(array: Array) -> float:
    """The largest finite magnitude of an array; 0 where there is none."""
    if array.dtype.kind != "f":
        return 0.0
    largest = float(np.abs(array).max(initial=0.0))
    return largest if np.isfinite(largest) else float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def largest_share(steps: Array, array: Array) -> float:
    """The most that steps are of the numbers of an array."""
    magnitudes = np.abs(array.astype(np.float64))
    return float(np.divide(steps, magnitudes, out=np.zeros(array.shape), where=magnitudes > 0).max(initial=0.0))


def is_equal(actual: Array, expected: Array, largest: float) -> bool:
    """Whether two arrays agree by the rounding of the largest number of theirs, as `magnitude` gives it."""
    most = max(GAMMA * largest, UNDERFLOW)
    few = slice(None, None, max(1, actual.size // _FEW))
    if not (errors(actual.flat[few], expected.flat[few]) <= most).all():
        return False  # a few elements, spread evenly, already differ of most arrays that do
    if actual.shape != expected.shape:
        return bool(np.max(errors(actual, expected), initial=0.0) <= most)
    return max(each_slab(lambda *parts: float(errors(*parts).max(initial=0.0)), actual, expected), default=0.0) <= most


def each_slab(function: Callable[..., _Result], *arrays: Array) -> list[_Result]:
    """What a function makes of the same part of each of some arrays of one shape, part by part along the first axes.

    Parts are small enough for a cache, which an array in another order of axes is read into line by line.
    """
    shape = arrays[0].shape
    axis = next((at for at, size in enumerate(shape) if size > 1), None)
    if 0 in shape:
        return []
    if axis is None:
        return [function(*arrays)]
    step = max(1, BLOCK * shape[axis] // arrays[0].size)
    places = [(*[slice(None)] * axis, slice(start, start + step)) for start in range(0, shape[axis], step)]
    return in_threads(lambda place: function(*(array[place] for array in arrays)), places, at_least=WORTH_THREADS)


def negated(array: Array) -> Array:
    """Real numbers of the other sign; others as they are."""
    return np.asarray(-array) if array.dtype.kind == "f" else array


def raised(array: Array, reach: float = LARGER) -> Array:
    """Real numbers times the power of two, so that nothing is rounded, that brings the largest to a size."""
    if array.dtype.kind != "f":
        return array
    return np.asarray(array * max(1.0, 2.0 ** np.ceil(np.log2(reach / (magnitude(array) or reach)))))


def filled(array: Array) -> Array:
    """Real numbers with others, above zero and no larger, where they are zero."""
    if array.dtype.kind != "f" or array.all():
        return array
    drawn = np.random.default_rng(array.size).uniform(0.5, 1.0, array.shape) * (magnitude(array) or 1.0)
    return np.where(array == 0, drawn, array)


def signed(array: Array, sign: float) -> Array:
    """Real numbers of one sign, and none of them zero; others as they are."""
    return filled(np.abs(array)) * sign if array.dtype.kind == "f" else array


def lowered(array: Array) -> Array:
    """Real numbers times the power of two that brings the largest to a small size; others as they are."""
    if array.dtype.kind != "f":
        return array
    return np.asarray(array * min(1.0, 2.0 ** np.floor(np.log2(_SMALLER / (magnitude(array) or _SMALLER)))))


def mixed(array: Array) -> Array:
    """Real numbers in another order, the same for all arrays of a size: no channel is all zero, no two are alike."""
    if array.dtype.kind != "f":
        return array
    return np.asarray(array.reshape(-1)[_ORDERS.of(array.size)].reshape(array.shape))


def nudged(array: Array, generator: np.random.Generator) -> Array:
    """Real numbers, each changed by the relative change, up or down."""
    if array.dtype.kind != "f":
        return array
    return np.asarray(array * (1 + NUDGE * generator.choice([-1.0, 1.0], array.shape)))


class _Orders:
    """Random orders by how many elements they are of; the last ones are kept, as a network has many of few sizes."""

    def __init__(self) -> None:
        self._kept: dict[int, Array] = {}

    def of(self, size: int) -> Array:
        """The order of so many elements: always the same."""
        order = self._kept.pop(size, None)
        if order is None:
            order = np.random.default_rng(size).permutation(size)
            while self._kept and sum(self._kept) + size > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        if size <= _MOST_KEPT:
            self._kept[size] = order
        return order


_ORDERS = _Orders()


def shift(compute: Callable[[Array], Array], before: Array, array: Array, steps: Array) -> Array:
    """How far a result moves with the numbers of a constant, each moved by up to a step: float64.

    Args:
        compute: the result with other numbers.
        before: the result with those that the constant has.
        array: those that the constant has, float64.
        steps: what each is moved by.

    Where a result depends on one number, all patterns of signs move it alike, and it is told exactly; of a constant
    that is one number the larger of both ways counts, as beyond a clamp it moves nothing.
    """
    generator = np.random.default_rng(0)
    patterns = [np.ones(array.shape), -np.ones(array.shape)][: 2 if array.size == 1 else 1]
    if array.size > 1:
        patterns += [generator.choice([-1.0, 1.0], array.shape) for _ in range(_PATTERNS)]
    moved = [errors(compute(array + steps * pattern), before) for pattern in patterns]
    least, greatest = np.minimum.reduce(moved), np.maximum.reduce(moved)
    exact = greatest <= least * (1 + SECOND_ORDER) if array.size > 1 else True
    return np.asarray(np.where(exact, greatest * (1 + SECOND_ORDER), _MANY * greatest))
