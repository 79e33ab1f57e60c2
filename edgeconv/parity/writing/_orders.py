"""In which order a file may have the numbers of a constant of the graph, where some tolerance tells whether it has."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing._numbers import ORDERS

_FEW = 64  # numbers, looked at first
_SPATIAL = 2  # of a layer's weight, the first axis of its window


def moved_back(array: Array, due: Array, slack: Array) -> Array | None:
    """A file's constant in the graph's order, where all numbers are within a slack of the graph's; else None.

    Args:
        array: the file's.
        due: the graph's, as many numbers.
        slack: of each of the file's, as it broadcasts.
    """
    flat, slack = array.reshape(-1), np.broadcast_to(slack, array.shape).reshape(-1)
    for places in _orders(np.arange(due.size).reshape(due.shape), array.shape):
        first = places.flat[:_FEW]  # a few numbers rule out most wrong orders
        if not (np.abs(due.reshape(-1)[first] - flat[:_FEW]) <= slack[:_FEW]).all():
            continue
        order = places.reshape(-1)
        if (np.abs(due.reshape(-1)[order] - flat) <= slack).all():
            moved = np.empty(due.size, array.dtype)
            moved[order] = flat
            return moved.reshape(due.shape)
    return None


def _orders(places: Array, shape: Sequence[int]) -> Iterator[Array]:
    """The places of the graph's numbers in the orders that a file of a shape may have them in, the usual ones first.

    A ConvTranspose is written as a convolution of the turned window, too: as one of all steps of a stride, or with the
    channels of each group beside each other.
    """
    rank = places.ndim
    yield from (places.transpose(order) for order in ORDERS.get(rank, ((*range(rank),),)))
    if rank == 1:
        yield from _interleaved(places)
    if not _SPATIAL < rank <= _SPATIAL + 3 or not shape:
        return
    turned = places[(slice(None),) * _SPATIAL + (slice(None, None, -1),) * (rank - _SPATIAL)]
    for window in (places, turned):
        yield from (window.transpose(order) for order in itertools.permutations(range(rank)))
        groups = window.shape[0] // max(shape[-1], 1)
        if groups > 1 and groups * shape[-1] == window.shape[0]:
            grouped = window.reshape(groups, shape[-1], *window.shape[1:])
            yield grouped.transpose(0, *range(2, rank + 1), 1)


def _interleaved(places: Array) -> Iterator[Array]:
    """The places of a bias as two axes, turned: for each length of the first.

    DEPTH_TO_SPACE has the places of a block in front of the channels, torch's PixelShuffle behind them.
    """
    for length in range(2, places.size // 2 + 1):
        if places.size % length == 0:
            yield places.reshape(length, -1).T.reshape(-1)
