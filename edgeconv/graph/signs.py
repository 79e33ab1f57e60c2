"""Which values of a graph are never negative, whatever its inputs are."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.traits import Trait, having

_DEPTH = 64  # operators behind each other, beyond which nothing is claimed
_JOINS = having(Trait.BROADCASTS) | {"Concat", "SequenceConstruct"}
"""Those whose operands are all data; behind the first, the others have parameters that keep its sign."""


def never_negative(value: ir.Value | None, known: dict[ir.Value, bool] | None = None) -> bool:
    """Whether it can be seen from the graph that no element of a value is below zero.

    Args:
        value: of a graph; what no operator computes may be anything.
        known: what was found of values before, which is added to: whoever asks for all values of a graph, in the order
            of its nodes, hands on one.
    """
    return _seen(value, {} if known is None else known, _DEPTH)


def _seen(value: ir.Value | None, known: dict[ir.Value, bool], depth: int) -> bool:
    node = value.producer() if value is not None else None
    if value is None or node is None or depth == 0:
        return False
    if value not in known:
        known[value] = _is_made_so(node, known, depth - 1)
    return known[value]


def _is_made_so(node: ir.Node, known: dict[ir.Value, bool], depth: int) -> bool:
    if node.op_type in having(Trait.NEVER_NEGATIVE):
        return True
    if node.op_type == "Clip":
        bound = constant(input_of(node, 1))
        return bound is not None and float(bound) >= 0
    if node.op_type == "Cast":
        # Integers may wrap.
        return node.outputs[0].dtype == ir.DataType.FLOAT and _seen(node.inputs[0], known, depth)
    operands = node.inputs if node.op_type in _JOINS else node.inputs[:1]
    return node.op_type in having(Trait.KEEPS_SIGN) and all(_seen(operand, known, depth) for operand in operands)
