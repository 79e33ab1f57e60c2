"""GroupNormalization of opset 21, which files have: as the exporter of modules writes a group norm.

onnx infers no shape of it, and the one of opset 18 has another meaning. Groups become the channels of an
InstanceNormalization, then come scale and shift by channel; see `edgeconv.capture`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.capture._origin import origin_of, set_origin
from edgeconv.errors import CaptureError

_NAME, _INFERRED_AS = "GroupNormalization", "InstanceNormalization"


@contextlib.contextmanager
def inferable(graph: ir.Graph) -> Iterator[None]:
    """Within it inference knows the shape, as of the operator that takes the same and gives the same."""
    nodes = [node for node in graph if node.op_type == _NAME and node.domain == ""]
    for node in nodes:
        node.op_type = _INFERRED_AS
    try:
        yield
    finally:
        for node in nodes:
            node.op_type = _NAME


def settle_group_norms(graph: ir.Graph) -> None:
    """Replaces in place; all shapes must be static.

    Raises:
        CaptureError: the groups do not divide the channels.
    """
    for node in [node for node in graph if node.op_type == _NAME and node.domain == ""]:
        x, result = node.inputs[0], node.outputs[0]
        groups = node.attributes["num_groups"].as_int()
        batch, channels, *rest = _sizes(x)
        if groups < 1 or channels % groups:
            raise CaptureError(
                f"{groups} groups do not divide {channels} channels",
                where=origin_of(node).module or node.op_type,
                mend="correct num_groups",
            )
        steps = _Steps(graph, node)
        grouped = steps.reshape(x, [batch, groups, math.prod((channels // groups, *rest))], "grouped")
        ones, zeros = (
            steps.constant(np.ones(groups, np.float32), "ones"),
            steps.constant(np.zeros(groups, np.float32), "zeros"),
        )
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        y = steps.add("normalised", _INFERRED_AS, [grouped, ones, zeros], _sizes(grouped), {"epsilon": epsilon})
        y = steps.reshape(y, _sizes(x), "ungrouped")
        by_channel = [channels, *(1 for _ in rest)]
        y = steps.add("scaled", "Mul", [y, steps.reshape(node.inputs[1], by_channel, "scale")], _sizes(x))
        y = steps.add("shifted", "Add", [y, steps.reshape(node.inputs[2], by_channel, "bias")], _sizes(x))
        name, result.name = result.name, None
        y.name = name
        ir.convenience.replace_all_uses_with(result, y, replace_graph_outputs=True)
        graph.remove(node, safe=True)


class _Steps:
    """What a node is replaced by, put before it."""

    def __init__(self, graph: ir.Graph, before: ir.Node) -> None:
        self._graph = graph
        self._before = before
        self._stem = f"\3{before.outputs[0].name}"  # nobody else's; the mark is taken away later

    def add(
        self,
        name: str,
        operator: str,
        inputs: Sequence[ir.Value | None],
        sizes: Sequence[int],
        attributes: dict[str, float] | None = None,
    ) -> ir.Value:
        node = ir.node(operator, inputs, attributes)
        output = node.outputs[0]
        output.name, output.shape, output.type = f"{self._stem}.{name}", ir.Shape(sizes), self._before.outputs[0].type
        set_origin(node, origin_of(self._before))
        self._graph.insert_before(self._before, node)
        return output

    def constant(self, array: np.ndarray, name: str) -> ir.Value:
        value = ir.val(f"{self._stem}.{name}", const_value=ir.tensor(array, name=f"{self._stem}.{name}"))
        self._graph.register_initializer(value)
        return value

    def reshape(self, value: ir.Value | None, sizes: list[int], name: str) -> ir.Value:
        if value is not None and value.const_value is not None and not value.is_graph_input():
            return self.constant(value.const_value.numpy().reshape(sizes), name)
        target = self.constant(np.array(sizes, np.int64), f"{name}.shape")
        return self.add(name, "Reshape", [value, target], sizes)


def _sizes(value: ir.Value | None) -> list[int]:
    if value is None or value.shape is None:
        raise ValueError("a value without a shape")  # a bug of ours: shapes are checked before
    return [int(str(each)) for each in value.shape]
