"""How far operands must reach to lie beyond every number at which an operator bends, or chooses."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.edit import constant
from edgeconv.parity.coverage import bends_of
from edgeconv.reference.tflite import TfliteGraph

LARGER = 1024.0  # what operands are raised to at least: beyond the kinks that operators have by themselves
_MOST = float(np.finfo(np.float32).max) / 4  # nothing that a file computes lies far enough beyond such a number

_COMPARING = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Max", "Min", "Clip"})
_COMPARING_IN_TFLITE = frozenset(
    {"MAXIMUM", "MINIMUM", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL", "NOT_EQUAL"}
)


def reach_of_graph(graph: ir.Graph) -> float:
    """Twice the furthest number at which a node of an ONNX graph bends or that it compares with; `LARGER` at least."""
    comparing = [node for node in graph if node.op_type in _COMPARING]
    arrays = (constant(value) for node in comparing for value in node.inputs)
    bends = [np.asarray(bends_of(node)) for node in graph]
    return _reach([*bends, *(array for array in arrays if array is not None)])


def reach_of_file(graph: TfliteGraph) -> float:
    """The same of a ``.tflite`` file; of what its integers stand for, their ranges say how far they reach."""
    comparing = [operator for operator in graph.operators if operator.name in _COMPARING_IN_TFLITE]
    tensors = [graph.tensors[at] for operator in comparing for at in operator.inputs if at >= 0]
    return _reach(tensor.data for tensor in tensors if tensor.floating and tensor.data is not None)


def _reach(arrays: Iterable[Array]) -> float:
    furthest = 0.0
    for array in arrays:
        numbers = np.abs(array.astype(np.float64)) if array.dtype.kind == "f" else np.zeros(0)
        furthest = max(furthest, float(numbers[numbers < _MOST].max(initial=0.0)))
    return max(LARGER, 2 * furthest)
