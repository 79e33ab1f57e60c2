"""The page's section on a search for a target: a table of its steps, error against latency and against size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from edgeconv.report import _format as fmt
from edgeconv.report._svg import line, text_at
from edgeconv.report._target_search import TargetPoint, TargetSearch

_WIDTH, _HEIGHT = 400, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 30, 44
_TICKS = 4
_ABOVE_DB = 6.0  # of the scale over the target and the quantized points: float's own 120 dB would flatten these


@dataclass(frozen=True)
class TargetSearchView:
    """The section."""

    statement: str
    titles: tuple[str, ...]
    rows: tuple[tuple[bool, tuple[str, ...]], ...]
    float_layers: tuple[str, ...]
    charts: tuple[tuple[Markup, str], ...]


@dataclass(frozen=True)
class _Scale:
    """Maps numbers to places in the drawing; larger ones than its end stand at the end."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        part = (min(value, self.high) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        step = _round_step((self.high - self.low) / _TICKS)
        first = math.ceil(self.low / step)
        return [step * index for index in range(first, math.floor(self.high / step) + 1)]


def target_search_view(search: TargetSearch | None) -> TargetSearchView | None:
    """Computes the section; None where there was no target."""
    if search is None or not search.points:
        return None
    # A column for each format and device that any point was measured with.
    sizes = list(dict.fromkeys(name for point in search.points for name in point.size_bytes))
    devices = list(dict.fromkeys(name for point in search.points for name in point.latency_ms))
    measured = {title: of for title, of in _MEASURED.items() if any(map(of, search.points))}
    titles = ["Layers in float", "SQNR, dB", *measured]
    titles += [f".{name}, kB" for name in sizes] + [f"{name}, ms" for name in devices]
    chosen = next((point for point in search.points if point.chosen), None)
    charts = []
    for names, of, what, unit in (
        (devices, lambda point: point.latency_ms, "latency", "ms"),
        (sizes, lambda point: {name: size / 1000 for name, size in point.size_bytes.items()}, "size", "kB"),
    ):
        drawn = _chart(search, names, of, f"{what}, {unit}")
        if drawn is not None:
            charts.append((drawn, f"Error against {what}. Ringed: what was chosen; the dashed line is the target."))
    return TargetSearchView(
        statement=_statement(search, chosen),
        titles=tuple(titles),
        rows=tuple((point.chosen, _cells(point, search, measured.values(), sizes, devices)) for point in search.points),
        float_layers=chosen.layers if chosen is not None else (),
        charts=tuple(charts),
    )


def _statement(search: TargetSearch, chosen: TargetPoint | None) -> str:
    target = f"{search.sqnr_db:g} dB" if search.sqnr_db is not None else f"the same class in {search.agreement:.4g}"
    count = 0 if chosen is None else chosen.kept
    what = "no layer" if not count else f"{count} of {search.layers} layers"
    return f"{search.variant}: {target} was asked for, judged on {search.judged_on}. For that, {what} stayed in float."


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


_MEASURED: Mapping[str, Callable[[TargetPoint], str]] = {
    "On others, dB": lambda point: "" if point.sqnr_bound_db is None else fmt.decibel(point.sqnr_bound_db),
    "Same class": lambda point: _share(point.agreement),
    "Same indices": lambda point: _share(point.index_agreement),
}
"""Columns that are shown where a point has them, by their titles; empty where it has none."""


def _cells(
    point: TargetPoint,
    search: TargetSearch,
    measured: Iterable[Callable[[TargetPoint], str]],
    sizes: list[str],
    devices: list[str],
) -> tuple[str, ...]:
    return (
        f"{point.kept} of {search.layers}",
        fmt.decibel(point.sqnr_db),
        *(of(point) or fmt.NOTHING for of in measured),
        *(f"{point.size_bytes[name] / 1000:,.1f}" if name in point.size_bytes else fmt.NOTHING for name in sizes),
        *(f"{point.latency_ms[name]:.3f}" if name in point.latency_ms else fmt.NOTHING for name in devices),
    )


