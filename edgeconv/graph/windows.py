"""Arithmetic of sliding windows: their number, the divisors of average pools, the channels of LRN, ``auto_pad``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def window_counts(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """The number of windows along each axis that end within the input and its padding, which is alike on both sides.

    Specification: MaxPool, the output's shape without ``ceil_mode``.
    """
    axes = zip(sizes, kernel, stride, pads, dilation, strict=True)
    return tuple((size + 2 * pad - step * (taps - 1) - 1) // every + 1 for size, taps, every, pad, step in axes)


def counted_elements(
    size: int, count: int, kernel: int, pads: tuple[int, int], *, stride: int, dilation: int, with_padding: bool
) -> npt.NDArray[np.int64]:
    """The number of elements that an average divides by, for each window along one axis.

    Specification: AveragePool. Elements beyond the padding, which a window reaches in ceil_mode, never count.
    `edgeconv.reference` has a count of its own, which tests compare with this one.

    Args:
        size: of the input.
        count: of windows.
        kernel: taps of a window.
        pads: before and behind.
        stride: between windows.
        dilation: between taps.
        with_padding: ``count_include_pad``.

    Returns:
        Shape ``(count,)``; 0 for a window of padding that does not count.
    """
    before, behind = pads
    starts = np.arange(count) * stride - before
    taps = starts[:, None] + np.arange(kernel) * dilation
    low, high = (-before, size + behind) if with_padding else (0, size)
    return np.asarray(((taps >= low) & (taps < high)).sum(axis=1))


def neighbors(channels: int, size: int) -> npt.NDArray[np.bool_]:
    """The channels that LRN adds up for each channel; of an even size, one more after it than before it.

    Specification: LRN. `edgeconv.reference` has a sum of its own, which tests compare with this one.

    Returns:
        Shape ``(channels, channels)``: whether the column's channel counts for the row's.
    """
    places = np.arange(channels)
    offsets = places[None, :] - places[:, None]
    return np.asarray((offsets >= -((size - 1) // 2)) & (offsets <= size // 2))


def strides_of(node: ir.Node, rank: int) -> list[int]:
    """The attribute ``strides`` of a Conv or pool over ``rank`` axes; ones where it states none."""
    return list(node.attributes.get_ints("strides", ())) or [1] * rank


def dilations_of(node: ir.Node, rank: int) -> list[int]:
    """The attribute ``dilations`` of a Conv or pool over ``rank`` axes; ones where it states none."""
    return list(node.attributes.get_ints("dilations", ())) or [1] * rank


def auto_pad_of(node: ir.Node) -> str:
    """The attribute ``auto_pad``: NOTSET (``pads`` are stated), VALID, SAME_UPPER or SAME_LOWER."""
    return node.attributes.get_string("auto_pad", "NOTSET")


def stated_pads(node: ir.Node, rank: int) -> list[int]:
    """The attribute ``pads`` of a Conv or pool over ``rank`` axes; zeros where it states none, or is VALID.

    Raises:
        ValueError: its padding follows from its input's size (`pads_by_size`). Capture writes it in numbers; only a
            graph that was read as it is still has it.
    """
    if pads_by_size(node):
        raise ValueError(f"the padding of {node.op_type} {node.name!r} is {auto_pad_of(node)}, and not stated")
    nothing = [0] * 2 * rank
    if auto_pad_of(node) == "VALID":  # beside it the specification allows no pads
        return nothing
    return list(node.attributes.get_ints("pads", ())) or nothing


def pads_by_size(node: ir.Node) -> bool:
    """Whether the padding of a Conv or pool follows from its input's size: SAME_UPPER, SAME_LOWER; VALID is none."""
    return auto_pad_of(node) not in ("NOTSET", "VALID")


def may_pad(node: ir.Node) -> bool:
    """Whether a Conv or pool states padding, or leaves it to its input's size."""
    return pads_by_size(node) or any(stated_pads(node, 0))


def same_pads(totals: Sequence[int], automatic: str) -> list[int]:
    """The attribute ``pads`` (starts of all axes, then ends) for a total of padding per axis.

    Specification of ``auto_pad``: the larger half of an odd total is at the end under SAME_UPPER, else at the start.
    """
    halves = [(total // 2, total - total // 2) for total in totals]
    ordered = halves if automatic == "SAME_UPPER" else [half[::-1] for half in halves]
    return [half[at] for at in (0, 1) for half in ordered]
