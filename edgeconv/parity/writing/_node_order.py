"""Whether an `.onnx` file can be read at all: its nodes follow from those before them, its scales are positive.

Source: ONNX specification, IR, Graphs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.graph.edit import constant, input_of

IN_ORDER = "put its nodes in order"
"""A hint: onnxruntime does so itself when it loads a file, and so do not all that read one."""
POSITIVE = "scales are positive and finite"
"""A hint, too."""


def misplaced(graph: ir.Graph) -> str:
    """The first node that reads what a later one computes, in one line; empty where there is none."""
    later = {value for node in graph for value in node.outputs}
    for node in graph:
        value = next((value for value in node.inputs if value is not None and value in later), None)
        if value is not None:
            return f"{node.op_type} {node.outputs[0].name} reads {value.name}, which a later node computes"
        later.difference_update(node.outputs)
    return ""


def without_scale(graph: ir.Graph) -> str:
    """The first QuantizeLinear or DequantizeLinear with a scale by which no integers can stand for anything."""
    for node in graph.all_nodes():
        scales = constant(input_of(node, 1)) if node.op_type in ("QuantizeLinear", "DequantizeLinear") else None
        if scales is not None and not np.all((scales > 0) & np.isfinite(scales)):
            return f"{node.op_type} {node.outputs[0].name} has a scale that is no positive number"
    return ""
