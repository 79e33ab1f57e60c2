"""GridSample: an image or a volume read at computed places."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import first, last
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.activation import clipped

_CUBIC = -0.75  # torch's and ONNX's a


@dataclass(frozen=True)
class _Line:
    """The elements of one axis that are read: their int32 numbers and their weights (None: one)."""

    places: Tensor
    weight: Tensor | None


def grid_sample(low: Lowering, node: ir.Node) -> None:
    """GridSample of an image or a volume, linear, nearest or (image) cubic, with zeros, the border or a reflection.

    The rows of channels are gathered by their numbers, a few for each place, and added up by weight.
    """
    x, y = low.input(node), node.outputs[0]
    mode = node.attributes.get_string("mode", "linear")
    border = node.attributes.get_string("padding_mode", "zeros")
    corners = bool(node.attributes.get_int("align_corners", 0))
    rank = len(low.shape(x))
    if rank not in (4, 5):
        low.refuse("its input is no image and no volume")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    if mode not in ("linear", "nearest", "cubic"):
        low.refuse(f"its mode is {mode!r}", hint='use mode="bilinear"')
    # 1. The places: of the grid (N, H, W, 2) the last axis is x, then y (specification: GridSample), then depth.
    image = low.tensor(x, last(rank))
    batch, *sizes, channels = image.shape
    grid = low.tensor(low.input(node, 1), first(rank))
    places = grid.shape[:-1]
    lines = [
        _lines(low, low.slice(grid, (*(0 for _ in places), axis), (*places, 1)), size, mode, border, corners)
        for axis, size in enumerate(reversed(sizes))
    ]
    # 2. A few neighbors along each axis; their weights multiply. Each image of a batch has its own places.
    images = 1 if batch > 1 else 0
    lead = (batch,) * images
    flat = low.reshape(image, (*lead, math.prod(sizes), channels))
    count = math.prod(places) // math.prod(lead)
    total: Tensor | None = None
    for number, weights in _numbered(low, lines[::-1], sizes):
        index = low.reshape(number, (*lead, count))
        taken = low.emit("GATHER", [flat, index], (*lead, count, channels), axis=images, batchDims=images)
        part = low.reshape(taken, (*places, channels))
        for weight in weights:
            part = part if weight is None else low.emit("MUL", [part, weight], part.shape)
        total = part if total is None else low.emit("ADD", [total, part], part.shape)
    if total is not None:
        low.bind(y, last(rank), total)


def _numbered(
    low: Lowering, lines: Sequence[Sequence[_Line]], sizes: Sequence[int]
) -> Iterator[tuple[Tensor, tuple[Tensor | None, ...]]]:
    """The numbers of the elements that are read of an image, and the weight along each axis: all combinations."""

    def walk(axis: int, before: Tensor | None, weights: tuple[Tensor | None, ...]) -> Iterator[Any]:
        for line in lines[axis]:
            number = line.places if before is None else low.emit("ADD", [before, line.places], line.places.shape)
            if axis == len(sizes) - 1:
                yield number, (*weights, line.weight)
                continue
            number = low.emit("MUL", [number, low.integers([sizes[axis + 1]])], number.shape)
            yield from walk(axis + 1, number, (*weights, line.weight))

    yield from walk(0, None, ())


def _lines(low: Lowering, places: Tensor, size: int, mode: str, border: str, corners: bool) -> list[_Line]:
    """The elements that one axis contributes, with their weights: on both sides of a place, or the nearest one."""
    shape = places.shape
    # -1 to 1 becomes 0 to size - 1 (align_corners: the middles of the outer elements) or -1/2 to size - 1/2 (their
    # edges).
    scaled = low.emit("MUL", [places, low.floats((size - 1) / 2 if corners else size / 2)], shape)
    at = low.emit("ADD", [scaled, low.floats((size - 1) / 2)], shape)
    if mode == "cubic":
        return _cubic_lines(low, at, size, border, corners)
    at = _reflected(low, at, size, corners) if border == "reflection" else at
    # One element beyond the border has no weight; what is further away need not be told from it.
    at = clipped(low, at, -1.0, float(size)) if border == "zeros" else clipped(low, at, 0.0, size - 1.0)
    if mode == "nearest":
        # Of two the even one, as torch does. (Adding 1.5 * 2^23 would do it in float32 alone, and no proof in float64.)
        return [_inside(low, low.emit("ROUND", [at], shape), None, size, border)]
    before = low.emit("FLOOR", [at], shape)
    share = low.emit("SUB", [at, before], shape)
    after = low.emit("ADD", [before, low.floats(1.0)], shape)
    rest = low.emit("SUB", [low.floats(1.0), share], shape)
    return [_inside(low, before, rest, size, border), _inside(low, after, share, size, border)]


def _cubic_lines(low: Lowering, at: Tensor, size: int, border: str, corners: bool) -> list[_Line]:
    """The four elements around a place; each that lies outside is clamped, reflected or zero by itself, as in torch.

    Keys, Cubic convolution interpolation for digital image processing, 1981, with a = -0.75.
    """
    shape = at.shape
    if border != "reflection":
        at = clipped(low, at, -3.0, size + 2.0)  # all four are outside there, and further away too
    before = low.emit("FLOOR", [at], shape)
    share = low.emit("SUB", [at, before], shape)
    rest = low.emit("SUB", [low.floats(1.0), share], shape)
    outer = [low.emit("ADD", [near, low.floats(1.0)], shape) for near in (share, rest)]
    a = _CUBIC
    weights = [
        _polynomial(low, outer[0], (a, -5 * a, 8 * a, -4 * a)),
        _polynomial(low, share, (a + 2, -(a + 3), 0.0, 1.0)),
        _polynomial(low, rest, (a + 2, -(a + 3), 0.0, 1.0)),
        _polynomial(low, outer[1], (a, -5 * a, 8 * a, -4 * a)),
    ]
    lines = []
    for offset, weight in zip((-1.0, 0.0, 1.0, 2.0), weights, strict=True):
        place = before if offset == 0 else low.emit("ADD", [before, low.floats(offset)], shape)
        if border == "reflection":
            place = _reflected(low, place, size, corners)
        lines.append(_inside(low, place, weight, size, border))
    return lines


def _polynomial(low: Lowering, x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Of the highest power first, by Horner's rule."""
    first_one, *others = coefficients
    value = low.emit("MUL", [x, low.floats(first_one)], x.shape)
    for place, coefficient in enumerate(others, 1):
        if coefficient:
            value = low.emit("ADD", [value, low.floats(coefficient)], x.shape)
        if place < len(others):
            value = low.emit("MUL", [value, x], x.shape)
    return value


