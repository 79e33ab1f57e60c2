"""What a function on real numbers does not tell: floats that are narrowed or rounded, orders that are left open."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeconv.graph.edit import constant, producer_of, tensor_of
from edgeconv.graph.pairs import PICKS
from edgeconv.graph.traits import Trait, having
from edgeconv.reference.tflite import TfliteGraph

_NARROW = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_ROUNDING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_EXACT = PICKS | having(Trait.MOVES)


def narrowed(file: ir.Model, graph: ir.Model, *, halves: bool = False) -> Iterator[tuple[str, str]]:
    """Values that a file rounds to half precision, where the graph does not: the value, and one line.

    A file that computes in float16 (``halves``) does so by casts of its own, and has no other narrow type.
    """
    own = {(value, kind) for value, _, kind in _narrowing(graph)}
    for value, operand, kind in _narrowing(file):
        if (value, kind) not in own and not (halves and kind == "float16"):
            yield operand, f"{operand} is rounded to {kind} by the Cast {value}, which the graph does not do"


def _narrowing(model: ir.Model) -> Iterator[tuple[str, str, str]]:
    """Result, operand and type of each Cast of computed floats to half precision."""
    for node in model.graph:
        source = node.inputs[0] if node.op_type == "Cast" and node.inputs else None
        kind = _NARROW.get(ir.DataType(node.attributes.get_int("to", 0))) if source is not None else None
        if source is not None and kind is not None and tensor_of(source) is None and source.dtype in (*_FLOATS, None):
            yield node.outputs[0].name or "", source.name or "", kind


def narrowed_in_tflite(file: TfliteGraph) -> Iterator[tuple[str, str]]:
    """The same of a ``.tflite`` file, whose writer casts none."""
    for operator in file.operators:
        if operator.name != "CAST":
            continue
        source, result = file.tensors[operator.inputs[0]], file.tensors[operator.outputs[0]]
        if source.data is None and source.dtype in ("float32", "float64") and result.dtype in _NARROW.values():
            line = f"{source.name} is rounded to {result.dtype} by the CAST {result.name}, which the graph does not do"
            yield source.name, line


def rounded(file: ir.Model, graph: ir.Model) -> Iterator[tuple[str, str]]:
    """Values that an ``.onnx`` file rounds to integers, where the graph does not: the integers, and one line.

    Not those that have the same steps already: an AveragePool's padding, say, is written before it, and rounded anew.
    """
    own = {node.outputs[0].name for node in graph.graph.all_nodes() if node.op_type in _ROUNDING}
    for node in file.graph.all_nodes():
        name = node.outputs[0].name or ""
        if node.op_type in _ROUNDING and name not in own and not _has_its_steps(node):
            source = node.inputs[0].name if node.inputs and node.inputs[0] is not None else ""
            yield name, f"{source} is rounded to the integers {name}, which the graph does not do"


def _has_its_steps(node: ir.Node) -> bool:
    """Whether a QuantizeLinear rounds what has its own scale and zero point, moved or beside zeros."""
    maker = producer_of(node.inputs[0])
    while maker is not None and maker.op_type in _EXACT and maker.op_type != "Concat":
        floats = [value for value in maker.inputs[1:] if value is not None and value.dtype in _FLOATS]
        if any(np.any(array) for value in floats if (array := constant(value)) is not None):
            return False
        maker = producer_of(maker.inputs[0])
    if maker is None or maker.op_type != "DequantizeLinear" or node.op_type != "QuantizeLinear":
        return False
    return _parameters(maker) == _parameters(node)


def _parameters(node: ir.Node) -> list[list[float]]:
    """Scale and zero point; a number of its own for one that is computed."""
    arrays = [constant(value) for value in node.inputs[1:3]]
    return [[float("nan")] if array is None else array.reshape(-1).tolist() for array in arrays]


def left_open(file: ir.Model, graph: ir.Model) -> Iterator[tuple[str, str]]:
    """Results whose order the graph states, and the file leaves to the runtime: TopK with ``sorted`` = 0."""
    sorted_by_graph = {node.outputs[0].name for node in graph.graph if _is_sorted(node)}
    for node in file.graph:
        name = node.outputs[0].name if node.op_type == "TopK" else None
        if name is not None and name in sorted_by_graph and not _is_sorted(node):
            yield name, f"TopK {name} leaves the order of its results open (sorted = 0), and the graph's sorts them"


def _is_sorted(node: ir.Node) -> bool:
    return node.op_type == "TopK" and node.attributes.get_int("sorted", 1) != 0
