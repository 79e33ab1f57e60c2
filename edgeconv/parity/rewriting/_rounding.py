"""Link 2: the error of rounding constants, to the precision of a file or to integers. It is stated, and never fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeconv.core import Array
from edgeconv.core.affine import decibels
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.parity.writing import errors, magnitude


def rounding(rounded: Sequence[Mapping[str, Array]], unrounded: Sequence[Mapping[str, Array]]) -> LinkResult:
    """Measures how far apart the outputs of two graphs are; names the output that is furthest away for its magnitude.

    Args:
        rounded: of each sample, the outputs of the graph with its constants as files have them, by name.
        unrounded: those with constants as they were before; shapes are the same.
    """
    shares: dict[str, tuple[float, float]] = {}
    signal = noise = 0.0
    beyond = 0
    for actual, expected in zip(rounded, unrounded, strict=True):
        for name, array in expected.items():
            distance = errors(np.asarray(actual[name]), array)
            finite = np.isfinite(distance) & np.isfinite(array)
            beyond += int(np.count_nonzero(np.isinf(distance)))
            noise += float(np.square(distance[finite], dtype=np.float64).sum())
            signal += float(np.square(array[finite], dtype=np.float64).sum())
            error = float(distance[finite].max(initial=0.0))
            share = error / (magnitude(array) or 1.0)
            shares[name] = max(shares.get(name, (0.0, 0.0)), (share, error))
    where = max(shares, key=lambda name: shares[name], default="")
    return LinkResult(
        Link.ROUNDING,
        Verdict.PASS,
        error=shares[where][1] if where else None,
        sqnr_db=decibels(signal, noise) if where else None,
        where=where,
        reason=f"{beyond} numbers of the outputs are infinite, or no numbers, of one graph alone" if beyond else "",
    )
