"""Constants of a file beside those of the graph: every number of the one is a number of the other.

A file may hold them in another layout, or several constants as one: which numbers there are needs no tolerance, and
whether they stand in the right places is for the comparison of values to say. A constant that agrees with one of the
graph's in most places is held to it place by place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from edgeconv.core import Array
from edgeconv.core.precision import to_float16, to_float64
from edgeconv.parity.writing._ends import HALF_UNIT
from edgeconv.parity.writing._numbers import ORDERS, TRIVIAL, Pool, are_multiples, chance, of_gates, of_these
from edgeconv.parity.writing._orders import moved_back
from edgeconv.parity.writing._pieces import piece
from edgeconv.parity.writing._telling import told_in_place, units_apart

_CHANCE = 1e-9  # numbers that are as near by chance are the writer's own: a file has up to a million pairs of constants
_CHANCE_OF_SAME_SIZE = 1e-6
_FEW = 3  # numbers that may agree by chance


@dataclass(frozen=True)
class Matching:
    """What became of the constants.

    Attributes:
        faults: by the file's tensor, one line on how it differs from a constant of the graph.
        own: constants of the file that the writer rounded: with numbers that the graph does not have.
        without: constants of the graph with numbers that the file does not have.
        rounded: constants of the graph that the file holds in fewer bits or as integers, as it does.
        rearranged: constants of the file whose numbers are those of several constants of the graph, or, where these
            have as many as half precision or integers have in all, by chance.
        partners: by the file's constants, those of the graph that they are, in any order.
        gates: constants of the file that are biases of a recurrence's gates, or sums of two, each rounded once.
    """

    faults: Mapping[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    rounded: Mapping[str, Array] = field(default_factory=dict)
    rearranged: frozenset[str] = frozenset()
    partners: Mapping[str, str] = field(default_factory=dict)
    gates: frozenset[str] = frozenset()


def _unbounded(_: str) -> tuple[float, float]:
    return -np.inf, np.inf


def match(
    graph: Mapping[str, Array],
    file: Mapping[str, Array],
    steps: Callable[[str], Array],
    ends: Callable[[str], tuple[float, float]] = _unbounded,
    rounded_again: Collection[str] = (),
) -> Matching:
    """Finds each constant of a file among the graph's, and each of these in the file.

    Args:
        graph: the graph's constants by name: float32, and float64 for the real numbers that integers stand for.
        file: the file's, likewise, float16 among them.
        steps: half a step of each number of one of the file's.
        ends: the least and the greatest number that one of the file's can have; what is beyond saturates.
        rounded_again: constants of integers, of the graph's, that the file may hold as the nearest of its own.
    """
    work = _Match(graph, file, rounded_again)
    work.find_quantized(steps, ends)
    faults = dict(work.altered_in_place(steps))  # before a half that occurs elsewhere, too, is taken for the graph's
    foreign, lost = dict(work.foreign()), dict(work.lost())
    faults |= {
        name: text
        for name, numbers in foreign.items()
        if name not in faults and (text := work.fault(name, numbers, lost))
    }
    faults |= {name: text for name, text in work.altered_pieces(foreign, steps) if name not in faults}
    own, without = foreign.keys() | work.by_chance, lost.keys() | {work.partners[name] for name in work.by_chance}
    own -= {name for name in foreign if work.is_mostly_the_graphs(name, foreign[name])}
    own |= work.rounded_in_pieces
    rest = file.keys() - work.partners.keys() - foreign.keys()
    gates = dict(work.of_gates(own | rest, without))
    faults |= {name: text for name, text in gates.items() if text and name not in faults}
    sets = (frozenset(own), frozenset(without), work.rounded, frozenset(rest), work.partners, frozenset(gates))
    return Matching(faults, *sets)


class _Match:
    def __init__(
        self, graph: Mapping[str, Array], file: Mapping[str, Array], rounded_again: Collection[str] = ()
    ) -> None:
        self.graph, self.file, self._rounded_again = graph, file, rounded_again
        self.rounded: dict[str, Array] = {}
        self.partners: dict[str, str] = {}
        self.rounded_in_pieces: set[str] = set()
        by_size: dict[int, list[str]] = {}
        for name, array in graph.items():
            by_size.setdefault(array.size, []).append(name)
        known = _Known()
        for name, array in file.items():
            alike = by_size.get(array.size, [])
            for candidate in sorted(alike, key=lambda other: other != name):
                if _is_same(array, graph[candidate], (name, candidate), known):
                    self.partners[name] = candidate
                    if array.dtype.itemsize < graph[candidate].dtype.itemsize:
                        self.rounded[candidate] = in_precision(graph[candidate], array.dtype).astype(np.float64)
                    break

    @property
    def by_chance(self) -> set[str]:
        """Single numbers of the file with a partner of another name, which may be theirs by chance."""
        return {name for name, other in self.partners.items() if self.file[name].size == 1 and name != other}

    def find_quantized(
        self,
        steps: Callable[[str], Array],
        ends: Callable[[str], tuple[float, float]],
    ) -> None:
        """Partners of constants that the graph has in float and the file as integers: each is the nearest integer's.

        One that the file has as it is may be there as integers, too, under its name: for another reader.
        """
        integers = [name for name, array in self.file.items() if array.dtype == np.float64]
        found = set(self.partners.values())
        for other, due in self.graph.items():
            if due.dtype == np.float64 and other not in self._rounded_again:
                continue
            alike = [name for name in integers if self.file[name].size == due.size]
            if other in found:
                alike = [name for name in alike if name == other and name not in self.partners]
            held = {name: _saturated(due, ends(name), named_alike=name == other) for name in alike}
            moved = {
                name: moved_back(self.file[name], held[name], self._most_rounded(name, other, steps)) for name in alike
            }
            near = {name: array for name, array in moved.items() if array is not None}
            # Any small number is rounded to zero: under another name zeros are no sign of it.
            near = {name: array for name, array in near.items() if name == other or array.any() or not due.any()}
            if near:
                # One of its own name comes first: another constant's integers may happen to be as near, or nearer.
                named_alike = [name for name in near if name == other and name not in self.partners]
                nearest = min(named_alike or near, key=lambda name: np.abs(near[name] - held[name]).max(initial=0.0))
                self.partners.setdefault(nearest, other)
                if other not in found:
                    self.rounded[other] = near[nearest]

    def foreign(self) -> Iterator[tuple[str, Array]]:
        """The constants of the file without a partner, with their numbers that no constant of the graph has."""
        rest = [name for name in self.file if name not in self.partners]
        absent: dict[str, Array] = {}
        for name in rest:
            array = self.file[name]
            kind = array.dtype.str
            if kind not in absent:
                alike = [self.file[other] for other in rest if self.file[other].dtype == array.dtype]
                absent[kind] = _pool(self.graph.values(), array.dtype).missing(alike)
            numbers = of_these(array, absent[kind])
            if numbers.size:
                yield name, numbers

    def lost(self) -> Iterator[tuple[str, Array]]:
        """The constants of the graph without a partner, with their numbers that no constant of the file has."""
        found = set(self.partners.values()) | self.rounded.keys()
        halves = [array for array in self.file.values() if array.dtype == np.float16]
        rest = {name: array.astype(np.float64) for name, array in self.graph.items() if name not in found}
        pool = _pool(self.file.values(), np.dtype(np.float64))
        absent = pool.missing(list(rest.values()))
        for name, array in rest.items():
            numbers = of_these(array, absent)
            if numbers.size and halves and _are_all_in(to_float64(to_float16(array)), pool):
                self.rounded[name] = to_float64(to_float16(array))
            elif numbers.size:
                yield name, numbers

    def altered_in_place(self, steps: Callable[[str], Array]) -> Iterator[tuple[str, str]]:
        """The constants of the file without a partner that are one of the graph's without one, but for some numbers.

        A number that another constant has, or zero, is as wrong in the place of this one as any other.
        """
        free = self.graph.keys() - set(self.partners.values()) - self.rounded.keys()
        for name in self.file.keys() - self.partners.keys():
            alike = [other for other in free if self.graph[other].size == self.file[name].size]
            for other in sorted(alike, key=lambda candidate: (candidate != name, candidate)):
                text = self._differing(name, other, steps)
                if text:
                    yield name, text
                    break

    def _differing(self, name: str, other: str, steps: Callable[[str], Array]) -> str:
        """One line on the places where two constants differ that agree in most; empty of others."""
        array, due = self.file[name], in_precision(self.graph[other], self.file[name].dtype)
        slack = self._slack(name, other, steps)
        orders = ORDERS.get(due.ndim, ((*range(due.ndim),),))
        layouts = [due.transpose(order).reshape(array.shape) for order in orders]
        agreements = [_agreement(array, moved, slack) for moved in layouts]
        agree, telling = max(agreements, key=lambda pair: int(np.count_nonzero(pair[0])))
        moved = next(item for item, pair in zip(layouts, agreements, strict=True) if pair[0] is agree)
        equal, differing = int(np.count_nonzero(agree & telling)), int(np.count_nonzero(~agree))
        if differing and (name == other or (array.size > _FEW and equal > differing)):
            return told_in_place(name, other, array, moved, ~agree)
        return ""

    def altered_pieces(self, foreign: Collection[str], steps: Callable[[str], Array]) -> Iterator[tuple[str, str]]:
        """The constants of the file that are one of the graph's in parts or in another order, rounded otherwise.

        Of floats of 32 bits those are looked at alone that have numbers which the graph does not have.
        """
        free = self.graph.keys() - set(self.partners.values())
        for name in sorted(self.file.keys() - self.partners.keys()):
            array = self.file[name]
            if array.dtype == np.float32 and name not in foreign:
                continue
            for other in sorted(free, key=lambda candidate: (candidate != name, candidate)):
                text = self._altered_piece(name, other, steps)
                if text is not None:
                    yield from [(name, text)] if text else []
                    break

    def _altered_piece(self, name: str, other: str, steps: Callable[[str], Array]) -> str | None:
        """One line on the numbers that are not the nearest to those of the graph's; None where it is none of these."""
        array, due = self.file[name], in_precision(self.graph[other], self.file[name].dtype)
        slack = self._slack(name, other, steps)
        moved = piece(array, due, 4 * steps(name) + slack)  # a unit of the next power of two is twice as large
        if moved is None:
            return None
        agree, _ = _agreement(array, moved, slack)
        if np.any(slack) and agree.all() and not np.array_equal(array, moved):
            self.rounded_in_pieces.add(name)
        return "" if agree.all() else told_in_place(name, other, array, moved, ~agree)

    def _slack(self, name: str, other: str, steps: Callable[[str], Array]) -> Array:
        """How far right numbers of the file's may be from the graph's: half a step, of integers rounded from them.

        Terms that the graph has as integers are rounded again, where the file's have other steps.
        """
        is_rounded = self.graph[other].dtype != np.float64 or other in self._rounded_again
        is_integer = self.file[name].dtype == np.float64
        return self._most_rounded(name, other, steps) if is_rounded and is_integer else np.zeros(())

    def _most_rounded(self, name: str, other: str, steps: Callable[[str], Array]) -> Array:
        """How far integers of the file's may be from what was rounded to them: half a step.

        The steps of what is rounded again are products of scales, which are float32: a number that lies between two
        integers may become either. Integers that stay what they are have no step here but the rounding of their scale,
        which one that is a unit off exceeds.
        """
        half, rounding = steps(name), HALF_UNIT * np.abs(self.file[name])
        is_again = (other in self._rounded_again) & (half > 2 * rounding)
        return np.asarray(_nearest(half) + np.where(is_again, 2 * rounding, 0.0))

    def of_gates(self, names: Collection[str], others: Collection[str]) -> Iterator[tuple[str, str]]:
        """The constants of the file that are biases of a recurrence's gates, and one line on those that are altered."""
        for name, other in itertools.product(sorted(names), sorted(others)):
            array = self.file[name]
            due = of_gates(array, self.graph[other])
            if due is not None:
                differing = due != array
                yield name, told_in_place(name, other, array, due, differing) if differing.any() else ""

    def is_mostly_the_graphs(self, name: str, numbers: Array) -> bool:
        """Whether most numbers of a constant are the graph's: the others are not the writer's own.

        Of float16 there are so few numbers that a graph has most of them by chance.
        """
        array = self.file[name]
        telling = np.count_nonzero(~np.isin(array, TRIVIAL))
        foreign = int(np.count_nonzero(np.isin(array, numbers)))
        return bool(array.dtype != np.float16 and telling > _FEW and 2 * foreign < telling)

    def fault(self, name: str, numbers: Array, lost: Mapping[str, Array]) -> str:
        """One line on a constant of the file that is one of the graph's, altered; empty where it is none of them."""
        array = self.file[name]
        same = self.graph.get(name)
        if same is not None and same.size == array.size:
            return self._told(name, numbers, name, np.unique(same))
        lost = {other: absent for other, absent in lost.items() if not are_multiples(array, self.graph[other])}
        for other in sorted(lost, key=lambda candidate: candidate != name):
            if self.graph[other].size == array.size and self._is_altered(name, numbers, other, lost[other]):
                return self._told(name, numbers, other, lost[other])
        if array.dtype == np.float32 and self.is_mostly_the_graphs(name, numbers):
            return self._told_of_none(name, numbers)
        if array.size == 1 or array.dtype == np.float64:
            return ""  # a product or a reciprocal of the writer's may be near to anything
        near = [(other, absent) for other, absent in lost.items() if chance(numbers, absent) < _CHANCE]
        return self._told(name, numbers, *near[0]) if near else ""

    def _is_altered(self, name: str, numbers: Array, other: str, absent: Array) -> bool:
        array = self.file[name]
        strange = np.isin(array, numbers)
        if array.dtype == np.float16:  # of which the graph's other constants have most by chance
            strange = ~np.isin(array, in_precision(self.graph[other], array.dtype))
        telling = int(np.count_nonzero(~np.isin(array, TRIVIAL)))  # zeros agree by chance: of silent channels, say
        most_agree = telling > _FEW and 2 * int(np.count_nonzero(strange)) < telling
        return name == other or most_agree or chance(numbers, absent) < _CHANCE_OF_SAME_SIZE

    def _told(self, name: str, numbers: Array, other: str, absent: Array) -> str:
        array = self.file[name]
        count = int(np.count_nonzero(np.isin(array, numbers)))
        several = f"{count} of {array.size} numbers are" if array.size > 1 else "the number is"
        what = f"{several} not those of the graph's {other}"
        return f"constant {name}: {what}; {_first_of(array, numbers, absent, 'that the file lacks')}"

    def _told_of_none(self, name: str, numbers: Array) -> str:
        """One line on a constant that is parts of the graph's, but for some numbers."""
        array = self.file[name]
        pool = _ordered([in_precision(other, array.dtype) for other in self.graph.values()], array.dtype)
        count = int(np.count_nonzero(np.isin(array, numbers)))
        what = f"{count} of {array.size} numbers {'is' if count == 1 else 'are'} in no constant of the graph"
        return f"constant {name}: {what}; {_first_of(array, numbers, pool, 'there')}"


