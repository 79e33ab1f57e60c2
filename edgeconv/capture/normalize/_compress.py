"""Compress with a constant condition becomes a Gather, whose shape is static."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.graph.edit import constant
from edgeconv.graph.steps import Steps


def settle_compress(graph: ir.Graph) -> None:
    """Replaces every such Compress, in place. Without an axis it works on the flattened input."""
    for node in list(graph):
        condition = constant(node.inputs[1]) if node.op_type == "Compress" and node.domain == "" else None
        if condition is not None:
            _replace(graph, node, np.flatnonzero(condition))


def _replace(graph: ir.Graph, node: ir.Node, places: np.ndarray) -> None:
    steps, source = Steps(graph, node), node.inputs[0]
    if "axis" not in node.attributes:
        flatten = ir.node("Reshape", [source, steps.constant(np.array([-1], np.int64), "shape")])
        steps.insert(flatten)
        source = flatten.outputs[0]
        steps.name(source, "flat")
    index = steps.constant(places.astype(np.int64), "places")
    gather = ir.node("Gather", [source, index], {"axis": node.attributes.get_int("axis", 0)})
    steps.insert(gather)
    gather.outputs[0].type = node.outputs[0].type
    steps.replace({node.outputs[0]: gather.outputs[0]})
