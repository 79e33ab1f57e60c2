"""A number of a graph of integers beside what it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeconv.core import Array
from edgeconv.core.values import counted


@dataclass(frozen=True)
class Place:
    """Where a graph of integers is not what was stated.

    Attributes:
        where: the value, named after its torch module.
        reason: one line: what is wrong there.
        error: how far off it is, in steps; None where that is no number.
        bound: what it may be.
    """

    where: str
    reason: str
    error: float | None = None
    bound: float | None = None


def furthest(where: str, what: str, distance: Array, bound: Array | float, sentence: str) -> Place | None:
    """The element that is furthest beyond its bound, with how many are; None where all are within.

    Args:
        where: the value's name.
        what: the constant, in words.
        distance: in steps.
        bound: alike; broadcasts.
        sentence: what each should be.
    """
    limit = np.broadcast_to(np.asarray(bound, np.float64), distance.shape)
    beyond = ~(distance <= limit)
    if not beyond.any():
        return None
    excess = np.where(beyond, np.where(np.isnan(distance), np.inf, distance - limit), -np.inf)
    at = np.unravel_index(int(np.argmax(excess)), distance.shape)
    index = f" {[int(place) for place in at]}" if distance.ndim else ""
    several = f"; so are {int(np.count_nonzero(beyond))} of {counted(distance.size, 'number')}"
    error, allowed = float(distance[at]), float(limit[at])
    reason = f"{what}{index} is {error:.4g} steps from {sentence}, and {allowed:.4g} are allowed"
    return Place(where, reason + (several if beyond.sum() > 1 else ""), error, allowed)