def _first_of(array: Array, numbers: Array, pool: Array, of: str) -> str:
    """Where the first of the numbers stands, and the one of the pool that is nearest to it."""
    at = int(np.flatnonzero(np.isin(array, numbers))[0])
    place = [int(index) for index in np.unravel_index(at, array.shape)]
    held = array.reshape(-1)[at]
    away = np.abs(pool.astype(np.float64) - float(held))
    nearest = pool[np.argmin(np.where(np.isnan(away), np.inf, away))]
    return f"{place} is {float(held):.9g}, and the nearest {of} is {float(nearest):.9g}{units_apart(held, nearest)}"


def _agreement(array: Array, due: Array, slack: Array) -> tuple[Array, Array]:
    """Where two constants agree, within a slack, and where that says something: zeros and ones agree by chance."""
    with np.errstate(invalid="ignore"):
        agree = (np.abs(due - array) <= slack) | (due == array) | (np.isnan(due) & np.isnan(array))
    return agree, ~np.isin(array, TRIVIAL) & (np.abs(due) > slack)


def all_among(array: Array, constants: Collection[tuple[Array, Array | None]]) -> bool:
    """Whether every number of the file's is one that the graph reads, or a trivial one.

    Halves are not what it reads of a constant whose other numbers the file has in sums alone: that it reads as it is.

    Args:
        array: the file's.
        constants: the graph's, each with what it reads in its place where the file has that rounded.
    """
    if array.dtype == np.float16:
        read = [constant if rounded is None else rounded for constant, rounded in constants]
        return not _pool(read, np.dtype(np.float64)).missing([array.astype(np.float64)]).size
    return not _pool([constant for constant, _ in constants], array.dtype).missing([array]).size


