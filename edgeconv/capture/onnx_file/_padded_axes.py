"""Pad with a list of axes becomes a Pad with amounts for every axis.

onnxruntime's layout optimizer (1.32) moves a Transpose across a Pad and permutes the amounts as if there were two for
each axis of the input: a file with a list of axes does not run.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import integers
from edgeconv.graph.steps import Steps

_AXES = 3  # input of Pad


def settle_padded_axes(graph: ir.Graph) -> None:
    """Changes every Pad with constant amounts and axes in place; ranks must be known."""
    for node in list(graph):
        if node.op_type == "Pad" and node.domain == "" and len(node.inputs) > _AXES:
            _spell_out(graph, node)


def _spell_out(graph: ir.Graph, node: ir.Node) -> None:
    source, amounts, _, axes = node.inputs
    if axes is None:
        node.resize_inputs(_AXES)
        return
    stated, listed = integers(amounts), integers(axes)
    if source is None or source.shape is None or stated is None or listed is None:
        return
    rank, count = len(source.shape), len(listed)
    spelt_out = np.zeros(2 * rank, np.int64)
    for at, axis in enumerate(listed):
        spelt_out[axis % rank], spelt_out[rank + axis % rank] = stated[at], stated[count + at]
    node.replace_input_with(1, Steps(graph, node).constant(spelt_out, "pads"))
    node.replace_input_with(_AXES, None)
    node.resize_inputs(_AXES)
