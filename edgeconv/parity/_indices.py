"""Outputs of indices, class numbers for one: how many of them are the reference's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgeconv.core import Array, Fidelity
from edgeconv.core.variation import LEAST_NUMBERS
from edgeconv.parity._metrics import used_of

_LEAST_OF_OTHERS = 0.5  # of what one number everywhere would have wrong: as much as 3 dB are of what a channel varies


def index_counts(pairs: Sequence[tuple[Array, Array]]) -> dict[str, int]:
    """Counts the elements: ``all``, ``equal`` ones, and ``constant``, those that the most frequent number has right.

    Args:
        pairs: what the device, and what the reference computed, for each sample; of equal shapes.
    """
    expected = np.concatenate([b.ravel() for _, b in pairs])
    equal = sum(int(np.count_nonzero(a == b)) for a, b in pairs)
    return {
        "all": expected.size,
        "equal": equal,
        "constant": int(np.unique(expected, return_counts=True)[1].max(initial=0)),
    }


def index_shares(counts: Mapping[str, int], bound: Fidelity) -> Iterator[tuple[str, float]]:
    """For each threshold of indices a sentence on how far it is met, and its used share; above 1 it is missed."""
    wrong = counts["all"] - counts["equal"]
    if bound.index_agreement is not None:
        text = (
            f"{counts['equal']:,} of {counts['all']:,} indices are the reference's, "
            f"at least {bound.index_agreement:.4g} is asked for"
        )
        yield text, used_of(1.0 - counts["equal"] / counts["all"], 1.0 - bound.index_agreement)
    others = counts["all"] - counts["constant"]
    if bound.lost_parts == 0 and others >= LEAST_NUMBERS:
        text = f"{wrong:,} indices are wrong, and one number everywhere would have {others:,} wrong: they say nothing"
        yield text, wrong / (others * _LEAST_OF_OTHERS)
