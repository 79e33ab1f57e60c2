"""Finds ln(1 + x) and exp(x) - 1 that are written with two nodes, for stages that treat each as one function.

For x near zero, float32 loses x in 1 + x and in exp(x) - 1: emitters write these functions in another way. Nothing is
changed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from edgeconv.graph.constants import exact
from edgeconv.graph.edit import only_reader, producer_of


@dataclass(frozen=True)
class NearZero:
    """Two nodes that are one function of x.

    Attributes:
        x: the operand.
        inner: Add of a logarithm's argument, or Exp.
    """

    x: ir.Value
    inner: ir.Node

    @property
    def is_logarithm(self) -> bool:
        """Whether it is ln(1 + x), and not exp(x) - 1."""
        return self.inner.op_type == "Add"


def near_zero(nodes: Iterable[ir.Node]) -> tuple[dict[ir.Node, NearZero], set[ir.Node]]:
    """Finds ln(1 + x) and exp(x) - 1 of float32.

    Returns the last node of each, and the nodes before it that need not be computed.
    """
    functions = {node: function for node in nodes if (function := _function(node)) is not None}
    inner = {function.inner for function in functions.values() if only_reader(function.inner.outputs[0]) is not None}
    return functions, inner


def holds_one(node: ir.Node) -> bool:
    """Whether the 1 that a node adds or subtracts belongs to such a function, so that it must not be folded away."""
    reader = only_reader(node.outputs[0])
    return _function(node) is not None or (reader is not None and reader.op_type == "Log" and bool(_summand(node, 1.0)))


def _function(node: ir.Node) -> NearZero | None:
    if node.domain != "" or not node.outputs or node.outputs[0].dtype != ir.DataType.FLOAT:
        return None
    if node.op_type == "Log":
        add = _producer_of_kind(node.inputs[0], "Add")
        x = _summand(add, 1.0) if add is not None else None
        return None if add is None or x is None else NearZero(x, add)
    difference = _summand(node, -1.0)
    exponential = _producer_of_kind(difference, "Exp")
    if exponential is None or exponential.inputs[0] is None:
        return None
    return NearZero(exponential.inputs[0], exponential)


def _summand(node: ir.Node, number: float) -> ir.Value | None:
    """The value that a node adds this number to; None if it adds another one, or broadcasts the value."""
    if node.op_type not in ("Add", "Sub"):
        return None
    for source, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        constant = exact(other)
        # Of differences only x - c is one: c - x has x with the other sign.
        if node.op_type == "Sub" and (constant is None or other is not node.inputs[1]):
            continue
        stated = number if node.op_type == "Add" else -number
        if constant is not None and constant.size == 1 and float(constant.reshape(())) == stated and source is not None:
            return source if source.shape == node.outputs[0].shape else None
    return None


def _producer_of_kind(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = producer_of(value)
    return node if node is not None and node.op_type == op_type and node.domain == "" else None
