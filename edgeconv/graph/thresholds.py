"""Finds thresholds that are written with several nodes: a number above a limit, or whose magnitude is, else a constant.

torch.nn.Threshold and torch.nn.Hardshrink are a comparison and a Where, since ONNX's ThresholdedRelu and Shrink make
zero of what is no number, and torch does not. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgeconv.graph.constants import scalar
from edgeconv.graph.edit import constant, only_reader, producer_of

_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_KEPT = {"Greater": 1, "LessOrEqual": 2}
"""By the comparison: the input of Where that holds the numbers above the limit."""


@dataclass(frozen=True)
class Threshold:
    """Nodes that give x, or a constant where x is not above a limit.

    Attributes:
        x: the operand.
        limit: what x is compared with.
        value: the constant.
        magnitude: the value that holds |x|, where that is compared; None where x is.
    """

    x: ir.Value
    limit: float
    value: float
    magnitude: ir.Value | None


def threshold_of(node: ir.Node) -> Threshold | None:
    """The threshold of float32 that ends in this node; None where there is none."""
    comparison = producer_of(node.inputs[0]) if node.op_type == "Where" and node.domain == "" else None
    if comparison is None or comparison.op_type not in _KEPT or node.outputs[0].dtype != ir.DataType.FLOAT:
        return None
    place = _KEPT[comparison.op_type]
    x, other = node.inputs[place], node.inputs[3 - place]
    compared, limit, value = comparison.inputs[0], scalar(comparison.inputs[1], 0.0), scalar(other, 0.0)
    if x is None or compared is None or limit is None or value is None or constant(x) is not None:
        return None
    if x.shape is None or x.shape != node.outputs[0].shape:  # broadcast by the constants
        return None
    maker = producer_of(compared)
    is_magnitude = compared is not x and maker is not None and maker.op_type == "Abs" and maker.inputs[0] is x
    if compared is not x and not is_magnitude:
        return None
    return Threshold(x, limit, value, compared if is_magnitude else None)


def inside(node: ir.Node, threshold: Threshold) -> Iterator[ir.Node]:
    """The nodes before the last one that need not be computed, as nothing else reads them: a comparison, and an Abs."""
    condition = node.inputs[0]
    if condition is None or only_reader(condition) is not node:
        return
    unread = [condition]
    if threshold.magnitude is not None and only_reader(threshold.magnitude) is not None:
        unread.append(threshold.magnitude)
    yield from (maker for value in unread if (maker := producer_of(value)) is not None)


def is_compared(node: ir.Node) -> bool:
    """Whether all that reads the node's result compares it."""
    (value,) = node.outputs
    readers = [use.node.op_type for use in value.uses()]
    return bool(readers) and not value.is_graph_output() and _COMPARISONS.issuperset(readers)
