"""Operators that move, cut, join or reduce elements, in the file's layout."""

from __future__ import annotations

from collections.abc import Mapping

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


def _sliced(site: Site, begin: list[int], end: list[int], steps: list[int]) -> ir.Value:
    axes = list(range(len(begin)))
    return site.node("Slice", [site[0], *(site.sizes(numbers) for numbers in (begin, end, axes, steps))])


def _slice(site: Site) -> None:
    begin, sizes = site.ints(1), site.ints(2)
    end = [start + size if size >= 0 else _WHOLE for start, size in zip(begin, sizes, strict=True)]
    site.give(_sliced(site, begin, end, [1] * len(begin)))


def _strided_slice(site: Site) -> None:
    if site.call.integer("ellipsis_mask") or site.call.integer("new_axis_mask"):
        raise site.call.refuse("leaves out axes or adds some, which is not written in ONNX")
    begin, end, steps = (site.ints(at) for at in (1, 2, 3))
    masks = {name: site.call.integer(f"{name}_mask") for name in ("begin", "end", "shrink_axis")}
    if site.call.flag("offset"):
        end = [start + size for start, size in zip(begin, end, strict=True)]
    for axis, step in enumerate(steps):
        bit = 1 << axis
        if masks["shrink_axis"] & bit:
            end[axis] = begin[axis] + 1 if begin[axis] != -1 else _WHOLE
            continue
        if masks["begin"] & bit:
            begin[axis] = 0 if step > 0 else _WHOLE
        if masks["end"] & bit:
            end[axis] = _WHOLE if step > 0 else -_WHOLE
    value = _sliced(site, begin, end, steps)
    site.give(site.node("Reshape", [value, site.sizes(site.result)]) if masks["shrink_axis"] else value)


def _padded(site: Site, mode: str, *filling: ir.Value) -> None:
    pairs = np.array(site.ints(1)).reshape(-1, 2)
    first = site.builder.is_first(site.index(0))
    pairs = pairs[[0, 3, 1, 2]] if first else pairs
    operands = [site.first(0) if first else site[0], site.sizes(pairs.T.reshape(-1).tolist()), *filling]
    site.give(site.node("Pad", operands, mode=mode), first=first)


def _pad(site: Site) -> None:
    _padded(site, "constant", *([site[2]] if site.has(2) else []))


def _mirror_pad(site: Site) -> None:
    if site.call.integer("mode") != _REFLECT:
        raise site.call.refuse("repeats the edge (SYMMETRIC), which ONNX has not")
    _padded(site, "reflect")


def _gather(site: Site) -> None:
    if site.call.integer("batch_dims"):
        raise site.call.refuse("has batch_dims, which is not written in ONNX")
    axis = site.call.axis(site.call.integer("axis"), len(site.shape(0)))
    site.give(site.node("Gather", [site[0], site[1]], axis=axis))


def _reduced(kind: str) -> Rule:
    def rule(site: Site) -> None:
        rank = len(site.shape(0))
        axes = sorted({site.call.axis(axis, rank) for axis in site.ints(1)})
        hold = site.call.flag("keep_dims")
        first = site.builder.is_first(site.index(0)) and (hold or axes == [1, 2])
        axes = sorted(_AXES_FIRST[axis] for axis in axes) if first else axes
        value = site.node(kind, [site.first(0) if first else site[0], site.sizes(axes)], keepdims=int(hold))
        site.give(value, first=first and hold)

    return rule


def _arg(kind: str) -> Rule:
    def rule(site: Site) -> None:
        axis = site.call.axis(site.ints(1)[0], len(site.shape(0)))
        found = site.node(kind, [site[0]], axis=axis, keepdims=0)
        to = ir.DataType.from_numpy(np.dtype(site.call.result.dtype))
        site.give(site.node("Cast", [found], to=int(to)))

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


def _reversed(site: Site) -> None:
    axes = site.ints(1)
    numbers = ([-1] * len(axes), [-_WHOLE] * len(axes), axes, [-1] * len(axes))
    site.give(site.node("Slice", [site[0], *map(site.sizes, numbers)]))


_NEAREST = {"asymmetric": "floor", "align_corners": "round_prefer_ceil", "half_pixel": "round_prefer_ceil"}
RULES: Mapping[str, Rule] = {
    "ARG_MAX": _arg("ArgMax"),
    "ARG_MIN": _arg("ArgMin"),
    "BROADCAST_TO": lambda site: site.give(site.node("Expand", [site[0], site.sizes(site.ints(1))])),
    "CONCATENATION": _concatenate,
    "DEPTH_TO_SPACE": _to_depth("DepthToSpace"),
    "EXPAND_DIMS": _reshaped,
    "GATHER": _gather,
    "MEAN": _reduced("ReduceMean"),
    "MIRROR_PAD": _mirror_pad,
    "PACK": _pack,
    "PAD": _pad,
    "PADV2": _pad,
    "REDUCE_MAX": _reduced("ReduceMax"),
    "REDUCE_MIN": _reduced("ReduceMin"),
    "REDUCE_PROD": _reduced("ReduceProd"),
    "RESHAPE": _reshaped,
    "RESIZE_BILINEAR": _resized("linear", {}),
    "RESIZE_NEAREST_NEIGHBOR": _resized("nearest", _NEAREST),
    "REVERSE_V2": _reversed,
    "SLICE": _slice,
    "SPACE_TO_DEPTH": _to_depth("SpaceToDepth"),
    "SPLIT": _split,
    "SPLIT_V": _split_v,
    "SQUEEZE": _reshaped,
    "STRIDED_SLICE": _strided_slice,
    "SUM": _reduced("ReduceSum"),
    "TILE": lambda site: site.give(site.node("Tile", [site[0], site.sizes(site.ints(1))])),
    "TRANSPOSE": _transpose,
    "UNPACK": _unpack,
}
