"""Histograms of activations that grow with what they see, and do not depend on its order.

The bins are [i·w, (i + 1)·w) for whole i, and w is the smallest power of two with which `BINS` bins hold everything
seen so far. Doubling w merges pairs of bins exactly, so batches of any size in any order end in the same counts.
Exact zeros, of which rectified networks are full, are counted apart: every quantization represents them exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeconv.core import Array
from edgeconv.errors import QuantizeError

BINS = 4096
_SMALLEST = -126  # exponent of the smallest normal float32


@dataclass
class Histogram:
    """Counts of the values of one tensor.

    Attributes:
        low: the smallest value seen, 0 at most.
        high: the largest, 0 at least.
        zeros: how many were exactly zero; they are in no bin.
        exponent: the width of a bin is 2**exponent.
        first: index of the first bin.
        counts: of each bin from there on, int64.
    """

    low: float = 0.0
    high: float = 0.0
    zeros: int = 0
    exponent: int = _SMALLEST
    first: int = 0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def add(self, array: Array, where: str) -> None:
        """Counts the elements of a float32 array.

        Raises:
            QuantizeError: one of them is NaN or infinite.
        """
        flat = np.ascontiguousarray(array, np.float32).reshape(-1)
        low, high = (float(flat.min()), float(flat.max())) if flat.size else (0.0, 0.0)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise QuantizeError("a value is NaN or infinite", where=where, hint="look at the calibration data")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen()
        zeros = flat.size - int(np.count_nonzero(flat != 0))  # of floats themselves it takes four times as long
        self.zeros += zeros
        if zeros == flat.size:
            return
        scaled = flat * np.float32(2.0**-self.exponent)
        index = (np.floor(scaled, out=scaled) if low < 0 else scaled).astype(np.int32)
        index -= self.first
        counts = np.bincount(index, minlength=len(self.counts))
        # Bin 0 got the zeros as well, since 0 is in [0, width).
        counts[-self.first] -= zeros
        self.counts += counts

    def centers(self) -> npt.NDArray[np.float64]:
        """The middle of each bin, cut to what was seen."""
        width = 2.0**self.exponent
        edges = np.clip((self.first + np.arange(len(self.counts) + 1)) * width, self.low, self.high)
        return np.asarray((edges[:-1] + edges[1:]) / 2)

    def _widen(self) -> None:
        """Makes the bins reach from ``low`` to ``high``."""
        exponent = self.exponent
        while _index(self.high, exponent) - _index(self.low, exponent) >= BINS:
            exponent += 1
        first, last = _index(self.low, exponent), _index(self.high, exponent)
        if (exponent, first, last - first + 1) == (self.exponent, self.first, len(self.counts)):
            return
        # Each doubling of the width halves indices towards minus infinity, which is what an arithmetic shift does.
        moved = (self.first + np.arange(len(self.counts))) >> (exponent - self.exponent)
        counts = np.zeros(last - first + 1, np.int64)
        filled = self.counts != 0
        np.add.at(counts, moved[filled] - first, self.counts[filled])
        self.exponent, self.first, self.counts = exponent, first, counts


def _index(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))
