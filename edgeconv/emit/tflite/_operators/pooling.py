"""Average, maximum and global pooling, with torch's padding and ceil_mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite._layout import last, permuted
from edgeconv.emit.tflite._lowering import Lower, Lowering
from edgeconv.emit.tflite._operators.convolution import as_image, convolved, padded
from edgeconv.emit.tflite._operators.shape import joined, line
from edgeconv.emit.tflite._windows import SAME, Window, padding_of, windows_of

_LOWEST = float(np.finfo(np.float32).min)


def pool(low: Lowering, node: ir.Node) -> None:
    """AveragePool and MaxPool of rank 3 (as rank 4 with height 1) or 4."""
    x, y = low.input(node), node.outputs[0]
    kernel = list(node.attributes.get_ints("kernel_shape"))
    if node.op_type == "AveragePool" and len(kernel) == 3 and kernel[1:] == [1, 1] and low.shape(x)[1] == 1:
        _across_channels(low, node, kernel)
        return
    if len(kernel) not in (1, 2):
        low.refuse(f"it pools over {len(kernel)} axes")
    windows = windows_of(node, kernel, low.shape(x)[2:], low.shape(y)[2:])
    if any(window.dilation != 1 for window in windows):
        low.refuse("TFLite's pools have no dilation")
    image = as_image(low, x)
    if len(kernel) == 1:
        windows = [Window(1, 1, 1, 0, 0, 1, 1), *windows]
    if all(window.size == 1 for window in windows):
        made = subsampled(low, image, windows)
    elif node.op_type == "MaxPool":
        made = _maximum(low, image, windows, never_negative(x))
    else:
        made = _averaged(low, image, windows, bool(node.attributes.get_int("count_include_pad", 0)))
    shape = low.shape(y)
    low.bind(y, last(len(shape)), low.reshape(made, [shape[axis] for axis in last(len(shape))]))


def _pooled(low: Lowering, code: str, image: Tensor, windows: Sequence[Window], fill: float) -> Tensor:
    image, padding = padded(low, image, windows, fill)
    rows, columns = windows
    options = {
        "padding": padding,
        "strideH": rows.stride,
        "strideW": columns.stride,
        "filterHeight": rows.size,
        "filterWidth": columns.size,
    }
    return low.emit(code, [image], (image.shape[0], rows.count, columns.count, image.shape[3]), **options)


def subsampled(low: Lowering, image: Tensor, windows: Sequence[Window]) -> Tensor:
    """Every stride-th pixel: a 1x1 depthwise convolution by ones.

    XNNPACK takes neither strided slices nor 1x1 pools; the convolution took 0.3 to 0.7 of the slice's time.
    """
    if any(window.begin or window.reach for window in windows):
        low.refuse("it pads a window of one element")
    channels = image.shape[3]
    return convolved(low, image, np.ones((channels, 1, 1, 1)), np.zeros(channels), channels, windows, named=False)


def _maximum(low: Lowering, image: Tensor, windows: Sequence[Window], never_below_zero: bool) -> Tensor:
    """A maximum over windows whose padding never wins.

    Zeros never win where nothing is negative. Else a copy of the edge does not, as the edge lies in every window that
    is padded (slices and a concatenation, which stay in the delegate); a wide padding is filled with the lowest float.
    """
    if padding_of(windows) is None and not never_below_zero and all(w.begin + w.reach < _MOST_COPIES for w in windows):
        for axis, window in enumerate(windows, start=1):
            if window.begin or window.reach:
                head, tail = line(low, image, axis, 0), line(low, image, axis, -1)
                image = joined(low, [head] * window.begin + [image] + [tail] * window.reach, axis)
        windows = [
            replace(window, begin=0, end=0, length=image.shape[at]) for at, window in enumerate(windows, start=1)
        ]
    return _pooled(low, "MAX_POOL_2D", image, windows, 0.0 if never_below_zero else _LOWEST)


_MOST_COPIES = 4  # XNNPACK of TensorFlow Lite 2.14 concatenates up to four tensors


def _averaged(low: Lowering, image: Tensor, windows: Sequence[Window], count_padding: bool) -> Tensor:
    """An average over the elements that torch counts; TFLite's own, under SAME, never counts the padding.

    Elsewhere the padded plane is averaged as it is, and a constant map corrects the divisor where the counts differ.
    """
    if count_padding and all(window.begin == window.end == 0 for window in windows):
        count_padding = False
    counts = _counts(windows[0], count_padding)[:, None] * _counts(windows[1], count_padding)[None, :]
    full = windows[0].size * windows[1].size
    exact = [window for window in windows if window.is_same]
    if not count_padding and len(exact) == len(windows):
        return _pooled(low, "AVERAGE_POOL_2D", image, windows, 0.0)
    made = _pooled(low, "AVERAGE_POOL_2D", image, windows, 0.0)
    scheme_counts_all = low.graph.operators[-1].options["padding"] != SAME
    if not scheme_counts_all:
        counts = counts / (_counts(windows[0], False)[:, None] * _counts(windows[1], False)[None, :]) * full
    if np.all(counts == full):
        return made
    correction = low.floats((full / counts)[None, :, :, None], f"{low.base}/divisors")
    return low.emit("MUL", [made, correction], made.shape)


def _counts(window: Window, count_padding: bool) -> Array:
    """How many elements torch divides by, per output: those in the plane, or in the plane and its declared padding."""
    starts = np.arange(window.count) * window.stride - window.begin
    low, high = (-window.begin, window.length + window.end) if count_padding else (0, window.length)
    return (np.minimum(starts + window.size, high) - np.maximum(starts, low)).astype(np.float64)


def lp_pool(low: Lowering, node: ir.Node) -> None:
    """LpPool of rank 3 or 4: the root of the sum of powers, which is a depthwise convolution by ones."""
    x, y = low.input(node), node.outputs[0]
    kernel, p = list(node.attributes.get_ints("kernel_shape")), node.attributes.get_int("p", 2)
    if len(kernel) not in (1, 2):
        low.refuse(f"it pools over {len(kernel)} axes")
    windows = windows_of(node, kernel, low.shape(x)[2:], low.shape(y)[2:])
    image = as_image(low, x)
    if len(kernel) == 1:
        windows, kernel = [Window(1, 1, 1, 0, 0, 1, 1), *windows], [1, *kernel]
    if p == _SQUARES:
        powers = low.emit("SQUARE", [image], image.shape)
    else:
        powers = low.emit("ABS", [image], image.shape)
        powers = powers if p == 1 else low.emit("POW", [powers, low.floats(float(p))], image.shape)
    channels = image.shape[3]
    ones = np.ones((channels, 1, *kernel))
    total = convolved(low, powers, ones, np.zeros(channels), channels, windows, named=False)
    if p == _SQUARES:
        total = low.emit("SQRT", [total], total.shape)
    elif p != 1:
        total = low.emit("POW", [total, low.floats(1 / p)], total.shape)
    low.bind(y, last(len(low.shape(y))), low.reshape(total, permuted(low.shape(y), last(len(low.shape(y))))))


_SQUARES = 2


def _across_channels(low: Lowering, node: ir.Node, kernel: Sequence[int]) -> None:
    """An average along the first axis of (N, 1, C, H, W), as in torch's LocalResponseNorm: a 1x1 convolution.

    Its weights hold each output's window, so the channels may stay last.
    """
    x, y = low.input(node), node.outputs[0]
    depth, *space = windows_of(node, kernel, low.shape(x)[2:], low.shape(y)[2:])
    if depth.dilation != 1 or any(window.stride != 1 or not window.is_valid for window in space):
        low.refuse("it pools over 3 axes")
    counts = _counts(depth, bool(node.attributes.get_int("count_include_pad", 0)))
    starts = np.arange(depth.count) * depth.stride - depth.begin
    offsets = np.arange(depth.length)[None, :] - starts[:, None]
    weight = ((offsets >= 0) & (offsets < depth.size)) / counts[:, None]
    form = (0, 1, 3, 4, 2)
    batch, _, height, width, _ = permuted(low.shape(x), form)
    image = low.reshape(low.tensor(x, form), (batch, height, width, depth.length))
    point = [Window(1, 1, 1, 0, 0, size, size) for size in (height, width)]
    made = convolved(low, image, weight[:, :, None, None], np.zeros(depth.count), 1, point, named=False)
    low.bind(y, form, low.reshape(made, permuted(low.shape(y), form)))


_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Sqrt", "Softplus"}
_KEEPS_SIGN = {"MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Add", "Mul", "Identity", "Dropout", "Reshape"}
_KEEPS_SIGN |= {"Transpose", "Flatten", "Squeeze", "Unsqueeze", "Split", "Slice", "ReduceMean", "ReduceMax"}


def never_negative(value: ir.Value | None, depth: int = 64) -> bool:
    """Whether it can be seen from the graph that no element of the value is below zero."""
    producer = value.producer() if value is not None else None
    if producer is None or depth == 0:
        return False
    if producer.op_type in _NEVER_NEGATIVE:
        return True
    if producer.op_type == "Clip":
        bound = producer.inputs[1].const_value if len(producer.inputs) > 1 and producer.inputs[1] else None
        return bound is not None and float(bound.numpy()) >= 0
    operands = producer.inputs if producer.op_type in ("Concat", "Add", "Mul") else producer.inputs[:1]
    return producer.op_type in _KEEPS_SIGN and all(never_negative(operand, depth - 1) for operand in operands)


LOWERINGS: dict[str, Lower] = {
    "MaxPool": pool,
    "AveragePool": pool,
    "LpPool": lp_pool,
}
