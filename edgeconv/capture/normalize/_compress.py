"""Compress whose condition is a constant picks elements that are known: a Gather, whose shape is known, too."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._constants import constant_value
from edgeconv.capture.normalize._origin import origin_of, set_origin


def settle_compress(graph: ir.Graph) -> None:
    """Replaces in place; without an axis the input is flat."""
    for node in list(graph):
        condition = constant_value(node.inputs[1]) if node.op_type == "Compress" and node.domain == "" else None
        if condition is not None:
            _replace(graph, node, np.flatnonzero(condition))


def _replace(graph: ir.Graph, node: ir.Node, places: np.ndarray) -> None:
    stem = f"\3{node.outputs[0].name}"  # nobody else's; `_names` gives the real ones
    source, made = node.inputs[0], []
    if "axis" not in node.attributes:
        made.append(ir.node("Reshape", [source, _constant(graph, np.array([-1], np.int64), f"{stem}.shape")]))
        source = made[0].outputs[0]
        source.name = f"{stem}.flat"
    index = _constant(graph, places.astype(np.int64), f"{stem}.places")
    made.append(ir.node("Gather", [source, index], {"axis": node.attributes.get_int("axis", 0)}))
    result, name = made[-1].outputs[0], node.outputs[0].name
    for each in made:
        set_origin(each, origin_of(node))
        graph.insert_before(node, each)
    result.type = node.outputs[0].type
    ir.convenience.replace_all_uses_with(node.outputs[0], result, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    result.name = name


def _constant(graph: ir.Graph, array: np.ndarray, name: str) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value
