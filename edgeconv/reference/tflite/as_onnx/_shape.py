"""Operators that move, cut, join or reduce elements, in the file's layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.reference.tflite.as_onnx._site import Rule, Site

_REFLECT = 0  # schema.fbs: MirrorPadMode
_AXES_FIRST = {0: 0, 1: 2, 2: 3, 3: 1}  # an axis of NHWC in NCHW
_WHOLE = np.iinfo(np.int64).max


def _reshaped(site: Site) -> None:
    site.give(site.node("Reshape", [site[0], site.sizes(site.result)]))


def _transpose(site: Site) -> None:
    site.give(site.node("Transpose", [site[0]], perm=site.ints(1)))


def _concatenate(site: Site) -> None:
    places = range(len(site.call.operator.inputs))
    axis = site.call.axis(site.call.integer("axis"), len(site.result))
    # Channels first only where all are so already: otherwise one Transpose would become several.
    first = all(site.builder.is_first(site.index(at)) for at in places)
    operands = [site.first(at) if first else site[at] for at in places]
    site.give(site.activated(site.node("Concat", operands, axis=_AXES_FIRST[axis] if first else axis)), first=first)


def _pack(site: Site) -> None:
    axis = site.call.axis(site.call.integer("axis"), len(site.result))
    places = range(len(site.call.operator.inputs))
    operands = [site.node("Unsqueeze", [site[at], site.sizes([axis])]) for at in places]
    site.give(site.node("Concat", operands, axis=axis))


def _unpack(site: Site) -> None:
    axis = site.call.axis(site.call.integer("axis"), len(site.shape(0)))
    for at in range(len(site.call.operator.outputs)):
        site.give(site.node("Gather", [site[0], site.sizes(at)], axis=axis), at)


def _parted(site: Site, source: int, axis: int) -> None:
    sizes = [tensor.shape[axis] for tensor in site.call.results]
    names = [f"{tensor.name}/Split" for tensor in site.call.results]
    for at, value in enumerate(site.builder.nodes("Split", [site[source], site.sizes(sizes)], names, axis=axis)):
        site.give(value, at)


def _split(site: Site) -> None:
    _parted(site, 1, site.call.axis(site.ints(0)[0], len(site.shape(1))))


def _split_v(site: Site) -> None:
    _parted(site, 0, site.call.axis(site.ints(2)[0], len(site.shape(0))))


def _sliced(site: Site, begin: list[int], end: list[int], axes: list[int], steps: list[int]) -> ir.Value:
    return site.node("Slice", [site[0], *(site.sizes(numbers) for numbers in (begin, end, axes, steps))])


def _slice(site: Site) -> None:
    begin, sizes = site.ints(1), site.ints(2)
    # A size of -1 means to the end (kernels/slice.cc).
    end = [start + size if size >= 0 else _WHOLE for start, size in zip(begin, sizes, strict=True)]
    site.give(_sliced(site, begin, end, list(range(len(begin))), [1] * len(begin)))


def _strided_slice(site: Site) -> None:
    """Entries that add an axis, or skip some by an ellipsis, are none of the slice's: the shape is stated behind it."""
    begin, end, steps = (site.ints(at) for at in (1, 2, 3))
    masks = {name: site.call.integer(f"{name}_mask") for name in ("begin", "end", "shrink_axis")}
    skipped, added = site.call.integer("ellipsis_mask"), site.call.integer("new_axis_mask")
    if site.call.flag("offset"):
        end = [start + size for start, size in zip(begin, end, strict=True)]
    axes: list[int] = []
    entries: list[int] = []
    for at, step in enumerate(steps):
        bit = 1 << at
        if bit & (skipped | added):
            continue
        # Entries behind an ellipsis count from the last axis.
        behind = sum(not (skipped | added) >> later & 1 for later in range(at, len(steps)))
        axes.append(len(site.shape(0)) - behind if skipped & (bit - 1) else len(axes))
        entries.append(at)
        if masks["shrink_axis"] & bit:
            # One element, whatever end says. -1 is the last one, and an end of 0 behind it would be the first.
            end[at] = begin[at] + 1 if begin[at] != -1 else _WHOLE
            continue
        # A masked bound is the side that the step comes from, or goes to.
        if masks["begin"] & bit:
            begin[at] = 0 if step > 0 else _WHOLE
        if masks["end"] & bit:
            end[at] = _WHOLE if step > 0 else -_WHOLE
    first, last, stride = ([column[at] for at in entries] for column in (begin, end, steps))
    value = _sliced(site, first, last, axes, stride)
    changed = masks["shrink_axis"] or added
    site.give(site.node("Reshape", [value, site.sizes(site.result)]) if changed else value)


