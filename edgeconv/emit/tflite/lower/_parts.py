"""A large depthwise kernel as a sum of smaller ones.

XNNPACK has depthwise kernels of at most 25 taps; beyond that it convolves channel by channel. On LiteRT 2.3, one
thread, AVX-512, parts and their sums take 0.15 of the time of a 7x7 kernel at 28x28x96 (56x56x48: 0.06 to 0.11;
14x14x192: 0.14; 7x7x384: 0.23), 0.12 of a 9x9 and 0.05 of an 11x11 one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeconv.emit.tflite.lower._windows import Window

_MOST_TAPS = 25  # of XNNPACK's largest depthwise kernel
_MOST_PARTS = 8  # above that the additions cost what the parts save


@dataclass(frozen=True)
class Part:
    """Some rows and columns of a kernel, at equal distances, and the windows of the convolution by them alone."""

    rows: slice
    columns: slice
    windows: tuple[Window, Window]


def parts_of(windows: Sequence[Window]) -> list[Part]:
    """The fewest parts of at most 25 taps that together are the kernel; none where one kernel is the better form."""
    rows, columns = windows
    if rows.size * columns.size <= _MOST_TAPS:
        return []
    counts = itertools.product(range(1, rows.size + 1), range(1, columns.size + 1))
    # Down times across parts, each of at most so many rows and columns.
    fitting = [(a, b) for a, b in counts if -(-rows.size // a) * -(-columns.size // b) <= _MOST_TAPS]
    down, across = min(fitting, key=lambda pair: (pair[0] * pair[1], pair[1]))  # rows lie apart: 0.95 of columns
    if down * across > _MOST_PARTS:
        return []
    pairs = itertools.product(_divided(rows, down), _divided(columns, across))
    return [Part(above, beside, (high, wide)) for (above, high), (beside, wide) in pairs]


def _divided(window: Window, count: int) -> list[tuple[slice, Window]]:
    """The window's taps in so many groups at equal distances; none where a group does not begin in the padding.

    Groups that lie symmetrically keep a symmetrical padding symmetrical, so that it stays one of TFLite's schemes.
    """
    most = -(-window.size // count)
    groups = _symmetrical(window.size, most)
    if len(groups) > count:
        groups = [range(first, window.size, count) for first in range(count)]
    parts = [(slice(group.start, group.stop, group.step), _part(window, group)) for group in groups]
    return parts if all(part.begin >= 0 and _ends_with_input(part) for _, part in parts) else []


def _symmetrical(size: int, most: int) -> list[range]:
    """Groups of at most so many indices, each symmetrical about the middle, taken from the outside."""
    left, groups = list(range(size)), []
    while left:
        first, last = left[0], left[-1]
        group: range | None = None
        for count in range(min(most, len(left)), 0, -1):
            candidate = range(first, last + 1, max(1, (last - first) // max(1, count - 1)))
            if len(candidate) <= most and candidate[-1] == last and set(candidate) <= set(left):
                group = candidate
                break
        if group is None:  # a lone index that is not the middle
            return [range(index, index + 1) for index in range(size)]
        groups.append(group)
        left = [index for index in left if index not in group]
    return groups


def _part(window: Window, group: range) -> Window:
    before, after = group[0] * window.dilation, (window.size - 1 - group[-1]) * window.dilation
    return replace(
        window,
        size=len(group),
        dilation=window.dilation * (group.step if len(group) > 1 else 1),
        begin=window.begin - before,
        end=window.end - after,
    )


def _ends_with_input(window: Window) -> bool:
    """Whether the windows leave less than a stride of the input unread, as VALID does."""
    return window.length + window.begin - (window.count - 1) * window.stride - window.extent < window.stride
