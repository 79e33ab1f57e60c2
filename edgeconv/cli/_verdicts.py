"""How reports look on the command line: a table for people, failures alone for those who asked for quiet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeconv.cli._streams import say, tell
from edgeconv.cli._tables import print_table
from edgeconv.errors import printable

if TYPE_CHECKING:
    from edgeconv.core import Comparison
    from edgeconv.report import Report

_STYLE: Mapping[str, str] = {"pass": "green", "fail": "bold red", "skipped": "yellow"}  # by the value of a verdict
# The share stands beside the error, since the bound grows with a sample's scale: a large error may be within it.
_TITLES = ("verdict", "artifact", "device", "output", "max abs", "of the bound", "SQNR", "")
_SOURCE = "(source)"  # the module, or the .onnx file that was given: its own row
_RIGHT = ("max abs", "of the bound", "SQNR")


def show_report(report: Report, folder: Path) -> None:
    """Prints a table row per comparison, the verdict with its reason, and where the page lies."""
    rows = report.comparisons
    print_table(_TITLES, [_cells(row) for row in rows], right=_RIGHT, styles=[_STYLE[row.verdict] for row in rows])
    verdict = f"{report.model}: {report.verdict.value}: {report.reason}"
    say(printable(f"{verdict} ({folder / 'parity.html'})"))


def tell_failures(report: Report) -> None:
    """One line on stderr for each failed comparison, and one for why the verdict is no pass; nothing for a pass."""
    if report.verdict.value == "pass":
        return
    for row in report.comparisons:
        if row.verdict.value == "fail":
            what = f"{row.artifact or _SOURCE} on {row.device}, output {row.output}"
            tell(printable(f"edgeconv: failed: {what}: {row.reason}"))
    tell(printable(f"edgeconv: failed: {report.model}: {report.reason}"))


def tell_warnings(warnings: Sequence[str], folder: Path) -> None:
    """One line on stderr for each thing that a command did to a folder and that its report does not say."""
    for warning in warnings:
        tell(printable(f"edgeconv: warning: {folder}: {warning}"))


def _cells(row: Comparison) -> tuple[str, ...]:
    measured = ("-", "-", "-")
    if row.metrics is not None:
        measured = (f"{row.metrics.max_abs:.2e}", _share(row), f"{row.metrics.sqnr_db:.0f} dB")
    is_told_alone = row.reason and row.verdict.value != "pass"
    told = row.reason if is_told_alone else "; ".join(filter(None, [row.reason, _remarks(row)]))
    return (row.verdict.value, row.artifact or _SOURCE, row.device, row.output, *measured, told)


def _share(row: Comparison) -> str:
    """How much of its bound the worst element uses: ``"44.0 %"``, or ``"17.5 times"`` above it; never 100 % there."""
    from edgeconv.report import excess_of

    worst = excess_of(row) or 0.0
    return f"{max(worst, 1.01):.3g} times" if worst > 1 else f"{math.floor(1000 * worst) / 10:.1f} %"


def _remarks(row: Comparison) -> str:
    """``top-1 99.44 %`` where labels are known, how often the class is the reference's, a microcontroller's memory."""
    remarks = []
    if row.top1.get("labelled"):
        remarks.append(f"top-1 {row.top1['correct'] / row.top1['labelled']:.2%}")
    if row.top1:
        remarks.append(f"class as the reference's {row.top1['agree']}/{len(row.samples)}")
    if row.indices:
        remarks.append(f"indices as the reference's {row.indices.get('equal', 0):,}/{row.indices.get('all', 0):,}")
    if row.arena_bytes is not None:
        remarks.append(f"arena {row.arena_bytes:,} bytes")
    return ", ".join(remarks)
