"""Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite._quantization import Quantization
from edgeconv.emit.tflite.lower._layout import last
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.volumes import bind_images, depth_as_channels, images_of
from edgeconv.emit.tflite.lower._parts import parts_of
from edgeconv.emit.tflite.lower._windows import SAME, VALID, Window, padding_of, windows_of


def conv(low: Lowering, node: ir.Node) -> None:
    """Conv of rank 3 (as rank 4 with height 1), 4 or 5, plain, grouped or depthwise."""
    if low.array(node.inputs[1]) is None:
        _by_computed_weight(low, node)
        return
    x, y = low.input(node), node.outputs[0]
    weight = low.constant(node.inputs[1], "weight")
    rank = weight.ndim
    if rank not in (3, 4, 5):
        low.refuse(f"it convolves over {rank - 2} axes")
    windows = windows_of(node, weight.shape[2:], low.shape(x)[2:], low.shape(y)[2:])
    if rank == 5:
        _volume(low, node, weight, windows)
        return
    image = as_image(low, x)
    if rank == 3:
        weight, windows = weight[:, :, None, :], [Window(1, 1, 1, 0, 0, 1, 1), *windows]
    bias = bias_of(low, node, weight.shape[0])
    groups = node.attributes.get_int("group", 1)
    scales = low.scales_of(node.inputs[1], axis=0)
    if groups > 1 and weight.shape[1] == 1 and scales is None and parts_of(windows):
        made = _sum_of_parts(low, image, weight, bias, groups, windows)
    else:
        made = convolved(low, image, weight, bias, groups, windows, scales=scales)
    low.bind(y, last(rank), low.reshape(made, [low.shape(y)[axis] for axis in last(rank)]))


def _volume(low: Lowering, node: ir.Node, weight: Array, windows: Sequence[Window]) -> None:
    """Conv of rank 5: what its kernel reads along the depth becomes channels."""
    depth, *plane = windows
    groups = node.attributes.get_int("group", 1)
    image = depth_as_channels(low, images_of(low, low.input(node)), depth, groups)
    outputs, per_group, taps, *sizes = weight.shape
    flat = weight.swapaxes(1, 2).reshape(outputs, taps * per_group, *sizes)
    bias, scales = bias_of(low, node, outputs), low.scales_of(node.inputs[1], axis=0)
    bind_images(low, node.outputs[0], convolved(low, image, flat, bias, groups, plane, scales=scales))


def _sum_of_parts(
    low: Lowering, image: Tensor, weight: Array, bias: Array, groups: int, windows: Sequence[Window]
) -> Tensor:
    """A depthwise convolution by a large kernel, part by part."""
    made: list[Tensor] = []
    for part in parts_of(windows):
        taps = weight[:, :, part.rows, part.columns]
        shift = np.zeros_like(bias) if made else bias
        made.append(convolved(low, image, taps, shift, groups, part.windows, named=False))
    return reduce(lambda total, one: low.emit("ADD", [total, one], one.shape), made)


def _by_computed_weight(low: Lowering, node: ir.Node) -> None:
    """Conv of rank 4 whose weight is computed (dynamic convolution): CONV_2D reads it like any other tensor."""
    x, kernel, y = low.input(node), low.input(node, 1), node.outputs[0]
    if len(low.shape(x)) != 4 or node.attributes.get_int("group", 1) != 1:
        low.refuse("its weight is not a constant, and it is grouped or not of rank 4")
    windows = windows_of(node, low.shape(kernel)[2:], low.shape(x)[2:], low.shape(y)[2:])
    image, padding = padded(low, as_image(low, x), windows)
    rows, columns = windows
    bias = low.floats(bias_of(low, node, low.shape(kernel)[0]), f"{low.base}/bias")
    operands = [image, low.tensor(kernel, (0, 2, 3, 1)), bias]
    steps = {"strideH": rows.stride, "strideW": columns.stride}
    steps |= {"dilationHFactor": rows.dilation, "dilationWFactor": columns.dilation}
    shape = (image.shape[0], rows.count, columns.count, low.shape(y)[1])
    low.bind(y, last(4), low.emit("CONV_2D", operands, shape, padding=padding, **steps))


def as_image(low: Lowering, value: ir.Value) -> Tensor:
    """The value as (N, H, W, C); one of rank 3 gets height 1."""
    tensor = low.tensor(value, last(len(low.shape(value))))
    if len(tensor.shape) == 3:
        batch, length, channels = tensor.shape
        return low.reshape(tensor, (batch, 1, length, channels), f"{value.name}/image")
    return tensor


def bias_of(low: Lowering, node: ir.Node, channels: int) -> Array:
    """The bias, zeros when there is none: the delegates want one."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return np.zeros(channels, np.float32) if value is None else low.constant(value, "bias")


