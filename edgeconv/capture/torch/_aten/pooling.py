"""Poolings: MaxPool and AveragePool, or a reduction where the window is the whole input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.capture.torch._aten.patches import max_pool_places, places_apart
from edgeconv.capture.torch._builder import Builder, Entry, Result, Unsupported, sizes_of
from edgeconv.graph.windows import window_counts

Ints = Sequence[int]


def max_pool(
    b: Builder, x: ir.Value, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> ir.Value:
    """x (N, C, *sizes): MaxPool; ``ceil_mode`` is set only where it changes a size. An input without N is refused."""
    kernel, strides, pads, dilations = _windows(b, x, kernel_size, stride, padding, dilation)
    ceil = ceil_mode and b.shape[2:] != window_counts(sizes_of(x)[2:], kernel, strides, pads, dilations)
    return b.add(
        "MaxPool", x, shape=b.shape, kernel_shape=kernel, strides=strides, pads=[*pads, *pads], dilations=dilations,
        ceil_mode=int(ceil), storage_order=0,
    )  # fmt: skip


def max_pool_with_indices(
    b: Builder, x: ir.Value, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> Result:
    """The maxima and, if they are used, their int64 positions within each plane; of equal maxima the first.

    The positions are an ArgMax if the windows tile the input (`max_pool_places`), else MaxPool's second output.
    """
    if not b.is_used(1):
        return [max_pool(b, x, kernel_size, stride, padding, dilation, ceil_mode), None]
    kernel, strides, pads, dilations = _windows(b, x, kernel_size, stride, padding, dilation)
    tiles = all(size == k * out for size, k, out in zip(sizes_of(x)[2:], kernel, b.shape[2:], strict=True))
    if len(kernel) != 2 or kernel != strides or any(pads) or set(dilations) != {1} or not tiles:
        return _with_places(b, max_pool(b, x, kernel_size, stride, padding, dilation, ceil_mode))
    return max_pool_places(b, x, kernel)


def _with_places(b: Builder, pooled: ir.Value) -> Result:
    """MaxPool's second output as torch counts: within each plane, where ONNX counts over the whole tensor."""
    node = pooled.producer()
    if node is None or node.inputs[0] is None:
        raise Unsupported("a pool without a node")
    node.resize_outputs(2)
    placed = b.completed(node.outputs[1], b.shape, ir.DataType.INT64)
    plane = math.prod(sizes_of(node.inputs[0])[2:])
    places = b.add("Mod", placed, b.scalar(plane, ir.DataType.INT64))
    # Disjoint windows have disjoint positions, which `max_unpool` needs to know.
    sizes = [node.attributes.get_ints(name, ()) for name in ("kernel_shape", "strides", "dilations")]
    if all((size - 1) * dilation < stride for size, stride, dilation in zip(*sizes, strict=True)):
        places_apart(places)
    return [pooled, places]


def avg_pool(
    b: Builder, x: ir.Value, kernel_size: Ints, stride: Ints, padding: Ints, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None = None,
) -> ir.Value:  # fmt: skip
    """x (N, C, *sizes): AveragePool; ``ceil_mode`` is set only where it changes a size.

    A ``divisor_override`` is written as a mean over whole windows of a padded input, times a factor.
    """
    kernel, strides, pads, dilations = _windows(b, x, kernel_size, stride, padding, (1,))
    if divisor_override is not None:
        return _sum_pool(b, x, kernel, strides, pads, divisor_override)
    ceil = ceil_mode and b.shape[2:] != window_counts(sizes_of(x)[2:], kernel, strides, pads, dilations)
    return b.add(
        "AveragePool", x, shape=b.shape, kernel_shape=kernel, strides=strides, pads=[*pads, *pads],
        ceil_mode=int(ceil), count_include_pad=int(count_include_pad),
    )  # fmt: skip


def _sum_pool(b: Builder, x: ir.Value, kernel: Ints, strides: Ints, pads: Ints, divisor: int) -> ir.Value:
    """The sum of each window, divided by one number.

    Zeros are padded so far that every window is whole, those of ceil_mode beyond the end too: AveragePool then divides
    all of them by the same count.
    """
    sizes = zip(sizes_of(x)[2:], b.shape[2:], kernel, strides, pads, strict=True)
    after = [max(pad, (count - 1) * s + k - size - pad) for size, count, k, s, pad in sizes]
    if any(pads) or any(after):
        padded = [size + low + high for size, low, high in zip(sizes_of(x)[2:], pads, after, strict=True)]
        amounts = b.ints(0, 0, *pads, 0, 0, *after)
        x = b.add("Pad", x, amounts, b.scalar(0), shape=(*sizes_of(x)[:2], *padded), mode="constant")
    mean = b.add("AveragePool", x, shape=b.shape, kernel_shape=kernel, strides=strides, ceil_mode=0)
    return b.add("Mul", mean, b.scalar(math.prod(kernel) / divisor))


