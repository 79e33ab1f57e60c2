"""int8 depthwise convolutions of large kernels that make several pixels of a row at once, in groups of channels.

A group of eight channels (`_blocks`) fills half of a tile of XNNPACK's products of matrices, and seven eighths of that
are zeros. Four channels at four pixels beside each other fill all 16 results, and what they read of a row is next to
each other, too: a window of 7 pixels moves over 10 for four results. The channels of a group have to lie beside each
other, so that a TRANSPOSE of (pixels of a group, groups, channels of a group) stands before and behind. What weighs a
channel in another's result, or a pixel out of its window, is zero: all sums are the same integers.

LiteRT 2.3, one thread, AVX-512 VNNI, in ms, with both TRANSPOSEs: groups of 8 channels, and channels x pixels

    7x7, 40 channels, 56x56    0.477   8x2 0.413   4x4 0.234   2x8 0.229   2x4 0.263   1x14 0.277
    7x7, 80 channels, 28x28    0.233   8x2 0.202   4x4 0.113               2x4 0.128   1x14 0.136
    7x7, 160 channels, 14x14   0.116   8x2 0.101   4x2 0.094   2x7 0.065               1x7  0.078
    7x7, 320 channels, 7x7     0.058                           2x7 0.034               1x7  0.041

The weights grow with the square of the pixels; `WEIGHT_NS` says how much time a byte of them has to save.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite.integer._blocks import WEIGHT_NS, channels_of_a_group
from edgeconv.emit.tflite.integer._moves import reshape, transpose
from edgeconv.emit.tflite.integer._times import NARROW_WIDTH, Times, product_times
from edgeconv.emit.tflite.lower._windows import SAME

_MOST_TAPS = 25  # of XNNPACK's largest depthwise kernel
_LEAST_SAVED_NS = 10_000.0
"""Kernels without such tiles, as microcontrollers' are, multiply the zeros, too: small images stay, which fit them."""