def convolved(
    low: Lowering,
    image: Tensor,
    weight: Array,
    bias: Array,
    groups: int,
    windows: Sequence[Window],
    *,
    named: bool = True,
    scales: Quantization | None = None,
) -> Tensor:
    """The convolution of an NHWC tensor with weights in torch's order (O, I / groups, H, W).

    The constants are named after the node's own when ``named``, and then ``scales`` are the weights' (axis O).
    """
    image, padding = padded(low, image, windows)
    rows, columns = windows
    options = {
        "padding": padding,
        "strideH": rows.stride,
        "strideW": columns.stride,
        "dilationHFactor": rows.dilation,
        "dilationWFactor": columns.dilation,
    }
    out_channels, per_group = weight.shape[:2]
    if groups > 1 and per_group == 1:
        code, kernel = "DEPTHWISE_CONV_2D", weight.transpose(1, 2, 3, 0)
        options["depthMultiplier"] = out_channels // groups
    else:
        code, kernel = "CONV_2D", weight.transpose(0, 2, 3, 1)
    names = (
        [value.name or "" if value is not None else "" for value in low.node.inputs[1:3]] if low.node and named else []
    )
    names += [""] * (2 - len(names))
    constants = [
        low.floats(kernel, names[0] or f"{low.base}/weight"),
        low.floats(bias, names[1] or f"{low.base}/bias"),
    ]
    shape = (image.shape[0], rows.count, columns.count, out_channels)
    if not named:
        return low.emit(code, [image, *constants], shape, **options)
    placed = scales and scales.moved(3 if code == "DEPTHWISE_CONV_2D" else 0)
    return low.weighted(code, [image, *constants], shape, placed, **options)


def padded(low: Lowering, image: Tensor, windows: Sequence[Window], value: float = 0.0) -> tuple[Tensor, int]:
    """The NHWC tensor to slide over and TFLite's padding scheme, with an explicit pad where no scheme is right.

    XNNPACK fuses a PAD by zeros into the convolution that reads it.
    """
    padding = padding_of(windows)
    if padding is not None:
        return image, padding
    amounts = [(0, 0), *((window.begin, window.reach) for window in windows), (0, 0)]
    return pad(low, image, amounts, value), VALID


