"""A value that was compared, and the element of it that uses most of its bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing import UNDERFLOW, share


@dataclass(frozen=True)
class Place:
    """A value on both sides, at the element that uses most of its bound.

    Attributes:
        value: its name in the graph.
        error: |a - b| there.
        bound: what it may be.
        beside: what it differs from, for a sentence.
    """

    value: str
    error: float
    bound: float
    beside: str

    @property
    def used(self) -> float:
        return share(self.error, self.bound)

    @property
    def reason(self) -> str:
        """One line on a value that is another one."""
        return f"{self.value} is {self.error:.3g} from {self.beside}, {self.used:.3g} times its bound"


def worst_of(sentence: tuple[str, str], distance: Array, bound: Array) -> Place:
    """The element that uses most of its bound; elements of an infinite bound are left out."""
    bound = np.maximum(bound, UNDERFLOW)
    name, beside = sentence
    if not distance.size:
        return Place(name, 0.0, 0.0, beside)
    if bound.ndim == 0 and np.isfinite(bound):  # the same of every element
        return Place(name, float(distance.max()), float(bound), beside)
    bound = np.broadcast_to(bound, distance.shape)
    shares = np.where((distance == 0) | np.isinf(bound), 0.0, distance / bound)
    at = np.unravel_index(int(np.argmax(shares)), shares.shape)
    return Place(name, float(distance[at]), float(bound[at]), beside)
