"""In which order of its axes a tensor has a value of the graph, told by the numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing._ends import errors, is_equal, magnitude

_PLACES = 256
_MOST_TRIED = 6  # axes whose every order is tried


def axes_of(array: Array, expected: Array, largest: float) -> tuple[tuple[int, ...] | None, bool]:
    """The order of the axes in which a value is the array, in whatever shape, and True.

    Where none is equal, that of the usual orders which is nearest, so that the difference is reported; None where none
    is near.
    """
    rank = expected.ndim
    usual = [tuple(range(rank))] if rank < 3 else [(0, *range(2, rank), 1), tuple(range(rank))]
    fitting = [axes for axes in usual if tuple(expected.shape[axis] for axis in axes) == array.shape]
    candidates = itertools.chain(fitting, usual, itertools.permutations(range(rank)) if rank <= _MOST_TRIED else ())
    for axes in candidates:
        if is_equal(array, arranged(expected, axes, array), largest):
            return axes, True
    same_numbers = is_equal(np.sort(array, axis=None), np.sort(expected, axis=None), largest)
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