def in_precision(array: Array, dtype: np.dtype[np.generic]) -> Array:
    """The graph's constant in the precision of one of the file's."""
    return to_float16(array) if dtype == np.float16 else array.astype(dtype, copy=False)


def in_float32(integers: Mapping[str, Array]) -> dict[str, Array]:
    """What integers stand for as DequantizeLinear makes it, which computes in float32; empty where nothing differs.

    A file of floats has these, or nothing where they are all 1 in float32. Not asked of constants that a file lacks:
    what float32 rounds of those is in the bound already, and would count twice.
    """
    singles = {name: to_float64(array.astype(np.float32)) for name, array in integers.items()}
    return singles if any(not np.array_equal(singles[name], integers[name]) for name in integers) else {}


def half_steps(array: Array) -> Array:
    """Half a unit in the last place of each number: what rounding once may have moved it by; float64."""
    largest = np.nextafter(np.finfo(array.dtype).max, array.dtype.type(0))  # whose own unit would be infinite
    return np.asarray(np.spacing(np.minimum(np.abs(array), largest)), np.float64) / 2


def _is_same(array: Array, other: Array, names: tuple[str, str], known: _Known) -> bool:
    """Whether two constants of one size have the same numbers, bit for bit but for the sign of zero."""
    other = in_precision(other, array.dtype)
    keys = [("file", names[0], array.dtype.str), ("graph", names[1], array.dtype.str)]
    sums = [known.sums(key, numbers) for key, numbers in zip(keys, (array, other), strict=True)]
    if abs(sums[0][0] - sums[1][0]) > 1e-9 * sums[1][1]:  # most pairs differ here; with NaN it is False
        return False
    flat = array.reshape(-1)
    for order in ORDERS.get(other.ndim, ((*range(other.ndim),),)):
        if np.array_equal(other.transpose(order).reshape(-1), flat, equal_nan=True):
            return True
    first, second = (known.ordered(key, numbers) for key, numbers in zip(keys, (array, other), strict=True))
    return np.array_equal(first, second, equal_nan=True)


