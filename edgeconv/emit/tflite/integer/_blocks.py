"""int8 depthwise convolutions that XNNPACK has no depthwise kernel for, as grouped ones.

XNNPACK's depthwise kernels of int8 have up to 25 taps and one result per channel. Of the rest it makes a product of
matrices per channel, whose tiles are 8 channels deep and 16 results wide (dwconv-config.c, gemm-config.c,
convolution-nhwc.c): one channel fills a 128th of a tile, and groups of eight channels fill eight times as much. What
weighs one channel in another's result is zero, so all sums are the same integers.

LiteRT 2.3, one thread, AVX-512 VNNI, between two 1x1 convolutions, in ms: float, depthwise, groups of 4, of 8, of 20:

    7x7, 40 channels, 56x56    0.66  3.82  0.98  0.51  1.08
    7x7, 80 channels, 28x28    0.27  1.88  0.49  0.25  0.24
    7x7, 160 channels, 14x14   0.13  0.93  0.24  0.12  0.12
    7x7, 320 channels, 7x7     0.07  0.47  0.12  0.06  0.06

The weights take as many times their bytes as a group has channels. Groups of 16 take as long as groups of 8 in
narrow tiles, and half of it in wide ones (`_times`): 7x7, stride 2, 48 channels, 56x56 0.24 and 0.26, 1.39 and 0.72 ms.
"""

from __future__ import annotations

import numpy as np

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Graph, Operator
from edgeconv.emit.tflite.integer._times import Times, product_times

_MOST_TAPS = 25  # of XNNPACK's largest depthwise kernel
_MOST_CHANNELS = 64  # of a group: the weights grow by as much
WEIGHT_NS = 0.5
"""How much time a byte of weights has to save."""


def grouped(graph: Graph, operator: Operator) -> list[Operator]:
    """A DEPTHWISE_CONV_2D as CONV_2D of groups, where XNNPACK has no kernel of the one and fills tiles by the other."""
    image, weight, *bias = operator.inputs
    assert weight.data is not None  # of `is_integer`'s constants
    assert weight.quantization is not None
    _, height, width, results = weight.shape
    channels = image.shape[3]
    multiplier = results // channels
    if height * width <= _MOST_TAPS and multiplier == 1:
        return [operator]
    _, rows, columns, _ = operator.outputs[0].shape
    size = channels_of_a_group(rows * columns, height * width, channels, multiplier)
    if size == 1:
        return [operator]
    blocks = graph.constant(_blocks(weight.data, multiplier, size), weight.name, weight.quantization.moved(0))
    options = {name: value for name, value in operator.options.items() if name != "depthMultiplier"}
    return [Operator("CONV_2D", [image, blocks, *bias], operator.outputs, options)]


def channels_of_a_group(windows: int, taps: int, channels: int, multiplier: int) -> int:
    """The size with the least time, of so many results per channel; 1 where groups do not halve it in narrow tiles."""

    def times(size: int) -> Times:
        return product_times(windows, taps, size, size * multiplier, groups=channels // size)

    def cost(size: int) -> float:
        return times(size).mean_ns + WEIGHT_NS * channels * multiplier * taps * size

    sizes = [size for size in range(1, min(channels, _MOST_CHANNELS) + 1) if channels % size == 0]
    best = min(sizes, key=cost)
    return best if times(best).narrow_ns <= times(1).narrow_ns / 2 else 1


def _blocks(weight: Array, multiplier: int, size: int) -> Array:
    """(1, H, W, O) of a depthwise convolution -> (O, H, W, I) of one whose groups have so many channels."""
    rows = weight[0].transpose(2, 0, 1)
    own = np.arange(len(rows)) // multiplier % size
    blocks = np.zeros((*rows.shape, size), weight.dtype)
    blocks[np.arange(len(rows)), :, :, own] = rows
    return blocks
