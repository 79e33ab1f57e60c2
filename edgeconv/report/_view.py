"""Everything that the page says, computed and put into words; the templates only lay it out."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeconv.core import Artifact, Comparison, Verdict
from edgeconv.core.values import counted
from edgeconv.report import _format as fmt
from edgeconv.report._chain_view import ChainView, chain_view
from edgeconv.report._graph_view import GraphsView, graphs_view
from edgeconv.report._palette import css_gradient
from edgeconv.report._report import Report, excess_of
from edgeconv.report._row_view import RowView, row_view
from edgeconv.report._target_search_view import TargetSearchView, target_search_view


@dataclass(frozen=True)
class WorstView:
    """The row that stands worst: where it is on the page, its name, and what is the matter with it."""

    anchor: str
    place: str
    matter: str


@dataclass(frozen=True)
class GroupView:
    """The rows of one artifact."""

    title: str
    subtitle: str
    rows: tuple[RowView, ...]


@dataclass(frozen=True)
class Pairs:
    """A table of names and values."""

    title: str
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PageView:
    """The whole page."""

    model: str
    description: str
    passed: bool
    headline: str
    statement: str
    worst: WorstView | None
    cautions: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]
    chains: tuple[ChainView, ...]
    groups: tuple[GroupView, ...]
    many_outputs: bool
    has_top1: bool
    has_agree: bool
    has_arena: bool
    gradient: str
    steps: StepsView | None
    target_search: TargetSearchView | None
    graphs: GraphsView | None
    artifacts: tuple[tuple[Artifact, str], ...]
    pairs: tuple[Pairs, ...]
    notes: tuple[str, ...]
    golden: str
    check_files: str


def page_view(report: Report) -> PageView:
    """Computes the page of a report."""
    rows = [
        row_view(row, f"row-{index}", opened=_opened(report, row)) for index, row in enumerate(report.comparisons, 1)
    ]
    worst = report.worst
    many_outputs = len({row.output for row in report.comparisons}) > 1
    headline, statement = _headline(report)
    return PageView(
        model=report.model,
        description=report.description,
        passed=report.verdict is Verdict.PASS,
        headline=headline,
        statement=statement,
        worst=None if worst is None else _worst(worst, rows[report.comparisons.index(worst)], many_outputs),
        cautions=_cautions(report),
        figures=_figures(report),
        chains=_chains(report),
        groups=_groups(report, rows),
        many_outputs=many_outputs,
        has_top1=any(row.top1.get("labelled") for row in report.comparisons),
        has_agree=any("agree" in row.top1 or row.indices for row in report.comparisons),
        has_arena=any(row.arena_bytes is not None for row in report.comparisons),
        gradient=css_gradient(),
        steps=steps_view(report.comparisons),
        target_search=target_search_view(report.target_search),
        graphs=graphs_view(report.graphs),
        artifacts=tuple((artifact, fmt.size(artifact.size_bytes)) for artifact in report.artifacts),
        pairs=_pairs(report),
        notes=report.notes,
        golden=report.golden,
        check_files=shlex.join(artifact.path.name for artifact in report.artifacts),
    )


def _headline(report: Report) -> tuple[str, str]:
    """The verdict in two words, and the sentence below it."""
    if report.verdict is Verdict.FAIL:
        failed = [row for row in report.comparisons if row.verdict is Verdict.FAIL]
        if not failed and len(report.unproved) == len(report.artifacts):
            return "Do not ship", "Nothing was compared, so nothing is known of these files."
        if not failed:
            names = _listed([artifact.path.name for artifact in report.unproved])
            return "Do not ship", f"No device judged {names}, so nothing is known of it."
        bad = list(dict.fromkeys(row.artifact or "PyTorch in float32" for row in failed))
        return "Do not ship", f"{report.reason[0].upper()}{report.reason[1:]}, in {_listed(bad)}."
    devices = {row.device for row in report.comparisons if row.verdict is Verdict.PASS and row.artifact}
    files = counted(len(report.artifacts), "file") if report.artifacts else "The files"
    where = f"on {counted(len(devices), 'device')}"
    verb = "computes" if len(report.artifacts) == 1 else "compute"
    return "Ship it", f"{files} {verb} what the PyTorch model computes, within tolerance, {where}."


def _worst(row: Comparison, view: RowView, many_outputs: bool) -> WorstView:
    place = f"{row.artifact} on {row.device}" if row.artifact else "PyTorch in float32"
    place = f"{place}, output {row.output}" if many_outputs else place
    if row.verdict is Verdict.FAIL:
        return WorstView(view.anchor, place, row.reason or f"{view.share.text} the tolerance")
    return WorstView(view.anchor, place, f"{view.share.text} of its tolerance used")


def _cautions(report: Report) -> tuple[str, ...]:
    """What the reader should know although nothing failed: files and runs that are missing, rows with a reservation."""
    unproved = [f"{artifact.path.name} was not judged on any device." for artifact in report.unproved]
    skipped = [row for row in report.comparisons if row.verdict is Verdict.SKIPPED]
    # A set: a file with several outputs has a row for each, and was not run once.
    lines = {f"{row.artifact or 'PyTorch'} was not run on {row.device}: {row.reason or 'skipped'}." for row in skipped}
    lines |= {
        f"{row.artifact} on {row.device}, {row.output}: {row.reason}."
        for row in report.comparisons
        if row.verdict is Verdict.PASS and row.reason
    }
    return (*unproved, *sorted(line.replace("..", ".") for line in lines))  # a reason may end with a full stop


def _figures(report: Report) -> tuple[tuple[str, str], ...]:
    rows = report.comparisons
    counts = [sum(row.verdict is verdict for row in rows) for verdict in Verdict]
    # The source's own row is the yardstick, and not a result.
    measured = [row.metrics for row in rows if row.metrics is not None and row.artifact]
    used = [value for row in rows if row.artifact and (value := excess_of(row)) is not None]
    figures = [(f"{count:,}", label) for count, label in zip(counts, ("passed", "failed", "skipped"), strict=True)]
    figures = [figure for figure, count in zip(figures, counts, strict=True) if count]
    if used:
        figures.append(
            (fmt.share(max(used)), "the tolerance, at worst" if max(used) > 1 else "of the tolerance, at worst")
        )
    if measured:
        figures.append((fmt.number(_largest([item.max_abs for item in measured])), "largest error |a − b|"))
        figures.append((fmt.decibel(-_largest([-item.sqnr_db for item in measured])) + " dB", "smallest SQNR"))
    return tuple(figures)


def _largest(values: list[float]) -> float:
    """Their maximum; NaN when one is NaN, which ``max`` would hide."""
    return math.nan if any(map(math.isnan, values)) else max(values)


def _chains(report: Report) -> tuple[ChainView, ...]:
    worst = report.worst
    return tuple(
        chain_view(
            artifact,
            _subtitle(artifact),
            [row for row in report.comparisons if row.artifact == artifact.path.name],
            opened=worst is not None and worst.artifact == artifact.path.name,
        )
        for artifact in report.artifacts
    )


def _groups(report: Report, rows: list[RowView]) -> tuple[GroupView, ...]:
    subtitles = {artifact.path.name: _subtitle(artifact) for artifact in report.artifacts}
    # Files first, in the report's order; rows of files that it does not list; the source's own rows last.
    names = dict.fromkeys([*subtitles, *(row.artifact for row in rows if row.artifact), ""])
    groups = []
    for name in names:
        own_rows = tuple(row for row in rows if row.artifact == name)
        if name:
            groups.append(GroupView(name, subtitles.get(name, ""), own_rows))
        elif own_rows:
            groups.append(GroupView("PyTorch itself, in float32", "the yardstick: what rounding alone costs", own_rows))
    return tuple(groups)


def _subtitle(artifact: Artifact) -> str:
    size = [] if artifact.size_bytes is None else [fmt.size(artifact.size_bytes)]
    return ", ".join([artifact.format, artifact.variant, artifact.layout.upper(), *size])


def _opened(report: Report, row: Comparison) -> bool:
    return row.verdict is Verdict.FAIL or row is report.worst


def _pairs(report: Report) -> tuple[Pairs, ...]:
    flat = tuple((key, value) for key, value in report.environment.items() if isinstance(value, str))
    groups = [Pairs("Model", tuple(report.source.items())), Pairs("Where it was exported", flat)]
    groups += [
        Pairs(key, tuple(value.items())) for key, value in report.environment.items() if not isinstance(value, str)
    ]
    return tuple(group for group in groups if group.items)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


_LAST = 3  # steps that have a column of their own


@dataclass(frozen=True)
class StepsView:
    """Quantized outputs runtime by runtime: how many steps each is from the integers that all are held against.

    The heads of the columns, and for each file, device and output what stands in them.
    """

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
