"""GridSample: an image read at computed places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import first, last
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.activation import clipped


@dataclass(frozen=True)
class _Line:
    """The elements of one axis that are read: their int32 numbers and their weights (None: one)."""

    places: Tensor
    weight: Tensor | None


def grid_sample(low: Lowering, node: ir.Node) -> None:
    """GridSample of an image, linear or nearest, with zeros, the border or a reflection outside.

    The image's rows of channels are gathered by their numbers, four (or one) for each place, and added up by weight.
    """
    x, y = low.input(node), node.outputs[0]
    mode = node.attributes.get_string("mode", "linear")
    border = node.attributes.get_string("padding_mode", "zeros")
    corners = bool(node.attributes.get_int("align_corners", 0))
    if len(low.shape(x)) != 4:
        low.refuse("its input is no image")
    if mode not in ("linear", "bilinear", "nearest"):
        low.refuse(f"its mode is {mode!r}", hint='use mode="bilinear"')
    # 1. The places: of the grid (N, H, W, 2) the last axis is x, then y (specification: GridSample).
    image = low.tensor(x, last(4))
    batch, height, width, channels = image.shape
    grid = low.tensor(low.input(node, 1), first(4))
    _, rows, columns, _ = grid.shape
    lines = [
        _lines(low, low.slice(grid, (0, 0, 0, axis), (batch, rows, columns, 1)), size, mode, border, corners)
        for axis, size in enumerate((width, height))
    ]
    # 2. GATHER takes one index, so that pixels are numbered through all images, and each image has its first number.
    flat = low.reshape(image, (batch * height * width, channels))
    starts = low.integers(np.arange(batch).reshape(batch, 1, 1, 1) * height * width)
    total: Tensor | None = None
    # 3. One (nearest) or two neighbors along each axis; their weights multiply.
    for row in lines[1]:
        line = low.emit("MUL", [row.places, low.integers([width])], row.places.shape)
        line = low.emit("ADD", [line, starts], line.shape) if batch > 1 else line
        for column in lines[0]:
            number = low.reshape(low.emit("ADD", [line, column.places], line.shape), (batch * rows * columns,))
            taken = low.emit("GATHER", [flat, number], (batch * rows * columns, channels), axis=0, batchDims=0)
            part = low.reshape(taken, (batch, rows, columns, channels))
            for weight in (row.weight, column.weight):
                part = part if weight is None else low.emit("MUL", [part, weight], part.shape)
            total = part if total is None else low.emit("ADD", [total, part], part.shape)
    if total is not None:
        low.bind(y, last(4), total)


def _lines(low: Lowering, places: Tensor, size: int, mode: str, border: str, corners: bool) -> list[_Line]:
    """The elements that one axis contributes, with their weights: on both sides of a place, or the nearest one."""
    shape = places.shape
    # -1 to 1 becomes 0 to size - 1 (align_corners: the middles of the outer elements) or -1/2 to size - 1/2 (their
    # edges).
    scaled = low.emit("MUL", [places, low.floats((size - 1) / 2 if corners else size / 2)], shape)
    at = low.emit("ADD", [scaled, low.floats((size - 1) / 2)], shape)
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