class _Known:
    """What is asked of constants more than once, by a key."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], tuple[float, float]] = {}
        self._ordered: dict[tuple[str, ...], Array] = {}

    def sums(self, key: tuple[str, ...], array: Array) -> tuple[float, float]:
        """Of the numbers, and of their magnitudes."""
        if key not in self._sums:
            with np.errstate(invalid="ignore"):
                total, size = (float(numbers.sum(dtype=np.float64)) for numbers in (array, np.abs(array)))
            self._sums[key] = total, size
        return self._sums[key]

    def ordered(self, key: tuple[str, ...], array: Array) -> Array:
        """The numbers from the smallest."""
        if key not in self._ordered:
            self._ordered[key] = np.sort(array, axis=None)
        return self._ordered[key]


def as_integers(array: Array, due: Array, half: Array, ends: tuple[float, float]) -> Array | None:
    """What the graph's float constant becomes, in its order of axes, where the file's integers are the nearest to it.

    Args:
        array: the file's, the real numbers that its integers stand for.
        due: the graph's.
        half: half a step of each number of the file's.
        ends: the least and the greatest number that the file's can have.
    """
    if array.dtype != np.float64 or due.dtype == np.float64 or array.size != due.size:
        return None
    return moved_back(array, _saturated(due, ends, named_alike=False), _nearest(half))


def _nearest(half: Array) -> Array:
    """Half a step, and what float32 makes of it."""
    return half * (1 + 2.0**-20)


def _saturated(due: Array, ends: tuple[float, float], *, named_alike: bool) -> Array:
    """A constant as integers hold it: minus infinity of a mask is their least number.

    Finite numbers that are cut off count for constants of one name alone: cut off, any number is the same as another.
    """
    cut = due.astype(np.float64).clip(*ends)
    return cut if named_alike else np.where(np.isinf(due), cut, due)


def _pool(arrays: Collection[Array], dtype: np.dtype[np.generic]) -> Pool:
    """The numbers of constants, in the precision of what is looked for."""
    return Pool(list(arrays), partial(in_precision, dtype=dtype))


def _are_all_in(array: Array, pool: Pool) -> bool:
    return not np.isnan(array).any() and not pool.missing([array]).size


def _ordered(arrays: Collection[Array], dtype: np.dtype[np.generic]) -> Array:
    trivial = np.array(TRIVIAL, dtype)
    return np.unique(np.concatenate([trivial, *(array.reshape(-1).astype(dtype) for array in arrays)]))
