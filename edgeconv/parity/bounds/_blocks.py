"""Functions of each element, block by block: its steps read a cache, where whole arrays would go through memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgeconv.core import Array

BLOCK = 1 << 15
"""Elements: 256 KB of float64. From a quarter of that to twice as many cost the same, within a tenth."""


def by_blocks(function: Callable[..., Sequence[Array]], *operands: Array) -> tuple[Array, ...]:
    """What a function of each element makes of arrays, as if it were called once.

    Args:
        function: gives arrays of its operands' common shape. Operands that neither have that shape nor are single
            numbers are given to it whole, all at once. Of operands that are one array it is given one, and of its
            results those that are one array are one.
        operands: arrays of one shape, and single numbers.
    """
    shape = np.broadcast_shapes(*(operand.shape for operand in operands))
    size = math.prod(shape)
    if size <= BLOCK or any(operand.size != 1 and operand.shape != shape for operand in operands):
        return tuple(function(*operands))
    # By identity: the worst and the likely error are often one array, which is then computed and kept once.
    arrays = {id(operand): operand for operand in operands}
    flat = {at: array.reshape(-1) if array.size != 1 else array.reshape(()) for at, array in arrays.items()}
    results: list[Array] = []
    for start in range(0, size, BLOCK):
        place = slice(start, start + BLOCK)
        block = {at: array[place] if array.ndim else array for at, array in flat.items()}
        _put(results, place, size, function(*(block[id(operand)] for operand in operands)))
    shaped = {id(result): result.reshape(shape) for result in results}
    return tuple(shaped[id(result)] for result in results)


def _put(results: list[Array], place: slice, size: int, parts: Sequence[Array]) -> None:
    """Puts the parts of a block where they belong in the whole results."""
    for at, part in enumerate(parts):
        if at == len(results):
            same = next(other for other in range(at + 1) if parts[other] is part)
            results.append(results[same] if same < at else np.empty(size, np.asarray(part).dtype))
        shared = next((other for other in range(at) if results[other] is results[at]), at)
        if shared < at and parts[shared] is part:
            continue
        if shared < at:
            results[at] = results[at].copy()  # it was the same so far
        results[at][place] = part


def is_any(test: Callable[[Array], Array], array: Array) -> bool:
    """Whether a test of each element holds of any of an array."""
    flat = array.reshape(-1)
    return any(bool(test(flat[start : start + BLOCK]).any()) for start in range(0, flat.size, BLOCK))
