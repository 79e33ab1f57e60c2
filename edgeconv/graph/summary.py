"""A graph in a few words, for the report and `edgeconv inspect`."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.core import GraphSummary, NodeSummary


def summarize(stage: str, model: ir.Model) -> GraphSummary:
    """Lists the operators of `model` in their order; constants are not operators."""
    return GraphSummary(
        stage,
        tuple(
            NodeSummary(
                node.op_type,
                node.outputs[0].name or "",
                tuple(value.name or "" for value in node.inputs if value is not None and not value.is_initializer()),
                _shape(node.outputs[0]),
            )
            for node in model.graph
            if node.op_type != "Constant"
        ),
    )


def _shape(value: ir.Value) -> tuple[int | str, ...]:
    if value.shape is None:
        return ()
    return tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape)
