"""ReLU6 as ReLU: not exact, and therefore no line of the table; only on demand, with its effect measured."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.rewrite._graph import tensor_of


def relu6_as_relu(model: ir.Model) -> tuple[ir.Model, int]:
    """Writes every Clip to [0, c] as Relu.

    Args:
        model: not changed.

    Returns:
        A new model, and in how many places it differs.
    """
    model = model.clone()
    count = 0
    for node in tuple(model.graph):
        if node.op_type != "Clip" or not _from_zero(node):
            continue
        relu = ir.node("Relu", [node.inputs[0]], metadata_props=dict(node.metadata_props))
        old, new = node.outputs[0], relu.outputs[0]
        new.shape, new.type, new.name = old.shape, old.type, old.name
        new.metadata_props.update(old.metadata_props)
        model.graph.insert_before(node, relu)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        count += 1
    return model, count


def _from_zero(node: ir.Node) -> bool:
    bounds = [tensor_of(value) if value is not None else None for value in node.inputs[1:3]]
    if len(bounds) < 2 or bounds[0] is None or bounds[1] is None:
        return False
    low, high = float(bounds[0].numpy()), float(bounds[1].numpy())
    return low == 0.0 < high
