"""Groups of ONNX nodes that are one TFLite operator."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx_ir as ir

_CLOSE = 1e-6


def gelus(nodes: Iterable[ir.Node]) -> tuple[dict[ir.Node, ir.Value], set[ir.Node]]:
    """Finds 0.5·x·(1 + erf(x / sqrt(2))), however its product is written.

    Returns the last node of each with its x, and the nodes before it that need not be computed.
    """
    found: dict[ir.Node, ir.Value] = {}
    inner: set[ir.Node] = set()
    for node in nodes:
        if node.op_type != "Erf":
            continue
        match = _match(node)
        if match is not None:
            last, x, between = match
            found[last] = x
            inner |= between
    return found, inner


def _match(erf: ir.Node) -> tuple[ir.Node, ir.Value, set[ir.Node]] | None:
    x = _scaled_by(erf.inputs[0], math.sqrt(0.5))
    add = _only_reader(erf.outputs[0])
    if x is None or add is None or add.op_type != "Add" or not _has_constant(add, 1.0):
        return None
    node, between = add, {erf, add}
    missing = {"x", "half"}
    while missing:
        after = _only_reader(node.outputs[0])
        if after is None or after.op_type not in ("Mul", "Div"):
            return None
        product = _factors(after, node.outputs[0], x)
        if product is None or not product <= missing:
            return None
        missing -= product
        between.add(node)
        node = after
    return node, x, between


def _factors(node: ir.Node, known: ir.Value, x: ir.Value) -> set[str] | None:
    """Which of x and 0.5 a product multiplies the known value by."""
    if _scaled_by(node.outputs[0], 0.5) is known:
        return {"half"}
    other = node.inputs[1] if node.inputs[0] is known else node.inputs[0]
    if node.op_type != "Mul":
        return None
    if other is x:
        return {"x"}
    return {"x", "half"} if other is not None and _scaled_by(other, 0.5) is x else None


def _scaled_by(value: ir.Value | None, factor: float) -> ir.Value | None:
    """What the value is ``factor`` times, if a product or quotient by that constant made it."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in ("Mul", "Div"):
        return None
    for index in (0, 1) if node.op_type == "Mul" else (1,):
        scalar = _scalar(node.inputs[index])
        if scalar is None or scalar == 0:
            continue
        if abs((scalar if node.op_type == "Mul" else 1 / scalar) - factor) < _CLOSE:
            return node.inputs[1 - index]
    return None


def _has_constant(node: ir.Node, wanted: float) -> bool:
    return any(_scalar(value) == wanted for value in node.inputs)


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _scalar(value: ir.Value | None) -> float | None:
    """The constant's only element: of an initializer, or of a Constant node."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return float(tensor.numpy().reshape(())) if tensor is not None and tensor.size == 1 else None
