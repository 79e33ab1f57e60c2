"""Windows laid out as tensors (unfold) and put back (fold, unpooling); sampling at computed places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._affine_grid import coordinates
from edgeconv.capture.torch._builder import Builder, Entry, Result, Unsupported, sizes_of
from edgeconv.graph.edit import MEETING, constant, producer_of
from edgeconv.graph.traits import Trait, having
from edgeconv.graph.versions import GRID_MODES
from edgeconv.graph.windows import window_counts

Ints = Sequence[int]


def unfold(b: Builder, x: ir.Value, kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints) -> ir.Value:
    """``F.unfold`` as a depthwise convolution by kernels with a single 1: exact, and every runtime has it fast.

    A kernel's zeros times an infinite element would be NaN. Where elements may be infinite, windows are gathered.
    """
    if len(sizes_of(x)) != 4:
        raise Unsupported("an input without a batch axis")
    batch, channels = sizes_of(x)[:2]
    count = math.prod(kernel_size)
    weight = _single_ones(b, channels, kernel_size)
    places = window_counts(sizes_of(x)[2:], kernel_size, stride, padding, dilation)
    if _may_be_infinite(x):
        return b.reshape(_gathered_windows(b, x, kernel_size, dilation, padding, stride, places), b.shape)
    y = b.add(
        "Conv", x, weight, shape=(batch, channels * count, *places), group=channels, kernel_shape=list(kernel_size),
        strides=list(stride), pads=[*padding, *padding], dilations=list(dilation),
    )  # fmt: skip
    return b.reshape(y, b.shape)


def _single_ones(b: Builder, channels: int, kernel_size: Ints) -> ir.Value:
    """Depthwise kernels (channels · count, 1, *kernel_size), one for each of the `count` places of a window.

    The kernel of a place is 1 there and 0 elsewhere.
    """
    count = math.prod(kernel_size)
    identity = np.eye(count, dtype=b.dtype.numpy()).reshape(1, count, 1, *kernel_size)
    return b.constant(np.tile(identity, (channels, 1, 1, 1, 1)).reshape(channels * count, 1, *kernel_size))


def _gathered_windows(
    b: Builder, x: ir.Value, kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints, places: Ints
) -> ir.Value:
    """The elements of each window: (batch, channels, kernel height, kernel width, high, wide)."""
    batch, channels, *sizes = sizes_of(x)
    if any(padding):
        wide = [size + 2 * pad for size, pad in zip(sizes, padding, strict=True)]
        pads = b.ints(0, 0, *padding, 0, 0, *padding)
        x = b.add("Pad", x, pads, b.scalar(0), shape=(batch, channels, *wide), mode="constant")
    for axis in range(2):
        taps = np.arange(kernel_size[axis])[:, None] * dilation[axis]
        rows = (taps + np.arange(places[axis])[None] * stride[axis]).reshape(-1)
        shape = [len(rows) if at == axis + 2 else size for at, size in enumerate(sizes_of(x))]
        x = b.add("Gather", x, b.ints(*rows), shape=shape, axis=axis + 2)
    x = b.reshape(x, (batch, channels, kernel_size[0], places[0], kernel_size[1], places[1]))
    return b.transpose(x, (0, 1, 2, 4, 3, 5))


# The search for infinities ends at these: the inputs of a layer are taken to be finite, the others bound their results.
_FINITE = having(Trait.LAYER) | having(Trait.SATURATES) | {"Softmax"}


def _may_be_infinite(value: ir.Value) -> bool:
    """Whether a value comes from an infinite constant (the -inf of a mask) or a logarithm, with no layer between."""
    waiting, seen = [value], {value}
    while waiting:
        behind = waiting.pop()
        array, node = constant(behind), behind.producer()
        is_infinite = array is not None and array.dtype.kind == "f" and np.isinf(array).any()
        if is_infinite or (node and node.op_type == "Log"):
            return True
        if node is not None and node.op_type not in _FINITE:
            sources = [source for source in node.inputs if source is not None and source not in seen]
            seen.update(sources)
            waiting += sources
    return False


def fold(
    b: Builder, x: ir.Value, output_size: Ints, kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints
) -> ir.Value:
    """``F.fold``: DepthToSpace where square windows tile the image, else a ConvTranspose by the kernels of `unfold`."""
    if len(sizes_of(x)) != 3:
        raise Unsupported("an input without a batch axis")
    count = math.prod(kernel_size)
    batch, channels = sizes_of(x)[0], sizes_of(x)[1] // count
    # 1. The columns as an image: channels · count channels, one pixel per window.
    sizes = list(zip(output_size, kernel_size, dilation, padding, stride, strict=True))
    places = window_counts(output_size, kernel_size, stride, padding, dilation)
    image = b.reshape(x, (batch, channels * count, *places))
    height, width = kernel_size
    # 2. Windows that tile the image: each pixel becomes a block.
    tiles = all(k == s and pad == 0 and places[i] * k == size for i, (size, k, _, pad, s) in enumerate(sizes))
    if tiles and height == width and all(step == 1 for step in dilation):
        return b.add("DepthToSpace", image, shape=b.shape, blocksize=height, mode="CRD")
    # 3. Others overlap, and their elements add up. A remainder that no window reaches is output_padding.
    weight = _single_ones(b, channels, kernel_size)
    remainder = [
        size - ((place - 1) * s - 2 * pad + d * (k - 1) + 1)
        for place, (size, k, d, pad, s) in zip(places, sizes, strict=True)
    ]
    return b.add(
        "ConvTranspose", image, weight, shape=b.shape, group=channels, kernel_shape=list(kernel_size),
        strides=list(stride), pads=[*padding, *padding], output_padding=remainder, dilations=list(dilation),
    )  # fmt: skip


def unfold_axis(b: Builder, x: ir.Value, dimension: int, size: int, step: int) -> ir.Value:
    """``Tensor.unfold``: Gather of the windows of one axis; the elements of a window become the last axis."""
    sizes = sizes_of(x)
    axis = dimension % len(sizes)
    count = (sizes[axis] - size) // step + 1
    table = np.arange(count)[:, None] * step + np.arange(size)[None]
    flat = b.ints(*table.reshape(-1))
    gathered = b.add("Gather", x, flat, shape=(*sizes[:axis], count * size, *sizes[axis + 1 :]), axis=axis)
    split = b.reshape(gathered, (*sizes[:axis], count, size, *sizes[axis + 1 :]))
    order = [at for at in range(len(sizes) + 1) if at != axis + 1]
    return b.transpose(split, [*order, axis + 1])


# ONNX's names by torch's numbers (GridSamplerInterpolation and GridSamplerPadding in ATen/native/GridSamplerUtils.h).
_MODES = ("linear", "nearest", "cubic")
_BORDERS = ("zeros", "border", "reflection")


def grid_sample(
    b: Builder, x: ir.Value, grid: ir.Value, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> ir.Value:
    """x (N, C, H, W) at the points of grid (N, H', W', 2): GridSample."""
    mode = _MODES[interpolation_mode]
    if b.opset < 20:
        mode = GRID_MODES.get(mode, mode)
    if len(sizes_of(x)) != 4:
        raise Unsupported("an input of another rank than 4")
    return b.add(
        "GridSample", x, grid, shape=b.shape, mode=mode, padding_mode=_BORDERS[padding_mode],
        align_corners=int(align_corners),
    )  # fmt: skip


def max_pool_places(b: Builder, x: ir.Value, kernel: Ints) -> Result:
    """The maxima of windows that tile the input, and their positions in the plane: of equal ones the first, as torch.

    The position is an ArgMax in each window, which both formats have. Other windows need MaxPool's second output, which
    TFLite lacks.
    """
    batch, channels, height, width = sizes_of(x)
    rows, columns = kernel
    high, wide = height // rows, width // columns
    tiles = b.transpose(b.reshape(x, (batch, channels, high, rows, wide, columns)), (0, 1, 2, 4, 3, 5))
    tiles = b.reshape(tiles, (batch, channels, high, wide, rows * columns))
    values = b.add(
        "MaxPool", x, shape=(batch, channels, high, wide), kernel_shape=list(kernel), strides=list(kernel),
        pads=[0] * 4, dilations=[1, 1], ceil_mode=0, storage_order=0,
    )  # fmt: skip
    taps = b.add(
        "ArgMax", tiles, shape=(batch, channels, high, wide), dtype=ir.DataType.INT64, axis=-1, keepdims=0,
        select_last_index=0,
    )  # fmt: skip
    inside = np.arange(rows)[:, None] * width + np.arange(columns)[None]
    corner = np.arange(high)[:, None] * rows * width + np.arange(wide)[None] * columns
    # By a small table the position in the window becomes a position in the row-major plane, relative to the corner.
    within = b.add("Gather", b.ints(*inside.reshape(-1)), taps, shape=sizes_of(taps), axis=0)
    return [values, places_apart(b.add("Add", within, b.constant(corner.astype(np.int64))))]


def max_unpool(b: Builder, x: ir.Value, indices: ir.Value, output_size: Ints, **_windows: object) -> ir.Value:
    """Each value at its index in an image of zeros, (N, C, *sizes): ScatterElements.

    Args:
        b: appends the nodes.
        x: (N, C, *sizes) of the pooled image.
        indices: of the same shape, counted within a plane (batch, channel).
        output_size: of the image; kernel and stride, which follow from it, are not needed.

    Two values with one index would leave the result open. Where that may happen the node is marked `MEETING`, and the
    TFLite writer refuses it: TFLite's SCATTER_ND adds such values, and ONNX leaves the result open.
    """
    batch, channels, *sizes = sizes_of(x)
    if len(sizes) != len(b.shape) - 2 or len(sizes) < 2:
        raise Unsupported("an input without a batch axis")
    total, count = math.prod(b.shape[2:]), math.prod(sizes)
    zeros = b.filled(0, batch, channels, total)
    places = b.reshape(indices, (batch, channels, count))
    values = b.reshape(x, (batch, channels, count))
    scattered = b.add("ScatterElements", zeros, places, values, shape=(batch, channels, total), axis=2)
    node = scattered.producer()
    if node is not None and _may_meet(indices):
        node.metadata_props[MEETING] = "two of its values may come to one place, as of windows that overlap"
    return b.reshape(scattered, b.shape)


_APART = "edgeconv.apart"  # Node.meta key during capture: the node's indices within one plane are all different


def places_apart(places: ir.Value) -> ir.Value:
    """Marks indices as all different within a plane (batch, channel); returns them."""
    if (node := places.producer()) is not None:
        node.meta[_APART] = True
    return places


def _may_meet(places: ir.Value | None) -> bool:
    """Whether two indices in one plane may be equal.

    They are different only if they come from pools with disjoint windows (`places_apart`), through operators that use
    each index at most once and keep it in its plane. Any others may be equal.
    """
    node = producer_of(places)
    if node is None:
        return True
    if node.meta.get(_APART):
        return False
    return node.op_type not in having(Trait.MOVES) | {"Cast"} or not _keeps_planes(node) or any(
        _may_meet(source) for source in (node.inputs if node.op_type == "Concat" else node.inputs[:1])
    )  # fmt: skip


def _keeps_planes(node: ir.Node) -> bool:
    """Whether an operator that moves elements keeps each in its plane, and repeats none."""
    sizes, sources = (sizes_of(value) for value in (node.outputs[0], node.inputs[0]) if value is not None)
    axis = node.attributes.get_int("axis", 0) % len(sources)
    match node.op_type:
        case "Cast" | "Identity" | "Slice" | "Split":
            return True
        case "Concat" | "Gather":
            return axis < 2 and len(sizes) == len(sources)
        case "Transpose":
            return {*node.attributes.get_ints("perm", ())[:2]} == {0, 1}
        case kind if kind in having(Trait.KEEPS_ORDER):  # whole planes, or parts of one
            return min(len(sizes), len(sources)) > 2 and math.prod(sources[2:]) % math.prod(sizes[2:]) == 0
    return False


def affine_grid(b: Builder, theta: ir.Value, size: Ints, align_corners: bool) -> ir.Value:
    """``F.affine_grid``: theta (N, r, r + 1) times (x, y, …, 1) at every pixel: (N, *sizes, r).

    Written as the last column of theta plus, per axis, a column times that axis's coordinates.
    """
    batch, _, *sizes = size
    rank = len(sizes)
    parts = b.split(theta, 2, [1] * (rank + 1))
    *columns, grid = (b.reshape(part, (batch, *[1] * rank, rank)) for part in parts)
    for axis, factor in enumerate(reversed(columns)):
        along = b.constant(coordinates(sizes, axis, align_corners=align_corners))
        grid = b.add("Add", grid, b.add("Mul", factor, along))
    return grid


TABLE: Mapping[str, Entry] = {
    "aten.affine_grid_generator.default": affine_grid,
    "aten.im2col.default": unfold,
    "aten.col2im.default": fold,
    "aten.unfold.default": unfold_axis,
    "aten.grid_sampler.default": grid_sample,
    "aten.grid_sampler_2d.default": grid_sample,
    "aten.max_unpool2d.default": max_unpool,
    "aten.max_unpool3d.default": max_unpool,
}