def adaptive_avg_pool(b: Builder, x: ir.Value, output_size: Ints) -> ir.Value:
    """Means over a given number of windows per axis: ReduceMean for 1, AveragePool if the number divides the size.

    Otherwise windows differ in size and overlap (ATen's start_index and end_index): see `_uneven_average`.
    """
    rank = len(output_size)
    axes = list(range(-1, -1 - rank, -1))
    output_sizes = b.shape[-rank:]
    if all(size == 1 for size in output_sizes):
        return b.reduce("ReduceMean", x, axes, keepdims=True)
    if len(sizes_of(x)) == rank + 2 and _divides(x, output_sizes):
        kernel = [size // out for size, out in zip(sizes_of(x)[2:], output_sizes, strict=True)]
        return avg_pool(b, x, kernel, kernel, [0] * rank, False, True)
    return _uneven_average(b, x, output_sizes)


def adaptive_max_pool(b: Builder, x: ir.Value, output_size: Ints) -> Result:
    """Maxima of a given number of windows per axis: ReduceMax for 1, MaxPool if the number divides the size.

    Otherwise see `_uneven_maximum`, and with the indices of the maxima `_placed_maximum`.
    """
    if b.is_used(1):
        return _placed_maximum(b, x, b.shape[-len(output_size) :])
    rank = len(output_size)
    output_sizes = b.shape[-rank:]
    if all(size == 1 for size in output_sizes):
        return [b.reduce("ReduceMax", x, list(range(-rank, 0)), keepdims=True), None]
    if len(sizes_of(x)) != rank + 2 or not _divides(x, output_sizes):
        return [_uneven_maximum(b, x, output_sizes), None]
    kernel = [size // out for size, out in zip(sizes_of(x)[2:], output_sizes, strict=True)]
    return [max_pool(b, x, kernel, kernel, [0] * rank, [1] * rank, False), None]


def _uneven_maximum(b: Builder, x: ir.Value, output_sizes: Ints) -> ir.Value:
    """Maxima of windows of different sizes: axis by axis, all windows are gathered at the size of the largest.

    A smaller window repeats its last element, which changes no maximum.
    """
    for axis, out in enumerate(output_sizes, len(sizes_of(x)) - len(output_sizes)):
        sizes = sizes_of(x)
        starts = [place * sizes[axis] // out for place in range(out)]
        ends = [-(-(place + 1) * sizes[axis] // out) for place in range(out)]
        width = max(end - start for start, end in zip(starts, ends, strict=True))
        places = [min(start + k, end - 1) for start, end in zip(starts, ends, strict=True) for k in range(width)]
        lead, behind = sizes[:axis], sizes[axis + 1 :]
        x = b.add("Gather", x, b.ints(*places), shape=(*lead, out * width, *behind), axis=axis)
        x = b.reduce("ReduceMax", b.reshape(x, (*lead, out, width, *behind)), [axis + 1], keepdims=False)
    return x


def _placed_maximum(b: Builder, x: ir.Value, output_sizes: Ints) -> Result:
    """Maxima of windows of any sizes, and their int64 positions within each plane; of equal maxima the first.

    All windows are gathered from the flattened planes at the size of the largest; what a smaller one lacks is its last
    row or column once more, which is behind the first maximum.
    """
    sizes, rank = sizes_of(x), len(output_sizes)
    table = np.zeros((1, 1), np.int64)  # the place of each element of each window within the plane
    for size, out in zip(sizes[-rank:], output_sizes, strict=True):
        starts = np.arange(out) * size // out
        ends = -(-(np.arange(out) + 1) * size // out)
        line = np.minimum(starts[:, None] + np.arange((ends - starts).max()), ends[:, None] - 1)
        grid = table[:, None, :, None] * size + line[None, :, None, :]
        table = grid.reshape(table.shape[0] * out, -1)
    front = (*sizes[:-rank], len(table))
    plane = b.reshape(x, (*sizes[:-rank], math.prod(sizes[-rank:])))
    windows = b.add("Gather", plane, b.constant(table), shape=(*front, table.shape[1]), axis=len(front) - 1)
    maxima = b.reduce("ReduceMax", windows, [-1], keepdims=False)
    taps = b.add(
        "ArgMax", windows, shape=front, dtype=ir.DataType.INT64, axis=-1, keepdims=0, select_last_index=0
    )  # fmt: skip
    within = b.add("Add", taps, b.ints(*(row * table.shape[1] for row in range(len(table)))))
    places = b.add("Gather", b.ints(*table.reshape(-1)), within, shape=front, axis=0)
    return [b.reshape(value, b.shape) for value in (maxima, places)]


def _uneven_average(b: Builder, x: ir.Value, output_sizes: Ints) -> ir.Value:
    """Means over windows of different sizes: products with matrices of zeros and ones, divided by the counts.

    One product per axis sums its windows. Weights of 1/count in the matrices would be rounded; a sum of ones is not.
    """
    members = [_members(size, out) for size, out in zip(sizes_of(x)[-len(output_sizes) :], output_sizes, strict=True)]
    dtype = b.dtype.numpy()
    counts = members[-1].sum(1)
    y = b.matmul(x, b.constant(members[-1].T.astype(dtype)))
    for axis in range(len(output_sizes) - 2, -1, -1):
        # A matrix product sums rows: the axis is made the rows, all axes behind it the columns.
        front = sizes_of(x)[: len(sizes_of(x)) - len(output_sizes) + axis]
        behind = sizes_of(y)[axis - len(output_sizes) + 1 :]
        rows = b.reshape(y, (*front, members[axis].shape[1], math.prod(behind)))
        sums = b.matmul(b.constant(members[axis].astype(dtype)), rows)
        y = b.reshape(sums, (*front, members[axis].shape[0], *behind))
        counts = np.multiply.outer(members[axis].sum(1), counts)
    return b.add("Div", y, b.constant(counts.astype(dtype)))


def _members(size: int, out: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """A matrix (out, size) that is 1 where a window (row) holds an element (column).

    Window i holds floor(i · size / out) up to ceil((i + 1) · size / out), exclusively (ATen's AdaptivePooling.h).
    """
    rows = np.arange(out)[:, None]
    columns = np.arange(size)[None]
    start, end = rows * size // out, -(-(rows + 1) * size // out)
    return ((columns >= start) & (columns < end)).astype(np.float64)


def _divides(x: ir.Value, output_sizes: Ints) -> bool:
    return all(size % out == 0 for size, out in zip(sizes_of(x)[-len(output_sizes) :], output_sizes, strict=True))


def _windows(
    b: Builder, x: ir.Value, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, stride, padding and dilation with one number per spatial axis; no stride means that of the kernel."""
    rank = len(sizes_of(x)) - 2
    if len(kernel) not in (1, rank) or rank < 1:
        raise Unsupported("an input without a batch axis")

    def per_axis(numbers: Ints) -> list[int]:
        return list(numbers) * rank if len(numbers) == 1 else list(numbers)

    return per_axis(kernel), per_axis(stride or kernel), per_axis(padding), per_axis(dilation)


TABLE: Mapping[str, Entry] = {
    "aten.max_pool1d.default": max_pool,
    "aten.max_pool2d.default": max_pool,
    "aten.max_pool3d.default": max_pool,
    "aten.max_pool1d_with_indices.default": max_pool_with_indices,
    "aten.max_pool2d_with_indices.default": max_pool_with_indices,
    "aten.max_pool3d_with_indices.default": max_pool_with_indices,
    "aten.avg_pool1d.default": avg_pool,
    "aten.avg_pool2d.default": avg_pool,
    "aten.avg_pool3d.default": avg_pool,
    "aten.adaptive_avg_pool1d.default": adaptive_avg_pool,
    "aten.adaptive_avg_pool2d.default": adaptive_avg_pool,
    "aten.adaptive_avg_pool3d.default": adaptive_avg_pool,
    "aten.adaptive_max_pool1d.default": adaptive_max_pool,
    "aten.adaptive_max_pool2d.default": adaptive_max_pool,
    "aten.adaptive_max_pool3d.default": adaptive_max_pool,
}
