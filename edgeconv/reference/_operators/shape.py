"""Operators that move elements and compute nothing.

Specification: the pages of the operators. Axes, splits and pads are attributes in older opsets, inputs in newer ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from edgeconv.reference._call import Call, Operator, Result, Tensor


def _reshape(call: Call) -> Tensor:
    """0 keeps the dimension, unless ``allowzero``."""
    shape = call.ints(1, "shape") or []
    if not call.attribute("allowzero", 0):
        shape = [call[0].shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return call[0].reshape(shape)


def _flatten(call: Call) -> Tensor:
    axis, shape = call.axis(call[0].ndim, 1, behind=1), call[0].shape
    rows = int(torch.tensor(shape[:axis]).prod())
    return call[0].reshape(rows, int(torch.tensor(shape[axis:]).prod()))


def _squeeze(call: Call) -> Tensor:
    """Without axes, every dimension of 1."""
    axes, shape = call.ints(1, "axes"), call[0].shape
    if axes is None:
        return call[0].squeeze()
    gone = {axis % len(shape) for axis in axes}
    if any(shape[axis] != 1 for axis in gone):
        raise call.refuse(f"cannot remove axes {sorted(gone)} of shape {tuple(shape)}")
    return call[0].reshape([size for axis, size in enumerate(shape) if axis not in gone])


def _unsqueeze(call: Call) -> Tensor:
    axes = call.ints(1, "axes") or []
    rank = call[0].ndim + len(axes)
    new, sizes = {axis % rank for axis in axes}, iter(call[0].shape)
    return call[0].reshape([1 if axis in new else next(sizes) for axis in range(rank)])


def _transpose(call: Call) -> Tensor:
    return call[0].permute(call.attribute("perm", list(range(call[0].ndim))[::-1]))


def _expand(call: Call) -> Tensor:
    """Broadcasts both ways: a 1 in the shape keeps the dimension."""
    shape = np.broadcast_shapes(call[0].shape, tuple(call.ints(1, "shape") or ()))
    return call[0].expand(shape)


def _split(call: Call) -> Result:
    """Into the stated sizes, or into equal parts of which the last may be smaller."""
    axis, count = call.axis(call[0].ndim), len(call.node.outputs)
    sizes = call.ints(1, "split")
    if sizes is None:
        part = -(-call[0].shape[axis] // count)
        sizes = [part] * (count - 1) + [call[0].shape[axis] - part * (count - 1)]
    return torch.split_with_sizes(call[0], sizes, axis)


def _pad(call: Call) -> Tensor:
    """Negative pads crop, in every mode."""
    x, pads, mode = call[0], call.ints(1, "pads") or [], call.text("mode", "constant")
    stated = call.ints(3, "")
    axes = list(range(x.ndim)) if stated is None else [axis % x.ndim for axis in stated]
    frames = {axis: (pads[i], pads[len(axes) + i]) for i, axis in enumerate(axes)}
    if mode == "constant":
        filler = call.optional(2)
        fill = call.attribute("value", 0.0) if filler is None else filler.item()
        return F.pad(x, [pad for axis in reversed(range(x.ndim)) for pad in frames.get(axis, (0, 0))], value=fill)
    for axis, (begin, end) in frames.items():
        if begin or end:
            x = x.index_select(axis, _mirrored(mode, torch.arange(-begin, x.shape[axis] + end), x.shape[axis]))
    return x


def _mirrored(mode: str, places: Tensor, size: int) -> Tensor:
    """The places inside the tensor that stand for places around it."""
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        return (size - 1) - ((places % period) - (size - 1)).abs()
    raise ValueError(f"mode {mode!r}")


def _center_crop_pad(call: Call) -> Tensor:
    """Of an odd difference, the smaller half is in front."""
    x, shape = call[0], call.ints(1, "") or []
    pads = [0] * 2 * x.ndim
    for axis, size in zip(call.attribute("axes", list(range(x.ndim))), shape, strict=True):
        change = size - x.shape[axis]
        front = change // 2 if change > 0 else -(-change // 2)
        place = 2 * (x.ndim - 1 - axis % x.ndim)  # F.pad counts from the last axis
        pads[place : place + 2] = front, change - front
    return F.pad(x, pads)


def _depth_to_space(call: Call) -> Tensor:
    """DCR reads the block from the slow part of the channels, CRD from the fast one (torch's pixel_shuffle)."""
    n, c, h, w = call[0].shape
    block = call.attribute("blocksize", 1)
    depth = c // block**2
    if call.text("mode", "DCR") == "CRD":
        y = call[0].reshape(n, depth, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        y = call[0].reshape(n, block, block, depth, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, depth, h * block, w * block)


def _space_to_depth(call: Call) -> Tensor:
    n, c, h, w = call[0].shape
    block = call.attribute("blocksize", 1)
    order = (0, 1, 3, 5, 2, 4) if call.text("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    y = call[0].reshape(n, c, h // block, block, w // block, block).permute(order)
    return y.reshape(n, c * block**2, h // block, w // block)


def _triangle(call: Call) -> Tensor:
    offset = call.optional(1)
    function = torch.triu if call.attribute("upper", 1) else torch.tril
    return function(call[0], 0 if offset is None else int(offset))


OPERATORS: dict[str, Operator] = {
    "CenterCropPad": _center_crop_pad,
    "Concat": lambda call: torch.cat(call.tensors(), call.axis(call[0].ndim)),
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Identity": lambda call: call.values[0] if isinstance(call.values[0], list) else call[0],
    "Pad": _pad,
    "Reshape": _reshape,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda call: call[0].repeat(call.ints(1, "repeats") or []),
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
