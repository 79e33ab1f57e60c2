"""The sliding window that convolutions and poolings share.

Specification: the attributes ``auto_pad``, ``ceil_mode``, ``dilations``, ``kernel_shape``, ``pads`` and ``strides`` of
Conv, MaxPool and AveragePool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812

from edgeconv.reference._call import Call, Tensor


@dataclass(frozen=True)
class Axis:
    """The window along one spatial axis.

    Attributes:
        size: of the input.
        kernel: taps.
        stride: between windows.
        dilation: between taps.
        begin: padding before the input.
        end: padding after the input, as the node states it.
        count: windows, i.e. the output's size.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    count: int

    @property
    def reach(self) -> int:
        """Padding up to the last tap of the last window; negative if the windows end before the input does."""
        return (self.count - 1) * self.stride + (self.kernel - 1) * self.dilation + 1 - self.size - self.begin

    def taps(self, framed: Tensor, axis: int) -> list[Tensor]:
        """For each tap, the elements that it reads in all windows, of an input that `frame` has padded."""
        length = (self.count - 1) * self.stride + 1
        index = [slice(None)] * framed.ndim
        views = []
        for tap in range(self.kernel):
            index[axis] = slice(tap * self.dilation, tap * self.dilation + length, self.stride)
            views.append(framed[tuple(index)])
        return views


def axes_of(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[Axis, ...]:
    """The window of a node along each spatial axis of an input of these spatial sizes."""
    rank = len(sizes)
    strides = call.attribute("strides", [1] * rank)
    dilations = call.attribute("dilations", [1] * rank)
    pads = call.attribute("pads", [0] * 2 * rank)
    auto_pad, ceil = call.text("auto_pad", "NOTSET"), bool(call.attribute("ceil_mode", 0))
    axes = []
    for i, size in enumerate(sizes):
        extent = (kernel[i] - 1) * dilations[i] + 1
        begin, end = (pads[i], pads[rank + i]) if auto_pad == "NOTSET" else (0, 0)
        if auto_pad.startswith("SAME"):
            count = -(-size // strides[i])
            total = max((count - 1) * strides[i] + extent - size, 0)
            begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            end = total - begin
        else:
            room = size + begin + end - extent
            count = (-(-room // strides[i]) if ceil else room // strides[i]) + 1
            # Specification (and torch): a window that would start in the padding at the end is dropped.
            count -= ceil and (count - 1) * strides[i] >= size + begin
        axes.append(Axis(size, kernel[i], strides[i], dilations[i], begin, end, count))
    return tuple(axes)


def frame(x: Tensor, axes: Sequence[Axis], fill: float | int | bool) -> Tensor:
    """Pads (or crops) the spatial axes so that the windows fit exactly."""
    pads = [pad for axis in reversed(axes) for pad in (axis.begin, axis.reach)]
    return F.pad(x, pads, value=fill) if any(pads) else x


def lowest(x: Tensor) -> float | int:
    """The neutral element of a maximum."""
    return float("-inf") if x.is_floating_point() else int(torch.iinfo(x.dtype).min)
