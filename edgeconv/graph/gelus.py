"""Finds GELUs that are written out with several ONNX nodes, for stages that treat each as one operator.

Nothing is rewritten: runtimes and the TFLite emitter fuse these nodes by themselves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from edgeconv.graph.edit import constant, only_reader, producer_of

_HALF_UNIT = 2.0**-24  # of float32, relative
_OF_INTEGERS = 3  # roundings to float32: of the number, of the scale, and of their product
_STORED = "edgeconv.stored_as_integers"  # Value.meta key


# Hendrycks and Gimpel 2016 (arXiv 1606.08415), section 2: 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))).
_TANH_SLOPE = math.sqrt(2 / math.pi)
_TANH_POLYNOMIAL = {1: _TANH_SLOPE, 3: 0.044715 * _TANH_SLOPE}
_OF_POLYNOMIAL = {1: 1, 3: 2}  # constants that each coefficient is a product of
_DEEP = 6  # nodes between x and the tanh, in any spelling


@dataclass(frozen=True)
class Gelu:
    """A group of nodes that computes a GELU of x; its gate is Erf, or Tanh for the approximation."""

    x: ir.Value
    gate: ir.Node

    @property
    def tanh(self) -> bool:
        """Whether it is the approximation."""
        return self.gate.op_type == "Tanh"


def stored_as_integers(value: ir.Value) -> None:
    """Notes of a float32 constant that a file has it as integers and a scale: it is what these stand for, rounded."""
    value.meta[_STORED] = True


def gelus(nodes: Iterable[ir.Node]) -> tuple[dict[ir.Node, Gelu], set[ir.Node]]:
    """Finds 0.5·x·(1 + erf(x / sqrt(2))) and 0.5·x·(1 + tanh(sqrt(2/pi)·(x + 0.044715·x³))), however they are written.

    Each constant is the float32 that is the nearest to the function's. What was typed with fewer digits is another
    function: 0.707107 makes results of 1 another float32.

    Returns the last node of each, and the nodes before it that need not be computed.
    """
    matches: dict[ir.Node, Gelu] = {}
    inner: set[ir.Node] = set()
    for node in nodes:
        x = _ARGUMENT[node.op_type](node.inputs[0]) if node.op_type in _ARGUMENT else None
        match = _match(node, x) if x is not None else None
        if match is not None and x is not None:
            last, between = match
            matches[last] = Gelu(x, node)
            inner |= between
    return matches, inner


def spelled_out(graph: ir.Graph) -> dict[ir.Node, ir.Node]:
    """The nodes of each GELU that is several of them, none of whose inner values is read elsewhere; and its last."""
    lasts: dict[ir.Node, ir.Node] = {}
    for last, gelu in gelus(graph)[0].items():
        nodes, todo = {last}, [last]
        while todo:
            # Backwards from the last node to the GELU's argument x; constants belong to it.
            operands = [value for value in todo.pop().inputs if value is not None and value is not gelu.x]
            operands = [value for value in operands if constant(value) is None]
            new = [node for operand in operands if (node := operand.producer()) is not None and node not in nodes]
            nodes.update(new)
            todo += new
        inner = [value for node in nodes - {last} for value in node.outputs]
        if not any(value.is_graph_output() or any(use.node not in nodes for use in value.uses()) for value in inner):
            lasts |= dict.fromkeys(nodes, last)
    return lasts


def _match(gate: ir.Node, x: ir.Value) -> tuple[ir.Node, set[ir.Node]] | None:
    """The last node of 0.5·x·(1 + gate), and those before it."""
    add = only_reader(gate.outputs[0])
    if add is None or add.op_type != "Add" or not _has_constant(add, 1.0):
        return None
    # The three factors are multiplied in any order and grouping: (0.5·x)·(1 + g), x·((1 + g)·0.5), (x·(1 + g))/2.
    node, between = add, {gate, add}
    missing = {"x", "half"}
    while missing:
        after = only_reader(node.outputs[0])
        if after is None or after.op_type not in ("Mul", "Div"):
            return None
        product = _factors(after, node.outputs[0], x)
        if product is None or not product <= missing:
            return None
        missing -= product
        between.add(node)
        node = after
    return node, between


def _of_tanh(value: ir.Value | None) -> ir.Value | None:
    """The x such that a value is the polynomial of x that GELU's approximation passes to tanh."""
    # Candidates for x: every value within so many sums and products of the tanh's operand.
    candidates, level, roundings = [value], [value], 1
    for _ in range(_DEEP):
        producers = [item.producer() for item in level if item is not None]
        algebra = [node for node in producers if node is not None and node.op_type in _ALGEBRA]
        level = [operand for node in algebra for operand in node.inputs]
        roundings = max([roundings, *(_roundings(operand) for operand in level)])
        candidates += level
    for x in candidates:
        if x is not None and _is_close(_polynomial(value, x), roundings):
            return x
    return None


