"""What calibration saw of a value, and how a range is chosen of it: stated, so that the choice can be judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Observed:
    """The counts of a value's elements over all calibration data, and the observer that chose its range.

    Attributes:
        observer: one of `edgeconv.core.quantization_options.OBSERVERS`.
        percentile: of the observer of this name: the share of the elements that the range holds, in percent.
        low: the smallest element, 0 at most.
        high: the largest, 0 at least.
        zeros: how many were exactly zero; they are in no bin.
        width: of a bin.
        first: index of the first bin: it begins at ``first * width``.
        counts: of each bin from there on, int64.
    """

    observer: str
    percentile: float
    low: float
    high: float
    zeros: int
    width: float
    first: int
    counts: npt.NDArray[np.int64]
