"""Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite._layout import last
from edgeconv.emit.tflite._lowering import Lower, Lowering
from edgeconv.emit.tflite._windows import VALID, Window, padding_of, windows_of


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
    low: Lowering, image: Tensor, weight: Array, bias: Array, groups: int, windows: Sequence[Window]
) -> Tensor:
    """The convolution of an NHWC tensor with weights in torch's order (O, I / groups, H, W)."""
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
    node = low.node
    names = [value.name if value is not None else None for value in (node.inputs[1:3] if node else ())]
    constants = [
        low.floats(kernel, names[0] if names and names[0] else ""),
        low.floats(bias, names[1] if len(names) > 1 and names[1] else f"{low.base}/bias"),
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


LOWERINGS: dict[str, Lower] = {
    "Conv": conv,
}
