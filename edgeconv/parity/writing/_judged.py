"""A part of a file on operands, beside what the graph computes of the same: its error, and its bound."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing._distances import distance_of
from edgeconv.parity.writing._ends import UNDERFLOW, End, Operands, share
from edgeconv.parity.writing._telling import told_of_end

_NONE = np.zeros(0)
_NO_OPERANDS = Operands({}, {}, {})


@dataclass(frozen=True)
class Judged:
    """An end on operands, with its numbers: the largest error, its bound, and the used share.

    Attributes:
        wrong_number: a constant of the writer's own that is not what the graph demands, and one line.
    """

    end: End
    operands: Operands
    error: float
    bound: float
    wrong_number: tuple[str, str] | None = None

    @property
    def used(self) -> float:
        return share(self.error, self.bound)

    def settled(self) -> Judged:
        """Without its arrays where it holds: nothing asks for them, and those of a network fill gigabytes."""
        if self.used > 1:
            return self
        return replace(self, end=replace(self.end, actual=_NONE, expected=_NONE), operands=_NO_OPERANDS)

    def told(self, sample: str) -> str:
        """One line on a part of the file that computes something else, of this input."""
        return told_of_end(self.end, self.error, self.used, sample)


def judged_end(end: End, expected: Array, bound: Array, operands: Operands) -> Judged:
    """The element that uses most of its bound; the end has what was expected."""
    distance, bound = distance_of(end.actual, expected, operands), np.maximum(bound, UNDERFLOW)
    shares = np.where(distance == 0, 0.0, distance / bound)
    at = np.unravel_index(int(np.argmax(shares)), shares.shape)
    return Judged(replace(end, expected=expected), operands, float(distance[at]), float(bound[at]))
