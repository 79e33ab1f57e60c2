"""Whether the nodes of an `.onnx` file follow from those before them (ONNX specification, IR, Graphs)."""

from __future__ import annotations

import onnx_ir as ir

IN_ORDER = "put its nodes in order"
"""A hint: onnxruntime does so itself when it loads a file, and so do not all that read one."""


def misplaced(graph: ir.Graph) -> str:
    """The first node that reads what a later one computes, in one line; empty where there is none."""
    later = {value for node in graph for value in node.outputs}
    for node in graph:
        value = next((value for value in node.inputs if value is not None and value in later), None)
        if value is not None:
            return f"{node.op_type} {node.outputs[0].name} reads {value.name}, which a later node computes"
        later.difference_update(node.outputs)
    return ""
