"""Axes that a value does not have: onnx's inference passes over some operators that state one, and kernels differ."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgeconv.errors import CaptureError
from edgeconv.graph.edit import constant
from edgeconv.graph.origin import place_of

# Their axes are of another value than the first input, one behind its last is meant, or it does not count.
_OTHERWISE = frozenset(
    {"Concat", "ConcatFromSequence", "DequantizeLinear", "Flatten", "OneHot", "QuantizeLinear", "Unsqueeze"}
)
_STATING = ("axis", "axes", "time_axis", "batch_axis")


def check_axes(graph: ir.Graph) -> None:
    """Sees that every axis which a node states lies in -r..r-1, r being the rank of its first input.

    Raises:
        CaptureError: one does not.
    """
    for node in graph:
        if node.op_type in _OTHERWISE or not node.inputs or node.inputs[0] is None or node.inputs[0].shape is None:
            continue
        rank = len(node.inputs[0].shape)
        most = max(rank, 1)  # a scalar's one element lies along axis 0, and -1
        beyond = [axis for axis in _axes(node) if not -most <= axis < most]
        if beyond:
            what = f"{node.op_type} is along axis {beyond[0]} of a value of {rank} axes"
            raise CaptureError(what, where=place_of(node), hint="state an axis that it has")


def _axes(node: ir.Node) -> Iterator[int]:
    for name in _STATING:
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.type == ir.AttributeType.INT:
            yield attribute.as_int()
        elif attribute is not None and attribute.type == ir.AttributeType.INTS:
            yield from attribute.as_ints()
    if node.op_type in ("CumSum", "CumProd") and (axis := constant(node.inputs[1])) is not None:
        yield int(axis.reshape(-1)[0])
