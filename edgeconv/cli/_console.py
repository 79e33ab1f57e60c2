"""How progress and results look: rich on a terminal, plain lines in CI, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console as RichConsole
from rich.measure import Measurement
from rich.table import Table

from edgeconv.core import Comparison, Verdict
from edgeconv.progress import Progress, Silent
from edgeconv.report import Report

_STYLE = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.SKIPPED: "yellow"}


class Plain:
    """One line per finished stage, for logs."""

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Tells the stage when it is done."""
        start_ns = time.perf_counter_ns()
        yield
        print(f"  {title}: {(time.perf_counter_ns() - start_ns) / 1e9:.2f} s", flush=True)

    def note(self, text: str) -> None:
        """A line of its own."""
        print(f"  note: {text}", flush=True)


class Live:
    """A spinner for the stage that runs, a tick for each that is done."""

    def __init__(self, console: RichConsole) -> None:
        self._console = console

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Spins while the stage runs."""
        start_ns = time.perf_counter_ns()
        with self._console.status(title):
            yield
        seconds = (time.perf_counter_ns() - start_ns) / 1e9
        self._console.print(f"  [green]✓[/] {title} [dim]{seconds:.2f} s[/]", highlight=False)

    def note(self, text: str) -> None:
        """A line of its own."""
        self._console.print(f"  [yellow]note:[/] {text}", highlight=False)


def progress_for(*, silent: bool) -> Progress:
    """The progress that suits where standard output goes."""
    if silent:
        return Silent()
    return Live(RichConsole()) if sys.stdout.isatty() else Plain()


def print_table(table: Table) -> None:
    """Prints a table at its full width: lines that a narrow terminal wraps are better than cells cut off."""
    console = RichConsole()
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    console.width = max(console.width, needed)
    console.print(table)


def show_report(report: Report, folder: Path) -> None:
    """Prints a table row per comparison, the verdict, and where the page lies."""
    if sys.stdout.isatty():
        RichConsole().print(_table(report.comparisons))
    else:
        for row in report.comparisons:
            print("  " + "  ".join(_cells(row)))
    print(f"{report.model}: {report.verdict.value} ({folder / 'parity.html'})", flush=True)


def _table(comparisons: Sequence[Comparison]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("verdict", "artifact", "device", "output", "max abs", "SQNR", ""):
        table.add_column(title, justify="right" if title in ("max abs", "SQNR") else "left", overflow="fold")
    for row in comparisons:
        table.add_row(*_cells(row), style=_STYLE[row.verdict])
    return table


def _cells(row: Comparison) -> tuple[str, ...]:
    measured = ("-", "-")
    if row.metrics is not None:
        measured = (f"{row.metrics.max_abs:.2e}", f"{row.metrics.sqnr_db:.0f} dB")
    return (row.verdict.value, row.artifact or "(module)", row.device, row.output, *measured, row.reason or _top1(row))


def _top1(row: Comparison) -> str:
    """``top-1 99.44 %`` where labels are known, and how often the class is torch's where there are classes."""
    told = []
    if row.top1.get("labelled"):
        told.append(f"top-1 {row.top1['correct'] / row.top1['labelled']:.2%}")
    if row.top1:
        told.append(f"class as torch's {row.top1['agree']}/{len(row.samples)}")
    return ", ".join(told)
