"""A large depthwise kernel as a sum of smaller ones.

XNNPACK has depthwise kernels of at most 25 taps; beyond that it convolves channel by channel. On LiteRT 2.3, one
thread, AVX-512, parts and their sums take 0.15 of the time of a 7x7 kernel at 28x28x96 (56x56x48: 0.06 to 0.11;
14x14x192: 0.14; 7x7x384: 0.23), 0.12 of a 9x9 and 0.05 of an 11x11 one. There is no size from which the sums cost what
the parts save (AMD EPYC with AVX-512; one kernel, parts, and the same layer on onnxruntime, in ms): 13x13 of 56x56x48
7.66, 1.26 and 0.57, 21x21 of 28x28x96 9.89, 1.17 and 1.06, 31x31 of 56x56x96 193, 13.4 and 8.0; without padding, where
parts read a slice of the image each, 13x13 of 40x40x48 1.95, 0.34 and 0.14, 31x31 of 60x60x48 14.8, 2.38 and 0.59.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeconv.emit.tflite.lower._windows import Window

_MOST_TAPS = 25  # of XNNPACK's largest depthwise kernel


@dataclass(frozen=True)
class Part:
    """Some rows and columns of a kernel, at equal distances, and the convolution by them alone.

    Attributes:
        rows: of the kernel.
        columns: of the kernel.
        read: rows and columns of the image that the convolution slides over: all of them, but where the kernel reaches
            less far beyond the image than the part lies inside the kernel.
        windows: over these rows and columns.
    """

    rows: slice
    columns: slice
    read: tuple[range, range]
    windows: tuple[Window, Window]


def parts_of(windows: Sequence[Window]) -> list[Part]:
    """The fewest parts of at most 25 taps that together are the kernel; none where it is no larger, or has none."""
    rows, columns = windows
    if rows.size * columns.size <= _MOST_TAPS:
        return []
    counts = itertools.product(range(1, rows.size + 1), range(1, columns.size + 1))
    # Down times across parts, each of at most so many rows and columns.
    fitting = [(a, b) for a, b in counts if -(-rows.size // a) * -(-columns.size // b) <= _MOST_TAPS]
    best: list[Part] = []
    most = rows.size * columns.size
    for down, across in sorted(fitting, key=lambda pair: (math.prod(pair), pair[1])):  # rows lie apart: 0.95 of columns
        if down * across > most:
            break
        parts = _parts(rows, columns, down, across)
        if parts and (not best or _slices(parts) < _slices(best)):
            best, most = parts, down * across
    return best


def _parts(rows: Window, columns: Window, down: int, across: int) -> list[Part]:
    pairs = itertools.product(_divided(rows, down), _divided(columns, across))
    return [
        Part(above, beside, (read, read_across), (high, wide))
        for (above, read, high), (beside, read_across, wide) in pairs
    ]


def _slices(parts: Sequence[Part]) -> int:
    """How many parts do not read all that the largest reads."""
    most = [max(len(part.read[axis]) for part in parts) for axis in (0, 1)]
    return sum([*map(len, part.read)] != most for part in parts)


def _divided(window: Window, count: int) -> list[tuple[slice, range, Window]]:
    """The window's taps in so many groups at equal distances; none where a group reads nothing but padding.

    Groups that lie symmetrically keep a symmetrical padding symmetrical, so that it stays one of TFLite's schemes.
    """
    most = -(-window.size // count)
    groups = _symmetrical(window.size, most)
    if len(groups) > count:
        groups = [range(first, window.size, count) for first in range(count)]
    parts = [(slice(group.start, group.stop, group.step), *_part(window, group)) for group in groups]
    return parts if all(len(read) > 0 for _, read, _ in parts) else []


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


def _part(window: Window, group: range) -> tuple[range, Window]:
    """What of the image some taps read, and the window over that: padding may lie around it, and nothing unread."""
    before, after = group[0] * window.dilation, (window.size - 1 - group[-1]) * window.dilation
    dilation = window.dilation * (group.step if len(group) > 1 else 1)
    first = max(0, before - window.begin)
    part = replace(
        window,
        size=len(group),
        dilation=dilation,
        begin=max(0, window.begin - before),
        end=max(0, window.end - after),
        length=window.length - first,
    )
    last = (window.count - 1) * window.stride + part.extent - part.begin
    # VALID leaves less than a stride unread.
    length = part.length if part.length - last < window.stride else last
    return range(first, first + length), replace(part, length=length)
