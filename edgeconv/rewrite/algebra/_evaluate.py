"""One node by itself, on numpy arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgeconv.errors import RewriteError
from edgeconv.graph.edit import graph_of


def evaluate_node(node: ir.Node, arrays: list[npt.NDArray[np.generic] | None]) -> npt.NDArray[np.generic] | None:
    """The only result of a node, by the reference: floats in float64.

    None where the reference has no such operator, or it does not take such operands: the node is then simply left to
    the runtime.
    """
    from edgeconv.reference import evaluate_node as reference  # torch is its engine, and is loaded when it is needed

    opset = graph_of(node).opset_imports.get("", onnx.defs.onnx_opset_version())
    try:
        (result,) = reference(node, arrays, opset=opset)
    except RewriteError:
        return None
    return result
