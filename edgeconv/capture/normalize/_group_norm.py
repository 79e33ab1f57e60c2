"""GroupNormalization (opset 21) of files, written as torch.onnx writes the group norm of a module.

The groups become the channels of an InstanceNormalization; scale and shift per channel follow. GroupNormalization
itself has a scale per group in opset 18, and onnx infers no shape for it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.steps import Steps, sizes_of

_NAME, _INFERRED_AS = "GroupNormalization", "InstanceNormalization"
_STAND_INS = {_NAME: _INFERRED_AS, "MeanVarianceNormalization": "Relu"}
"""Operators whose shapes onnx does not infer, each with one that has the same inputs and keeps the shape as well.

Of MeanVarianceNormalization onnx expands its own function, and fails in it.
"""


@contextlib.contextmanager
def inferable(graph: ir.Graph) -> Iterator[None]:
    """Renames these operators inside of the block, so that shape inference works for them."""
    nodes = {node: node.op_type for node in graph if node.op_type in _STAND_INS and node.domain == ""}
    for node, name in nodes.items():
        node.op_type = _STAND_INS[name]
    try:
        yield
    finally:
        for node, name in nodes.items():
            node.op_type = name


def settle_group_norms(graph: ir.Graph) -> None:
    """Replaces every GroupNormalization, in place; all shapes must be static.

    Raises:
        CaptureError: the groups do not divide the channels.
    """
    for node in [node for node in graph if node.op_type == _NAME and node.domain == ""]:
        x, result = node.inputs[0], node.outputs[0]
        groups = node.attributes["num_groups"].as_int()
        batch, channels, *rest = sizes_of(x)
        if groups < 1 or channels % groups:
            raise refused(node, f"{groups} groups do not divide {channels} channels", "correct num_groups")
        steps = Steps(graph, node)
        grouped = steps.reshape(x, [batch, groups, math.prod((channels // groups, *rest))], "grouped")
        ones = steps.constant(np.ones(groups, np.float32), "ones")
        zeros = steps.constant(np.zeros(groups, np.float32), "zeros")
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        y = steps.add("normalised", _INFERRED_AS, [grouped, ones, zeros], sizes_of(grouped), {"epsilon": epsilon})
        y = steps.reshape(y, sizes_of(x), "ungrouped")
        by_channel = [channels, *(1 for _ in rest)]
        y = steps.add("scaled", "Mul", [y, steps.reshape(node.inputs[1], by_channel, "scale")], sizes_of(x))
        y = steps.add("shifted", "Add", [y, steps.reshape(node.inputs[2], by_channel, "bias")], sizes_of(x))
        steps.replace({result: y})
