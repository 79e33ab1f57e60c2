"""Explains failures of files that pass on the same runtime with graph optimization off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeconv.core import Comparison, Fidelity, Metrics, Verdict
from edgeconv.errors import PAIR_SAFE


def explained_by_fusion(
    rows: Sequence[Comparison], unfused: Sequence[Comparison], *, saturating: bool
) -> tuple[Comparison, ...]:
    """The rows; those that fail, but pass when every operator is computed by itself, say so in their reason.

    Args:
        rows: of one artifact on one device.
        unfused: of the same artifact and samples on the same device, with graph optimization off.
        saturating: whether the device's integer kernels add two products in 16 bits.
    """
    by_output = {row.output: row for row in unfused}
    return tuple(
        replace(row, reason=f"{row.reason}; {_cause(by_output[row.output], saturating)}")
        if row.verdict is Verdict.FAIL and row.output in by_output and by_output[row.output].verdict is Verdict.PASS
        else row
        for row in rows
    )


def _cause(unfused: Comparison, saturating: bool) -> str:
    reached = f" ({_sqnr_text(unfused.metrics)})" if unfused.metrics is not None else ""
    held = f"with graph optimization off the same file holds{reached}"
    if saturating:
        return (
            f"{held}: the integer kernels of this processor saturate; export with {PAIR_SAFE}, "
            "which keeps sums of two products within 16 bits"
        )
    return f"{held}: the runtime's fused kernels compute something else; set its graph_optimization_level on the device"


def _sqnr_text(metrics: Metrics) -> str:
    return f"{metrics.sqnr_db:.2f} dB"


def asks_of_all(row: Comparison) -> bool:
    """Whether the row fails by thresholds over all samples, which unfused kernels may meet."""
    return row.verdict is Verdict.FAIL and isinstance(row.tolerance, Fidelity) and row.metrics is not None
