"""The sliding window that convolutions and poolings share, with TFLite's paddings.

Specification: tensorflow/lite/kernels/padding.h. Under SAME there are ceil(size / stride) windows, and half of what
they need beyond the input lies before it (the smaller half); under VALID there are those that lie within the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeconv.reference.tflite._call import Call

_SAME = 0  # schema.fbs: Padding


@dataclass(frozen=True)
class Axis:
    """The window along one spatial axis.

    Attributes:
        size: of the input.
        kernel: taps.
        stride: between windows.
        dilation: between taps.
        begin: padding before the input.
        count: windows, i.e. the output's size.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    count: int

    def taps(self) -> Iterator[tuple[int, slice, slice]]:
        """Each tap that sees the input through some window: its number, these windows, what they see of the input."""
        least = -(((self.count - 1) * self.stride - self.begin) // self.dilation)
        most = (self.size - 1 + self.begin) // self.dilation
        for tap in range(max(0, least), min(self.kernel - 1, most) + 1):
            offset = tap * self.dilation - self.begin
            first = max(0, -(offset // self.stride))
            last = min(self.count - 1, (self.size - 1 - offset) // self.stride)
            if first <= last:
                start = first * self.stride + offset
                end = last * self.stride + offset + 1
                yield tap, slice(first, last + 1), slice(start, end, self.stride)


def axis_of(call: Call, size: int, kernel: int, stride: int, dilation: int = 1) -> Axis:
    """The window of an operator with the option ``padding`` along an input axis of this size.

    Raises:
        EmitError: a kernel, a stride or a dilation of less than 1, or no window fits.
    """
    if min(kernel, stride, dilation) < 1:
        raise call.refuse(f"has a kernel of {kernel}, a stride of {stride} and a dilation of {dilation}")
    extent = (kernel - 1) * dilation + 1
    count = -(-size // stride) if call.integer("padding") == _SAME else (size + stride - extent) // stride
    begin = max(0, (count - 1) * stride + extent - size) // 2
    if count < 1:
        raise call.refuse(f"has a window of {extent} on an input of {size}")
    return Axis(size, kernel, stride, dilation, begin, count)


def transposed_axis(call: Call, size: int, kernel: int, result: int, stride: int) -> Axis:
    """The window by which a transposed convolution's input would be computed of its result: what it runs backwards.

    The padding follows from the result's stated size alone; ``count`` is the input's size.
    """
    if min(kernel, stride, result) < 1:
        raise call.refuse(f"has a kernel of {kernel}, a stride of {stride} and a result of {result}")
    count = -(-result // stride) if call.integer("padding") == _SAME else (result + stride - kernel) // stride
    if count != size:
        raise call.refuse(f"gives {result} of an input of {size}, and its windows would be {count}")
    return Axis(result, kernel, stride, 1, max(0, (count - 1) * stride + kernel - result) // 2, size)
