"""Average, maximum and global pooling, with torch's padding and ceil_mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.defaults import MOST_JOINED
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import last, permuted
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.convolution import as_image, convolved, pad, padded
from edgeconv.emit.tflite.lower._operators.padding import joined, line
from edgeconv.emit.tflite.lower._operators.reduction import power_of, root_of
from edgeconv.emit.tflite.lower._operators.volumes import THREE, along_depth, every, images_of
from edgeconv.emit.tflite.lower._windows import SAME, Region, Window, padding_of, regions_of, windows_of
from edgeconv.graph.signs import never_negative
from edgeconv.graph.windows import counted_elements

_LOWEST = float(np.finfo(np.float32).min)


def pool(low: Lowering, node: ir.Node) -> None:
    """AveragePool and MaxPool of rank 3 (as rank 4 with height 1), 4 or 5."""
    x, kernel = low.input(node), list(node.attributes.get_ints("kernel_shape"))
    if node.op_type == "AveragePool" and len(kernel) == THREE and kernel[1:] == [1, 1] and low.shape(x)[1] == 1:
        _across_channels(low, node, kernel)
        return
    factors: list[Array] = []
    _windowed(low, node, None, partial(_slid, low, node, factors), partial(_corrected, low, factors))


def _windowed(
    low: Lowering,
    node: ir.Node,
    before: Callable[[Tensor], Tensor] | None,
    slide: Callable[[Tensor, Sequence[Window]], Tensor],
    after: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Slides windows over images; those of a volume over its images first, and then along its depth."""
    x, y = low.input(node), node.outputs[0]
    kernel = list(node.attributes.get_ints("kernel_shape"))
    if len(kernel) not in (1, 2, THREE):
        low.refuse(f"it pools over {len(kernel)} axes")
    windows = windows_of(node, kernel, low.shape(x)[2:], low.shape(y)[2:])
    image = images_of(low, x) if len(kernel) == THREE else as_image(low, x)
    image = before(image) if before else image
    # Rank 3 gets a row window of one element; of a volume the first window is the depth's.
    *depth, rows, columns = [Window(1, 1, 1, 0, 0, 1, 1), *windows][-max(2, len(kernel)) :]
    pooled = slide(image, (rows, columns))
    if depth:
        area = rows.count * columns.count
        pooled = slide(along_depth(low, pooled, depth[0].length), (depth[0], Window(1, 1, 1, 0, 0, area, area)))
    pooled = after(pooled) if after else pooled
    low.bind(y, last(len(low.shape(y))), pooled)


def _slid(low: Lowering, node: ir.Node, factors: list[Array], image: Tensor, windows: Sequence[Window]) -> Tensor:
    """The pool of an image; by which factors its averages are too small is noted."""
    if all(window.size == 1 for window in windows):
        return subsampled(low, image, windows)
    if node.op_type == "AveragePool":
        average, factor = _averaged(low, image, windows, bool(node.attributes.get_int("count_include_pad", 0)))
        factors.append(factor)
        return average
    if any(window.dilation != 1 and window.size > 1 for window in windows):
        return _dilated_maximum(low, image, windows)
    return _maximum(low, image, windows, never_negative(low.input(node)))


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
    if all(window.stride == 1 for window in windows):
        return image
    channels = image.shape[3]
    return convolved(low, image, np.ones((channels, 1, 1, 1)), np.zeros(channels), channels, windows, named=False)


def _maximum(low: Lowering, image: Tensor, windows: Sequence[Window], never_below_zero: bool) -> Tensor:
    """A maximum over windows whose padding never wins.

    Zeros never win where nothing is negative. Else a copy of the edge does not, as the edge lies in every window that
    is padded (slices and a concatenation, which stay in the delegate); a wide padding is filled with the lowest float.
    """
    if padding_of(windows) is None and not never_below_zero and all(w.begin + w.reach < MOST_JOINED for w in windows):
        for axis, window in enumerate(windows, start=1):
            if window.begin or window.reach:
                head, tail = line(low, image, axis, 0), line(low, image, axis, -1)
                image = joined(low, [head] * window.begin + [image] + [tail] * window.reach, axis)
        windows = [
            replace(window, begin=0, end=0, length=image.shape[at]) for at, window in enumerate(windows, start=1)
        ]
    return _pooled(low, "MAX_POOL_2D", image, windows, 0.0 if never_below_zero else _LOWEST)


def _dilated_maximum(low: Lowering, image: Tensor, windows: Sequence[Window]) -> Tensor:
    """The larger of what each place of the window reads, one axis after the other: TFLite's pools have no dilation."""
    if any(window.begin or window.reach for window in windows):
        image = pad(low, image, [(0, 0), *((window.begin, window.reach) for window in windows), (0, 0)], _LOWEST)
    for axis, window in enumerate(windows, start=1):
        if window.size > 1 or window.stride > 1 or image.shape[axis] != window.count:
            places = [tap * window.dilation for tap in range(window.size)]
            parts = [every(low, image, axis, place, window) for place in places]
            image = reduce(lambda most, part: low.emit("MAXIMUM", [most, part], part.shape), parts)
    return image


