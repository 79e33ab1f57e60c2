"""How far a value of the file is from the graph's, in one pass over both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing._ends import Operands, each_slab, errors, magnitude


@dataclass(frozen=True)
class Compared:
    """What a comparison tells.

    Attributes:
        distance: the largest of an element.
        magnitude: the largest that is expected, and finite.
        signal: the sum of the squares of what is expected, and finite; 0 of operands that no user has.
        noise: the same of the distances.
    """

    distance: float
    magnitude: float
    signal: float
    noise: float


def compared(actual: Array, expected: Array, operands: Operands, *, is_known: bool) -> Compared:
    """Compares arrays of one shape; what is known to be computed alike has no distance."""

    def of_slab(actual: Array, expected: Array) -> Compared:
        signal = _energy(expected) if operands.all_finite else 0.0
        if is_known:
            return Compared(0.0, magnitude(expected), signal, 0.0)
        distance = distance_of(actual, expected, operands)
        noise = _energy(distance) if operands.all_finite else 0.0
        return Compared(float(distance.max(initial=0.0)), magnitude(expected), signal, noise)

    slabs = each_slab(of_slab, actual, expected)
    return Compared(
        max((slab.distance for slab in slabs), default=0.0),
        max((slab.magnitude for slab in slabs), default=0.0),
        sum(slab.signal for slab in slabs),
        sum(slab.noise for slab in slabs),
    )


def distance_of(actual: Array, expected: Array, operands: Operands) -> Array:
    """|a - b|; of operands that no user has, only where the graph's side is finite.

    What the file alone makes infinite there, it makes infinite of a user's float32, too, which ends far sooner than
    float64: exp of a difference from the smallest of several, say, in place of the largest.
    """
    distance = errors(actual, expected)
    if operands.all_finite or expected.dtype.kind != "f" or np.isfinite(distance.max(initial=0.0)):
        return distance  # what is finite on neither side has no distance
    return np.where(np.isfinite(expected), distance, 0.0)


def _energy(array: Array) -> float:
    """The sum of the squares of what is finite."""
    numbers = np.asarray(array, np.float64)
    total = float(np.square(numbers).sum())
    return total if np.isfinite(total) else float(np.square(numbers[np.isfinite(numbers)]).sum())
