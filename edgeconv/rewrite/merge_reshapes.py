"""Changes of shape in a row become one Reshape."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import add_constant
from edgeconv.graph.each_node import Change, EachNodePass
from edgeconv.graph.edit import dims, graph_of, remove_unread, stated_input
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import insert_like, take_over
from edgeconv.graph.traits import Trait, having


class MergeReshapesPass(EachNodePass):
    """Merges Reshape, Flatten, Squeeze and Unsqueeze in a row into one Reshape to the shape of the last.

    Exporters leave such rows where a pool, a view and an axis of size 1 meet. onnxsim 0.8.1 merges them in a float
    `.onnx` file; in one of integers each stands between QuantizeLinear and DequantizeLinear, and nothing does.

    1. Requires: an operator that changes the shape alone, behind another one whose result is no graph output and is
       read by such operators alone; the last shape is static and holds elements.
    2. Ensures: no two are left for which (1) holds. The result keeps its name; the one between is gone.
    3. Exact: each keeps the elements in their row-major order, and so do two in a row.
    """

    ensured = True

    def change_at(self, node: ir.Node) -> Change | None:
        """The Reshape in the place of a node and of the one before it."""
        if not _changes_shape(node):
            return None
        between = stated_input(node)
        before = between.producer()
        if before is None or not _changes_shape(before) or between.is_graph_output():
            return None
        sizes = dims(node.outputs[0])
        # Specification of Reshape: a 0 stands for the size of the operand's axis, so that it cannot state an empty one.
        if sizes is None or 0 in sizes or not all(_reshapes(*use) for use in between.uses()):
            return None
        return partial(_merge, node, before, sizes)


def _changes_shape(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in having(Trait.KEEPS_ORDER)


def _reshapes(reader: ir.Node, index: int) -> bool:
    """Whether a node changes the shape of its operand ``index``, which is not the shape itself."""
    return index == 0 and _changes_shape(reader)


def _merge(node: ir.Node, before: ir.Node, sizes: tuple[int, ...]) -> None:
    graph, result = graph_of(node), node.outputs[0]
    target = unique_name(graph, f"{result.name}.shape")
    shape = add_constant(graph, target, np.array(sizes, np.int64), ir.DataType.INT64)
    merged = insert_like(
        node, "Reshape", [stated_input(before), shape], [], unique_name(graph, f"{result.name}.merged")
    )
    take_over(result, merged)
    remove_unread(before.outputs)
