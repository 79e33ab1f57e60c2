"""Conv, and the convolution of an NHWC tensor that other operators are written with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite._quantization import Quantization
from edgeconv.emit.tflite.lower._layout import last
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.volumes import depth_as_channels, images_of
from edgeconv.emit.tflite.lower._parts import parts_of
from edgeconv.emit.tflite.lower._windows import VALID, Window, padding_of, windows_of
from edgeconv.graph.edit import input_of


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
    shift = _computed_bias(low, node)
    bias = bias_of(low, node, weight.shape[0]) if shift is None else np.zeros(weight.shape[0], np.float32)
    groups = node.attributes.get_int("group", 1)
    scales = low.scales_of(node.inputs[1], axis=0)
    # Integers would be rounded once per part.
    if groups > 1 and weight.shape[1] == 1 and scales is None and parts_of(windows):
        result = _sum_of_parts(low, image, weight, bias, groups, windows)
    else:
        result = convolved(low, image, weight, bias, groups, windows, scales=scales)
    result = result if shift is None else low.emit("ADD", [result, shift], result.shape)
    low.bind(y, last(rank), result)


def _volume(low: Lowering, node: ir.Node, weight: Array, windows: Sequence[Window]) -> None:
    """Conv of rank 5: what its kernel reads along the depth becomes channels."""
    depth, *plane = windows
    groups = node.attributes.get_int("group", 1)
    image = depth_as_channels(low, images_of(low, low.input(node)), depth, groups)
    outputs, per_group, taps, *sizes = weight.shape
    flat = weight.swapaxes(1, 2).reshape(outputs, taps * per_group, *sizes)
    bias, scales = bias_of(low, node, outputs), low.scales_of(node.inputs[1], axis=0)
    low.bind(node.outputs[0], last(5), convolved(low, image, flat, bias, groups, plane, scales=scales))


def _sum_of_parts(
    low: Lowering, image: Tensor, weight: Array, bias: Array, groups: int, windows: Sequence[Window]
) -> Tensor:
    """A depthwise convolution by a large kernel, part by part."""
    sums: list[Tensor] = []
    for part in parts_of(windows):
        taps = weight[:, :, part.rows, part.columns]
        shift = np.zeros_like(bias) if sums else bias
        rows, columns = part.read
        begin, shape = (0, rows.start, columns.start, 0), (image.shape[0], len(rows), len(columns), image.shape[3])
        read = low.slice(image, begin, shape)
        sums.append(convolved(low, read, taps, shift, groups, part.windows, named=False))
    return reduce(lambda total, term: low.emit("ADD", [total, term], term.shape), sums)


def _by_computed_weight(low: Lowering, node: ir.Node) -> None:
    """Conv of rank 3 or 4 whose weight is computed: a dynamic convolution, or the correlation of a siamese tracker.

    CONV_2D and DEPTHWISE_CONV_2D read a weight like any other tensor.
    """
    x, kernel, y = low.input(node), low.input(node, 1), node.outputs[0]
    rank = len(low.shape(x))
    if rank not in (3, 4):
        low.refuse(f"its weight is not a constant, and it convolves over {rank - 2} axes")
    channels, per_group, *sizes = low.shape(kernel)
    windows = windows_of(node, sizes, low.shape(x)[2:], low.shape(y)[2:])
    if rank == 3:
        windows = [Window(1, 1, 1, 0, 0, 1, 1), *windows]
    image, padding = padded(low, as_image(low, x), windows)
    rows, columns = windows
    options = _options(windows, padding)
    groups = node.attributes.get_int("group", 1)
    if groups > 1 and per_group == 1:
        code, form, one = "DEPTHWISE_CONV_2D", (1, *range(2, rank), 0), (1, 1, sizes[-1], channels)
        options["depthMultiplier"] = channels // groups
    else:
        code, form, one = "CONV_2D", (0, *range(2, rank), 1), (channels, 1, sizes[-1], per_group)
    weight = low.tensor(kernel, form)
    if rank == 3:
        weight = low.reshape(weight, one, f"{kernel.name}/image")
    shift = _computed_bias(low, node)
    bias = bias_of(low, node, channels) if shift is None else np.zeros(channels, np.float32)
    shape = (image.shape[0], rows.count, columns.count, channels)
    result = low.emit(code, [image, weight, low.floats(bias, f"{low.base}/bias")], shape, **options)
    result = result if shift is None else low.emit("ADD", [result, shift], result.shape)
    low.bind(y, last(rank), result)


def as_image(low: Lowering, value: ir.Value) -> Tensor:
    """The value as (N, H, W, C); one of rank 3 gets height 1."""
    tensor = low.tensor(value, last(len(low.shape(value))))
    if len(tensor.shape) == 3:
        batch, length, channels = tensor.shape
        return low.reshape(tensor, (batch, 1, length, channels), f"{value.name}/image")
    return tensor


def bias_of(low: Lowering, node: ir.Node, channels: int) -> Array:
    """The bias, zeros when there is none: the delegates want one."""
    value = input_of(node, 2)
    return np.zeros(channels, np.float32) if value is None else low.constant(value, "bias")


def _computed_bias(low: Lowering, node: ir.Node) -> Tensor | None:
    """A bias that is computed, to be added to the result; integers have no scale for what is before the sum."""
    value = input_of(node, 2)
    return None if value is None or low.integer or low.array(value) is not None else low.tensor(value, (0,))


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
    options = _options(windows, padding)
    out_channels, per_group = weight.shape[:2]
    # TFLite's weights are (O, H, W, I / groups), and (1, H, W, O) of a depthwise convolution. CONV_2D reads the number
    # of groups off the shapes: the input has that many times the channels of the weights.
    if groups > 1 and per_group == 1:
        code, kernel = "DEPTHWISE_CONV_2D", weight.transpose(1, 2, 3, 0)
        options["depthMultiplier"] = out_channels // groups
    else:
        code, kernel = "CONV_2D", weight.transpose(0, 2, 3, 1)
    stored = low.node.inputs[1:3] if low.node and named else ()
    names = [value.name or "" if value is not None else "" for value in stored]
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


def _options(windows: Sequence[Window], padding: int) -> dict[str, int]:
    """The options that CONV_2D and DEPTHWISE_CONV_2D share."""
    rows, columns = windows
    return {
        "padding": padding,
        "strideH": rows.stride,
        "strideW": columns.stride,
        "dilationHFactor": rows.dilation,
        "dilationWFactor": columns.dilation,
    }


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


LOWERINGS: dict[str, Lower] = {"Conv": conv}
