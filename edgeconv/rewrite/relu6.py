"""ReLU6 as ReLU: not exact, and so not in the table; only on request, and its effect is measured."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.edit import tensor_of


def relu6_as_relu(model: ir.Model) -> tuple[ir.Model, int]:
    """Replaces every Clip to [0, 6] by Relu, except one that gives a graph output: that range may be intended.

    Args:
        model: not changed.

    Returns:
        A new model, and the number of replacements.
    """
    model = model.clone()
    count = 0
    for node in tuple(model.graph):
        if node.op_type != "Clip" or not _is_relu6(node) or node.outputs[0].is_graph_output():
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


def _is_relu6(node: ir.Node) -> bool:
    bounds = [tensor_of(value) if value is not None else None for value in node.inputs[1:3]]
    return [None if bound is None else float(bound.numpy()) for bound in bounds] == [0.0, 6.0]
