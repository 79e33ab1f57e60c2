"""Pad, in each of its modes, and the pieces of an axis that it is put together from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.activation import read
from edgeconv.graph.edit import input_of


def pad(low: Lowering, node: ir.Node) -> None:
    """Pad by a constant, by reflection, by the edge, or round about; negative amounts crop."""
    x, form = read(low, node)
    rank = len(form)
    stated = low.constant(node.inputs[1], "amounts").reshape(-1)
    axes = list(range(rank))
    if (named := input_of(node, 3)) is not None:
        axes = [int(axis) % rank for axis in low.constant(named, "axes").reshape(-1)]
    amounts = {axis: (int(stated[i]), int(stated[len(axes) + i])) for i, axis in enumerate(axes)}
    placed = [amounts.get(axis, (0, 0)) for axis in form]
    crops = [(max(0, -before), max(0, -after)) for before, after in placed]
    shape = [size - before - after for size, (before, after) in zip(x.shape, crops, strict=True)]
    x = low.slice(x, [before for before, _ in crops], shape)
    grown = [(max(0, before), max(0, after)) for before, after in placed]
    mode = node.attributes.get_string("mode", "constant")
    padded = _PADS[mode](low, node, x, grown) if mode in _PADS else low.refuse(f"its mode is {mode!r}")
    # Where nothing was padded or cropped, a tensor that already bears the name of a value is only aliased.
    if padded is x and padded.owner:
        low.alias(node.outputs[0], low.input(node))
    else:
        low.bind(node.outputs[0], form, padded)


def _pad_constant(low: Lowering, node: ir.Node, x: Tensor, amounts: Sequence[tuple[int, int]]) -> Tensor:
    if not any(map(any, amounts)):
        return x
    value = None if input_of(node, 2) is None else low.constant(node.inputs[2], "value")
    shape = [size + before + after for size, (before, after) in zip(x.shape, amounts, strict=True)]
    table = low.integers(np.array(amounts))
    # XNNPACK's delegate takes PAD, and no PADV2 (VisitNode in delegates/xnnpack/xnnpack_delegate.cc).
    if value is None or not np.any(value):
        return low.emit("PAD", [x, table], shape)
    constant = low.graph.constant(value.reshape(1), f"{low.base}/value")
    return low.emit("PADV2", [x, table, constant], shape)


def _pad_reflect(low: Lowering, node: ir.Node, x: Tensor, amounts: Sequence[tuple[int, int]]) -> Tensor:
    """Slices and a concatenation per axis: MIRROR_PAD is not delegated and took 8 to 15 times as long (LiteRT 2.3)."""
    for axis, (before, after) in enumerate(amounts):
        if before or after:
            head = [line(low, x, axis, place) for place in range(before, 0, -1)]
            tail = [line(low, x, axis, -1 - place) for place in range(1, after + 1)]
            x = joined(low, [*head, x, *tail], axis)
    return x


def _pad_edge(low: Lowering, node: ir.Node, x: Tensor, amounts: Sequence[tuple[int, int]]) -> Tensor:
    for axis, (before, after) in enumerate(amounts):
        if before or after:
            x = joined(low, [line(low, x, axis, 0)] * before + [x] + [line(low, x, axis, -1)] * after, axis)
    return x


def _pad_wrap(low: Lowering, node: ir.Node, x: Tensor, amounts: Sequence[tuple[int, int]]) -> Tensor:
    """The axis again and again: its end before it, its start behind it."""
    for axis, (before, after) in enumerate(amounts):
        size = x.shape[axis]
        if before or after:
            head, tail = _part(low, x, axis, size - before % size, size), _part(low, x, axis, 0, after % size)
            whole = [x] * (before // size + 1 + after // size)
            x = joined(low, [*head, *whole, *tail], axis)
    return x


def _part(low: Lowering, x: Tensor, axis: int, start: int, end: int) -> list[Tensor]:
    """The places of an axis from ``start`` up to ``end``; nothing where there are none."""
    if start == end:
        return []
    begin = [start if at == axis else 0 for at in range(len(x.shape))]
    return [low.slice(x, begin, [end - start if at == axis else size for at, size in enumerate(x.shape)])]


def line(low: Lowering, x: Tensor, axis: int, place: int) -> Tensor:
    """The slice of thickness 1 at a place of an axis, counted from the end if negative."""
    begin = [place % x.shape[axis] if at == axis else 0 for at in range(len(x.shape))]
    return low.slice(x, begin, [1 if at == axis else size for at, size in enumerate(x.shape)])


def joined(low: Lowering, parts: Sequence[Tensor], axis: int) -> Tensor:
    """The tensors one after another along an axis."""
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return low.emit("CONCATENATION", parts, shape, axis=axis)


_PADS = {"constant": _pad_constant, "reflect": _pad_reflect, "edge": _pad_edge, "wrap": _pad_wrap}

LOWERINGS: dict[str, Lower] = {"Pad": pad}
