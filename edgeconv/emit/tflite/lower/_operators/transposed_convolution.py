"""ConvTranspose, in the form that the runtimes are fastest with and that is right at every batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite._quantization import Quantization
from edgeconv.emit.tflite.lower._layout import last
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.convolution import as_image, bias_of, convolved, pad
from edgeconv.emit.tflite.lower._operators.volumes import depth_as_channels, images_of
from edgeconv.emit.tflite.lower._windows import SAME, VALID, Window, windows_of


@dataclass(frozen=True)
class _Transposed:
    """A transposed convolution of an NHWC tensor.

    Attributes:
        image: (N, H, W, I).
        weight: in torch's order, (I, O / groups, H, W); of a volume (I, O / groups, D, H, W).
        bias: (O,).
        groups: of channels.
        windows: per spatial axis; ``length`` is of the input, ``count`` of the output, and ``begin`` is what is cut
            from the output's start.
        scales: of the weights' integers, along O; None where they are floats.
    """

    image: Tensor
    weight: Array
    bias: Array
    groups: int
    windows: Sequence[Window]
    scales: Quantization | None


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
    windows = windows_of(node, weight.shape[2:], low.shape(x)[2:], low.shape(y)[2:])
    scales = low.scales_of(node.inputs[1], axis=1)
    if rank == 5:
        volume = _Transposed(images_of(low, x), weight, bias, groups, windows, scales)
        low.bind(y, last(5), _transposed(low, _as_images(low, volume)))
        return
    # A signal is an image of height 1, whose window along the height is the only pixel.
    image = as_image(low, x)
    if rank == 3:
        weight, windows = weight[:, :, None, :], [Window(1, 1, 1, 0, 0, 1, 1), *windows]
    result = _transposed(low, _Transposed(image, weight, bias, groups, windows, scales))
    low.bind(y, last(rank), result)


def _transposed(low: Lowering, layer: _Transposed) -> Tensor:
    """The result (N, H, W, O), in the first of the forms above that serves."""
    layer = _reached(low, layer)
    windows, groups = layer.windows, layer.groups
    # TRANSPOSE_CONV knows no groups, and its shape, batch and all, is a constant: none for an open batch (`sizes`).
    if groups > 1 or all(window.stride == 1 for window in windows) or (low.sizes and not _squares(windows)):
        return _by_ordinary_convolution(low, replace(layer, scales=layer.scales and layer.scales.repeated(groups)))
    return _by_subpixels(low, layer) if _squares(windows) else _by_transpose_conv(low, layer)


def _reached(low: Lowering, layer: _Transposed) -> _Transposed:
    """The layer without the first rows and columns of its input, where padding beyond the kernel cuts them off whole.

    A kernel that is smaller than its stride has zeros added up to it: else the output could begin between two elements.
    """
    if all(window.begin < window.extent for window in layer.windows):
        return layer
    sizes = [max(window.size, -(-(window.stride - 1) // window.dilation) + 1) for window in layer.windows]
    zeros = [(0, size - window.size) for size, window in zip(sizes, layer.windows, strict=True)]
    windows = [replace(window, size=size) for size, window in zip(sizes, layer.windows, strict=True)]
    cut = [max(0, (window.begin - window.extent) // window.stride + 1) for window in windows]
    windows = [
        replace(window, begin=window.begin - skipped * window.stride, length=window.length - skipped)
        for window, skipped in zip(windows, cut, strict=True)
    ]
    if any(window.length < 1 for window in windows):
        low.refuse("its padding leaves nothing of its input")
    batch, _, _, channels = layer.image.shape
    image = low.slice(layer.image, (0, *cut, 0), (batch, *(window.length for window in windows), channels))
    return replace(layer, image=image, weight=np.pad(layer.weight, [(0, 0), (0, 0), *zeros]), windows=windows)


def _as_images(low: Lowering, volume: _Transposed) -> _Transposed:
    """ConvTranspose of rank 5: what the flipped kernel reads along the depth, between zeros, becomes channels."""
    images, weight, groups = volume.image, volume.weight, volume.groups
    depth, *plane = volume.windows
    stacked, height, width, channels = images.shape
    batch, area = stacked // depth.length, height * width * channels
    # As in `_by_ordinary_convolution`: stride - 1 zero images behind each image of the volume.
    if depth.stride > 1:
        rows = low.reshape(images, (stacked, 1, area))
        images = pad(low, rows, [(0, 0), (0, depth.stride - 1), (0, 0)])
    plain = _between_zeros(low, depth)
    spread = low.reshape(images, (batch, depth.length * depth.stride, area))
    spread = low.slice(spread, (0, 0, 0), (batch, plain.length, area))
    images = low.reshape(spread, (batch * plain.length, height, width, channels), f"{low.base}/spread")
    deep = depth_as_channels(low, images, plain, groups)
    inputs, per_group, taps, *sizes = weight.shape
    # (groups, inputs of a group, outputs, taps, H, W), the taps turned round; then taps and inputs of a group are one
    # axis.
    flipped = weight[:, :, ::-1].reshape(groups, inputs // groups, per_group, taps, *sizes)
    flat = flipped.transpose(0, 3, 1, 2, 4, 5).reshape(inputs * taps, per_group, *sizes)
    return replace(volume, image=deep, weight=flat, windows=plane)


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


def _by_ordinary_convolution(low: Lowering, layer: _Transposed) -> Tensor:
    """Convolves by the flipped kernel, over the input with zeros between its elements where the stride is above 1."""
    image, weight, groups = layer.image, layer.weight, layer.groups
    batch, height, width, channels = image.shape
    rows, columns = layer.windows
    if rows.stride > 1 or columns.stride > 1:
        # A step of one row is `stride` rows, a step of one column `stride * channels` numbers: both are plain padding.
        spread = low.reshape(image, (batch * height, 1, width, channels))
        amounts = [(0, 0), (0, rows.stride - 1), (0, 0), (0, (columns.stride - 1) * channels)]
        shape = (batch, height * rows.stride, width * columns.stride, channels)
        image = low.reshape(pad(low, spread, amounts), shape, f"{low.base}/spread")
    plain = [_between_zeros(low, window) for window in layer.windows]
    image = low.slice(image, (0, 0, 0, 0), (batch, *(window.length for window in plain), channels))
    inputs, per_group, *kernel = weight.shape
    grouped = weight.reshape(groups, inputs // groups, per_group, *kernel).swapaxes(1, 2)
    flipped = grouped.reshape(groups * per_group, inputs // groups, *kernel)[:, :, ::-1, ::-1]
    return convolved(low, image, flipped, layer.bias, groups, plain, scales=layer.scales)


def _by_transpose_conv(low: Lowering, layer: _Transposed) -> Tensor:
    """TRANSPOSE_CONV: SAME where the padding it implies is torch's (``ComputePaddingHeightWidth``), else VALID, cut."""
    image, weight, windows = layer.image, layer.weight, layer.windows
    batch = image.shape[0]
    # The schema's TransposeConvOptions have strides and no dilation.
    kernel = np.zeros((*weight.shape[:2], *(window.extent for window in windows)), np.float32)
    kernel[:, :, :: windows[0].dilation, :: windows[1].dilation] = weight
    full = [(window.length - 1) * window.stride + window.extent for window in windows]
    # ComputePaddingHeightWidth (kernels/padding.h) of the convolution that this one runs backwards: half of what the
    # windows need beyond the output lies before it, the smaller half.
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
    constants = [
        # OHWI is the order of the kernel's weights; torch's is IOHW.
        low.floats(kernel.transpose(1, 2, 3, 0), f"{low.base}/weight"),
        low.floats(layer.bias, f"{low.base}/bias"),
    ]
    result = low.weighted(
        "TRANSPOSE_CONV",
        [low.integers(shape), constants[0], image, constants[1]],
        shape,
        layer.scales and layer.scales.moved(0),
        dtype=image.dtype,
        padding=SAME if same else VALID,
        strideH=windows[0].stride,
        strideW=windows[1].stride,
    )
    begin = [0, *(0 if same else window.begin for window in windows), 0]
    return low.slice(result, begin, (batch, *(window.count for window in windows), weight.shape[1]))


