"""What a float operator divides by stays float as well: 8 bits make zero of a guard, and of small norms.

``x / (norm + 1e-9)`` and ``x / max(norm, 1e-12)`` are finite for a row of zeros because of the constant. A scale that
holds the largest norm rounds it to zero, and the file computes 0 / 0. So it does of exponentials of a row of small
numbers beside one of large ones, which a softmax that is written out divides by their sum.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.edit import constant, input_of, producer_of
from edgeconv.graph.traits import Trait, having

WHY = "it makes a divisor, which 8 bits would round to zero"

GUARDS = frozenset({"Add", "Clip", "Max", "Where", "Sum"})
SUMS = having(Trait.ADDS_UP) - {"ReduceLogSum", "ReduceLogSumExp"}
"""Sums and means of many, but for those that give a logarithm."""
NORMS = SUMS | {"Mul", "Abs", "Pow", "ReduceMax", "Sqrt"}
_OPERATORS = GUARDS | NORMS | having(Trait.MOVES)


def divisors(graph: ir.Graph) -> set[ir.Node]:
    """The operators between the last layer or activation function and what a Div by computed numbers divides by.

    What a Pow raises to a computed exponent, which may be negative, counts as such a divisor.
    An Exp is one of them; what it reads is fit for integers.
    """
    operators: set[ir.Node] = set()
    waiting = [
        input_of(node, 1 if node.op_type == "Div" else 0)
        for node in graph
        if node.op_type in ("Div", "Pow") and node.domain == "" and constant(input_of(node, 1)) is None
    ]
    while waiting:
        value = waiting.pop()
        node = producer_of(value)
        if node is None or node in operators or node.op_type not in _OPERATORS | {"Exp"}:
            continue
        operators.add(node)
        if node.op_type != "Exp":
            waiting += [operand for operand in node.inputs if operand is not None and constant(operand) is None]
    return operators
