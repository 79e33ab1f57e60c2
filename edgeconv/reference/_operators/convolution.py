"""Convolutions of any number of spatial axes.

Specification: Conv, ConvTranspose, Col2Im. The integer ones are in `quantization`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.nn import functional as F  # noqa: N812

from edgeconv.reference._call import Call, Operator, Tensor
from edgeconv.reference._operators._windows import Axis, axes_of, frame

_CONVOLVE: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def convolve(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of these operands with a node's attributes."""
    axes = axes_of(call, x.shape[2:], call.attribute("kernel_shape", list(weight.shape[2:])))
    group = call.attribute("group", 1)
    if group > 1 and group == x.shape[1] == weight.shape[0]:
        return _depthwise(frame(x, axes, 0.0), weight, bias, axes)
    strides, dilations = [axis.stride for axis in axes], [axis.dilation for axis in axes]
    function = _spatial(call, _CONVOLVE, x)
    if all(axis.begin == axis.end for axis in axes):  # torch pads both ends alike, without a copy
        return function(x, weight, bias, strides, [axis.begin for axis in axes], dilations, group)
    return function(frame(x, axes, 0.0), weight, bias, strides, 0, dilations, group)


def _depthwise(framed: Tensor, weight: Tensor, bias: Tensor | None, axes: Sequence[Axis]) -> Tensor:
    """A depthwise convolution, tap by tap over whole planes: torch's float64 kernel is a matrix product per channel."""
    column = (-1, *[1] * len(axes))
    shape = (framed.shape[0], framed.shape[1], *(axis.count for axis in axes))
    total = framed.new_zeros(shape) if bias is None else bias.reshape(column).expand(shape).clone()
    views = [framed]
    for number, axis in enumerate(axes):
        views = [tap for view in views for tap in axis.taps(view, 2 + number)]
    for view, factors in zip(views, weight.reshape(weight.shape[0], -1).unbind(1), strict=True):
        total.addcmul_(view, factors.reshape(column))
    return total


def _transpose(call: Call) -> Tensor:
    """ConvTranspose: the result without padding, extended by ``output_padding`` and cropped by the padding."""
    x, weight, bias = call[0], call[1], call.optional(2)
    rank = x.ndim - 2
    strides = call.attribute("strides", [1] * rank)
    dilations = call.attribute("dilations", [1] * rank)
    full = _spatial(call, _TRANSPOSED, x)(x, weight, None, strides, 0, 0, call.attribute("group", 1), dilations)
    frames = []
    shape: list[int] | None = call.attribute("output_shape", None)
    for i, (begin, end) in enumerate(_cropped(call, x.shape[2:], full.shape[2:], strides)):
        size = full.shape[2 + i] + call.attribute("output_padding", [0] * rank)[i] - begin - end
        size = size if shape is None else max(size, shape[-rank:][i])
        frames.append((-begin, size + begin - full.shape[2 + i]))
    y = F.pad(full, [pad for pads in reversed(frames) for pad in pads])
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _cropped(call: Call, sizes: Sequence[int], full: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """(begin, end) of the padding of each axis: as stated, or such that ``output_shape`` results."""
    rank, auto_pad = len(sizes), call.text("auto_pad", "NOTSET")
    pads = call.attribute("pads", [0] * 2 * rank)
    shape: list[int] | None = call.attribute("output_shape", None)
    if shape is None and auto_pad.startswith("SAME"):
        shape = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if shape is None:
        return [(pads[i], pads[rank + i]) if auto_pad == "NOTSET" else (0, 0) for i in range(rank)]
    extra = call.attribute("output_padding", [0] * rank)
    totals = [max(full[i] + extra[i] - shape[-rank:][i], 0) for i in range(rank)]
    halves = [(total // 2, total - total // 2) for total in totals]
    return halves if auto_pad == "SAME_UPPER" else [(end, begin) for begin, end in halves]


def _spatial(call: Call, functions: Sequence[Callable[..., Tensor]], x: Tensor) -> Callable[..., Tensor]:
    if not 3 <= x.ndim <= 2 + len(functions):
        raise call.refuse(f"has {x.ndim - 2} spatial axes where the reference knows 1 to 3")
    return functions[x.ndim - 3]


def _column_to_image(call: Call) -> Tensor:
    """Col2Im: adds up columns, one per window, where windows overlap; the padding is cropped."""
    image, block = call.ints(1, "") or [], call.ints(2, "") or []
    axes = axes_of(call, image, block)
    counts = [axis.count for axis in axes]
    columns = call[0].reshape(call[0].shape[0], -1, math.prod(block), *counts)
    framed = columns.new_zeros([*columns.shape[:2], *(axis.begin + axis.size + axis.end for axis in axes)])
    views = [framed]
    for number, axis in enumerate(axes):
        views = [tap for view in views for tap in axis.taps(view, 2 + number)]
    for view, column in zip(views, columns.unbind(2), strict=True):
        view += column
    for number, axis in enumerate(axes):
        framed = framed.narrow(2 + number, axis.begin, axis.size)
    return framed


OPERATORS: dict[str, Operator] = {
    "Col2Im": _column_to_image,
    "Conv": lambda call: convolve(call, call[0], call[1], call.optional(2)),
    "ConvTranspose": _transpose,
}
