"""GroupNormalization of opset 21, which files have: as the exporter of modules writes a group norm.

onnx infers no shape of it, and the one of opset 18 has another meaning. Groups become the channels of an
InstanceNormalization, then come scale and shift by channel; see `edgeconv.capture`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeconv.errors import CaptureError
from edgeconv.graph.origin import place_of
from edgeconv.graph.steps import Steps, sizes_of

_NAME, _INFERRED_AS = "GroupNormalization", "InstanceNormalization"
_STAND_INS = {_NAME: _INFERRED_AS, "MeanVarianceNormalization": "Relu"}
"""Operators whose shapes onnx does not infer (of the second, its own function fails), and others that keep shapes."""


@contextlib.contextmanager
def inferable(graph: ir.Graph) -> Iterator[None]:
    """Within it inference knows the shape, as of the operator that takes the same and gives the same."""
    nodes = {node: node.op_type for node in graph if node.op_type in _STAND_INS and node.domain == ""}
    for node, name in nodes.items():
        node.op_type = _STAND_INS[name]
    try:
        yield
    finally:
        for node, name in nodes.items():
            node.op_type = name


def settle_group_norms(graph: ir.Graph) -> None:
    """Replaces in place; all shapes must be static.

    Raises:
        CaptureError: the groups do not divide the channels.
    """
    for node in [node for node in graph if node.op_type == _NAME and node.domain == ""]:
        x, result = node.inputs[0], node.outputs[0]
        groups = node.attributes["num_groups"].as_int()
        batch, channels, *rest = sizes_of(x)
        if groups < 1 or channels % groups:
            raise CaptureError(
                f"{groups} groups do not divide {channels} channels",
                where=place_of(node),
                hint="correct num_groups",
            )
        steps = Steps(graph, node)
        grouped = steps.reshape(x, [batch, groups, math.prod((channels // groups, *rest))], "grouped")
        ones, zeros = (
            steps.constant(np.ones(groups, np.float32), "ones"),
            steps.constant(np.zeros(groups, np.float32), "zeros"),
        )
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        y = steps.add("normalised", _INFERRED_AS, [grouped, ones, zeros], sizes_of(grouped), {"epsilon": epsilon})
        y = steps.reshape(y, sizes_of(x), "ungrouped")
        by_channel = [channels, *(1 for _ in rest)]
        y = steps.add("scaled", "Mul", [y, steps.reshape(node.inputs[1], by_channel, "scale")], sizes_of(x))
        y = steps.add("shifted", "Add", [y, steps.reshape(node.inputs[2], by_channel, "bias")], sizes_of(x))
        steps.replace({result: y})
