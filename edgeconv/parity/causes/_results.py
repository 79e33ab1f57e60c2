"""Whole results: channels in another order, another value of the graph in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.causes._piece import Evidence, Hypothesis, Piece
from edgeconv.parity.causes._weights import exchanges, matched

_MOST_CHANNELS = 4096  # whose pairs are compared


def permuted_channels(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """Slices of the result in each other's places, along the axis of channels, or the last one."""
    expected, actual = piece.expected, evidence.actual
    if expected.shape != actual.shape or expected.ndim < 2:
        return
    for axis in dict.fromkeys((1, expected.ndim - 1)):
        if not 1 < expected.shape[axis] <= _MOST_CHANNELS:
            continue
        due, held = (np.moveaxis(array, axis, 0) for array in (expected, actual))
        places = matched(due, held, evidence.tolerance(expected))
        if places is not None:
            words = f"the channels of the result are permuted ({exchanges(places)})"
            yield Hypothesis(words, lambda axis=axis, places=places: np.take(expected, places, axis))  # type: ignore[misc]


def exchanged_values(evidence: Evidence, others: Mapping[str, Array]) -> Iterator[Hypothesis]:
    """Another value of the graph, or an output of it, stands in the place."""
    for name, array in others.items():
        if array.shape == evidence.actual.shape:
            yield Hypothesis(f"{name} stands in its place", lambda array=array: array)  # type: ignore[misc]
