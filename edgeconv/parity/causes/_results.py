"""Whole results: channels in another order, scaled or shifted; another value of the graph in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.causes._piece import Evidence, Hypothesis, Piece
from edgeconv.parity.causes._weights import exchanges, matched

_MOST_CHANNELS = 4096  # whose pairs are compared
_ENOUGH = 4  # numbers of a channel: two of them fix the factor and the summand, so as many are left to confirm these
_SAME_FACTOR = 1e-9  # relative, between a bias alone and a scale


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
    """Another value of the graph, or another output of it, in place of the result."""
    for name, array in others.items():
        if array.shape == evidence.actual.shape:
            yield Hypothesis(f"{name} stands in its place", lambda array=array: array)  # type: ignore[misc]


def scaled_channels(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """Another factor and another summand in some channels of the result: a bias, a filter, a normalization."""
    expected, actual = piece.expected, evidence.actual
    if expected.shape != actual.shape or expected.ndim < 2 or expected.dtype.kind != "f":
        return
    for axis in dict.fromkeys((1, expected.ndim - 1)):
        due, held = (np.moveaxis(array, axis, 0) for array in (expected, actual))
        count = len(due)
        wrong = [at for at in range(count) if np.abs(held[at] - due[at]).max() > evidence.tolerance(due[at])]
        if not wrong or due[0].size < _ENOUGH or count > _MOST_CHANNELS:
            continue
        pairs = {at: _line(due[at].reshape(-1), held[at].reshape(-1)) for at in wrong}
        result = due.astype(np.float64)
        for at, (factor, term) in pairs.items():
            result[at] = factor * due[at] + term
        words = _in_words(pairs, count, evidence.tolerance(expected))
        moved = np.moveaxis(result, 0, axis)
        yield Hypothesis(words, lambda moved=moved: moved, fitted=2 * len(wrong))  # type: ignore[misc]


def _line(due: Array, held: Array) -> tuple[float, float]:
    """Factor and summand of a line through a channel's smallest and largest number, which determine it best."""
    low, high = int(np.argmin(due)), int(np.argmax(due))
    width = float(due[high] - due[low])
    factor = float(held[high] - held[low]) / width if width else 1.0
    return factor, float(held[low]) - factor * float(due[low])


def _in_words(pairs: Mapping[int, tuple[float, float]], count: int, tolerance: float) -> str:
    """Which channels changed, and how the first of them did."""
    at, (factor, term) = next(iter(pairs.items()))
    which = f"channel {at}" if len(pairs) == 1 else f"{len(pairs)} of {count} channels, the first of which is {at},"
    if all(abs(item[0] - 1) < _SAME_FACTOR for item in pairs.values()):
        return f"the result has another bias in {which}: {term:.6g} more" + (" there" if len(pairs) > 1 else "")
    summand = f" and shifted by {term:.6g}" if abs(term) > tolerance else ""
    return f"the result is scaled by {factor:.6g}{summand} in {which}".rstrip(",")