_ALGEBRA = {"Mul", "Add", "Pow"}
_ARGUMENT: dict[str, Callable[[ir.Value | None], ir.Value | None]] = {
    "Erf": lambda value: _scaled_by(value, math.sqrt(0.5)),
    "Tanh": _of_tanh,
}
_Polynomial = dict[int, float]


def _polynomial(value: ir.Value | None, x: ir.Value, depth: int = _DEEP) -> _Polynomial | None:
    """The coefficients, by power of x, of a value that is computed of x and scalars by Add, Mul and Pow."""
    if value is x:
        return {1: 1.0}
    scalar = _scalar(value)
    if scalar is not None:
        return {0: scalar}
    node = producer_of(value)
    if node is None or node.op_type not in _ALGEBRA or not depth:
        return None
    a, b = (_polynomial(operand, x, depth - 1) for operand in node.inputs)
    if a is None or b is None:
        return None
    if node.op_type == "Add":
        return {power: a.get(power, 0.0) + b.get(power, 0.0) for power in a | b}
    if node.op_type == "Mul":
        return _product(a, b)
    # Pow: squares and cubes only.
    return _product(a, _product(a, a)) if b == {0: 3.0} else _product(a, a) if b == {0: 2.0} else None


def _product(a: _Polynomial, b: _Polynomial) -> _Polynomial:
    product: _Polynomial = {}
    for (p, u), (q, v) in itertools.product(a.items(), b.items()):
        product[p + q] = product.get(p + q, 0.0) + u * v
    return product


def _is_close(polynomial: _Polynomial | None, roundings: int) -> bool:
    """Whether it is the one of GELU's approximation, with constants that were rounded so often."""
    if polynomial is None or polynomial.keys() != _TANH_POLYNOMIAL.keys():
        return False
    return all(
        _is_near(polynomial[power], due, roundings * _OF_POLYNOMIAL[power]) for power, due in _TANH_POLYNOMIAL.items()
    )


def _factors(node: ir.Node, operand: ir.Value, x: ir.Value) -> set[str] | None:
    """Which of the factors x and 0.5 a product has beside the operand."""
    if _scaled_by(node.outputs[0], 0.5) is operand:
        return {"half"}
    other = node.inputs[1] if node.inputs[0] is operand else node.inputs[0]
    if node.op_type != "Mul":
        return None
    if other is x:
        return {"x"}
    return {"x", "half"} if other is not None and _scaled_by(other, 0.5) is x else None


def _scaled_by(value: ir.Value | None, factor: float) -> ir.Value | None:
    """The value that a product or quotient by a constant multiplies by ``factor``; None for anything else."""
    node = producer_of(value)
    if node is None or node.op_type not in ("Mul", "Div"):
        return None
    for index in (0, 1) if node.op_type == "Mul" else (1,):
        scalar = _scalar(node.inputs[index])
        if scalar is None or scalar == 0:
            continue
        if _is_near(scalar if node.op_type == "Mul" else 1 / scalar, factor, _roundings(node.inputs[index])):
            return node.inputs[1 - index]
    return None


def _has_constant(node: ir.Node, number: float) -> bool:
    scalars = [(_scalar(value), _roundings(value)) for value in node.inputs]
    return any(scalar is not None and _is_near(scalar, number, roundings) for scalar, roundings in scalars)


def _is_near(number: float, due: float, roundings: int) -> bool:
    return abs(number - due) <= roundings * _HALF_UNIT * abs(due)


def _roundings(value: ir.Value | None) -> int:
    """How often a constant was rounded to float32."""
    return _OF_INTEGERS if value is not None and value.meta.get(_STORED) else 1


def _scalar(value: ir.Value | None) -> float | None:
    """The only element of a constant."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None
