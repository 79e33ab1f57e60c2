"""Windows over three axes, for operators that know images: a volume is a stack of them.

TFLite has no pool over three axes, and its CONV_3D computes floats alone, knows no groups, and no delegate takes it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import last
from edgeconv.emit.tflite.lower._lowering import Lowering
from edgeconv.emit.tflite.lower._windows import Window

THREE = 3  # axes of a volume, beside batch and channels


def images_of(low: Lowering, value: ir.Value) -> Tensor:
    """The images of a volume (N, C, D, H, W), as (N * D, H, W, C)."""
    batch, channels, depth, height, width = low.shape(value)
    return low.reshape(low.tensor(value, last(5)), (batch * depth, height, width, channels), f"{value.name}/images")


def along_depth(low: Lowering, images: Tensor, depth: int) -> Tensor:
    """Images of that many each as (N, D, H * W, C): their depth is the height of an image."""
    stacked, height, width, channels = images.shape
    return low.reshape(images, (stacked // depth, depth, height * width, channels))


def depth_as_channels(low: Lowering, images: Tensor, window: Window, groups: int) -> Tensor:
    """What a window along the depth reads, beside each other in the channels of its output's image.

    The channels of a group come together: (N * D', H, W, groups, taps, C / groups), the last three of them one axis.
    A convolution of a volume is then one of images, and so rounded once in integers.
    """
    stacked, height, width, channels = images.shape
    batch = stacked // window.length
    if (window.size, window.stride, window.begin, window.reach) == (1, 1, 0, 0):
        return images  # nothing but the image itself is read
    area = height * width * channels
    volume = low.reshape(images, (batch, window.length, area), f"{low.base}/volume")
    if window.begin or window.reach:
        shape = (batch, window.begin + window.length + window.reach, area)
        table = low.integers(np.array([(0, 0), (window.begin, window.reach), (0, 0)]))
        volume = low.emit("PAD", [volume, table], shape)
    # One part for each tap: the depths that it reads, in steps of the stride.
    parts = [every(low, volume, 1, tap * window.dilation, window) for tap in range(window.size)]
    rows = (batch * window.count * height * width * groups, 1, channels // groups)
    parts = [low.reshape(part, rows) for part in parts]
    joined = parts[0]
    if len(parts) > 1:
        joined = low.emit("CONCATENATION", parts, (rows[0], window.size, rows[2]), axis=1)
    return low.reshape(joined, (batch * window.count, height, width, channels * window.size), f"{low.base}/deep")


def every(low: Lowering, tensor: Tensor, axis: int, start: int, window: Window) -> Tensor:
    """The elements of an axis from ``start`` on, as far apart as the windows are, one for each of them."""
    begin, end, steps = [0] * len(tensor.shape), list(tensor.shape), [1] * len(tensor.shape)
    begin[axis], end[axis] = start, start + (window.count - 1) * window.stride + 1
    steps[axis] = window.stride
    shape = [window.count if at == axis else size for at, size in enumerate(tensor.shape)]
    if window.stride == 1 or window.count == 1:
        return low.slice(tensor, begin, shape)
    return low.emit("STRIDED_SLICE", [tensor, *map(low.integers, (begin, end, steps))], shape)
