"""One comparison, in words and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup

from edgeconv.core import (
    Comparison,
    ErrorPicture,
    Fidelity,
    LayerSteps,
    Metrics,
    SampleResult,
    Tolerance,
    Verdict,
)
from edgeconv.core.verdicts import GroupUse
from edgeconv.report import _format as fmt
from edgeconv.report._palette import png_uri
from edgeconv.report._report import excess_of
from edgeconv.report._svg import Mark, histogram

MAX_SAMPLES = 40  # the worst ones; the page says how many more there are
MAX_LAYERS = 12  # rows of a table that is read at a glance


@dataclass(frozen=True)
class MetricsView:
    """Metrics as text; dashes when nothing was measured."""

    max_abs: str
    max_rel: str
    rel_floor: str
    mean_abs: str
    ulp: str
    sqnr: str
    cosine: str


@dataclass(frozen=True)
class ShareView:
    """The used share of a tolerance: as text, and as the length of a bar in percent (100 at the tolerance)."""

    text: str
    fill: float


@dataclass(frozen=True)
class SampleView:
    """One line of a row's table of samples."""

    name: str
    verdict: Verdict
    reason: str
    share: ShareView
    metrics: MetricsView


@dataclass(frozen=True)
class HeatView:
    """An error map with its legend; ``mark`` is where the bound lies on the legend, in percent of its width."""

    uri: str
    columns: int
    rows: int
    alt: str
    top: str
    mark: float | None
    not_finite: int


@dataclass(frozen=True)
class LayerView:
    """One line of a row's table of layers; ``allowed`` says why more than the bound is, where it is."""

    name: str
    operators: str
    largest: str
    exact: str
    allowed: str
    verdict: Verdict


@dataclass(frozen=True)
class RowView:
    """One comparison.

    ``top1`` and ``agree`` are a percentage and its counts; ``samples`` are the worst ones, worst first, and
    ``more_samples`` counts the others. ``by_element`` tells a bound on each element from one on all
    samples together; ``steps`` are distances from the graph's integers and their percentages. ``layers`` are the worst
    ones, worst first, ``layer_count`` is how many there are, and ``layer_steps`` as ``steps``, of all their elements.
    """

    anchor: str
    artifact: str
    device: str
    output: str
    verdict: Verdict
    reason: str
    share: ShareView
    metrics: MetricsView
    top1: tuple[str, str]
    agree: tuple[str, str]
    latency: str
    arena: str
    tolerance: str
    own_scale: str
    by_element: bool
    steps: tuple[tuple[str, str], ...]
    layers: tuple[LayerView, ...]
    layer_count: int
    layer_steps: tuple[tuple[str, str], ...]
    samples: tuple[SampleView, ...]
    more_samples: int
    picture_sample: str
    histogram: Markup | None
    heat: HeatView | None
    opened: bool


def row_view(row: Comparison, anchor: str, *, opened: bool) -> RowView:
    """Puts one comparison into words; ``opened`` rows show their details from the start."""
    picture = row.picture
    ranked = sorted(row.samples, key=_rank)
    return RowView(
        anchor=anchor,
        artifact=row.artifact,
        device=row.device,
        output=row.output,
        verdict=row.verdict,
        reason=row.reason,
        share=_share(excess_of(row)),
        metrics=_metrics(row.metrics),
        top1=_counts(row.top1.get("correct"), row.top1.get("labelled", 0)),
        agree=_agreement(row),
        latency=fmt.milliseconds(row.latency_ms),
        arena=fmt.NOTHING if row.arena_bytes is None else fmt.size(row.arena_bytes),
        tolerance=_tolerance(row.tolerance, indices=bool(row.indices)),
        own_scale=_own_scale(row.groups) or _unjudged(row.parts),
        by_element=isinstance(row.tolerance, Tolerance),
        steps=_steps(row.lsb),
        layers=_layers(row),
        layer_count=len(row.layers),
        layer_steps=_steps(row.layer_lsb),
        samples=tuple(_sample(sample) for sample in ranked[:MAX_SAMPLES]),
        more_samples=max(0, len(ranked) - MAX_SAMPLES),
        picture_sample=picture.sample if picture else "",
        histogram=histogram(picture, _marks(row.tolerance), failed=row.verdict is Verdict.FAIL) if picture else None,
        heat=_heat(picture, row.tolerance) if picture and picture.map else None,
        opened=opened,
    )