def _chart(
    search: TargetSearch, names: list[str], of: Callable[[TargetPoint], Mapping[str, float]], x_title: str
) -> Markup | None:
    """A line per format or device through its points; None where there is nothing to draw: indices have no SQNR."""
    by_class = search.agreement is not None
    series = {
        name: [
            (of(point)[name], _height(point, by_class=by_class), point) for point in search.points if name in of(point)
        ]
        for name in names
    }
    every = [pair for pairs in series.values() for pair in pairs]
    if not any(math.isfinite(height) for _, height, _ in every):
        return None
    target = 100 * search.agreement if search.agreement is not None else search.sqnr_db or 0.0
    # Without the point that is all float, whose SQNR would set the scale.
    shown = [height for _, height, point in every if by_class or point.kept < search.layers]
    heights = [*filter(math.isfinite, shown), target]
    margin = max(0.05 * (max(heights) - min(heights)), 0.1)
    top = min(100.0, max(heights) + margin) if by_class else max(heights) + _ABOVE_DB
    y = _Scale(min(heights) - margin, top + 1e-9, _HEIGHT - _BOTTOM, _TOP)
    x = _Scale(0.0, 1.08 * max(value for value, _, _ in every), _LEFT, _WIDTH - _RIGHT)
    y_title = "same class, %" if by_class else "SQNR, dB"
    label = f"{y_title} against {x_title}: {', '.join(names)}"
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, label),
        *_axes(x, y, x_title, y_title),
        line("mark", _LEFT, y.at(target), _WIDTH - _RIGHT, y.at(target)),
    ]
    for index, (name, pairs) in enumerate(series.items()):
        parts += _series(index, name, pairs, x, y)
    return Markup("").join([*parts, Markup("</svg>")])


def _height(point: TargetPoint, *, by_class: bool) -> float:
    return 100 * (point.agreement or 0.0) if by_class else point.sqnr_db


def _series(index: int, name: str, pairs: list[tuple[float, float, TargetPoint]], x: _Scale, y: _Scale) -> list[Markup]:
    places = [(x.at(across), y.at(height), point) for across, height, point in pairs]
    path = " ".join(f"{across:.1f},{height:.1f}" for across, height, _ in places)
    parts = [Markup('<polyline class="series s{}" points="{}"/>').format(index % 2, path)]
    for (across, height, point), (value, reached, _) in zip(places, pairs, strict=True):
        shape = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>')
        title = f"{name}, {point.kept} in float: {value:.4g}, {fmt.decibel(reached)}"
        if point.chosen:
            parts.append(shape.format("ring", across, height, 8, title))
        parts.append(shape.format(f"point s{index % 2}", across, height, 4, title))
    at = _LEFT + 130 * index
    key = Markup('<circle class="point s{}" cx="{}" cy="9" r="4"/>').format(index % 2, at + 6)
    return [*parts, key, text_at(at + 15, 13, name, "start")]


def _axes(x: _Scale, y: _Scale, x_title: str, y_title: str) -> list[Markup]:
    base = _HEIGHT - _BOTTOM
    parts = [text_at(_WIDTH - _RIGHT, _HEIGHT - 6, x_title, "end"), text_at(0, _HEIGHT - 6, y_title, "start")]
    for value in y.ticks():
        parts.append(line("grid", _LEFT, y.at(value), _WIDTH - _RIGHT, y.at(value)))
        parts.append(text_at(_LEFT - 6, y.at(value) + 4, f"{value:,.10g}", "end"))
    for value in x.ticks():
        parts.append(line("axis", x.at(value), base, x.at(value), base + 5))
        parts.append(text_at(x.at(value), base + 18, f"{value:.3g}", "middle"))
    return [*parts, line("axis", _LEFT, base, _WIDTH - _RIGHT, base)]


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(max(rough, 1e-12)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
