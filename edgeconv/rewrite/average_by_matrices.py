"""Adaptive average pools that were written out with GatherND, as two matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import RewriteError
from edgeconv.graph.constants import Float64, add_constant, exact, unrounded
from edgeconv.graph.edit import dims, graph_of, only_reader, remove_unread, tensor_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import insert_like, take_over
from edgeconv.reference import evaluate_node
from edgeconv.rewrite.each_node import Change, EachNodePass

_TOLERANCE = 1e-12  # of each element that is summed: the rounding of float64, and no more
_PROBES = 8  # random planes, on which the product and the nodes are compared


class AverageByMatricesPass(EachNodePass):
    """Replaces an average over windows of different sizes, gathered element by element, by ``R x C``.

    1. Requires: a Transpose and a GatherND with constant indices, of a value [N, C, H, W] of static shape, and behind
       them, up to one value [N, C, h, w], nothing but Transpose, Gather, Where with zeros, Add, means, sums, and
       products with constants. What they compute is the same for every plane, and is a product of averages over rows
       and over columns. So ``torch.onnx`` writes AdaptiveAvgPool2d where the sizes do not divide.
    2. Ensures: two MatMul with constant matrices of averages, [h, H] and [W, w], in their place, under the last name.
    3. Exact: the operators are linear, and so is ``R x C``. The matrices are read off by evaluating the operators on
       planes with ones in one row or column; random planes then show that there is no difference: a linear map that
       is not zero is zero on a random plane with probability zero.
    """

    def change_at(self, node: ir.Node) -> Change | None:
        """Two products in place of the region that a GatherND begins."""
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
    turn = data.producer() if data is not None else None
    if turn is None or turn.op_type != "Transpose" or data is None or only_reader(data) is not gather:
        return None
    source, shape = turn.inputs[0], dims(turn.inputs[0])
    if source is None or shape is None or len(shape) != 4 or tensor_of(gather.inputs[1]) is None:
        return None
    nodes, inside, region = [turn, gather], {data, gather.outputs[0]}, None
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
    """Whether nothing outside reads what the nodes make, but for the last one's result."""
    members = set(nodes)
    return not any(
        value.is_graph_output() or any(use.node not in members for use in value.uses())
        for node in nodes
        if node is not last
        for value in node.outputs
    )


def _is_linear(node: ir.Node, inside: set[ir.Value]) -> bool:
    """Whether the result is linear in what is inside, and nothing else goes in but constants."""
    if node.domain != "" or len(node.outputs) != 1:
        return False
    places = [value in inside for value in node.inputs]
    if any(
        not place and value is not None and tensor_of(value) is None
        for place, value in zip(places, node.inputs, strict=True)
    ):
        return False
    if node.op_type in ("Add", "Sum"):
        return all(places)
    if node.op_type == "Where":
        other = node.inputs[2 if places[1] else 1] if places.count(True) == 1 and not places[0] else None
        zeros = exact(other)
        return zeros is not None and not zeros.any()
    if node.op_type == "Mul":
        return places.count(True) == 1
    return node.op_type in ("Transpose", "Gather", "ReduceMean", "ReduceSum", "Div") and places.index(True) == 0


def _matrices(region: _Region) -> tuple[Float64, Float64] | None:
    """The averages over rows, [h, H], and over columns, [W, w]; None when that is not what the region computes."""
    shape = dims(region.source) or ()
    height, width = shape[2:]
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
