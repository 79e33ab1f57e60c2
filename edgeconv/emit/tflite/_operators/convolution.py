"""Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite._layout import last
from edgeconv.emit.tflite._lowering import Lower, Lowering
from edgeconv.emit.tflite._windows import SAME, VALID, Window, padding_of, windows_of


def conv(low: Lowering, node: ir.Node) -> None:
    """Conv of rank 3 (as rank 4 with height 1) or 4, plain, grouped or depthwise."""
    x, y = low.input(node), node.outputs[0]
    weight = low.constant(node.inputs[1], "weight")
    rank = weight.ndim
    if rank not in (3, 4):
        low.refuse(f"it convolves over {rank - 2} axes")
    windows = windows_of(node, weight.shape[2:], low.shape(x)[2:], low.shape(y)[2:])
    image = as_image(low, x)
    if rank == 3:
        weight, windows = weight[:, :, None, :], [Window(1, 1, 1, 0, 0, 1, 1), *windows]
    bias = bias_of(low, node, weight.shape[0])
    groups = node.attributes.get_int("group", 1)
    made = convolved(low, image, weight, bias, groups, windows)
    low.bind(y, last(rank), low.reshape(made, [low.shape(y)[axis] for axis in last(rank)]))


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
) -> Tensor:
    """The convolution of an NHWC tensor with weights in torch's order (O, I / groups, H, W).

    The constants are named after the node's own when ``named``.
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
    return low.emit(code, [image, *constants], shape, **options)


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
    """ConvTranspose of rank 3 (as rank 4 with height 1) or 4.

    - stride 1: an ordinary convolution by the flipped kernel;
    - groups: the same, over the input with stride-1 zeros put between its elements;
    - otherwise TRANSPOSE_CONV, under SAME where its padding is torch's, else VALID and a slice. A dilated kernel is
      written out with its zeros.
    """
    x, y = low.input(node), node.outputs[0]
    weight = low.constant(node.inputs[1], "weight")
    rank = weight.ndim
    if rank not in (3, 4):
        low.refuse(f"it convolves over {rank - 2} axes")
    groups = node.attributes.get_int("group", 1)
    bias = bias_of(low, node, weight.shape[1] * groups)
    windows = _transposed_windows(low, node, weight.shape[2:])
    image = as_image(low, x)
    if rank == 3:
        weight, windows = weight[:, :, None, :], [Window(1, 1, 1, 0, 0, 1, 1), *windows]
    if groups > 1 or all(window.stride == 1 for window in windows):
        made = _by_ordinary_convolution(low, image, weight, bias, groups, windows)
    else:
        made = _by_transpose_conv(low, image, weight, bias, windows)
    low.bind(y, last(rank), low.reshape(made, [low.shape(y)[axis] for axis in last(rank)]))


def _transposed_windows(low: Lowering, node: ir.Node, kernel: Sequence[int]) -> list[Window]:
    """Per axis; ``length`` is the ConvTranspose's input, ``count`` its output, ``begin`` what is cut from its start."""
    before, after = low.shape(low.input(node))[2:], low.shape(node.outputs[0])[2:]
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        low.refuse("it has auto_pad")
    return windows_of(node, kernel, before, after)


def _by_ordinary_convolution(
    low: Lowering, image: Tensor, weight: Array, bias: Array, groups: int, windows: Sequence[Window]
) -> Tensor:
    batch, height, width, channels = image.shape
    rows, columns = windows
    if rows.stride > 1 or columns.stride > 1:
        # A step of one row is `stride` rows, a step of one column `stride * channels` numbers: both are plain padding.
        spread = low.reshape(image, (batch * height, 1, width, channels))
        amounts = [(0, 0), (0, rows.stride - 1), (0, 0), (0, (columns.stride - 1) * channels)]
        shape = (batch, height * rows.stride, width * columns.stride, channels)
        image = low.reshape(pad(low, spread, amounts), shape, f"{low.base}/spread")
    if any(one.begin >= one.extent for one in windows):
        low.refuse("its padding exceeds its kernel")
    # Zeros after the last element that no output reads (a stride above the kernel) are cut off.
    lengths = [min(one.length * one.stride, one.count + one.begin) for one in windows]
    image = low.slice(image, (0, 0, 0, 0), (batch, *lengths, channels))
    plain = [
        Window(one.size, 1, one.dilation, one.extent - 1 - one.begin, 0, length, one.count)
        for one, length in zip(windows, lengths, strict=True)
    ]
    inputs, per_group, *kernel = weight.shape
    grouped = weight.reshape(groups, inputs // groups, per_group, *kernel).swapaxes(1, 2)
    flipped = grouped.reshape(groups * per_group, inputs // groups, *kernel)[:, :, ::-1, ::-1]
    return convolved(low, image, flipped, bias, groups, plain)


def _by_transpose_conv(low: Lowering, image: Tensor, weight: Array, bias: Array, windows: Sequence[Window]) -> Tensor:
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
    made = low.emit(
        "TRANSPOSE_CONV",
        [low.integers(shape), constants[0], image, constants[1]],
        shape,
        dtype=image.dtype,
        padding=SAME if same else VALID,
        strideH=windows[0].stride,
        strideW=windows[1].stride,
    )
    begin = [0, *(0 if same else window.begin for window in windows), 0]
    return low.slice(made, begin, (batch, *(window.count for window in windows), weight.shape[1]))


LOWERINGS: dict[str, Lower] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
}
