"""One picture: the share of live faults that each rule finds against the share of clean rows that it rejects."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from mutant_rows import GATE
from rivals import RULES

_SIDE, _GAP, _LEFT, _TOP, _COLUMNS = 190, 46, 52, 92, 4
_COLORS = dict(
    zip((GATE, *RULES), ("#dc2626", "#2563eb", "#0891b2", "#059669", "#a855f7", "#d97706", "#6b7280"), strict=True)
)
_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #1f2937 } .title { font-weight: 600; font-size: 13px }
.small { font-size: 10px; fill: #6b7280 } .grid { stroke: #e5e7eb; fill: none } .ground { fill: #ffffff }
@media (prefers-color-scheme: dark) { text { fill: #e5e7eb } .small { fill: #9ca3af } .grid { stroke: #374151 }
.ground { fill: #111827 } }
"""


def svg(result: Mapping[str, Any]) -> str:
    """A panel for all, and one for each variant, format and kind of weights; best is the upper left corner."""
    panels = {"all": result["all"], **result["by weights"]}
    rows = -(-len(panels) // _COLUMNS)
    width, height = _LEFT + _COLUMNS * (_SIDE + _GAP), _TOP + rows * (_SIDE + _GAP + 22)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}" rx="6"/>',
        '<text class="title" x="16" y="24">Live faults found (up) against clean rows rejected (right), %</text>',
    ]
    x = 16.0
    for rule, color in _COLORS.items():
        parts.append(f'<circle cx="{x + 5}" cy="44" r="5" fill="{color}"/><text x="{x + 14}" y="48">{rule}</text>')
        x += 26 + 6.2 * len(rule)
    for index, (title, counts) in enumerate(panels.items()):
        row, column = divmod(index, _COLUMNS)
        parts += _panel(title, counts, _LEFT + column * (_SIDE + _GAP), _TOP + row * (_SIDE + _GAP + 22))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, counts: Mapping[str, Any], left: float, top: float) -> list[str]:
    parts = [
        f'<text class="title" x="{left}" y="{top - 8}">{escape(title)}</text>',
        f'<rect class="grid" x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}"/>',
    ]
    for percent in (25, 50, 75):
        along, down = left + _SIDE * percent / 100, top + _SIDE * percent / 100
        parts.append(f'<line class="grid" x1="{along}" x2="{along}" y1="{top}" y2="{top + _SIDE}"/>')
        parts.append(f'<line class="grid" x1="{left}" x2="{left + _SIDE}" y1="{down}" y2="{down}"/>')
    for percent in (0, 50, 100):
        x, y = left + _SIDE * percent / 100, top + _SIDE * (1 - percent / 100)
        parts.append(f'<text class="small" x="{x}" y="{top + _SIDE + 14}" text-anchor="middle">{percent}</text>')
        parts.append(f'<text class="small" x="{left - 6}" y="{y + 4}" text-anchor="end">{percent}</text>')
    for rule in reversed(_COLORS):
        found, rejected = _share(counts, "found", "live", rule), _share(counts, "rejected", "clean", rule)
        label = f"{rule}: {100 * found:.1f} % found, {100 * rejected:.1f} % of clean rows rejected"
        place = f'cx="{left + _SIDE * rejected:.1f}" cy="{top + _SIDE * (1 - found):.1f}"'
        dot = f'<circle {place} r="5" fill="{_COLORS[rule]}" fill-opacity="0.85">'
        parts.append(f"{dot}<title>{escape(label)}</title></circle>")
    return parts


def _share(counts: Mapping[str, Any], part: str, whole: str, rule: str) -> float:
    return counts[part][rule] / counts[whole] if counts[whole] else 0.0
