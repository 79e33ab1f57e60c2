"""What the integers of a quantized tensor stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeconv.core import Array
from edgeconv.core.affine import limits_of


@dataclass(frozen=True)
class Steps:
    """What the integers of a quantized value stand for: ``real = scale * (stored - zero_point)``, and which there are.

    Attributes:
        scale: positive.
        least: the real number that the smallest integer stands for.
        greatest: that of the largest.
    """

    scale: float
    least: float
    greatest: float

    def saturated(self, array: Array) -> Array:
        """Numbers that become the smallest or the largest integer are all alike; the others stay as they are."""
        return np.clip(array, self.least + self.scale / 2, self.greatest - self.scale / 2)

    def nearest(self, array: Array) -> Array:
        """The numbers that integers stand for which are the nearest: a kernel that looks results up has no others."""
        count = round((self.greatest - self.least) / self.scale)
        return np.asarray(self.least + self.scale * np.clip(np.rint((array - self.least) / self.scale), 0, count))

    def spread(self, shape: Sequence[int], *, negative: bool = True) -> Array:
        """Numbers drawn from all that the integers stand for, each as likely; on request none below zero."""
        # On the integers: a kernel that looks results up has none between them.
        count = round((self.greatest - self.least) / self.scale)
        first = 0 if negative else min(max(0, round(-self.least / self.scale)), count)
        drawn = np.random.default_rng(math.prod(shape)).integers(first, count, shape, endpoint=True)
        return np.asarray(self.least + self.scale * drawn)


def steps_of(scale: float, zero_point: int, dtype: str) -> Steps:
    """Of an integer tensor."""
    low, high = limits_of(dtype)
    return Steps(scale, scale * (low - zero_point), scale * (high - zero_point))
