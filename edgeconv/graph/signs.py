"""Finds values that are never negative, whatever the inputs of the graph are."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.edit import constant, input_of, producer_of
from edgeconv.graph.traits import Trait, having

_DEPTH = 64  # operators in a row that are followed back; beyond, a value counts as possibly negative
_JOINS = having(Trait.BROADCASTS) | {"Concat", "SequenceConstruct"}
"""Operators whose operands are all data. Of the others only the first is; the rest are parameters."""


def never_negative(value: ir.Value | None, memo: dict[ir.Value, bool] | None = None) -> bool:
    """Whether the graph shows that no element of a value is below zero.

    Args:
        value: of a graph; inputs and constants count as possibly negative.
        memo: results so far, which are added to; pass one dict to ask about all values of a graph.
    """
    return _never_negative(value, {} if memo is None else memo, _DEPTH)


def _never_negative(value: ir.Value | None, memo: dict[ir.Value, bool], depth: int) -> bool:
    node = producer_of(value)
    if value is None or node is None or depth == 0:
        return False
    # Each value is judged once: residual blocks read a value on two ways, and n blocks would be 2^n walks.
    if value not in memo:
        memo[value] = _gives_none_negative(node, memo, depth - 1)
    return memo[value]


def _gives_none_negative(node: ir.Node, memo: dict[ir.Value, bool], depth: int) -> bool:
    if node.op_type in having(Trait.NEVER_NEGATIVE):
        return True
    if node.op_type == "Clip":
        # No lower bound, a computed one, and NaN (no comparison holds) show nothing.
        bound = constant(input_of(node, 1))
        return bound is not None and bool((bound >= 0).all())
    if node.op_type == "Cast":
        # A cast to integers may wrap around to negative ones.
        return node.outputs[0].dtype == ir.DataType.FLOAT and _never_negative(node.inputs[0], memo, depth)
    if node.op_type not in having(Trait.KEEPS_SIGN):
        return False
    operands = node.inputs if node.op_type in _JOINS else node.inputs[:1]
    return all(_never_negative(operand, memo, depth) for operand in operands)