def pad(low: Lowering, tensor: Tensor, amounts: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Constant padding of a tensor, (before, after) per axis."""
    shape = [size + before + after for size, (before, after) in zip(tensor.shape, amounts, strict=True)]
    table = low.integers(np.array(amounts))
    if value == 0.0:
        return low.emit("PAD", [tensor, table], shape)
    return low.emit("PADV2", [tensor, table, low.floats(value)], shape)


def conv_transpose(low: Lowering, node: ir.Node) -> None:
    """ConvTranspose of rank 3 (as rank 4 with height 1), 4 or 5.

    - stride 1: an ordinary convolution by the flipped kernel;
    - groups: the same, over the input with stride-1 zeros put between its elements;
    - equal strides, or one dimension: an ordinary convolution to the phases of the output, and DEPTH_TO_SPACE;
    - otherwise TRANSPOSE_CONV, under SAME where its padding is torch's, else VALID and a slice. A dilated kernel is
      written out with its zeros.
    """
    x, y = low.input(node), node.outputs[0]
    weight = low.constant(node.inputs[1], "weight")
    rank = weight.ndim
    if rank not in (3, 4, 5):
        low.refuse(f"it convolves over {rank - 2} axes")
    groups = node.attributes.get_int("group", 1)
    bias = bias_of(low, node, weight.shape[1] * groups)
    windows = _transposed_windows(low, node, weight.shape[2:])
    scales = low.scales_of(node.inputs[1], axis=1)
    if rank == 5:
        bind_images(low, y, _transposed_volume(low, images_of(low, x), weight, bias, groups, windows, scales))
        return
    image = as_image(low, x)
    if rank == 3:
        weight, windows = weight[:, :, None, :], [Window(1, 1, 1, 0, 0, 1, 1), *windows]
    made = _transposed(low, image, weight, bias, groups, windows, scales)
    low.bind(y, last(rank), low.reshape(made, [low.shape(y)[axis] for axis in last(rank)]))


def _transposed(
    low: Lowering,
    image: Tensor,
    weight: Array,
    bias: Array,
    groups: int,
    windows: Sequence[Window],
    scales: Quantization | None,
) -> Tensor:
    """The transposed convolution of an NHWC tensor with weights in torch's order (I, O / groups, H, W)."""
    if groups > 1 or all(window.stride == 1 for window in windows) or (low.sizes and not _squares(windows)):
        scales = scales and scales.repeated(groups)
        return _by_ordinary_convolution(low, image, weight, bias, groups, windows, scales)
    if _squares(windows):
        return _by_subpixels(low, image, weight, bias, windows, scales)
    return _by_transpose_conv(low, image, weight, bias, windows, scales)


def _transposed_volume(
    low: Lowering,
    images: Tensor,
    weight: Array,
    bias: Array,
    groups: int,
    windows: Sequence[Window],
    scales: Quantization | None,
) -> Tensor:
    """ConvTranspose of rank 5: what the flipped kernel reads along the depth, between zeros, becomes channels."""
    depth, *plane = windows
    stacked, height, width, channels = images.shape
    batch, area = stacked // depth.length, height * width * channels
    if depth.stride > 1:
        rows = low.reshape(images, (stacked, 1, area))
        images = pad(low, rows, [(0, 0), (0, depth.stride - 1), (0, 0)])
    plain = _between_zeros(low, depth)
    volume = low.reshape(images, (batch, depth.length * depth.stride, area))
    volume = low.slice(volume, (0, 0, 0), (batch, plain.length, area))
    images = low.reshape(volume, (batch * plain.length, height, width, channels), f"{low.base}/spread")
    deep = depth_as_channels(low, images, plain, groups)
    inputs, per_group, taps, *sizes = weight.shape
    flipped = weight[:, :, ::-1].reshape(groups, inputs // groups, per_group, taps, *sizes)
    flat = flipped.transpose(0, 3, 1, 2, 4, 5).reshape(inputs * taps, per_group, *sizes)
    return _transposed(low, deep, flat, bias, groups, plane, scales)


def _between_zeros(low: Lowering, window: Window) -> Window:
    """How an ordinary convolution reads an axis with ``stride`` - 1 zeros behind each element.

    Zeros after the last element that no output reads (a stride above the kernel) are cut off.
    """
    _check_padding(low, [window])
    length = min(window.length * window.stride, window.count + window.begin)
    return Window(window.size, 1, window.dilation, window.extent - 1 - window.begin, 0, length, window.count)


def _check_padding(low: Lowering, windows: Sequence[Window]) -> None:
    if any(window.begin >= window.extent for window in windows):
        low.refuse("its padding exceeds its kernel")


def _transposed_windows(low: Lowering, node: ir.Node, kernel: Sequence[int]) -> list[Window]:
    """Per axis; ``length`` is the ConvTranspose's input, ``count`` its output, ``begin`` what is cut from its start."""
    before, after = low.shape(low.input(node))[2:], low.shape(node.outputs[0])[2:]
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        low.refuse("it has auto_pad")
    return windows_of(node, kernel, before, after)


def _by_ordinary_convolution(
    low: Lowering,
    image: Tensor,
    weight: Array,
    bias: Array,
    groups: int,
    windows: Sequence[Window],
    scales: Quantization | None,
) -> Tensor:
    batch, height, width, channels = image.shape
    rows, columns = windows
    if rows.stride > 1 or columns.stride > 1:
        # A step of one row is `stride` rows, a step of one column `stride * channels` numbers: both are plain padding.
        spread = low.reshape(image, (batch * height, 1, width, channels))
        amounts = [(0, 0), (0, rows.stride - 1), (0, 0), (0, (columns.stride - 1) * channels)]
        shape = (batch, height * rows.stride, width * columns.stride, channels)
        image = low.reshape(pad(low, spread, amounts), shape, f"{low.base}/spread")
    plain = [_between_zeros(low, window) for window in windows]
    image = low.slice(image, (0, 0, 0, 0), (batch, *(window.length for window in plain), channels))
    inputs, per_group, *kernel = weight.shape
    grouped = weight.reshape(groups, inputs // groups, per_group, *kernel).swapaxes(1, 2)
    flipped = grouped.reshape(groups * per_group, inputs // groups, *kernel)[:, :, ::-1, ::-1]
    return convolved(low, image, flipped, bias, groups, plain, scales=scales)


def _by_transpose_conv(
    low: Lowering,
    image: Tensor,
    weight: Array,
    bias: Array,
    windows: Sequence[Window],
    scales: Quantization | None,
) -> Tensor:
    batch = image.shape[0]
    kernel = np.zeros((*weight.shape[:2], *(window.extent for window in windows)), np.float32)
    kernel[:, :, :: windows[0].dilation, :: windows[1].dilation] = weight
    full = [(window.length - 1) * window.stride + window.extent for window in windows]
    same = all(
        -(-window.count // window.stride) == window.length
        and size >= window.count
        and (size - window.count) // 2 == window.begin
        for window, size in zip(windows, full, strict=True)
    )
    sizes = [
        window.count if same else max(size, window.begin + window.count)
        for window, size in zip(windows, full, strict=True)
    ]
    if not same and any(
        size - least >= window.stride for window, size, least in zip(windows, sizes, full, strict=True)
    ):
        low.refuse("its output_padding is not below its stride")
    shape = (batch, *sizes, weight.shape[1])
    constants = [low.floats(kernel.transpose(1, 2, 3, 0), f"{low.base}/weight"), low.floats(bias, f"{low.base}/bias")]
    made = low.weighted(
        "TRANSPOSE_CONV",
        [low.integers(shape), constants[0], image, constants[1]],
        shape,
        scales and scales.moved(0),
        dtype=image.dtype,
        padding=SAME if same else VALID,
        strideH=windows[0].stride,
        strideW=windows[1].stride,
    )
    begin = [0, *(0 if same else window.begin for window in windows), 0]
    return low.slice(made, begin, (batch, *(window.count for window in windows), weight.shape[1]))


def _squares(windows: Sequence[Window]) -> bool:
    """Whether the strides are those of DEPTH_TO_SPACE, or of a RESHAPE."""
    return windows[0].stride in (1, windows[1].stride)


def _by_subpixels(
    low: Lowering,
    image: Tensor,
    weight: Array,
    bias: Array,
    windows: Sequence[Window],
    scales: Quantization | None,
) -> Tensor:
    """An ordinary convolution that makes each stride x stride block of the output as channels, then moves them out.

    Of twelve shapes (kernels 2 to 16, strides 2 to 8, 3 to 256 channels; one thread) it took 0.04 to 0.49 of the time
    of TRANSPOSE_CONV on LiteRT 2.3, geometric mean 0.25, and 0.06 to 0.41 on tflite-runtime 2.14, geometric mean 0.22.
    And it holds for every batch size: the output shape of TRANSPOSE_CONV, batch and all, is a constant input.
    """
    _check_padding(low, windows)
    batch, channels = image.shape[0], image.shape[3]
    kernel = np.zeros((*weight.shape[:2], *(window.extent + 1 for window in windows)), weight.dtype)
    kernel[:, :, : -1 : windows[0].dilation, : -1 : windows[1].dilation] = weight
    (rows, tall), (columns, wide) = (_phases(window) for window in windows)
    picked = kernel[:, :, rows.taps[:, :, None, None], columns.taps]  # I, O, phase and tap of rows, of columns
    outputs = picked.transpose(2, 4, 1, 0, 3, 5)
    outputs = outputs.reshape(-1, channels, *outputs.shape[4:])
    image = low.slice(image, (0, 0, 0, 0), (batch, tall.length, wide.length, channels))
    phases = len(rows.taps) * len(columns.taps)
    scales = scales and scales.repeated(phases)
    made = convolved(low, image, outputs, np.tile(bias, phases), 1, (tall, wide), scales=scales)
    shape = (batch, tall.count * windows[0].stride, wide.count * windows[1].stride, weight.shape[1])
    if windows[0].stride == 1:
        made = low.reshape(made, shape)
    else:
        made = low.emit("DEPTH_TO_SPACE", [made], shape, blockSize=windows[0].stride)
    counts = [window.count for window in windows]
    return low.slice(made, (0, rows.offset, columns.offset, 0), (batch, *counts, weight.shape[1]))


class _Phases(NamedTuple):
    """How one axis of a transposed convolution is an ordinary one of ``stride`` phases.

    Output ``stride * q + phase - offset`` reads input ``q - first + tap`` by kernel element ``taps[phase, tap]``
    (the one behind the last is zero).
    """

    offset: int
    taps: Array


def _phases(window: Window) -> tuple[_Phases, Window]:
    """The phases that need the fewest taps, and the window of the ordinary convolution."""
    stride, size = window.stride, window.extent
    found: list[tuple[_Phases, Window]] = []
    for offset in range(stride):
        phase = np.arange(stride)[:, None] - offset + window.begin
        first = (size - 1 - int(phase.min())) // stride
        last_ = -((int(phase.max())) // stride)
        elements = phase + stride * np.arange(first, last_ - 1, -1)
        count = -(-(window.count + offset) // stride)
        taps = np.where((elements >= 0) & (elements < size), elements, size)
        plain = Window(taps.shape[1], 1, 1, first, 0, min(window.length, count - last_), count)
        if first >= 0:
            found.append((_Phases(offset, taps), plain))
    return min(found, key=lambda one: one[1].size)


LOWERINGS: dict[str, Lower] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
}
