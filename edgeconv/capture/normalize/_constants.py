"""What depends on constants only becomes a constant: evaluated in float64, rounded once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.errors import CaptureError, RewriteError
from edgeconv.graph.names import move_name
from edgeconv.graph.traits import Trait, having
from edgeconv.reference import ImpossibleError, evaluate_node

Array = npt.NDArray[Any]

# DequantizeLinear of a constant stays: it is what tells a runtime to compute in integers.
_NEVER = having(Trait.RANDOM) | having(Trait.QUANTIZES)
_TEXT = frozenset({"value_string", "value_strings"})
_NARROW = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def lift_constants(graph: ir.Graph) -> None:
    """Every Constant node becomes an initializer, but for text, which is refused where anything takes it."""
    for node in graph:
        if node.op_type == "Constant" and node.domain == "" and not node.attributes.keys() & _TEXT:
            _become_initializer(graph, node, [_constant_value(node)])


def fold_constants(graph: ir.Graph, opset: int) -> None:
    """Evaluates nodes that depend on nothing but initializers, and shapes that are known.

    Chains of float nodes stay in float64 between the nodes, so that a weight that torch computes in several steps
    is rounded to its own type only once.
    """
    exact: dict[str, Array] = {}
    for node in graph:
        if node.domain != "" or node.op_type in _NEVER or _has_subgraph(node):
            continue
        known = _known_shape(node)
        results = [known] if known is not None else _evaluate(graph, node, opset, exact)
        if results is not None:
            _become_initializer(graph, node, results)


def constant_value(value: ir.Value | None) -> Array | None:
    """The array behind an initializer of the main graph; None for everything else."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def _constant_value(node: ir.Node) -> Array:
    name, attribute = next(iter(node.attributes.items()))
    if name == "value":
        return attribute.as_tensor().numpy()
    types: dict[str, Any] = {"value_float": np.float32, "value_floats": np.float32}
    return np.array(attribute.value, dtype=types.get(name, np.int64))


def _known_shape(node: ir.Node) -> Array | None:
    """The result of Shape and Size when the input's shape is static."""
    if node.op_type not in ("Shape", "Size") or node.inputs[0] is None:
        return None
    shape = node.inputs[0].shape
    if shape is None or not shape.is_static():
        return None
    sizes = np.array(shape.numpy(), dtype=np.int64)
    if node.op_type == "Size":
        return np.array(sizes.prod(), dtype=np.int64)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
    return sizes[start:end]


def _evaluate(graph: ir.Graph, node: ir.Node, opset: int, exact: dict[str, Array]) -> list[Array] | None:
    arrays: list[Array | None] = []
    for value in node.inputs:
        array = constant_value(value)
        if value is not None and array is None:
            return None
        arrays.append(array)
    narrow = next((a.dtype for a in arrays if a is not None and a.dtype in _NARROW), None)
    wide: list[Array | None] = [
        exact.get(value.name or "", array.astype(np.float64) if array.dtype in _NARROW else array)
        if value is not None and array is not None
        else None
        for value, array in zip(node.inputs, arrays, strict=True)
    ]
    try:
        results = evaluate_node(node, wide, opset=opset)
    except ImpossibleError as error:
        raise CaptureError(error.what, where=error.where, hint=error.hint or "correct the model") from error
    except RewriteError:  # what the reference lacks simply stays
        return None
    rounded = []
    for value, result in zip(node.outputs, results, strict=True):
        if result.dtype == np.float64:
            exact[value.name or ""] = result
            target = value.dtype.numpy() if value.dtype is not None else _stated(node) or narrow or result.dtype
            result = result.astype(target)
        rounded.append(result)
    return rounded


def _stated(node: ir.Node) -> np.dtype[Any] | None:
    """The element type that a node itself states for its result; the reference gives every float as float64."""
    for name in ("to", "dtype"):
        if name in node.attributes:
            return ir.DataType(node.attributes[name].as_int()).numpy()
    if node.op_type == "ConstantOfShape":
        return node.attributes["value"].as_tensor().dtype.numpy() if "value" in node.attributes else np.dtype("float32")
    return None


def _has_subgraph(node: ir.Node) -> bool:
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def _become_initializer(graph: ir.Graph, node: ir.Node, arrays: list[Array]) -> None:
    for output, array in zip(node.outputs, arrays, strict=True):
        value = ir.val(None, const_value=ir.tensor(np.ascontiguousarray(array).reshape(array.shape)))
        move_name(output, value)
        graph.register_initializer(value)
        ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