def _agreement(row: Comparison) -> tuple[str, str]:
    """How often the class is the reference's; of an approximation with the interval that so few samples allow."""
    if row.indices:
        return _counts(row.indices.get("equal"), row.indices.get("all", 0))
    text, counts = _counts(row.top1.get("agree"), len(row.samples))
    if counts and isinstance(row.tolerance, Fidelity):
        low, high = fmt.wilson(row.top1["agree"], len(row.samples))
        counts = f"{counts}; {100 * low:.1f}–{100 * high:.1f} %"
    return text, counts


def _counts(part: int | None, whole: int) -> tuple[str, str]:
    return (fmt.NOTHING, "") if part is None or not whole else (fmt.percentage(part, whole), f"{part:,} of {whole:,}")


def _rank(sample: SampleResult) -> tuple[bool, float]:
    excess = math.inf if math.isnan(sample.excess) else sample.excess  # a sort by NaN would have no order
    return sample.verdict is not Verdict.FAIL, -excess


def _sample(sample: SampleResult) -> SampleView:
    name = sample.sample if sample.scale <= 1.0 else f"{sample.sample} (bound times {sample.scale:g})"
    return SampleView(name, sample.verdict, sample.reason, _share(sample.excess), _metrics(sample.metrics))


def _share(used: float | None) -> ShareView:
    if used is None:
        return ShareView(fmt.NOTHING, 0.0)
    return ShareView(fmt.share(used), 100.0 if math.isnan(used) else round(100 * min(used, 1.0), 1))


def _metrics(metrics: Metrics | None) -> MetricsView:
    if metrics is None:
        return MetricsView(*[fmt.NOTHING] * 7)
    return MetricsView(
        max_abs=fmt.number(metrics.max_abs),
        max_rel=fmt.number(metrics.max_rel),
        rel_floor=fmt.number(metrics.rel_floor),
        mean_abs=fmt.number(metrics.mean_abs),
        ulp=fmt.number(metrics.max_ulp),
        sqnr=fmt.decibel(metrics.sqnr_db),
        cosine=fmt.cosine(metrics.cosine),
    )


def _tolerance(tolerance: Tolerance | Fidelity, *, indices: bool = False) -> str:
    if isinstance(tolerance, Fidelity):
        return ", ".join(_thresholds(tolerance, indices=indices)) or "nothing: it is only measured"
    relative = f" + {fmt.number(tolerance.rtol)}·|b|" if tolerance.rtol else ""
    text = f"|a − b| ≤ {fmt.number(tolerance.atol)}{relative}"
    if tolerance.max_abs is None or (tolerance.max_abs == tolerance.atol and not relative):
        return text
    return f"{text}, and at most {fmt.number(tolerance.max_abs)}"


def _own_scale(groups: Sequence[GroupUse]) -> str:
    """How the groups of channels keep to their own scale; nothing where they were not judged."""
    if not groups:
        return ""
    worst = max(groups, key=lambda group: group.used)
    which = "the output" if len(groups) == 1 else f"each of {len(groups)} groups of channels"
    text = f"In its own scale {which} uses at most {fmt.share(worst.used)} of its bound, {fmt.number(worst.bound)}"
    text += f", where its largest number is {fmt.number(worst.largest)}"
    if worst.float32_error is not None:
        text += f" and float32 itself is {fmt.number(worst.float32_error)} off"
    return f"{text}."


def _unjudged(parts: Mapping[str, int]) -> str:
    """That channels were not judged for themselves; nothing where they were."""
    if not parts.get("unjudged"):
        return ""
    return (
        f"None of its {parts['unjudged']:,} channels is judged for itself: more inputs are needed, 16 numbers of each."
    )