def _padded(site: Site, mode: str, *filling: ir.Value) -> None:
    pairs = np.array(site.ints(1)).reshape(-1, 2)
    first = site.builder.is_first(site.index(0))
    pairs = pairs[[0, 3, 1, 2]] if first else pairs
    operands = [site.first(0) if first else site[0], site.sizes(pairs.T.reshape(-1).tolist()), *filling]
    site.give(site.node("Pad", operands, mode=mode), first=first)


def _pad(site: Site) -> None:
    _padded(site, "constant", *([site[2]] if site.has(2) else []))


def _mirror_pad(site: Site) -> None:
    """SYMMETRIC repeats the edge itself, which no mode of ONNX's Pad does: each axis is read at such indices."""
    if site.call.integer("mode") == _REFLECT:
        _padded(site, "reflect")
        return
    value = site[0]
    for axis, pair in enumerate(np.array(site.ints(1)).reshape(-1, 2)):
        if pair.any():
            indices = np.pad(np.arange(site.shape(0)[axis]), pair, mode="symmetric")
            value = site.node("Gather", [value, site.sizes(indices.tolist())], axis=axis)
    site.give(value)


def _reduced(kind: str) -> Rule:
    def rule(site: Site) -> None:
        rank = len(site.shape(0))
        axes = sorted({site.call.axis(axis, rank) for axis in site.ints(1)})
        hold = site.call.flag("keep_dims")
        # Without both spatial axes what is left, (N, C), is the same in either layout.
        first = site.builder.is_first(site.index(0)) and (hold or axes == [1, 2])
        axes = sorted(_AXES_FIRST[axis] for axis in axes) if first else axes
        value = site.node(kind, [site.first(0) if first else site[0], site.sizes(axes)], keepdims=int(hold))
        site.give(value, first=first and hold)

    return rule


def _all_or_any(kind: str) -> Rule:
    """Of truths as the integers 0 and 1."""

    def rule(site: Site) -> None:
        axes = sorted({site.call.axis(axis, len(site.shape(0))) for axis in site.ints(1)})
        whole = site.node("Cast", [site[0]], to=int(ir.DataType.INT32))
        reduced = site.node(kind, [whole, site.sizes(axes)], keepdims=int(site.call.flag("keep_dims")))
        site.give(site.node("Cast", [reduced], to=int(ir.DataType.BOOL)))

    return rule


def _resized(mode: str, rounding: Mapping[str, str]) -> Rule:
    def rule(site: Site) -> None:
        convention = "asymmetric"
        for name, word in (("align_corners", "align_corners"), ("half_pixel_centers", "half_pixel")):
            convention = word if site.call.flag(name) else convention
        _, height, width, channels = site.result
        sizes = site.sizes([site.shape(0)[0], channels, height, width])
        nearest = {"nearest_mode": rounding[convention]} if rounding else {}
        value = site.node(
            "Resize",
            [site.first(0), None, None, sizes],
            mode=mode,
            coordinate_transformation_mode=convention,
            **nearest,
        )
        site.give(value, first=True)

    return rule


def _to_depth(kind: str) -> Rule:
    def rule(site: Site) -> None:
        value = site.node(kind, [site.first(0)], blocksize=site.call.integer("block_size"))
        site.give(value, first=True)

    return rule


