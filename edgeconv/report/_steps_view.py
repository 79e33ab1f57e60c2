"""Quantized outputs runtime by runtime: how many steps each is from the integers that all are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeconv.core import Comparison
from edgeconv.report import _format as fmt

_LAST = 3  # steps that have a column of their own


@dataclass(frozen=True)
class StepsView:
    """The heads of the columns, and for each file, device and output what stands in them."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def steps_view(comparisons: Sequence[Comparison]) -> StepsView | None:
    """The table of all rows that count steps; None where fewer than two do, as there is nothing to lay beside."""
    counted = [row for row in comparisons if row.lsb]
    if len(counted) < 2:
        return None
    many = len({row.output for row in counted}) > 1
    titles = ("exact", *(f"±{steps}" for steps in range(1, _LAST + 1)), "more", "at most")
    return StepsView(titles, tuple((_title(row, many_outputs=many), _cells(row.lsb)) for row in counted))


def _title(row: Comparison, *, many_outputs: bool) -> str:
    return f"{row.artifact} on {row.device}" + (f", {row.output}" if many_outputs else "")


def _cells(lsb: Mapping[int, int]) -> tuple[str, ...]:
    counts = [0] * (_LAST + 2)
    for steps, count in lsb.items():
        counts[min(abs(steps), _LAST + 1)] += count
    shares = (fmt.percentage(count, sum(counts)) if count else fmt.NOTHING for count in counts)
    return (*shares, str(max(map(abs, lsb))))
