"""int8 convolutions of few channels, with pixels beside each other in a row as channels of one.

XNNPACK's products of matrices read 8 channels of a tap at a time and make 16 results (gemm-config.c): 3 channels of an
image fill three eighths of it, and 3 results a fifth. Its depthwise kernels make 16 results at a time, however few are
asked for. A RESHAPE makes pixels channels: (H, W, C) holds the same bytes as (H, W / g, g * C). The weights have zeros
where a window does not reach, so that all sums are the same integers.

LiteRT 2.3, one thread, AVX-512 VNNI, in ms:

    3x3, stride 2, of 224x224x3 to 16, 32, 64 channels   0.124  0.201  0.392   two pixels as one  0.112  0.183  0.329
    7x7, stride 2, of 224x224x3 to 64 channels           1.61                  two pixels as one  0.97
    depthwise 3x3 of 224x224x3                           0.430                 two, to four       0.153
    depthwise 3x3 of 112x112x8                           0.107                 one, to two        0.082

On processors with wide tiles more pixels as one gain more (`_times`); what is chosen is never slower in narrow ones
than pixels by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite.integer._moves import reshape
from edgeconv.emit.tflite.integer._times import Times, depthwise_times, product_times
from edgeconv.emit.tflite.lower._windows import SAME, VALID

_MOST_PIXELS = 16
_MOST_WEIGHTS = 32_768  # bytes: no more than a core's first cache
_LEAST_GAIN = 0.05  # nearer to the time before, the times below say nothing
_LEAST_SAVED_NS = 15_000.0
"""Kernels without such tiles, as microcontrollers' are, multiply the zeros, too: small images stay, which fit them."""


