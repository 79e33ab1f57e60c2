"""One picture of a bench: how many times slower each peer's file and each peer's export is than edgeconv's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from results import PAIRS, RUNTIMES, ratios, speed_up

_ROW, _TOP, _LEFT, _PANEL, _GAP = 22, 84, 150, 260, 34
_COLORS = {
    "torch.onnx": "#d97706",
    "litert-torch": "#2563eb",
    "litert-torch-nhwc": "#60a5fa",
    "onnx2tf": "#059669",
    "litert-torch + torch.onnx": "#2563eb",
    "onnx2tf + torch.onnx": "#059669",
}
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2937 } .title { font-weight: 600; font-size: 13px }
.small { font-size: 11px; fill: #6b7280 } .grid { stroke: #e5e7eb } .one { stroke: #111827; stroke-width: 1.5 }
.ground { fill: #ffffff }
@media (prefers-color-scheme: dark) { text { fill: #e5e7eb } .small { fill: #9ca3af } .grid { stroke: #374151 }
.one { stroke: #f9fafb } .ground { fill: #111827 } }
"""

Panel = tuple[str, Callable[[Mapping[str, Any]], Mapping[str, float]]]


def _slower(format_: str) -> Callable[[Mapping[str, Any]], Mapping[str, float]]:
    return lambda network: {name: 1 / ratio for name, ratio in ratios(network, format_).items()}


def _exports(network: Mapping[str, Any]) -> Mapping[str, float]:
    return {pair: value for pair in PAIRS if (value := speed_up(network, pair))}


def svg(document: Mapping[str, Any]) -> str:
    """A dot per peer and network on three logarithmic axes; right of the line, edgeconv is faster."""
    panels: list[Panel] = [(f"latency on {runtime}", _slower(format_)) for format_, runtime in RUNTIMES.items()]
    panels.append(("export of both files", _exports))
    networks = document["networks"]
    height = _TOP + _ROW * len(networks) + 34
    width = _LEFT + len(panels) * (_PANEL + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}" rx="6"/>',
        '<text class="title" x="16" y="24">Time of each peer / time of edgeconv (the line at 1)</text>',
        *_legend(networks, panels),
    ]
    for index, network in enumerate(networks):
        y = _TOP + _ROW * index + _ROW / 2
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(network["name"])}</text>')
    for index, panel in enumerate(panels):
        parts += _panel(panel, networks, _LEFT + index * (_PANEL + _GAP), height)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(networks: Sequence[Mapping[str, Any]], panels: Sequence[Panel]) -> list[str]:
    seen = {name for network in networks for _, values in panels for name in values(network)}
    parts, x = [], 16.0
    for name in (name for name in _COLORS if name in seen):
        parts.append(f'<circle cx="{x + 5}" cy="42" r="5" fill="{_COLORS[name]}"/>')
        parts.append(f'<text x="{x + 16}" y="46">{escape(name)}</text>')
        x += 34 + 6.6 * len(name)
    return parts


def _panel(panel: Panel, networks: Sequence[Mapping[str, Any]], left: float, height: float) -> list[str]:
    title, values = panel
    rows = [values(network) for network in networks]
    found = [value for row in rows for value in row.values()] or [1.0]
    low, high = math.log(min(0.8, *found) * 0.95), math.log(max(1.5, *found) * 1.1)

    def x(value: float) -> float:
        return left + (math.log(value) - low) / (high - low) * _PANEL

    bottom = height - 30
    parts = [f'<text class="title" x="{left}" y="{_TOP - 12}">{escape(title)}</text>']
    for tick in _ticks(math.exp(low), math.exp(high)):
        kind = "one" if tick == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP - 4}" y2="{bottom}"/>')
        parts.append(f'<text class="small" x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for index, row in enumerate(rows):
        y = _TOP + _ROW * index + _ROW / 2
        for name, value in row.items():
            label = escape(f"{networks[index]['name']}, {name}: {value:.2f} times edgeconv's")
            color = _COLORS.get(name, "#6b7280")
            dot = f'<circle cx="{x(value):.1f}" cy="{y}" r="5" fill="{color}" fill-opacity="0.85">'
            parts.append(f"{dot}<title>{label}</title></circle>")
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the axis; finer where that leaves little."""
    coarse = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5)]
    within = [tick for tick in coarse if low <= tick <= high]
    fine = [0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0]
    return within if len(within) >= 4 else [tick for tick in fine if low <= tick <= high]
