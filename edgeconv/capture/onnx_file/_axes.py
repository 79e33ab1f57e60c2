"""Checks that a stated axis exists: onnx's inference does not for every operator, and kernels then differ."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.edit import constant

# Operators whose axis is not one of the first input: it is of the result, may be one past the last, or is ignored where
# there is one scale.
_OTHERWISE = frozenset(
    {"Concat", "ConcatFromSequence", "DequantizeLinear", "Flatten", "OneHot", "QuantizeLinear", "Unsqueeze"}
)
_ATTRIBUTES = ("axis", "axes", "time_axis", "batch_axis")


def check_axes(graph: ir.Graph) -> None:
    """Checks that every axis which a node states is from -r to r - 1, where r is the rank of its first input.

    Raises:
        CaptureError: one is not; names the node.
    """
    for node in graph:
        if node.op_type in _OTHERWISE or not node.inputs or node.inputs[0] is None or node.inputs[0].shape is None:
            continue
        rank = len(node.inputs[0].shape)
        most = max(rank, 1)  # kernels accept axis 0 and -1 of a scalar
        beyond = [axis for axis in _axes(node) if not -most <= axis < most]
        if beyond:
            what = f"{node.op_type} is along axis {beyond[0]} of a value of {rank} axes"
            raise refused(node, what, "state an axis that it has")


def _axes(node: ir.Node) -> Iterator[int]:
    for name in _ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.type == ir.AttributeType.INT:
            yield attribute.as_int()
        elif attribute is not None and attribute.type == ir.AttributeType.INTS:
            yield from attribute.as_ints()
    if node.op_type in ("CumSum", "CumProd") and (axis := constant(node.inputs[1])) is not None:
        yield int(axis.reshape(-1)[0])
