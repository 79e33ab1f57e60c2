"""Adaptive average pools that torch.onnx writes out with GatherND, as two matrix products.

The optimizer runs it, not capture, which fuses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import RewriteError
from edgeconv.graph.constants import Float64, add_constant, exact, unrounded
from edgeconv.graph.each_node import Change, EachNodePass
from edgeconv.graph.edit import dims, graph_of, only_reader, producer_of, remove_unread, tensor_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import insert_like, take_over
from edgeconv.reference import evaluate_node

_TOLERANCE = 1e-12  # per summed element: the rounding of float64
_PROBES = 8  # random planes on which the product and the nodes are compared


class AverageByMatricesPass(EachNodePass):
    """Replaces an average over windows of different sizes, gathered element by element, by ``R x C``.

    1. Requires: a Transpose and a GatherND with constant indices, of a value [N, C, H, W] of static shape, and behind
       them, up to one value [N, C, h, w], nothing but Transpose, Gather, Where with zeros, Add, means, sums, and
       products with constants. Together they compute the same for every plane: an average over rows times one over
       columns. torch.onnx writes AdaptiveAvgPool2d so, if the sizes do not divide.
    2. Ensures: two MatMul with constant matrices of averages, [h, H] and [W, w], in their place, under the last name.
    3. Exact: the operators are linear, and so is ``R x C``. The matrices are found by evaluating the operators on
       planes with ones in one row or column. Random planes then show that both are the same map: a linear map that is
       not zero is zero on a random plane with probability zero.
    """

    def change_at(self, node: ir.Node) -> Change | None:
        """The replacement of the region that starts with a GatherND."""
        region = _region(node) if node.op_type == "GatherND" and node.domain == "" else None
        matrices = None if region is None else _matrices(region)
        return None if region is None or matrices is None else partial(_replace, region, *matrices)


@dataclass(frozen=True)
class _Region:
    """The nodes between x, [N, C, H, W], and y, [N, C, h, w], in order."""

    source: ir.Value
    nodes: tuple[ir.Node, ...]
    result: ir.Value

    def run(self, planes: Float64) -> Float64 | None:
        """y for one batch of any number of planes, [planes, H, W] -> [planes, h, w]."""
        values: dict[ir.Value, Array] = {self.source: planes[None]}
        for node in self.nodes:
            arrays = [None if value is None else values.get(value, unrounded(value)) for value in node.inputs]
            try:
                (values[node.outputs[0]],) = evaluate_node(node, arrays, opset=graph_of(node).opset_imports.get("", 1))
            except RewriteError:
                return None
        result, shape = values[self.result], dims(self.result)
        fits = shape is not None and result.shape == (1, len(planes), *shape[2:])
        return np.asarray(result, np.float64)[0] if fits else None


def _region(gather: ir.Node) -> _Region | None:
    """The largest region that starts with a GatherND and ends in one value of the right shape."""
    data = gather.inputs[0]
    transpose = producer_of(data)
    if transpose is None or transpose.op_type != "Transpose" or data is None or only_reader(data) is not gather:
        return None
    source, shape = transpose.inputs[0], dims(transpose.inputs[0])
    if source is None or shape is None or len(shape) != 4 or tensor_of(gather.inputs[1]) is None:
        return None
    nodes, inside, region = [transpose, gather], {data, gather.outputs[0]}, None
    # Every node is followed, and the region ends at the last value of the right shape that closes it.
    following = _after(gather)
    for node in following:
        if not any(value in inside for value in node.inputs) or not _is_linear(node, inside):
            continue
        nodes.append(node)
        inside.add(node.outputs[0])
        after = dims(node.outputs[0])
        if after is not None and len(after) == 4 and after[:2] == shape[:2] and _ends(nodes, node):
            region = _Region(source, tuple(nodes), node.outputs[0])
    return region


def _after(node: ir.Node) -> list[ir.Node]:
    nodes = list(graph_of(node))
    return nodes[nodes.index(node) + 1 :]


def _ends(nodes: list[ir.Node], last: ir.Node) -> bool:
    """Whether nothing outside reads results of the nodes, except that of the last one."""
    members = set(nodes)
    inner = [value for node in nodes if node is not last for value in node.outputs]
    readers = {use.node for value in inner for use in value.uses()}
    return readers <= members and not any(value.is_graph_output() for value in inner)


def _is_linear(node: ir.Node, inside: set[ir.Value]) -> bool:
    """Whether a node's result is linear in the values inside the region, and its other operands are constants."""
    if node.domain != "" or len(node.outputs) != 1:
        return False
    if any(value is not None and value not in inside and tensor_of(value) is None for value in node.inputs):
        return False
    is_inside = [value in inside for value in node.inputs]
    if node.op_type in ("Add", "Sum"):
        return all(is_inside)
    if node.op_type == "Where":
        other = node.inputs[2 if is_inside[1] else 1] if is_inside.count(True) == 1 and not is_inside[0] else None
        zeros = exact(other)
        return zeros is not None and not zeros.any()
    if node.op_type == "Mul":
        return is_inside.count(True) == 1
    return node.op_type in ("Transpose", "Gather", "ReduceMean", "ReduceSum", "Div") and is_inside.index(True) == 0


def _matrices(region: _Region) -> tuple[Float64, Float64] | None:
    """The averages over rows, [h, H], and over columns, [W, w]; None if the region computes something else."""
    shape = dims(region.source) or ()
    height, width = shape[2:]
    # Plane i is 1 in row i (in column i) and 0 elsewhere: its result holds the weights of that row (column).
    rows = region.run(np.repeat(np.eye(height)[:, :, None], width, axis=2))
    columns = region.run(np.repeat(np.eye(width)[:, None, :], height, axis=1))
    planes = np.random.default_rng(0).normal(size=(_PROBES, height, width))
    averages = region.run(planes)
    if rows is None or columns is None or averages is None:
        return None
    over_rows, over_columns = rows[:, :, 0].T, columns[:, 0, :]
    difference = np.abs(over_rows @ planes @ over_columns - averages)
    return (over_rows, over_columns) if difference.max(initial=0.0) <= _TOLERANCE * height * width else None


def _replace(region: _Region, over_rows: Float64, over_columns: Float64) -> None:
    last, result = region.nodes[-1], region.result
    graph, dtype, name = graph_of(last), result.dtype or ir.DataType.FLOAT, result.name
    shape = dims(region.source) or ()
    right = add_constant(graph, unique_name(graph, f"{name}.columns"), over_columns, dtype)
    narrow = [*shape[:3], over_columns.shape[1]]
    half = insert_like(last, "MatMul", [region.source, right], [], unique_name(graph, f"{name}.averaged"), shape=narrow)
    left = add_constant(graph, unique_name(graph, f"{name}.rows"), over_rows, dtype)
    whole = insert_like(last, "MatMul", [left, half], [], unique_name(graph, f"{name}.whole"))
    former = last.inputs
    take_over(result, whole)
    remove_unread(former)