@dataclass(frozen=True)
class _Layer:
    """A depthwise convolution of stride 1 with as many columns as it reads.

    Attributes:
        rows: of the result, of all images.
        width: pixels of a row.
        channels: that are read.
        multiplier: results per channel.
        taps: rows of a window.
        size: pixels of a row of a window.
    """

    rows: int
    width: int
    channels: int
    multiplier: int
    taps: int
    size: int

    @property
    def begin(self) -> int:
        """Padding before a row."""
        return (self.size - 1) // 2

    def reach(self, pixels: int) -> tuple[int, int]:
        """Columns of so many pixels that a window reads before its own, and behind it."""
        return -(-self.begin // pixels), (pixels - 1 - self.begin + self.size - 1) // pixels

    def weights(self, pixels: int, channels: int) -> int:
        columns = 1 + sum(self.reach(pixels))
        return self.channels * self.multiplier * pixels * self.taps * columns * pixels * channels

    def times(self, pixels: int, channels: int) -> Times:
        """Of the products, with so many pixels and channels as one group."""
        taps, together = self.taps * (1 + sum(self.reach(pixels))), pixels * channels
        groups = self.channels // channels
        return product_times(
            self.rows * (self.width // pixels), taps, together, together * self.multiplier, groups=groups
        )

    def moves_ns(self, channels: int) -> float:
        """Of a TRANSPOSE before and one behind."""
        of_a_byte = 0.17 if channels in (2, 4) else 0.37
        return self.rows * self.width * self.channels * (1 + self.multiplier) * of_a_byte


def interleaved(graph: Graph, operator: Operator) -> list[Operator] | None:
    """A DEPTHWISE_CONV_2D as a CONV_2D of groups of channels and pixels; None where that saves too little."""
    image, weight, result = operator.inputs[0], operator.inputs[1], operator.outputs[0]
    layer = _layer(graph, operator)
    split = None if layer is None else _fastest(layer)
    if layer is None or split is None:
        return None
    assert weight.quantization is not None  # of `is_integer`'s constants
    pixels, channels = split
    groups = layer.channels // channels
    order = np.arange(layer.channels * layer.multiplier).reshape(groups, 1, -1).repeat(pixels, 1).reshape(-1)
    blocks = graph.constant(
        _blocks(weight, layer, pixels, channels), weight.name, weight.quantization.moved(0).picked(order)
    )
    bias = _picked(graph, operator.inputs[2], order)
    x, before = _gathered(graph, image, pixels, channels, f"{result.name}/pixels")
    shape = (*result.shape[:2], layer.width // pixels, pixels * result.shape[3])
    inner = _like(result, f"{result.name}/interleaved", shape)
    options = {name: value for name, value in operator.options.items() if name != "depthMultiplier"}
    behind = _spread(graph, inner, result, (pixels, groups, channels * layer.multiplier))
    return [*before, Operator("CONV_2D", [x, blocks, bias], [inner], options), *behind]


def _layer(graph: Graph, operator: Operator) -> _Layer | None:
    """None of strides, dilations and other padding than SAME, and where XNNPACK has a depthwise kernel."""
    image, weight, result, options = operator.inputs[0], operator.inputs[1], operator.outputs[0], operator.options
    taps, size, results = weight.shape[1:]
    channels = image.shape[3]
    if options["padding"] != SAME or max(options["strideH"], options["strideW"]) > 1 or graph.open_axes:
        return None
    if max(options.get("dilationHFactor", 1), options.get("dilationWFactor", 1)) > 1 or len(operator.inputs) < 3:
        return None
    if taps * size <= _MOST_TAPS and results == channels:
        return None
    return _Layer(result.shape[0] * result.shape[1], result.shape[2], channels, results // channels, taps, size)


def _fastest(layer: _Layer) -> tuple[int, int] | None:
    """Pixels and channels of a group."""

    def cost(pixels: int, channels: int) -> float:
        moves_ns = layer.moves_ns(channels) if pixels > 1 else 0.0
        return layer.times(pixels, channels).plus(moves_ns).mean_ns + WEIGHT_NS * layer.weights(pixels, channels)

    size = channels_of_a_group(layer.rows * layer.width, layer.taps * layer.size, layer.channels, layer.multiplier)
    best = min(_splits(layer), key=lambda split: cost(*split), default=None)
    return best if best is not None and cost(*best) < cost(1, size) - _LEAST_SAVED_NS else None


def _splits(layer: _Layer) -> Iterator[tuple[int, int]]:
    for pixels, channels in product(range(2, 2 * NARROW_WIDTH + 1), range(1, NARROW_WIDTH + 1)):
        if layer.width % pixels == 0 and layer.channels % channels == 0 and pixels * channels <= 2 * NARROW_WIDTH:
            yield pixels, channels


def _blocks(weight: Tensor, layer: _Layer, pixels: int, channels: int) -> Array:
    """(1, H, W, O) of the depthwise convolution -> (groups x pixels x results, H, columns, pixels x channels)."""
    assert weight.data is not None  # of `is_integer`'s constants
    before, after = layer.reach(pixels)
    rows = weight.data[0].transpose(2, 0, 1).reshape(-1, channels * layer.multiplier, layer.taps, layer.size)
    blocks = np.zeros(
        (len(rows), pixels, rows.shape[1], layer.taps, (1 + before + after) * pixels, channels), weight.data.dtype
    )
    own = np.arange(rows.shape[1])
    for pixel in range(pixels):
        start = before * pixels - layer.begin + pixel
        blocks[:, pixel, own, :, start : start + layer.size, own // layer.multiplier] = rows.transpose(1, 0, 2, 3)
    return blocks.reshape(-1, layer.taps, 1 + before + after, pixels * channels)


def _picked(graph: Graph, bias: Tensor, order: Array) -> Tensor:
    assert bias.data is not None  # of `is_integer`'s constants
    assert bias.quantization is not None
    return graph.constant(bias.data[order], bias.name, bias.quantization.picked(order))


def _gathered(graph: Graph, image: Tensor, pixels: int, channels: int, name: str) -> tuple[Tensor, list[Operator]]:
    """An image with the pixels and channels of a group beside each other."""
    batch, height, width, total = image.shape
    columns = batch * height * (width // pixels)
    shapes = (
        (columns, pixels, total // channels, channels),
        (columns, total // channels, pixels, channels),
        (batch, height, width // pixels, pixels * total),
    )
    split, moved, x = (_like(image, f"{name}/{at}", shape) for at, shape in enumerate(shapes))
    return x, [reshape(graph, image, split), transpose(graph, split, moved, (0, 2, 1, 3)), reshape(graph, moved, x)]


def _spread(graph: Graph, inner: Tensor, result: Tensor, sizes: tuple[int, int, int]) -> list[Operator]:
    """What `_gathered` did, taken back, of so many pixels, groups and results of a group."""
    pixels, groups, results = sizes
    columns = int(np.prod(inner.shape[:3]))
    shapes = ((columns, groups, pixels, results), (columns, pixels, groups, results))
    split, moved = (_like(inner, f"{inner.name}/{at}", shape) for at, shape in enumerate(shapes))
    return [
        reshape(graph, inner, split),
        transpose(graph, split, moved, (0, 2, 1, 3)),
        reshape(graph, moved, result),
    ]


def _like(tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """The same integers, or some in their steps, in another shape."""
    assert tensor.quantization is not None  # the operator is integer
    return Tensor(name, shape, np.dtype(tensor.quantization.dtype), quantization=tensor.quantization)
