"""Repeats a constant for each image, for operators that do not broadcast."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import add_constant, is_float
from edgeconv.graph.edit import graph_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import insert_like
from edgeconv.rewrite.open_batch._axis import Batch


def spread(batch: Batch, node: ir.Node, index: int, axis: int, like: ir.Value) -> None:
    """Makes input ``index`` as long as the batch on ``axis``: its row plus zeros of the batch's length.

    The zeros are ``like > inf``, which is false for every number and NaN; ``like - like`` would be NaN where ``like``
    is not finite. An Expand to a size that is read at run time would give the same. But its result has no static shape,
    and delegates then leave all operators behind it to the slow kernels.

    Args:
        batch: the walk.
        node: its input ``index`` is a constant whose rows are all the same.
        index: of that input.
        axis: of that input which is to carry the batch.
        like: a value of the same rank that carries the batch on that axis and stands before the node.

    Raises:
        RewriteError: the input is computed without the batch, or its rows differ.
    """
    value, place = node.inputs[index], batch.places[like]
    shape, dtype = batch.shape(node, value), value.dtype if value is not None else None
    if value is None or dtype is None or like.dtype is None:
        batch.refuse(node, "has a value without a type")
    row = batch.row(node, value, axis, place)
    graph, base = graph_of(node), f"{value.name}.rows"

    def number(array: object, name: str, kind: ir.DataType) -> ir.Value:
        return add_constant(graph, unique_name(graph, f"{base}.{name}"), np.array(array), kind)

    def add(op_type: str, inputs: list[ir.Value], sizes: tuple[int, ...], kind: ir.DataType, **more: int) -> ir.Value:
        name = unique_name(graph, base)
        result = insert_like(node, op_type, inputs, ir.convenience.convert_attributes(more), name, shape=sizes)
        result.type = ir.TensorType(kind)
        batch.places[result] = place.on(axis)
        return result

    # 1. One element of `like` per image.
    thin = tuple(length if at == axis else 1 for at, length in enumerate(batch.shape(node, like)))
    others = [at for at in range(len(thin)) if at != axis]
    first = like
    if others:
        starts, ends = [0] * len(others), [1] * len(others)
        named = (("start", starts), ("end", ends), ("axes", others))
        bounds = [number(bound, name, ir.DataType.INT64) for name, bound in named]
        first = add("Slice", [like, *bounds], thin, like.dtype)
    # 2. Zeros of them.
    highest = np.inf if is_float(like.dtype) else np.iinfo(like.dtype.numpy()).max
    zeros = add("Greater", [first, number(highest, "most", like.dtype)], thin, ir.DataType.BOOL)
    if dtype is not ir.DataType.BOOL:
        zeros = add("Cast", [zeros], thin, dtype, to=int(dtype))
    # 3. The row plus the zeros.
    addition = "Or" if dtype is ir.DataType.BOOL else "Add"
    rows = add(addition, [zeros, add_constant(graph, unique_name(graph, f"{base}.row"), row, dtype)], shape, dtype)
    node.replace_input_with(index, rows)
