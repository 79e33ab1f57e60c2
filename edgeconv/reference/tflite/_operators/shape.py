"""Operators that move, repeat, cut or join elements; quantized integers are moved as they are.

Specification: tensorflow/lite/kernels/reshape.cc, transpose.cc, concatenation.cc, strided_slice.cc, pad.cc and others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel, Result
from edgeconv.reference.tflite._fixed_point import rounded
from edgeconv.reference.tflite._graph import Array

_REFLECT = 0  # schema.fbs: MirrorPadMode
_MOST_AXES = 8


def _reshape(call: Call) -> Array:
    """RESHAPE to the shape of input 1, where that is a vector of int32, or of the option."""
    if len(call.values) > 1 and call.source(1).dtype == "int32" and call[1].ndim == 1:
        shape = call.ints(1)
    else:
        option = call.operator.options["new_shape"]
        shape = [int(size) for size in option] if isinstance(option, tuple) and option != (0,) else []
    return call[0].reshape(shape)


def _squeeze(call: Call) -> Array:
    """Removes the stated axes, or all of size 1."""
    stated = call.operator.options["squeeze_dims"]
    if isinstance(stated, tuple) and stated:
        return np.squeeze(call[0], tuple(call.axis(int(axis), call[0].ndim) for axis in stated))
    return np.squeeze(call[0])


def _expand_dims(call: Call) -> Array:
    (axis,) = call.ints(1)
    return np.expand_dims(call[0], call.axis(axis, call[0].ndim + 1))


def _transpose(call: Call) -> Array:
    return np.transpose(call[0], call.ints(1))


def _concatenate(call: Call) -> Array:
    """CONCATENATION; uint8 operands may have other scales than the output, and are requantized."""
    values = [call[index] for index in range(len(call.values))]
    axis = call.axis(call.integer("axis"), values[0].ndim)
    call.sized((sum(value.size for value in values),))
    if not call.quantized:
        return call.activated(np.concatenate(values, axis))
    scales = [(call.scale(index), call.zero_point(index)) for index in range(len(values))]
    target = (call.scale(call.result), call.zero_point(call.result))
    if call.result.dtype != "uint8" and any(scale != target for scale in scales):
        raise call.refuse("has quantized tensors of different scales")
    inverse = np.float32(1) / target[0]
    for index, (scale, point) in enumerate(scales):
        if (scale, point) != target:
            ratio = scale * inverse
            real = values[index].astype(np.float32) * ratio + np.float32(-point) * ratio
            values[index] = call.saturated(rounded(real) + target[1]).astype(np.uint8)
    return np.concatenate(values, axis)


def _pack(call: Call) -> Array:
    values = [call[index] for index in range(len(call.values))]
    call.sized((sum(value.size for value in values),))
    return np.stack(values, call.axis(call.integer("axis"), values[0].ndim + 1))


def _unpack(call: Call) -> Result:
    axis = call.axis(call.integer("axis"), call[0].ndim)
    if call[0].shape[axis] != call.integer("num"):
        raise call.refuse(f"takes {call.integer('num')} slices of {call[0].shape[axis]}")
    return tuple(np.moveaxis(call[0], axis, 0))


def _split(call: Call) -> Result:
    (axis,) = call.ints(0)
    count = call.integer("num_splits")
    if count != len(call.results):
        raise call.refuse(f"gives {len(call.results)} of {count} parts")
    return tuple(np.split(call[1], count, call.axis(axis, call[1].ndim)))


def _split_sizes(call: Call) -> Result:
    """SPLIT_V; one size may be -1, for the remainder."""
    sizes, (axis,) = call.ints(1), call.ints(2)
    axis = call.axis(axis, call[0].ndim)
    whole = call[0].shape[axis]
    sizes = [whole - sum(sizes) - 1 if size == -1 and sizes.count(-1) == 1 else size for size in sizes]
    if min(sizes, default=0) < 0 or sum(sizes) != whole:
        raise call.refuse(f"splits {whole} into {sizes}")
    return tuple(np.split(call[0], np.cumsum(sizes)[:-1], axis))


def _slice(call: Call) -> Array:
    """SLICE from ``begin``, of ``size`` or, for -1, to the end."""
    index = []
    for begin, size, whole in zip(call.ints(1), call.ints(2), call[0].shape, strict=True):
        end = whole if size == -1 else begin + size
        if not 0 <= begin <= end <= whole:
            raise call.refuse(f"takes {begin} to {end} of {whole}")
        index.append(slice(begin, end))
    return call[0][tuple(index)]


def _strided_slice(call: Call) -> Array:
    begins, ends, strides = call.ints(1), call.ints(2), call.ints(3)
    if not len(begins) == len(ends) == len(strides) <= 2 * _MOST_AXES:
        raise call.refuse("has begin, end and strides of different lengths")
    masks = {name: call.integer(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    places = range(len(begins))
    plain = [at for at in places if not (masks["ellipsis"] | masks["new_axis"]) >> at & 1]
    index: list[Any] = []
    axis = 0
    for at in places:
        if masks["ellipsis"] >> at & 1:
            # All axes that no other entry is for, perhaps none.
            skipped = max(0, call[0].ndim - len(plain))
            index += [slice(None)] * skipped
            axis += skipped
        elif masks["new_axis"] >> at & 1:
            index.append(None)
        else:
            marks = {name: mask >> at & 1 for name, mask in masks.items()}
            cut = _cut(call, (begins[at], ends[at], strides[at]), call[0].shape[axis], marks)
            index.append(cut)
            axis += 1
    return np.asarray(call[0][tuple(index)])


def _cut(call: Call, bounds: tuple[int, int, int], size: int, masks: Mapping[str, int]) -> slice | int:
    """The slice of one axis; a single index if the axis is removed (``shrink_axis_mask``)."""
    begin, end, stride = bounds
    if not stride:
        raise call.refuse("has a stride of 0")
    first = slice(None if masks["begin"] else begin, None, stride).indices(size)[0]
    if masks["shrink_axis"]:
        return first
    if call.flag("offset"):
        end += first
    return slice(None if masks["begin"] else begin, None if masks["end"] else end, stride)


def _pad(call: Call) -> Array:
    """PAD, PADV2: pads with input 2, or with the output's zero point, or 0."""
    pads = _pads(call)
    point = call.result.quantization
    value: Any = point.zero_points[0] if call.quantized and point is not None else 0
    if len(call.values) > 2:
        value = call[2].reshape(-1)[0]
    return np.pad(call[0], pads, constant_values=value)


