"""What a file's function on real numbers does not tell: floats that are narrowed, orders that are left open."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgeconv.graph.edit import tensor_of
from edgeconv.reference.tflite import TfliteGraph

_NARROW = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def narrowed(file: ir.Model, graph: ir.Model) -> Iterator[tuple[str, str]]:
    """Values that a file of float32 rounds to half precision, where the graph does not: the value, and one line."""
    own = {(value, kind) for value, _, kind in _narrowing(graph)}
    for value, operand, kind in _narrowing(file):
        if (value, kind) not in own:
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


def left_open(file: ir.Model, graph: ir.Model) -> Iterator[tuple[str, str]]:
    """Results whose order the graph states, and the file leaves to the runtime: TopK with ``sorted`` = 0."""
    sorted_by_graph = {node.outputs[0].name for node in graph.graph if _is_sorted(node)}
    for node in file.graph:
        name = node.outputs[0].name if node.op_type == "TopK" else None
        if name is not None and name in sorted_by_graph and not _is_sorted(node):
            yield name, f"TopK {name} leaves the order of its results open (sorted = 0), and the graph's sorts them"


def _is_sorted(node: ir.Node) -> bool:
    return node.op_type == "TopK" and node.attributes.get_int("sorted", 1) != 0
