"""Real numbers rounded to integers, and by how many steps kernels may differ."""

from __future__ import annotations

import numpy as np

from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded


def quantized(steps: Bounded, limits: tuple[int, int], zero_point: Array | float = 0.0) -> Bounded:
    """The nearest integers of real multiples of a scale, held within limits: another one where a tie is within reach.

    Args:
        steps: real numbers over the scale, with a runtime's error of them.
        limits: the smallest and the largest integer.
        zero_point: that is added.
    """

    def held(values: Array) -> Array:
        return np.clip(values + zero_point, *limits)

    value = held(np.rint(steps.value))
    errors = []
    for error in (steps.worst, steps.likely):
        finite = np.where(np.isfinite(error), error, 2.0**40)  # beyond the limits of every integer format
        low, high = held(np.ceil(steps.value - finite - 0.5)), held(np.floor(steps.value + finite + 0.5))
        errors.append(np.maximum(np.abs(high - value), np.abs(value - low)))
    return Bounded(value, errors[0], errors[1], steps.arithmetic)