def _pads(call: Call) -> list[tuple[int, int]]:
    numbers = call.ints(1)
    pads = list(zip(numbers[::2], numbers[1::2], strict=True))
    if len(pads) != call[0].ndim or min(numbers, default=0) < 0:
        raise call.refuse(f"has the paddings {numbers} for an input {list(call[0].shape)}")
    call.sized([size + sum(pad) for size, pad in zip(call[0].shape, pads, strict=True)])
    return pads


def _mirror(call: Call) -> Array:
    """REFLECT leaves the edge itself out, SYMMETRIC repeats it."""
    pads, reflect = _pads(call), call.integer("mode") == _REFLECT
    if any(max(pad) > size - reflect for pad, size in zip(pads, call[0].shape, strict=True)):
        raise call.refuse(f"mirrors {pads} of an input {list(call[0].shape)}")
    return np.pad(call[0], pads, mode="reflect" if reflect else "symmetric")


def _tile(call: Call) -> Array:
    repeats = call.ints(1)
    if len(repeats) != call[0].ndim:
        raise call.refuse(f"has {len(repeats)} multiples for {call[0].ndim} axes")
    call.sized([size * repeat for size, repeat in zip(call[0].shape, repeats, strict=True)])
    return np.tile(call[0], repeats)


def _broadcast(call: Call) -> Array:
    shape = call.sized(call.ints(1))
    if len(shape) > _MOST_AXES:
        raise call.refuse(f"has {len(shape)} axes")
    return np.broadcast_to(call[0], shape)


def _range(call: Call) -> Array:
    start, limit, delta = (call[index].reshape(-1)[0].item() for index in range(3))
    if not delta:
        raise call.refuse("has a delta of 0")
    (count,) = call.sized([max(0, math.ceil((limit - start) / delta))])
    return np.asarray(start + np.arange(count) * delta)


def _fill(call: Call) -> Array:
    return np.full(call.sized(call.ints(0)), call[1].reshape(-1)[0])