@dataclass(frozen=True)
class _Shape:
    """What a convolution's time depends on: its windows along a row, and how many there are.

    Attributes:
        rows: of the result.
        taps: rows of a window.
        channels: of a pixel that is read.
        results: of a pixel that is made.
        width: pixels of a row that is read.
        count: pixels of a row that is made.
        size: pixels of a row of a window.
        stride: along a row.
        begin: padding before a row.
    """

    rows: int
    taps: int
    channels: int
    results: int
    width: int
    count: int
    size: int
    stride: int
    begin: int

    @property
    def end(self) -> int:
        """Padding behind a row; negative where pixels are left over."""
        return (self.count - 1) * self.stride + self.size - self.width - self.begin

    @property
    def weights(self) -> int:
        return self.taps * self.size * self.channels * self.results

    @property
    def times(self) -> Times:
        """As a product of matrices."""
        return product_times(self.rows * self.count, self.taps * self.size, self.channels, self.results)

    @property
    def depthwise_times(self) -> Times:
        return depthwise_times(self.rows * self.count, self.taps * self.size, self.results)

    def packed(self, read: int, written: int) -> _Shape | None:
        """The same with so many pixels read as one, and written as one; None where they do not come out even."""
        step = written * self.stride
        if self.width % read or self.count % written or step % read:
            return None
        first, last = -self.begin // read, (step - self.stride - self.begin + self.size - 1) // read
        columns = replace(self, width=self.width // read, count=self.count // written, size=last - first + 1)
        return replace(
            columns,
            channels=self.channels * read,
            results=self.results * written,
            stride=step // read,
            begin=-first,
        )


def pack_pixels(graph: Graph) -> None:
    """Makes pixels channels where that saves a twentieth of a convolution's time, and so much that it matters."""
    producers, consumers = graph.producers(), graph.consumers()
    operators: list[Operator] = []
    dropped: set[Operator] = set()
    for operator in graph.operators:
        if not _is_plain(graph, operator):
            operators.append(operator)
            continue
        pad = producers.get(operator.inputs[0])
        if pad is None or not _is_own_pad(graph, pad, consumers):
            pad = None
        replaced = _packed(graph, operator, pad)
        if pad is not None and replaced != [operator]:
            dropped.add(pad)
        operators += replaced
    graph.operators = [operator for operator in operators if operator not in dropped]


def _is_plain(graph: Graph, operator: Operator) -> bool:
    """Whether it is an int8 convolution of all channels, or of each by itself, of a batch that is known."""
    if operator.code not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return False
    image, weight, options = operator.inputs[0], operator.inputs[1], operator.options
    dilated = max(options.get("dilationHFactor", 1), options.get("dilationWFactor", 1)) > 1
    if weight.data is None or {image.dtype, weight.dtype} != {np.dtype(np.int8)} or dilated or graph.open_axes:
        return False
    channels = weight.shape[3]
    return image.shape[3] == channels and len(operator.inputs) == 3


def _is_own_pad(graph: Graph, pad: Operator, consumers: dict[Tensor, list[Operator]]) -> bool:
    """Whether it pads rows and columns by zeros, for one reader alone."""
    result = pad.outputs[0]
    if pad.code != "PAD" or len(consumers[result]) != 1 or result in graph.outputs or result.owner:
        return False
    sizes = pad.inputs[1].data
    return sizes is not None and len(sizes) == 4 and not sizes[[0, 3]].any() and bool((sizes >= 0).all())


def _packed(graph: Graph, operator: Operator, pad: Operator | None) -> list[Operator]:
    """The operators in its place: itself, where nothing is gained."""
    image, result, options = operator.inputs[0], operator.outputs[0], operator.options
    source = image if pad is None else pad.inputs[0]
    above, begin = _padding(operator, pad)
    taps, size = operator.inputs[1].shape[1:3]
    shape = _Shape(
        result.shape[1], taps, source.shape[3], result.shape[3], source.shape[2], result.shape[2], size,
        options["strideW"], begin,
    )  # fmt: skip
    depthwise = operator.code == "DEPTHWISE_CONV_2D"
    fastest = _fastest(shape, depthwise, source)
    if fastest is None:
        return [operator]
    read, written, columns = fastest
    weight, bias = _repeated(graph, operator, shape, columns, read, written)
    rows = _Rows(graph, [])
    x = rows.reshaped(source, (*source.shape[:2], columns.width, columns.channels), f"{result.name}/pixels")
    rows_end = (result.shape[1] - 1) * options["strideH"] + taps - source.shape[1] - above
    sides = ((above, rows_end), (columns.begin, columns.end))
    lengths = ((source.shape[1], result.shape[1], options["strideH"]), (columns.width, columns.count, columns.stride))
    same = all(map(_is_same, sides, lengths))
    if not same and any(max(side) > 0 for side in sides):
        before, after = ((begin, max(0, end)) for begin, end in sides)
        x = rows.padded(x, before, after, f"{result.name}/pad")
    options = {name: value for name, value in options.items() if name != "depthMultiplier"}
    options |= {"strideW": columns.stride, "padding": SAME if same else VALID}
    inner = result if written == 1 else _like(result, (*result.shape[:2], columns.count, columns.results), "packed")
    rows.operators.append(Operator("CONV_2D", [x, weight, bias], [inner], options))
    if written > 1:
        rows.operators.append(reshape(graph, inner, result))
    return rows.operators


def _is_same(side: tuple[int, int], length: tuple[int, int, int]) -> bool:
    """Whether TFLite's SAME pads an axis so, of so many elements that are read and written, and such a stride."""
    (begin, end), (read, written, stride) = side, length
    return begin + end >= 0 and begin == (begin + end) // 2 and written == -(-read // stride)


def _padding(operator: Operator, pad: Operator | None) -> tuple[int, int]:
    """Before the rows and before the columns, by the convolution's own scheme and by a PAD before it."""
    image, result, options = operator.inputs[0], operator.outputs[0], operator.options
    before = [0, 0]
    if options["padding"] == SAME:
        strides = options["strideH"], options["strideW"]
        for at, (stride, size) in enumerate(zip(strides, operator.inputs[1].shape[1:3], strict=True)):
            before[at] = max(0, (result.shape[1 + at] - 1) * stride + size - image.shape[1 + at]) // 2
    if pad is not None:
        assert pad.inputs[1].data is not None  # `_is_own_pad` looked
        before = [own + int(sizes[0]) for own, sizes in zip(before, pad.inputs[1].data[1:3], strict=True)]
    return before[0], before[1]


def _fastest(shape: _Shape, depthwise: bool, source: Tensor) -> tuple[int, int, _Shape] | None:
    """The pixels that are read and written as one, and the shape that this gives; None where too little is gained."""
    now = shape.depthwise_times if depthwise else shape.times
    best, limit_ns = None, min(now.mean_ns * (1 - _LEAST_GAIN), now.mean_ns - _LEAST_SAVED_NS)
    for read, written, columns in _choices(shape):
        moved = [int(np.prod(source.shape[1:]))] * (read > 1)  # of one image, as the times: an open batch has none
        moved += [shape.rows * shape.count * shape.results] * (written > 1)
        times = columns.times.plus(sum(_RESHAPE_NS + count * _MOVED_NS for count in moved))
        if times.mean_ns < limit_ns and times.narrow_ns <= now.narrow_ns:
            best, limit_ns = (read, written, columns), times.mean_ns
    return best


_RESHAPE_NS, _MOVED_NS = 300.0, 0.02  # of a RESHAPE, and of each byte of it


def _choices(shape: _Shape) -> Iterator[tuple[int, int, _Shape]]:
    for read in range(1, _MOST_PIXELS + 1):
        for written in range(1, _MOST_PIXELS + 1):
            columns = shape.packed(read, written)
            if columns is not None and columns.weights <= max(_MOST_WEIGHTS, 2 * shape.weights):
                yield read, written, columns


def _repeated(
    graph: Graph, operator: Operator, shape: _Shape, columns: _Shape, read: int, written: int
) -> tuple[Tensor, Tensor]:
    """Weights and biases of each pixel that is written, at the pixels that it reads."""
    weight, bias = operator.inputs[1], operator.inputs[2]
    assert weight.data is not None  # `_is_plain` looked
    assert bias.data is not None
    assert weight.quantization is not None
    assert bias.quantization is not None
    plain = _dense(weight.data) if operator.code == "DEPTHWISE_CONV_2D" else weight.data
    line = np.zeros((written, shape.results, shape.taps, columns.size * read, shape.channels), plain.dtype)
    for pixel in range(written):
        start = columns.begin * read - shape.begin + pixel * shape.stride
        line[pixel, :, :, start : start + shape.size] = plain
    packed = line.reshape(columns.results, shape.taps, columns.size, columns.channels)
    scales, products = (tensor.quantization.moved(0).repeated(written) for tensor in (weight, bias))  # type: ignore[union-attr]
    return (
        graph.constant(packed, weight.name, scales),
        graph.constant(np.tile(bias.data, written), bias.name, products),
    )


def _dense(weight: Array) -> Array:
    """(1, H, W, C) of a depthwise convolution -> (C, H, W, C) of one that reads all channels."""
    rows = weight[0].transpose(2, 0, 1)
    dense = np.zeros((*rows.shape, len(rows)), weight.dtype)
    own = np.arange(len(rows))
    dense[own, :, :, own] = rows
    return dense


@dataclass
class _Rows:
    """Operators that come before the convolution."""

    graph: Graph
    operators: list[Operator]

    def reshaped(self, source: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
        if source.shape == shape:
            return source
        result = Tensor(name, shape, source.dtype, quantization=source.quantization)
        self.operators.append(reshape(self.graph, source, result))
        return result

    def padded(self, source: Tensor, rows: tuple[int, int], columns: tuple[int, int], name: str) -> Tensor:
        batch, height, width, channels = source.shape
        shape = (batch, height + sum(rows), width + sum(columns), channels)
        result = Tensor(name, shape, source.dtype, quantization=source.quantization)
        sizes = self.graph.constant(np.array([(0, 0), rows, columns, (0, 0)], np.int32), "integers")
        self.operators.append(Operator("PAD", [source, sizes], [result]))
        return result


def _like(tensor: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    return Tensor(f"{tensor.name}/{name}", shape, tensor.dtype, quantization=tensor.quantization)
