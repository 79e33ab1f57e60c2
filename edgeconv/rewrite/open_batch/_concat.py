"""Concat of parts that carry the batch with parts that do not (a class token, position codes)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.graph.constants import add_constant, is_float
from edgeconv.graph.edit import graph_of, hand_on
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import take_over
from edgeconv.rewrite.open_batch._axis import Batch, Place


def concat(batch: Batch, node: ir.Node) -> Place:
    """Concat along another axis than the batch. Constant parts, which do not broadcast, become a Pad and an Add."""
    rank = batch.rank(node, node.outputs[0])
    axis = node.attributes.get_int("axis", 0) % rank
    places = {batch.places[value] for value in node.inputs if value is not None and value in batch.places}
    if len(places) > 1:
        batch.refuse(node, "meets the batch in two places")
    place = places.pop()
    if place.axis == axis:
        batch.refuse(node, "works along the batch")
    if any(value not in batch.places for value in node.inputs if value is not None):
        _pad_and_add(batch, node, axis, place)
    return place


def _pad_and_add(batch: Batch, node: ir.Node, axis: int, place: Place) -> None:
    """Writes ``concat(c, x)`` as ``pad(x) + concat(c, 0)``, which holds for every batch size.

    An Expand of ``c`` to a size that is read from ``x`` at run time would give the same. But its result has no static
    shape, and delegates then leave all operators behind it to the slow kernels.
    """
    shape = list(batch.shape(node, node.outputs[0]))
    shape[place.axis] = 1
    dtype = node.outputs[0].dtype
    if dtype is None or not is_float(dtype):
        batch.refuse(node, "joins integers that carry the batch and integers that do not")
    added: npt.NDArray[np.float64] = np.zeros(shape)
    parts: list[ir.Value] = []
    margins: list[list[int]] = []  # per part that carries the batch: the length of the constants before and behind it
    start = waiting = 0  # position on the axis; length of constants before the first such part
    for value in node.inputs:
        size = batch.shape(node, value)[axis]
        if value is not None and value in batch.places:
            parts.append(value)
            margins.append([waiting, 0])
            waiting = 0
        else:
            row = batch.row(node, value, place.axis, place)
            rows = [slice(None)] * len(shape)
            rows[axis] = slice(start, start + size)
            added[tuple(rows)] = row
            if margins:
                margins[-1][1] += size
            else:
                waiting += size
        start += size
    padded = [_padded(batch, node, part, margin, axis) for part, margin in zip(parts, margins, strict=True)]
    _replace(batch, node, axis, place, padded, added)


def _padded(batch: Batch, node: ir.Node, part: ir.Value, margin: list[int], axis: int) -> ir.Value:
    """The part, padded with zeros where the constants beside it will be added."""
    if not any(margin):
        return part
    graph, shape = graph_of(node), list(batch.shape(node, part))
    amounts = np.zeros((2, len(shape)), np.int64)
    amounts[:, axis] = margin
    shape[axis] += sum(margin)
    name = unique_name(graph, f"{part.name}.padded")
    pads = add_constant(graph, unique_name(graph, f"{name}.pads"), amounts.reshape(-1), ir.DataType.INT64)
    return _inserted(batch, node, ir.node("Pad", [part, pads]), name, shape, batch.places[part])


def _replace(
    batch: Batch, node: ir.Node, axis: int, place: Place, parts: list[ir.Value], added: npt.NDArray[np.float64]
) -> None:
    """Replaces the Concat by the sum."""
    graph, old = graph_of(node), node.outputs[0]
    shape, dtype = batch.shape(node, old), old.dtype or ir.DataType.FLOAT
    joined = parts[0]
    if len(parts) > 1:
        concatenation = ir.node("Concat", parts, {"axis": axis})
        joined = _inserted(batch, node, concatenation, unique_name(graph, f"{old.name}.zeros"), shape, place)
    constant = add_constant(graph, unique_name(graph, f"{old.name}.constants"), added, dtype)
    total = ir.node("Add", [joined, constant])
    take_over(old, _inserted(batch, node, total, unique_name(graph, f"{old.name}.sum"), shape, place))


def _inserted(batch: Batch, before: ir.Node, node: ir.Node, name: str, shape: Sequence[int], place: Place) -> ir.Value:
    """Inserts a node before another one; returns its result, which carries the batch."""
    value = node.outputs[0]
    value.name, value.type, value.shape = name, before.outputs[0].type, ir.Shape(shape)
    node.name = name
    hand_on(before, node)
    graph_of(before).insert_before(before, node)
    batch.places[value] = place
    return value