def _space_to_depth(call: Call) -> Array:
    block = _block(call)
    batch, height, width, depth = call[0].shape
    tiles = call[0].reshape(batch, height // block, block, width // block, block, depth)
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // block, width // block, block * block * depth)


def _depth_to_space(call: Call) -> Array:
    block = _block(call)
    batch, height, width, depth = call[0].shape
    tiles = call[0].reshape(batch, height, width, block, block, depth // (block * block))
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * block, width * block, depth // (block * block))


def _block(call: Call) -> int:
    block = call.integer("block_size")
    if block < 1 or call[0].ndim != 4:
        raise call.refuse(f"has a block of {block} and an input {list(call[0].shape)}")
    return block


def _space_to_batch(call: Call) -> Array:
    """SPACE_TO_BATCH_ND: pads the spatial axes with the number 0, and moves positions in blocks to the batch axis."""
    blocks, numbers = call.ints(1), call.ints(2)
    spatial = len(blocks)
    pads = [(0, 0), *zip(numbers[::2], numbers[1::2], strict=True)]
    pads += [(0, 0)] * (call[0].ndim - len(pads))
    if min(blocks, default=0) < 1 or len(pads) != call[0].ndim or min(numbers, default=0) < 0:
        raise call.refuse(f"has blocks {blocks} and paddings {numbers}")
    call.sized([size + sum(pad) for size, pad in zip(call[0].shape, pads, strict=True)])
    point = call.result.quantization
    value = point.zero_points[0] if call.quantized and point is not None else 0
    x = np.pad(call[0], pads, constant_values=value)
    shape: list[int] = [x.shape[0]]
    for size, block in zip(x.shape[1:], blocks, strict=False):
        shape += [size // block, block]
    tiles = x.reshape(*shape, *x.shape[1 + spatial :])
    inner, outer = list(range(2, 2 + 2 * spatial, 2)), list(range(1, 1 + 2 * spatial, 2))
    moved = tiles.transpose(*inner, 0, *outer, *range(1 + 2 * spatial, tiles.ndim))
    return moved.reshape(-1, *moved.shape[spatial + 1 :])


def _batch_to_space(call: Call) -> Array:
    """BATCH_TO_SPACE_ND: the inverse of `_space_to_batch`, with crops in place of padding."""
    blocks, crops = call.ints(1), call.ints(2)
    spatial = len(blocks)
    if min(blocks, default=0) < 1 or min(crops, default=0) < 0 or len(crops) != 2 * spatial:
        raise call.refuse(f"has blocks {blocks} and crops {crops}")
    x = call[0].reshape(*blocks, -1, *call[0].shape[1:])
    order = [spatial]
    for at in range(spatial):
        order += [spatial + 1 + at, at]
    moved = x.transpose(*order, *range(2 * spatial + 1, x.ndim))
    sizes = [size * block for size, block in zip(call[0].shape[1:], blocks, strict=False)]
    spread = moved.reshape(moved.shape[0], *sizes, *call[0].shape[1 + spatial :])
    return spread[(slice(None), *(slice(crops[2 * at], sizes[at] - crops[2 * at + 1]) for at in range(spatial)))]


def _bit_cast(call: Call) -> Array:
    """The same bits as another type; real numbers are first rounded to their stored width."""
    kinds = [np.dtype(tensor.dtype) for tensor in (call.source(0), call.result)]
    if kinds[0].itemsize != kinds[1].itemsize:
        raise call.refuse(f"goes from {kinds[0]} to {kinds[1]}, of another width")
    return np.ascontiguousarray(call[0].astype(kinds[0])).view(kinds[1])


OPERATORS: Mapping[str, Kernel] = {
    "BATCH_TO_SPACE_ND": _batch_to_space,
    "BITCAST": _bit_cast,
    "BROADCAST_TO": _broadcast,
    "CONCATENATION": _concatenate,
    "DEPTH_TO_SPACE": _depth_to_space,
    "EXPAND_DIMS": _expand_dims,
    "FILL": _fill,
    "MIRROR_PAD": _mirror,
    "PACK": _pack,
    "PAD": _pad,
    "PADV2": _pad,
    "RANGE": _range,
    "RANK": lambda call: np.array(call[0].ndim),
    "RESHAPE": _reshape,
    "SHAPE": lambda call: np.array(call[0].shape, np.int64),
    "SLICE": _slice,
    "SPACE_TO_BATCH_ND": _space_to_batch,
    "SPACE_TO_DEPTH": _space_to_depth,
    "SPLIT": _split,
    "SPLIT_V": _split_sizes,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "TILE": _tile,
    "TRANSPOSE": _transpose,
    "UNPACK": _unpack,
    "ZEROS_LIKE": lambda call: np.zeros_like(call[0]),
}
