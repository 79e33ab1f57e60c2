"""Constants that are one of the graph's in parts, joined with others, or in another order, each number rounded once.

A writer that divides a kernel, or lays it out anew, computes no number: each is the graph's, to the last unit. Of
float16, and of integers, there are so few numbers that those of another rounding are in the graph, too, or would pass
for the writer's own, which may be off by half a unit each. So a constant whose numbers are all within a unit of the
graph's, in their places, is taken for these.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing._numbers import ORDERS, TRIVIAL

_FEWEST = 16  # numbers that are within a unit of others by chance in less than one of 10^30 pairs of constants
_DISTINCT = 6
_LARGE = 8  # units: of smaller numbers many are near by chance
_PROBED = 32  # numbers that are looked at first
_PLANE = 2  # axes of a matrix; a kernel has more
_LONGEST_KERNEL = 32  # along an axis of which parts have steps; of longer ones they lie side by side


def piece(array: Array, due: Array, unit: Array) -> Array | None:
    """What a constant of the file should be, in its shape, where it is one of the graph's, in parts or in any order.

    Args:
        array: the file's.
        due: the graph's, in the same precision.
        unit: how far each number of the file's may be from the graph's, as it broadcasts to the file's.

    Returns:
        An array like the file's; the file's own numbers where it has more than the graph's. None where it is not so.
    """
    unit = np.broadcast_to(unit, array.shape)
    if not _tells(array, unit):
        return None
    # Integers of two constants of many numbers that have nothing to do with each other are near, when ordered.
    ways = (*((_reordered,) if array.dtype != np.float64 else ()), _repeated, _divided, _in_blocks)
    return next((moved for way in ways if (moved := way(array, due, unit)) is not None), None)


def _tells(array: Array, unit: Array) -> bool:
    telling = array[~np.isin(array, TRIVIAL) & np.isfinite(array) & (np.abs(array) > _LARGE * unit)]
    return telling.size >= _FEWEST and np.unique(telling).size >= _DISTINCT


def _reordered(array: Array, due: Array, unit: Array) -> Array | None:
    """The graph's numbers in the places of the file's: the n-th of the one is near the n-th of the other.

    Numbers that are moved by a unit each are moved by no more when they are ordered. Zeros are left out, with which a
    writer fills a matrix of blocks.
    """
    places = np.flatnonzero(array)
    numbers = due[due != 0]
    if numbers.size != places.size or np.isnan(due).any():
        return None
    moved = array.copy()
    moved.put(places[np.argsort(array.flat[places], kind="stable")], np.sort(numbers))
    return moved if _is_near(array, moved, unit) else None


def _repeated(array: Array, due: Array, unit: Array) -> Array | None:
    """The same of terms of as many phases as a ConvTranspose has: all of them, or each, several times."""
    if not array.ndim == due.ndim == 1 or not 0 < due.size < array.size or array.size % due.size:
        return None
    count = array.size // due.size
    return next((moved for moved in (np.tile(due, count), np.repeat(due, count)) if _is_near(array, moved, unit)), None)


def _divided(array: Array, due: Array, unit: Array) -> Array | None:
    """The same of a constant that is every so many rows and columns of the graph's, or has it as a part."""
    for layout in _layouts(due, array.ndim):
        if all(map(operator.le, array.shape, layout.shape)):
            for places in _places(array.shape, layout.shape, steps=True):
                if _is_near(array, layout[places], unit):
                    return np.array(layout[places])
        elif _tells(layout, unit.min()) and all(map(operator.ge, array.shape, layout.shape)):
            for places in _places(layout.shape, array.shape, steps=False):
                if _is_near(array[places], layout, unit[places]):
                    moved = array.copy()
                    moved[places] = layout
                    return moved
    return None


def _in_blocks(array: Array, due: Array, unit: Array) -> Array | None:
    """The same of a grouped convolution's weights, where the file's groups are several of the graph's, with zeros."""
    if not array.ndim == due.ndim > _PLANE:
        return None
    layout = np.moveaxis(due, 1, -1)
    count = array.shape[-1] // max(layout.shape[-1], 1)
    if count <= 1 or array.shape != (*layout.shape[:-1], count * layout.shape[-1]):
        return None
    blocks = array.reshape(*layout.shape[:-1], count, layout.shape[-1])
    sizes = np.abs(blocks).sum((*range(1, array.ndim - 1), array.ndim))  # by output channel and block
    moved = np.zeros_like(blocks)
    for channel, block in enumerate(sizes.argmax(1)):
        moved[channel, ..., block, :] = layout[channel]
    moved = moved.reshape(array.shape)
    return moved if _is_near(array, moved, unit) else None


def _layouts(due: Array, rank: int) -> Iterator[Array]:
    """The graph's constant in the orders of axes that files have; with an axis more, where the file has one more."""
    if due.ndim == rank:
        yield from (due.transpose(order) for order in ORDERS.get(rank, ((*range(rank),),)))
    elif due.ndim == rank - 1:
        for axis in (rank - 2, rank - 1):
            yield from _layouts(np.expand_dims(due, axis), rank)


def _places(small: Sequence[int], large: Sequence[int], *, steps: bool) -> Iterator[tuple[slice, ...]]:
    """Where an array of one shape may stand in one of another."""
    return itertools.product(*(list(_along(*sizes, steps=steps)) for sizes in zip(small, large, strict=True)))


def _along(small: int, large: int, *, steps: bool) -> Iterator[slice]:
    if small == large and not (steps and 1 < large <= _LONGEST_KERNEL):
        yield slice(None)
        return
    most = (large - 1) // (small - 1) if small > 1 and steps and large <= _LONGEST_KERNEL else 1
    for step in range(1, most + 1):
        for first in range(large - (small - 1) * step):
            yield slice(first, first + (small - 1) * step + 1, step)
            if steps and small > 1:  # a transposed convolution's kernel is turned
                stop = first - 1 if first else None
                yield slice(first + (small - 1) * step, stop, -step)


def _is_near(array: Array, due: Array, unit: Array) -> bool:
    """Whether all numbers are within a unit."""
    few = [axis_size // 2 for axis_size in array.shape[:-1]]
    probed = (*few, slice(0, _PROBED)) if array.ndim else ()
    if not (np.abs(array[probed] - due[probed]) <= unit[probed]).all():
        return False  # a few rule out most that differ
    return bool((np.abs(array - due) <= unit).all())
