"""OneHot and Hardmax, written as a comparison of indices with 0, 1, 2, … along an axis.

Specification: OneHot; Hardmax, which works along a single axis since opset 13.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.graph.edit import constant, stated_input
from edgeconv.graph.steps import Steps, sizes_of
from edgeconv.graph.traits import Trait, having

_INDICES = (ir.DataType.INT32, ir.DataType.INT64)


def one_hot(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """OneHot: the second of the values at the index, the first one elsewhere; negative indices count from the end."""
    index, values, sizes = stated_input(node), stated_input(node, 2), sizes_of(node.outputs[0])
    axis = node.attributes.get_int("axis", -1) % len(sizes)
    if index.dtype not in _INDICES:
        integer = ir.DataType.INT64
        index = steps.add("index", "Cast", [index], sizes_of(index), {"to": integer}, integer)
    shape = [1 if at == axis else size for at, size in enumerate(sizes)]
    places = steps.reshape(index, shape, "places")
    hit = _hits(steps, places, axis, 0, sizes)
    # ArgMax and TopK give no negative indices: the second comparison would be for nothing.
    producer = index.producer()
    if producer is None or producer.op_type not in having(Trait.RANKS):
        from_end = _hits(steps, places, axis, -sizes[axis], sizes)
        hit = steps.add("hit", "Or", [hit, from_end], sizes)
    off, on = (_number(steps, values, at) for at in (0, 1))
    hot = steps.add("hot", "Where", [hit, on, off], sizes, dtype=values.dtype)
    return {node.outputs[0]: hot}


def hardmax(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """Hardmax: 1 at the first of the largest elements of the axis, 0 elsewhere."""
    x, sizes = stated_input(node), sizes_of(node.inputs[0])
    axis = node.attributes.get_int("axis", -1) % len(sizes)
    shape = [1 if at == axis else size for at, size in enumerate(sizes)]
    first = steps.add("first", "ArgMax", [x], shape, {"axis": axis, "keepdims": 1}, ir.DataType.INT64)
    hit = _hits(steps, first, axis, 0, sizes)
    to = ir.DataType.FLOAT if x.dtype is None else x.dtype
    return {node.outputs[0]: steps.add("hot", "Cast", [hit], sizes, {"to": to}, to)}


def _hits(steps: Steps, places: ir.Value, axis: int, start: int, sizes: list[int]) -> ir.Value:
    """Whether each position along the axis, counted from `start`, equals the index there: bool, of shape `sizes`."""
    kind = np.int64 if places.dtype is None else places.dtype.numpy()
    numbers = np.arange(start, start + sizes[axis], dtype=kind)
    numbers = numbers.reshape([-1 if at == axis else 1 for at in range(len(sizes))])
    constant = steps.constant(numbers, "numbers")
    return steps.add("equal", "Equal", [places, constant], sizes, dtype=ir.DataType.BOOL)


def _number(steps: Steps, values: ir.Value, at: int) -> ir.Value:
    array = constant(values)
    if array is not None:
        return steps.constant(array.reshape(-1)[at], f"value_{at}")
    return steps.reshape(steps.slice(values, 0, at, at + 1, f"value_{at}"), [], f"value_{at}.scalar")
