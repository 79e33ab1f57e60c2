"""The search for a target: error, size and latency for each number of layers that stay in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TargetPoint:
    """One step of the search: how many layers are in float, and what that gives and costs.

    Attributes:
        kept: how many.
        layers: which, the worst first.
        sqnr_db: of the quantized graph against the float one, decibels.
        agreement: share of the data whose class is the float graph's, 0 to 1; None where there are no classes.
        chosen: whether the files of the report are made of it.
        size_bytes: of its files, by format.
        latency_ms: median of one inference, by device; those that could not run it are left out.
        sqnr_bound_db: what the SQNR is at least on other inputs like the judged ones (`edgeconv.core.confidence`),
            decibels; None where the target is about the judged ones alone.
        index_agreement: share of the elements of outputs of indices that are the float graph's, of the one that agrees
            least, 0 to 1; None where there are no such outputs. They have no SQNR: of them alone it is infinite.
    """

    kept: int
    layers: tuple[str, ...]
    sqnr_db: float
    agreement: float | None = None
    chosen: bool = False
    size_bytes: Mapping[str, int] = field(default_factory=dict)
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    sqnr_bound_db: float | None = None
    index_agreement: float | None = None


@dataclass(frozen=True)
class TargetSearch:
    """A search for the fewest layers in float that reach a target.

    Attributes:
        variant: what was quantized, ``"int8"``.
        sqnr_db: the target, decibels; None where it is about classes.
        agreement: the target, 0 to 1; None where it is about SQNR.
        judged_on: the data that it is about, in words.
        layers: how many there are.
        points: from the fewest layers in float to all of them.
    """

    variant: str
    sqnr_db: float | None
    agreement: float | None
    judged_on: str
    layers: int
    points: tuple[TargetPoint, ...] = ()
