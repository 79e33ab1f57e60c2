"""What windows count and how they are padded: the elements that an average pool divides by, ``auto_pad`` in numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def window_counts(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """The windows along each axis that end within the elements and equal padding on both sides of them.

    Specification: MaxPool, the output's shape without ``ceil_mode``.
    """
    axes = zip(sizes, kernel, stride, pads, dilation, strict=True)
    return tuple((size + 2 * pad - step * (taps - 1) - 1) // every + 1 for size, taps, every, pad, step in axes)


def counted_elements(
    size: int, count: int, kernel: int, pads: tuple[int, int], *, stride: int, dilation: int, with_padding: bool
) -> npt.NDArray[np.int64]:
    """The elements of each window that count, along one axis.

    Specification: AveragePool. What a window reaches beyond the padding, where sizes are rounded up, never counts.
    `edgeconv.reference` has its own count, which tests hold against this one.

    Args:
        size: of the input.
        count: of windows.
        kernel: taps of a window.
        pads: before and behind.
        stride: between windows.
        dilation: between taps.
        with_padding: ``count_include_pad``.

    Returns:
        Shape ``(count,)``; 0 for a window of nothing that counts.
    """
    before, behind = pads
    starts = np.arange(count) * stride - before
    taps = starts[:, None] + np.arange(kernel) * dilation
    low, high = (-before, size + behind) if with_padding else (0, size)
    return np.asarray(((taps >= low) & (taps < high)).sum(axis=1))


def neighbours(channels: int, size: int) -> npt.NDArray[np.bool_]:
    """The channels that LRN adds up for each channel; of an even size more lie behind.

    Specification: LRN. `edgeconv.reference` has its own sum, which tests hold against this one.

    Returns:
        Shape ``(channels, channels)``: whether the column's channel counts for the row's.
    """
    places = np.arange(channels)
    offsets = places[None, :] - places[:, None]
    return np.asarray((offsets >= -((size - 1) // 2)) & (offsets <= size // 2))


def same_pads(totals: Sequence[int], automatic: str) -> list[int]:
    """The attribute ``pads``, all in front, then all behind, of so much padding in all for each axis.

    Specification: of an odd number the larger half lies behind under ``SAME_UPPER``, and in front otherwise.
    """
    halves = [(total // 2, total - total // 2) for total in totals]
    ordered = halves if automatic == "SAME_UPPER" else [half[::-1] for half in halves]
    return [half[at] for at in (0, 1) for half in ordered]
