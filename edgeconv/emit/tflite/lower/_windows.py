"""Sliding windows: what torch and ONNX ask for, in terms of TFLite's two padding schemes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from edgeconv.graph.windows import dilations_of, stated_pads, strides_of

SAME, VALID = 0, 1  # schema.Padding


@dataclass(frozen=True)
class Window:
    """A window along one axis.

    Attributes:
        size: kernel elements.
        stride: between outputs.
        dilation: between kernel elements.
        begin: padding before the first element, as declared.
        end: padding after the last element, as declared.
        length: elements of the input.
        count: elements of the output.
    """

    size: int
    stride: int
    dilation: int
    begin: int
    end: int
    length: int
    count: int

    @property
    def extent(self) -> int:
        """Input elements that one window spans."""
        return (self.size - 1) * self.dilation + 1

    @property
    def reach(self) -> int:
        """Padding after the last element that is really read (with ceil_mode it may exceed ``end``)."""
        return max(0, (self.count - 1) * self.stride + self.extent - self.length - self.begin)

    @property
    def is_same(self) -> bool:
        """TFLite's SAME makes this very padding: the smallest that gives ceil(length / stride), the odd one after.

        Not where the windows end before the last element: XNNPACK of TensorFlow Lite 2.14 computes that wrongly.
        """
        total = (self.count - 1) * self.stride + self.extent - self.length
        return total >= 0 and self.count == -(-self.length // self.stride) and self.begin == total // 2

    @property
    def is_valid(self) -> bool:
        """No padding is read."""
        return self.begin == 0 and self.reach == 0


@dataclass(frozen=True)
class Region:
    """Windows along one axis that hold equally many elements.

    Attributes:
        begin: the first element that they read.
        window: they, without padding: its length is what they read.
    """

    begin: int
    window: Window


def regions_of(window: Window, count_padding: bool) -> list[Region]:
    """The windows along one axis by how many elements they hold: of the plane, or of the plane as it is padded.

    Their places are those of the plane, or of the padded one; there is no dilation.
    """
    least, most = (0, window.begin + window.length + window.end) if count_padding else (0, window.length)
    start = 0 if count_padding else -window.begin
    bounds = [(start + at * window.stride, start + at * window.stride + window.size) for at in range(window.count)]
    held = [(max(low, least), min(high, most)) for low, high in bounds]
    regions: list[Region] = []
    for low, high in held:
        last = regions[-1].window if regions else None
        if last and last.size == high - low and low == regions[-1].begin + last.count * last.stride:
            end = high - regions[-1].begin
            regions[-1] = replace(regions[-1], window=replace(last, count=last.count + 1, length=end))
        else:
            regions.append(Region(low, Window(high - low, window.stride, 1, 0, 0, high - low, 1)))
    return regions


def windows_of(node: ir.Node, kernel: Sequence[int], before: Sequence[int], after: Sequence[int]) -> list[Window]:
    """The windows of a Conv or pool, one per spatial axis, from its attributes and the spatial sizes."""
    rank = len(kernel)
    strides, dilations, pads = strides_of(node, rank), dilations_of(node, rank), stated_pads(node, rank)
    windows = []
    for axis in range(rank):
        sides = pads[axis], pads[rank + axis]
        windows.append(Window(kernel[axis], strides[axis], dilations[axis], *sides, before[axis], after[axis]))
    return windows


def padding_of(windows: Sequence[Window]) -> int | None:
    """VALID or SAME where one of them is exactly right on every axis; None when an explicit PAD is needed."""
    if all(window.is_valid for window in windows):
        return VALID
    if all(window.is_same for window in windows):
        return SAME
    return None
