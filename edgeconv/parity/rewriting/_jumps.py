"""Which values of a graph jump: no bound on their operands' errors is one on theirs."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.traits import Trait, having_any

_JUMPS = having_any((Trait.PIECEWISE_CONSTANT, Trait.COMPARES, Trait.RANKS))


def jumping_values(graph: ir.Graph) -> set[str]:
    """The names of the values behind a rank, a comparison, a step function, or integers made of floats."""
    jumping: set[str] = set()
    for node in graph:
        operands = [value for value in node.inputs if value is not None]
        of_floats = any(value.dtype is not None and value.dtype.is_floating_point() for value in operands)
        is_step = node.op_type in _JUMPS or any(value.name in jumping for value in operands)
        for result in node.outputs:
            is_integer = result.dtype is not None and not result.dtype.is_floating_point()
            if result.name and (is_step or (of_floats and is_integer)):
                jumping.add(result.name)
    return jumping
