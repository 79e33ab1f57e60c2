"""Nodes whose result is known before the model runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.graph.constants import add_constant, exact, is_float
from edgeconv.graph.edit import dims, graph_of, tensor_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.traits import Trait, having
from edgeconv.rewrite.algebra._evaluate import evaluate_node

# A constant this large is stored only when it replaces constants of at least a quarter of its size: folding
# an Expand or a Tile would otherwise write its copies into the file.
_LARGE = 65_536

# Quantised weights stay DequantizeLinear(constant): that node is what tells a runtime to compute in integers.
# The random operators are not functions of their inputs; Constant is turned into an initializer as it is.
_NEVER = having(Trait.QUANTIZES) | having(Trait.RANDOM) | {"Constant", "Dropout"}

_CASTS = frozenset({"Cast", "CastLike"})


class FoldConstantsPass(ir.passes.InPlacePass):
    """Evaluates nodes whose inputs are all constant, and turns Constant nodes into initializers.

    1. Requires: a node of the standard domain with one tensor result that is no graph output, no subgraph, no
       randomness, no quantisation, and constant inputs (``Shape`` and ``Size`` need only a static shape; so does the
       second input of ``CastLike``, which is read for its dtype).
    2. Ensures: the result is an initializer under the name that it had.
    3. Exact: chains of floating-point nodes are evaluated in float64 from the original constants; only what is left
       in the graph is rounded, once. A cast between floating types is the identity in real arithmetic.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Folds in the graph's (topological) order, so that chains collapse in one go."""
        modified = False
        for node in tuple(model.graph):
            if node.domain != "" or len(node.outputs) != 1 or node.outputs[0].is_graph_output():  # (1)
                continue
            array = _evaluate(node)
            if array is not None:
                _replace(node, array)
                modified = True
        return ir.passes.PassResult(model, modified)


def _evaluate(node: ir.Node) -> npt.NDArray[np.generic] | None:
    """The node's result, floats in float64; None when it is not to be folded."""
    if node.op_type == "Constant":
        return _face(node.outputs[0])
    if node.op_type in ("Shape", "Size"):
        return _extent(node)
    if node.op_type in _NEVER or any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
        return None
    operands = node.inputs[:1] if node.op_type in _CASTS else node.inputs
    arrays = [None if value is None else _face(value) for value in operands]
    if any(array is None and value is not None for array, value in zip(arrays, operands, strict=True)):
        return None
    if node.op_type in _CASTS:
        return _cast(node, arrays[0])
    result = evaluate_node(node, arrays)
    if result is not None and result.size > max(_LARGE, 4 * sum(array.size for array in arrays if array is not None)):
        return None
    return result


def _face(value: ir.Value) -> npt.NDArray[np.generic] | None:
    """A constant as it enters the arithmetic: floats as float64 before rounding (3), the rest as they are."""
    tensor = tensor_of(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    return exact(value) if is_float(tensor.dtype) else tensor.numpy()


def _extent(node: ir.Node) -> npt.NDArray[np.generic] | None:
    shape = dims(node.inputs[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        return np.array(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    return np.array(shape[start:end], dtype=np.int64)


def _cast(node: ir.Node, array: npt.NDArray[np.generic] | None) -> npt.NDArray[np.generic] | None:
    target = node.outputs[0].dtype
    if node.op_type == "Cast":
        target = ir.DataType(node.attributes["to"].as_int())
    elif node.inputs[1] is not None and node.inputs[1].dtype is not None:
        target = node.inputs[1].dtype
    if array is None or target is None or not (is_float(target) or target.is_integer() or target == ir.DataType.BOOL):
        return None
    node.outputs[0].type = ir.TensorType(target)
    return array.astype(np.float64 if is_float(target) else target.numpy())


def _replace(node: ir.Node, array: npt.NDArray[np.generic]) -> None:
    """Puts an initializer in the place of the node's result, under its name (2)."""
    graph, old = graph_of(node), node.outputs[0]
    name = old.name or unique_name(graph, "constant")
    dtype = old.dtype
    if dtype is None or not is_float(dtype):
        dtype = _dtype_of(node, array)
    old.name = None
    new = add_constant(graph, name, array, dtype)
    new.metadata_props.update(old.metadata_props)
    ir.convenience.replace_all_uses_with(old, new)
    graph.remove(node, safe=True)


def _dtype_of(node: ir.Node, array: npt.NDArray[np.generic]) -> ir.DataType:
    """The dtype of a result of which the graph says nothing, or nothing that is float."""
    if array.dtype != np.float64:
        return ir.DataType.from_numpy(array.dtype)
    if node.op_type == "Constant":
        tensor = tensor_of(node.outputs[0])
        return ir.DataType.FLOAT if tensor is None else tensor.dtype
    for value in node.inputs:
        dtype = None if value is None else value.dtype
        if dtype is not None and is_float(dtype):
            return dtype
    return ir.DataType.FLOAT


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
