"""Functions of each element, block by block: its steps read a cache, where whole arrays would go through memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from edgeconv.core.moved import contiguous
from edgeconv.core.precision import Array
from edgeconv.core.threads import in_threads

_Result = TypeVar("_Result")

BLOCK = 1 << 15
"""Elements: 256 KB of float64. From a quarter of that to twice as many cost the same, within a tenth."""
WORTH_THREADS = 16  # blocks
_FEW = 1 << 8  # elements, which mostly tell what is true of any


def each_block(function: Callable[..., _Result], *operands: Array) -> list[_Result]:
    """What a function makes of each block of arrays, in their order; see `by_blocks`."""
    blocks = _Blocks(operands)
    return in_threads(lambda place: function(*blocks.at(place)), blocks.places, at_least=WORTH_THREADS)


def by_blocks(function: Callable[..., Sequence[Array]], *operands: Array) -> tuple[Array, ...]:
    """What a function of each element makes of arrays, as if it were called once.

    Args:
        function: gives arrays of its operands' common shape. Operands that neither have that shape nor are single
            numbers are given to it whole, all at once. Of operands that are one array it is given one, and of its
            results those that are one array are one.
        operands: arrays of one shape, and single numbers.
    """
    # 1. The first block shows how many results there are, of which dtypes, and which of them are one array.
    blocks = _Blocks(operands)
    first, *others = blocks.places
    parts = function(*blocks.at(first))
    if not others:
        return tuple(parts)
    whole = _like(parts, blocks.size)
    _put(whole, first, parts)

    def put(place: slice) -> list[tuple[int, slice, Array]]:
        return _put(whole, place, function(*blocks.at(place)))

    # 2. The others. Threads write into disjoint slices; what splits a shared result is put in place here, one by one.
    for at, place, part in itertools.chain.from_iterable(in_threads(put, others, at_least=WORTH_THREADS)):
        if any(whole[at] is other for other in whole[:at]):
            whole[at] = whole[at].copy()  # it was the same in other blocks
        whole[at][place] = part
    shaped = {id(result): result.reshape(blocks.shape) for result in whole}
    return tuple(shaped[id(result)] for result in whole)


def any_block(test: Callable[..., bool], *operands: Array) -> bool:
    """Whether a test of blocks holds of one; what is behind it is not computed. See `by_blocks`."""
    blocks = _Blocks(operands)
    first = [slice(0, _FEW)] if len(blocks.places) > 1 else []
    return any(test(*blocks.at(place)) for place in (*first, *blocks.places))


class _Blocks:
    """The blocks of arrays, as `by_blocks` takes them."""

    def __init__(self, operands: Sequence[Array]) -> None:
        self.shape = np.broadcast_shapes(*(operand.shape for operand in operands))
        self.size = math.prod(self.shape)
        self._operands = operands
        is_one = self.size <= BLOCK or any(item.size != 1 and item.shape != self.shape for item in operands)
        self.places = [slice(start, start + BLOCK) for start in range(0, 1 if is_one else self.size, BLOCK)]
        arrays = {} if is_one else {id(operand): operand for operand in operands}
        self._flat = {at: contiguous(item).reshape(-1 if item.size != 1 else ()) for at, item in arrays.items()}

    def at(self, place: slice) -> list[Array]:
        """The operands of a block."""
        if not self._flat:
            return list(self._operands)
        block = {at: array[place] if array.ndim else array for at, array in self._flat.items()}
        return [block[id(operand)] for operand in self._operands]


def _like(parts: Sequence[Array], size: int) -> list[Array]:
    """Whole results for those of a block; one for those that are one array."""
    by_part = {id(part): np.empty(size, np.asarray(part).dtype) for part in parts}
    return [by_part[id(part)] for part in parts]


def _put(whole: Sequence[Array], place: slice, parts: Sequence[Array]) -> list[tuple[int, slice, Array]]:
    """Puts the parts of a block where they belong; gives back those that are not the one array that they were."""
    apart = []
    for at, part in enumerate(parts):
        shared = next((other for other in range(at) if whole[other] is whole[at]), at)
        if shared == at:
            whole[at][place] = part
        elif parts[shared] is not part:
            apart.append((at, place, part))
    return apart


def is_any(test: Callable[[Array], Array], array: Array) -> bool:
    """Whether a test of each element holds of any of an array."""
    flat = array.reshape(-1)
    return any(bool(test(flat[start : start + BLOCK]).any()) for start in range(0, flat.size, BLOCK))