def _squares(windows: Sequence[Window]) -> bool:
    """Whether the strides are those of DEPTH_TO_SPACE, or of a RESHAPE."""
    return windows[0].stride in (1, windows[1].stride)


def _by_subpixels(low: Lowering, layer: _Transposed) -> Tensor:
    """An ordinary convolution that makes each stride x stride block of the output as channels, then moves them out.

    Of twelve shapes (kernels 2 to 16, strides 2 to 8, 3 to 256 channels; one thread) it took 0.04 to 0.49 of the time
    of TRANSPOSE_CONV on LiteRT 2.3, geometric mean 0.25, and 0.06 to 0.41 on tflite-runtime 2.14, geometric mean 0.22.
    And it holds for every batch size: the output shape of TRANSPOSE_CONV, batch and all, is a constant input.
    """
    weight, windows = layer.weight, layer.windows
    _check_padding(low, windows)
    batch, _, _, channels = layer.image.shape
    # The kernel with its dilation's zeros, and one more zero that `_Phases.taps` points to where a phase has no tap.
    kernel = np.zeros((*weight.shape[:2], *(window.extent + 1 for window in windows)), weight.dtype)
    kernel[:, :, : -1 : windows[0].dilation, : -1 : windows[1].dilation] = weight
    (rows, tall), (columns, wide) = (_phases(window) for window in windows)
    picked = kernel[:, :, rows.taps[:, :, None, None], columns.taps]  # I, O, phase and tap of rows, of columns
    outputs = picked.transpose(2, 4, 1, 0, 3, 5)
    outputs = outputs.reshape(-1, channels, *outputs.shape[4:])
    image = low.slice(layer.image, (0, 0, 0, 0), (batch, tall.length, wide.length, channels))
    phases = len(rows.taps) * len(columns.taps)
    scales = layer.scales and layer.scales.repeated(phases)
    result = convolved(low, image, outputs, np.tile(layer.bias, phases), 1, (tall, wide), scales=scales)
    shape = (batch, tall.count * windows[0].stride, wide.count * windows[1].stride, weight.shape[1])
    if windows[0].stride == 1:
        result = low.reshape(result, shape)
    else:
        result = low.emit("DEPTH_TO_SPACE", [result], shape, blockSize=windows[0].stride)
    counts = [window.count for window in windows]
    return low.slice(result, (0, rows.offset, columns.offset, 0), (batch, *counts, weight.shape[1]))


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
    candidates: list[tuple[_Phases, Window]] = []
    for offset in range(stride):
        phase = np.arange(stride)[:, None] - offset + window.begin
        first = (size - 1 - int(phase.min())) // stride
        last_ = -((int(phase.max())) // stride)
        elements = phase + stride * np.arange(first, last_ - 1, -1)
        count = -(-(window.count + offset) // stride)
        taps = np.where((elements >= 0) & (elements < size), elements, size)
        plain = Window(taps.shape[1], 1, 1, first, 0, min(window.length, count - last_), count)
        if first >= 0:
            candidates.append((_Phases(offset, taps), plain))
    return min(candidates, key=lambda candidate: candidate[1].size)


LOWERINGS: dict[str, Lower] = {"ConvTranspose": conv_transpose}