def _averaged(low: Lowering, image: Tensor, windows: Sequence[Window], count_padding: bool) -> tuple[Tensor, Array]:
    """An average, and what it is to be multiplied by for the elements that torch counts.

    TFLite's own, under SAME, never counts the padding; elsewhere the padded plane is averaged as it is.
    """
    if count_padding and all(window.begin == window.end == 0 for window in windows):
        count_padding = False
    # The kernel divides by filter_count, the elements of the window that lie in the tensor that it reads (AveragePool
    # in kernels/internal/reference/pooling.h). Of a plane that was padded before, the padding lies in it.
    counts = _counts(windows[0], count_padding)[:, None] * _counts(windows[1], count_padding)[None, :]
    full = windows[0].size * windows[1].size
    if low.integer and count_padding and full <= _MOST_TAPS and (counts == full).all():
        return _by_weights(low, image, windows), np.ones(counts.shape)
    exact = [window for window in windows if window.is_same]
    if not count_padding and len(exact) == len(windows):
        return _pooled(low, "AVERAGE_POOL_2D", image, windows, 0.0), np.ones(counts.shape)
    if low.integer and (counts < full).any():
        regions = [regions_of(window, count_padding) for window in windows]
        if len(regions[0]) * len(regions[1]) <= _MOST_REGIONS:
            return _by_regions(low, image, windows, regions, count_padding), np.ones(counts.shape)
    average = _pooled(low, "AVERAGE_POOL_2D", image, windows, 0.0)
    scheme_counts_all = low.graph.operators[-1].options["padding"] != SAME
    if not scheme_counts_all:
        counts = counts / (_counts(windows[0], False)[:, None] * _counts(windows[1], False)[None, :]) * full
    return average, full / counts


def _by_regions(
    low: Lowering, image: Tensor, windows: Sequence[Window], regions: Sequence[Sequence[Region]], count_padding: bool
) -> Tensor:
    """Averages of the inner windows and of those that hang over an edge, each over its own elements, side by side.

    Integers are rounded once. Averages of the padded plane, times full over counted elements, are off by as many halves
    of a step: 5x5 windows of which the last hold one element were off by ten steps.
    """
    if count_padding:
        image = pad(low, image, [(0, 0), *((window.begin, window.end) for window in windows), (0, 0)])
    rows = []
    for above in regions[0]:
        parts = []
        for beside in regions[1]:
            pair = (above, beside)
            begin, spans = [region.begin for region in pair], [region.window.length for region in pair]
            part = low.slice(image, [0, *begin, 0], [image.shape[0], *spans, image.shape[3]])
            parts.append(_pooled(low, "AVERAGE_POOL_2D", part, [region.window for region in pair], 0.0))
        rows.append(_in_a_row(low, parts, 2))
    return _in_a_row(low, rows, 1)


def _in_a_row(low: Lowering, parts: Sequence[Tensor], axis: int) -> Tensor:
    """The parts along an axis, joined few at a time."""
    while len(parts) > 1:
        few, rest = parts[:MOST_JOINED], parts[MOST_JOINED:]
        parts = [joined(low, few, axis), *rest]
    return parts[0]


_MOST_REGIONS = 25  # two windows over each edge, the inner ones, and as many rows of these
_MOST_TAPS = 25  # of XNNPACK's largest depthwise kernel


def _by_weights(low: Lowering, image: Tensor, windows: Sequence[Window]) -> Tensor:
    """A convolution by equal weights, which pads with zeros that count: integers are rounded once."""
    channels, size = image.shape[3], (windows[0].size, windows[1].size)
    weights = np.full((channels, 1, *size), 1 / (size[0] * size[1]))
    return convolved(low, image, weights, np.zeros(channels), channels, windows, named=False)


def _corrected(low: Lowering, factors: Sequence[Array], averages: Tensor) -> Tensor:
    """The averages by their factors, once: in integers a product between two averages would coarsen the second.

    Those of a volume's images are the same at every depth, where its rows are the depth and its columns an image.
    """
    total = np.ones(averages.shape[1:3])
    for factor in factors:
        total = total * (factor if factor.shape == total.shape else factor.reshape(1, -1))
    if np.all(total == 1):
        return averages
    return low.emit("MUL", [averages, low.floats(total[None, :, :, None], f"{low.base}/divisors")], averages.shape)


def _counts(window: Window, count_padding: bool) -> Array:
    """How many elements torch divides by, per output: those in the plane, or in the plane and its declared padding."""
    return counted_elements(
        *(window.length, window.count, window.size, (window.begin, window.end)),
        stride=window.stride,
        dilation=1,
        with_padding=count_padding,
    ).astype(np.float64)


def lp_pool(low: Lowering, node: ir.Node) -> None:
    """LpPool of rank 3 to 5: the root of the sum of powers, which is a depthwise convolution by ones."""
    p = node.attributes.get_int("p", 2)

    def summed(image: Tensor, windows: Sequence[Window]) -> Tensor:
        channels, rows, columns = image.shape[3], *windows
        ones = np.ones((channels, 1, rows.size, columns.size))
        return convolved(low, image, ones, np.zeros(channels), channels, windows, named=False)

    _windowed(low, node, lambda image: power_of(low, image, p), summed, lambda total: root_of(low, total, p))


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
    average = convolved(low, image, weight[:, :, None, None], np.zeros(depth.count), 1, point, named=False)
    low.bind(y, form, average)


LOWERINGS: dict[str, Lower] = {
    "MaxPool": pool,
    "AveragePool": pool,
    "LpPool": lp_pool,
}