def _thresholds(bound: Fidelity, *, indices: bool = False) -> Iterator[str]:
    """The acceptance thresholds on all samples together, one text each."""
    if indices:
        if bound.index_agreement is not None:
            yield f"≥ {100 * bound.index_agreement:.4g} % of the indices are PyTorch's"
        bound = replace(bound, sqnr_db=None, cosine=None, agreement=None, accuracy_drop=None)
    if bound.sqnr_db is not None:
        yield f"SQNR ≥ {fmt.decibel(bound.sqnr_db)} dB over all samples"
    if bound.cosine is not None:
        yield f"cosine ≥ {fmt.cosine(bound.cosine)}"
    if bound.agreement is not None:
        yield f"class as PyTorch's in ≥ {100 * bound.agreement:.4g} % of the samples"
    if bound.accuracy_drop is not None:
        yield f"top-1 within {bound.accuracy_drop:g} points of PyTorch's"
    if bound.lost_parts:  # that none may be lost goes without saying
        yield f"≤ {bound.lost_parts} parts that say nothing"
    if bound.lsb is not None:
        yield f"≤ {bound.lsb} LSB from the graph's integers"


def _steps(lsb: Mapping[int, int]) -> tuple[tuple[str, str], ...]:
    """Distances from the graph's integers in steps, with the part of the elements that have them."""
    total = sum(lsb.values())
    return tuple((f"{steps:+d}".replace("-", "−"), fmt.percentage(count, total)) for steps, count in lsb.items())


def _layers(row: Comparison) -> tuple[LayerView, ...]:
    """The layers that are furthest off, then those with the most elements that are off."""
    most_lsb = row.tolerance.layer_lsb if isinstance(row.tolerance, Fidelity) else None
    return tuple(_layer(layer, most_lsb) for layer in sorted(row.layers, key=_by_distance)[:MAX_LAYERS])


def _by_distance(layer: LayerSteps) -> tuple[int, float]:
    return -layer.largest, layer.lsb.get(0, 0) / max(1, sum(layer.lsb.values()))


def _layer(layer: LayerSteps, most_lsb: int | None) -> LayerView:
    passed = most_lsb is None or layer.largest <= max(most_lsb, layer.most)
    return LayerView(
        name=layer.name,
        operators=", ".join(layer.operators) or "quantized only",
        largest=str(layer.largest),
        exact=fmt.percentage(layer.lsb.get(0, 0), sum(layer.lsb.values())),
        allowed=f"{layer.most} allowed: {layer.reason}" if layer.reason else "",
        verdict=Verdict.PASS if passed else Verdict.FAIL,
    )


def _marks(tolerance: Tolerance | Fidelity) -> tuple[Mark, ...]:
    """The bounds that the histogram shows; one on all samples together is no bound of an element."""
    if isinstance(tolerance, Fidelity):
        return ()
    bounds = {tolerance.max_abs: "bound on the maximum", tolerance.atol: "absolute bound"}
    return tuple(Mark(f"{label} {fmt.number(at)}", math.log10(at)) for at, label in bounds.items() if at)


def _heat(picture: ErrorPicture, tolerance: Tolerance | Fidelity) -> HeatView:
    """The error map of the worst sample, and where the stricter bound lies on its scale of colors."""
    grid = np.array(picture.map, dtype=np.float64)
    finite = np.isfinite(grid)
    top = float(grid[finite].max(initial=0.0))
    row, column = np.unravel_index(int(np.where(finite, grid, -1.0).argmax()), grid.shape)
    limits = () if isinstance(tolerance, Fidelity) else (tolerance.atol, tolerance.max_abs)
    bound = min((limit for limit in limits if limit is not None), default=0.0)
    where = f"row {row + 1} of {grid.shape[0]}, column {column + 1} of {grid.shape[1]}"
    return HeatView(
        uri=png_uri(grid, top),
        columns=grid.shape[1],
        rows=grid.shape[0],
        alt=f"Error over the output image of {picture.sample}; the largest, {fmt.number(top)}, is in cell {where}.",
        top=fmt.number(top),
        mark=round(100 * bound / top, 1) if 0 < bound <= top else None,
        not_finite=int(np.count_nonzero(~finite)),
    )
