"""Latencies in a few numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Wall time of one inference, in milliseconds.

    Attributes:
        median_ms: half of the runs were faster.
        p90_ms: nine of ten runs were faster.
        min_ms: the fastest run: what the machine can do when nothing disturbs it.
        runs: how many were measured.
    """

    median_ms: float
    p90_ms: float
    min_ms: float
    runs: int


def summary_of(latencies_ms: Sequence[float]) -> Latency:
    """Sums up at least one latency.

    Raises:
        ValueError: there is none.
    """
    if not latencies_ms:
        raise ValueError("no latency was measured")
    values = np.asarray(latencies_ms, np.float64)
    return Latency(float(np.median(values)), float(np.percentile(values, 90)), float(values.min()), len(latencies_ms))


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over pairs of ``ours / theirs``.

    Both numbers of a pair were measured one right after the other, so that whatever else the machine was doing
    slowed them alike; the ratio of two medians would not know that.

    Raises:
        ValueError: the lists differ in length, or are empty.
    """
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