def _reflected(low: Lowering, at: Tensor, size: int, corners: bool) -> Tensor:
    """Places mirrored at the outer elements' middles (``align_corners``), or at their outer edges, until within."""
    first, span = (0.0, size - 1.0) if corners else (-0.5, float(size))
    if span == 0:
        return low.emit("MUL", [at, low.floats(0.0)], at.shape)
    # How far from the first mirror, modulo there and back; the nearer of both ways round.
    way = low.emit("ABS", [low.emit("SUB", [at, low.floats(first)], at.shape)], at.shape)
    turns = low.emit("FLOOR", [low.emit("MUL", [way, low.floats(1 / (2 * span))], at.shape)], at.shape)
    there = low.emit("SUB", [way, low.emit("MUL", [turns, low.floats(2 * span)], at.shape)], at.shape)
    back = low.emit("SUB", [low.floats(2 * span), there], at.shape)
    near = low.emit("MINIMUM", [there, back], at.shape)
    return low.emit("ADD", [near, low.floats(first)], at.shape)


def _inside(low: Lowering, places: Tensor, weight: Tensor | None, size: int, border: str) -> _Line:
    """Places brought into the image; those that lay outside of it weigh nothing."""
    shape = places.shape
    clamped = clipped(low, places, 0.0, size - 1.0)
    if border == "zeros":
        hit = low.emit("EQUAL", [places, clamped], shape, dtype=np.dtype(np.bool_))
        mask = low.emit("CAST", [hit], shape, dtype=np.dtype(np.float32))
        weight = mask if weight is None else low.emit("MUL", [weight, mask], shape)
    return _Line(low.emit("CAST", [clamped], shape, dtype=np.dtype(np.int32)), weight)


LOWERINGS: dict[str, Lower] = {"GridSample": grid_sample}
