"""Products of a matrix and a vector, written as products of matrices, which every runtime computes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import add_constant, exact
from edgeconv.graph.each_node import Change, EachNodePass
from edgeconv.graph.edit import graph_of, rank, tensor_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import insert_like, take_over


class MultiplyMatricesPass(EachNodePass):
    """Reshapes a vector that MatMul multiplies to a matrix, and the result back.

    onnxruntime 1.32 fuses a Transpose before the product of a matrix and a vector and then computes it as if there
    were none; TFLite's BATCH_MATMUL takes no vectors at all.

    1. Requires: a MatMul with a side of rank 1, whose result has a static shape.
    2. Ensures: both sides have at least two dimensions. The result keeps its name.
    3. Exact: MatMul is defined so (as numpy.matmul): a vector on the left gets an axis of 1 in front, one on the right
       an axis of 1 at the end, and that axis is removed from the product.
    """

    def change_at(self, node: ir.Node) -> Change | None:
        """The replacement of a MatMul."""
        fits = node.op_type == "MatMul" and node.domain == "" and _fits(node)
        return partial(_replace, node) if fits else None


def _fits(node: ir.Node) -> bool:
    shape = node.outputs[0].shape
    return shape is not None and shape.is_static() and 1 in [rank(value) for value in node.inputs]


def _replace(node: ir.Node) -> None:
    left, right = (value for value in node.inputs if value is not None)
    result = node.outputs[0]
    shape = [int(size) for size in result.shape.numpy()] if result.shape is not None else []
    wide = list(shape)
    if rank(right) == 1:
        right = _matrix(node, right, (-1, 1))
        wide.append(1)
    if rank(left) == 1:
        left = _matrix(node, left, (1, -1))
        wide.insert(len(wide) - 1, 1)
    product = _insert(node, "MatMul", [left, right], wide, f"{result.name}.matrix")
    target = _target(graph_of(node), f"{result.name}.shape", shape)
    take_over(result, _insert(node, "Reshape", [product, target], shape, f"{result.name}.vector"))


def _matrix(node: ir.Node, vector: ir.Value, shape: tuple[int, int]) -> ir.Value:
    """The vector as a row or a column."""
    graph, name, tensor = graph_of(node), f"{vector.name}.matrix", tensor_of(vector)
    if tensor is not None:
        array = exact(vector)
        return add_constant(
            graph, unique_name(graph, name), (tensor.numpy() if array is None else array).reshape(shape), tensor.dtype
        )
    size = int(vector.shape.numpy()[0]) if vector.shape is not None and vector.shape.is_static() else -1
    sizes = [size if length == -1 else length for length in shape]
    return _insert(node, "Reshape", [vector, _target(graph, f"{name}.shape", sizes)], sizes, name)


def _target(graph: ir.Graph, name: str, sizes: Sequence[int]) -> ir.Value:
    return add_constant(graph, unique_name(graph, name), np.array(sizes, np.int64), ir.DataType.INT64)


def _insert(node: ir.Node, op_type: str, inputs: Sequence[ir.Value], sizes: Sequence[int], name: str) -> ir.Value:
    return insert_like(node, op_type, inputs, [], unique_name(graph_of(node), name), shape=sizes)