def _space_to_batch(site: Site) -> None:
    """The blocks' places become batches, after the spatial axes are padded with the number 0."""
    blocks, pads = site.ints(1), np.array(site.ints(2)).reshape(-1, 2)
    shape, spatial = site.shape(0), len(blocks)
    rest = [[0, 0]] * (len(shape) - 1 - spatial)
    whole = np.array([[0, 0], *pads.tolist(), *rest])
    x = site.node("Pad", [site[0], site.sizes(whole.T.reshape(-1).tolist())]) if pads.any() else site[0]
    parts = [shape[0]]
    for size, pair, block in zip(shape[1:], pads, blocks, strict=False):
        parts += [(size + int(pair.sum())) // block, block]
    tiles = site.node("Reshape", [x, site.sizes([*parts, *shape[1 + spatial :]])])
    inner, outer = range(2, 2 + 2 * spatial, 2), range(1, 1 + 2 * spatial, 2)
    moved = site.transposed(tiles, [*inner, 0, *outer, *range(1 + 2 * spatial, spatial + len(shape))])
    site.give(site.node("Reshape", [moved, site.sizes(site.result)]))


def _batch_to_space(site: Site) -> None:
    """Runs `_space_to_batch` backwards, and crops where that pads."""
    blocks, crops = site.ints(1), np.array(site.ints(2)).reshape(-1, 2)
    shape, spatial = site.shape(0), len(blocks)
    x = site.node("Reshape", [site[0], site.sizes([*blocks, -1, *shape[1:]])])
    order = [spatial]
    for at in range(spatial):
        order += [spatial + 1 + at, at]
    moved = site.transposed(x, [*order, *range(2 * spatial + 1, spatial + len(shape))])
    sizes = [size * block for size, block in zip(shape[1:], blocks, strict=False)]
    value = site.node("Reshape", [moved, site.sizes([-1, *sizes, *shape[1 + spatial :]])])
    if crops.any():
        end = [size - int(pair[1]) for size, pair in zip(sizes, crops, strict=True)]
        numbers = (crops[:, 0].tolist(), end, list(range(1, 1 + spatial)), [1] * spatial)
        value = site.node("Slice", [value, *map(site.sizes, numbers)])
    site.give(value)


def _range(site: Site) -> None:
    ends = [site.node("Reshape", [site[at], site.sizes([])]) for at in range(3)]
    site.give(site.node("Range", ends))


def _fill(site: Site) -> None:
    site.give(site.node("Expand", [site[1], site.sizes(site.ints(0))]))


def _stated(numbers: Callable[[tuple[int, ...]], Sequence[int] | int]) -> Rule:
    """Integers that the shape of the operand tells: a constant, as all shapes are."""

    def rule(site: Site) -> None:
        site.settle(np.array(numbers(site.shape(0)), site.call.result.held_as))

    return rule


def _zeros(site: Site) -> None:
    if site.call.quantized:
        raise site.call.refuse("of quantized integers has no kernel")
    site.settle(np.zeros(site.shape(0), site.call.result.held_as))


# TFLite takes floor((x + 0.5) * scale) of half-pixel centers (GetNearestNeighbor, reference/resize_nearest_neighbor.h):
# ONNX subtracts 0.5 from that place, and rounds it up again.
_NEAREST = {"asymmetric": "floor", "align_corners": "round_prefer_ceil", "half_pixel": "round_prefer_ceil"}
RULES: Mapping[str, Rule] = {
    "BATCH_TO_SPACE_ND": _batch_to_space,
    "BROADCAST_TO": lambda site: site.give(site.node("Expand", [site[0], site.sizes(site.ints(1))])),
    "CONCATENATION": _concatenate,
    "DEPTH_TO_SPACE": _to_depth("DepthToSpace"),
    "EXPAND_DIMS": _reshaped,
    "FILL": _fill,
    "MEAN": _reduced("ReduceMean"),
    "MIRROR_PAD": _mirror_pad,
    "PACK": _pack,
    "PAD": _pad,
    "PADV2": _pad,
    "RANGE": _range,
    "RANK": _stated(len),
    "REDUCE_ALL": _all_or_any("ReduceMin"),
    "REDUCE_ANY": _all_or_any("ReduceMax"),
    "REDUCE_MAX": _reduced("ReduceMax"),
    "REDUCE_MIN": _reduced("ReduceMin"),
    "REDUCE_PROD": _reduced("ReduceProd"),
    "RESHAPE": _reshaped,
    "RESIZE_BILINEAR": _resized("linear", {}),
    "RESIZE_NEAREST_NEIGHBOR": _resized("nearest", _NEAREST),
    "SHAPE": _stated(list),
    "SLICE": _slice,
    "SPACE_TO_BATCH_ND": _space_to_batch,
    "SPACE_TO_DEPTH": _to_depth("SpaceToDepth"),
    "SPLIT": _split,
    "SPLIT_V": _split_v,
    "SQUEEZE": _reshaped,
    "STRIDED_SLICE": _strided_slice,
    "SUM": _reduced("ReduceSum"),
    "TILE": lambda site: site.give(site.node("Tile", [site[0], site.sizes(site.ints(1))])),
    "TRANSPOSE": _transpose,
    "UNPACK": _unpack,
    "ZEROS_LIKE": _zeros,
}
