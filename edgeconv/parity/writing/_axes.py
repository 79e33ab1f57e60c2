"""In which order of its axes a tensor has a value of the graph, told by the numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing._ends import errors, is_equal, magnitude
from edgeconv.reference.tflite import Operator

_PLACES = 256
_MOST_TRIED = 6  # axes whose every order is tried
_REORDERING = frozenset({"TRANSPOSE", "RESHAPE", "BATCH_MATMUL"})  # their results' axes are others than their operands'


class Axes:
    """The order of axes that each tensor of a file has a value of the graph in, by the tensor's number.

    Attributes:
        of: as far as an evaluation has come: of inputs, of what was told, and of what is computed of these.
        in_any_order: the tensors that have their value in several orders, as far as numbers told so far.
    """

    def __init__(self) -> None:
        self.of: dict[int, tuple[int, ...]] = {}
        self._known: dict[int, tuple[int, ...]] = {}
        self.in_any_order: set[int] = set()

    def follow(self, operator: Operator, index: int, rank: int) -> None:
        """The order of a result's axes, as that of an operand of the same rank is known."""
        orders = (self.of[at] for at in operator.inputs if at in self.of)
        order = next((order for order in orders if len(order) == rank), None)
        if order is not None and operator.name not in _REORDERING:
            self.of[index] = order

    def told(self, index: int, array: Array, expected: Array) -> tuple[int, ...] | None:
        """The order of a tensor's axes as the first numbers tell it that are not all the same.

        Of numbers that several orders fit (a covariance is symmetric) the next that one does not fit tell more.
        """
        known = self._known.get(index)
        if known is not None and index not in self.in_any_order:
            return known
        largest = magnitude(expected)
        if known is not None:
            orders = itertools.chain([known], other_orders(expected.shape, known))
            fitting = (axes for axes in orders if is_equal(array, arranged(expected, axes, array), largest))
            self._known[index] = next(fitting, known)
            return self._known[index]
        axes, fits = axes_of(array, expected, largest, self.of.get(index))
        if axes is not None and fits and array.size > 1 and not is_equal(array, array.flat[:1], largest):
            self._known[index] = axes
            if is_in_another_order(array, expected, axes):
                self.in_any_order.add(index)
        return axes


def axes_of(
    array: Array, expected: Array, largest: float, own: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...] | None, bool]:
    """The order of the axes in which a value is the array, in whatever shape, and True.

    Where none is equal, that of what it is computed of, else that of the usual orders which is nearest, so that the
    difference is reported; None where it has the same numbers in other places, or none is near.
    """
    rank = expected.ndim
    usual = [tuple(range(rank))] if rank < 3 else [(0, *range(2, rank), 1), tuple(range(rank))]
    fitting = [axes for axes in usual if tuple(expected.shape[axis] for axis in axes) == array.shape]
    candidates = itertools.chain(fitting, usual, itertools.permutations(range(rank)) if rank <= _MOST_TRIED else ())
    for axes in candidates:
        if is_equal(array, arranged(expected, axes, array), largest):
            return axes, True
    same_numbers = is_equal(np.sort(array, axis=None), np.sort(expected, axis=None), largest)
    if own is not None and len(own) == rank and not same_numbers and expected.transpose(own).shape == array.shape:
        return own, False
    if same_numbers or not fitting:
        return None, False
    return min(fitting, key=lambda axes: float(np.median(errors(array, arranged(expected, axes, array))))), False


def is_in_another_order(array: Array, expected: Array, axes: Sequence[int]) -> bool:
    """Whether a value that has numbers of several sizes is the array in another order of its axes, too."""
    if expected.ndim > _MOST_TRIED:
        return False
    largest = magnitude(expected)
    few = np.arange(0, array.size, max(1, array.size // _PLACES))
    first = array.reshape(-1)[few]
    for other in other_orders(expected.shape, axes):
        places = np.unravel_index(few, [expected.shape[axis] for axis in other])
        same_places = expected[tuple(places[other.index(axis)] for axis in range(expected.ndim))]
        # A few places rule out most wrong orders, without moving the array.
        if is_equal(first, same_places, largest) and is_equal(array, arranged(expected, other, array), largest):
            return True
    return False


def other_orders(shape: Sequence[int], axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The orders of axes that put some element elsewhere than the given one does, each placement once."""
    long = [axis for axis in axes if shape[axis] != 1]
    rest = tuple(axis for axis in axes if shape[axis] == 1)
    return (rest + order for order in itertools.permutations(long) if order != tuple(long))


def arranged(value: Array, axes: Sequence[int], like: Array) -> Array:
    """The value with its axes in this order, in the shape of another array."""
    return value.transpose(axes).reshape(like.shape)
