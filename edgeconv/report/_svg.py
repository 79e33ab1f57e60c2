"""The drawings of the page, as inline SVG that takes its colors from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from edgeconv.core import ErrorPicture
from edgeconv.report._format import number, power_of_ten

_WIDTH, _HEIGHT = 400, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 22, 40, 40
_MAX_LABELS = 7


@dataclass(frozen=True)
class Mark:
    """A vertical line of the histogram: a bound, at ``log10(bound)``."""

    label: str
    at: float


@dataclass(frozen=True)
class _Frame:
    """Where data lie in the drawing: x over log10 of the error, y over log10 of the count."""

    low: float
    high: float
    top: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.low) / (self.high - self.low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, count: float) -> float:
        # One more, so that a single element is above zero height.
        part = math.log10(1 + count) / math.log10(1 + self.top)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _BOTTOM - _TOP)


def histogram(picture: ErrorPicture, marks: Sequence[Mark], *, failed: bool) -> Markup | None:
    """How many elements have which error.

    Args:
        picture: edges and counts.
        marks: the bounds to draw.
        failed: whether bars beyond the first mark are drawn in the color of failure. An error beyond it is no fault
            by itself: the bound is wider for inputs of a larger scale and for large values.

    Returns:
        An ``<svg>`` element; None when there is nothing to draw.
    """
    edges, counts = picture.log10_edges, picture.counts
    filled = [index for index, count in enumerate(counts) if count]
    if not filled or not all(map(math.isfinite, edges)):
        return None
    low = math.floor(min([edges[filled[0]], *(mark.at for mark in marks)]))
    # Room to the right of the last mark, so that its line is not the frame's.
    high = math.ceil(max([edges[filled[-1] + 1], *(mark.at for mark in marks)]) + 0.3)
    frame = _Frame(low, high, max(counts))
    limit = min((mark.at for mark in marks), default=math.inf) if failed else math.inf
    title = f"Histogram of the error on {picture.sample}: {sum(counts):,} elements from {power_of_ten(low)} up"
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, title),
        *_axes(frame),
        *(_bar(frame, edges[index], edges[index + 1], counts[index], limit) for index in filled),
        *_marks(frame, marks),
        Markup("</svg>"),
    ]
    return Markup("").join(parts)


def _axes(frame: _Frame) -> list[Markup]:
    base = _HEIGHT - _BOTTOM
    step = math.ceil((frame.high - frame.low) / _MAX_LABELS)
    parts = []
    for decade in range(0, math.ceil(math.log10(1 + frame.top)), max(1, math.ceil(math.log10(1 + frame.top) / 4))):
        y = frame.y(10**decade)
        parts.append(line("grid", _LEFT, y, _WIDTH - _RIGHT, y))
        parts.append(text_at(_LEFT - 6, y + 4, power_of_ten(decade) if decade else "1", "end"))
    for exponent in range(round(frame.low), round(frame.high) + 1):
        labeled = (exponent - round(frame.high)) % step == 0
        parts.append(line("axis", frame.x(exponent), base, frame.x(exponent), base + (5 if labeled else 3)))
        if labeled:
            parts.append(text_at(frame.x(exponent), base + 18, power_of_ten(exponent), "middle"))
    parts.append(line("axis", _LEFT, base, _WIDTH - _RIGHT, base))
    parts.append(text_at((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, "error |a − b|", "middle"))
    parts.append(text_at(0, 12, "elements", "start"))
    return parts


def _bar(frame: _Frame, left: float, right: float, count: int, limit: float) -> Markup:
    x, y = frame.x(left), frame.y(count)
    kind = "over" if left >= limit else "bar"
    shape = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
    title = f"{count:,} elements between {number(10**left)} and {number(10**right)}"
    return shape.format(kind, x, y, max(frame.x(right) - x - 0.8, 0.8), _HEIGHT - _BOTTOM - y, title)


def _marks(frame: _Frame, marks: Sequence[Mark]) -> list[Markup]:
    """Bounds may lie close together: their labels stand one below the other, so that no line crosses a label."""
    to_left = any(frame.x(mark.at) > _WIDTH / 2 for mark in marks)
    ordered = sorted(marks, key=lambda mark: mark.at, reverse=to_left)
    return [_mark(frame, mark, 14 + 14 * order, to_left=to_left) for order, mark in enumerate(ordered)]


def _mark(frame: _Frame, mark: Mark, y: float, *, to_left: bool) -> Markup:
    x = frame.x(mark.at)
    label = text_at(x - 4 if to_left else x + 4, y, mark.label, "end" if to_left else "start", "marklabel")
    return line("mark", x, y - 9, x, _HEIGHT - _BOTTOM) + label


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A line of that class, in user units."""
    return Markup(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')


def text_at(x: float, y: float, text: str, anchor: str, kind: str = "label") -> Markup:
    """Escaped text that starts, ends or has its middle at x (``anchor``)."""
    body = escape(text)
    return Markup(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">') + body + Markup("</text>")
