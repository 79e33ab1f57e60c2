"""Operators that only move elements.

Specification: the pages of the operators. Those that numpy and torch share are in `edgeconv.reference._moves`.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from edgeconv.reference._call import Call, Operator, Tensor
from edgeconv.reference._moves import MOVES, expanded, permutation


def _pad(call: Call) -> Tensor:
    """Pad; negative amounts crop, in every mode, before what is left is repeated or mirrored (as in onnxruntime)."""
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
            x = x.narrow(axis, max(-begin, 0), x.shape[axis] + min(begin, 0) + min(end, 0))
            places = torch.arange(-max(begin, 0), x.shape[axis] + max(end, 0))
            x = x.index_select(axis, _mirrored(mode, places, x.shape[axis]))
    return x


def _mirrored(mode: str, places: Tensor, size: int) -> Tensor:
    """The indices inside the tensor whose elements are repeated at these positions around it."""
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        return (size - 1) - ((places % period) - (size - 1)).abs()
    raise ValueError(f"mode {mode!r}")


def _center_crop_pad(call: Call) -> Tensor:
    """CenterCropPad: the smaller half of an odd difference is at the start."""
    x, shape = call[0], call.ints(1, "") or []
    pads = [0] * 2 * x.ndim
    for axis, size in zip(call.attribute("axes", list(range(x.ndim))), shape, strict=True):
        change = size - x.shape[axis]
        front = change // 2 if change > 0 else -(-change // 2)
        place = 2 * (x.ndim - 1 - axis % x.ndim)  # F.pad counts from the last axis
        pads[place : place + 2] = front, change - front
    return F.pad(x, pads)


def _depth_to_space(call: Call) -> Tensor:
    """DepthToSpace. Channels are (block, block, depth) in mode DCR, (depth, block, block) in CRD (pixel_shuffle)."""
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
    **MOVES,
    "CenterCropPad": _center_crop_pad,
    "Concat": lambda call: torch.cat(call.tensors(), call.axis(call[0].ndim)),
    "DepthToSpace": _depth_to_space,
    "Expand": lambda call: call[0].expand(expanded(call)),
    "Identity": lambda call: call.values[0] if isinstance(call.values[0], list) else call[0],
    "Pad": _pad,
    "SpaceToDepth": _space_to_depth,
    "Tile": lambda call: call[0].repeat(call.ints(1, "repeats") or []),
    "Transpose": lambda call: call[0].permute(permutation(call)),
    "Trilu": _triangle,
}
