"""Which values of a graph jump: no bound on their operands' errors is one on theirs."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.traits import Trait, having_any

_JUMPS = having_any((Trait.PIECEWISE_CONSTANT, Trait.COMPARES, Trait.RANKS))


def jumping_values(graph: ir.Graph) -> set[str]:
    """The names of the values behind a rank, a comparison, a step function, or integers made of floats."""
    jumping: set[str] = set()
    for node in graph:
        is_step = jumps(node) or any(value is not None and value.name in jumping for value in node.inputs)
        jumping.update(result.name for result in node.outputs if is_step and result.name)
    return jumping


def jumps(node: ir.Node) -> bool:
    """Whether a node ranks, compares, is a step function, or makes integers of floats."""
    return node.op_type in _JUMPS or (any(map(_is_float, node.inputs)) and not all(map(_is_float, node.outputs)))


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()
