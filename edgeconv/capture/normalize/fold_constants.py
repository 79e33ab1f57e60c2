"""Constant folding. Capture folds what exporters compute at run time, above all shapes; `rewrite` runs it again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._branches import has_subgraph
from edgeconv.core import Array
from edgeconv.errors import RewriteError
from edgeconv.graph.constants import add_constant, is_float, unrounded
from edgeconv.graph.edit import dims, graph_of, is_taken, tensor_of
from edgeconv.graph.names import is_named_later, name_later, preferred_name, unique_name
from edgeconv.graph.traits import Trait, having
from edgeconv.reference import ImpossibleError, evaluate_node, shape_result

# A result with more elements is folded only if its operands have at least a quarter as many: folding an Expand or a
# Tile would write the copies into the file.
_LARGE = 65_536

# In a quantized model a weight stays DequantizeLinear(constant): runtimes compute in integers where they see that node.
# But a QuantizeLinear of a constant is folded, as torch.onnx writes a fake-quantized weight. Random operators have no
# result that could be known.
_NEVER = (having(Trait.QUANTIZES) | having(Trait.RANDOM)) - {"QuantizeLinear"}


class FoldConstantsPass(ir.passes.InPlacePass):
    """Evaluates nodes whose inputs are all constant, and turns Constant nodes into initializers.

    1. Requires: a node of the standard domain whose results are tensors and no graph outputs, no subgraph, no
       randomness, no DequantizeLinear of a quantized model, and constant inputs (``Shape``, ``Size`` and ``EyeLike``
       need only a static shape). ``CastLike`` looks at its second input for the dtype alone, and becomes a ``Cast``
       where that is known.
    2. Ensures: the results are initializers under the names that they had.
    3. Exact: chains of floating-point nodes are evaluated by `edgeconv.reference` in float64 from the original
       constants; only what is left in the graph is rounded, once. A cast between floating types is the identity in
       real arithmetic.
    """

    def __init__(self, *, capturing: bool = False) -> None:
        """Sets how much is folded.

        Args:
            capturing: as every shape must become known, graph outputs and large copies of small constants are folded
                too; operands without a result on any runtime raise an `ImpossibleError`. Where nothing computed is
                quantized, weights that are only stored as integers become floats: the model computes with floats, and
                TFLite's kernels for floats beside int8 weights (hybrid) would round what they read.
        """
        super().__init__()
        self._capturing = capturing

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Folds in the graph's (topological) order, so that chains collapse in one go."""
        modified = False
        opset = model.opset_imports.get("", 1)
        never = _NEVER
        if self._capturing and not is_quantized(model.graph):
            never = never - {"DequantizeLinear"}
        for node in tuple(model.graph):
            if node.domain != "" or node.op_type in never or has_subgraph(node):  # (1)
                continue
            if not self._capturing and any(value.is_graph_output() for value in node.outputs):
                continue
            modified = _state_target(node) or modified
            results = _stated(node) or self._computed(node, opset)
            if results is not None:
                _replace(node, results)
                modified = True
        return ir.passes.PassResult(model, modified)

    def _computed(self, node: ir.Node, opset: int) -> Sequence[Array] | None:
        """The results of a node on constants, floats in float64; None when it is not to be folded."""
        operands: list[Array | None] = []
        for value in node.inputs:
            array = _like(value) if node.op_type == "EyeLike" else unrounded(value)
            if array is None and value is not None:
                return None  # before a weight further on is read, as of each layer
            operands.append(array)
        try:
            results = evaluate_node(node, operands, opset=opset)
        except RewriteError as error:
            if self._capturing and isinstance(error, ImpossibleError):
                raise
            return None  # the reference lacks the operator, or a form of it: the runtime computes it
        replaced = sum(array.size for array in operands if array is not None)
        too_large = any(result.size > max(_LARGE, 4 * replaced) for result in results)
        return None if too_large and not self._capturing else results


def is_quantized(graph: ir.Graph) -> bool:
    """Whether a graph computes with integers: something that is no constant is quantized."""
    return any(node.op_type == "QuantizeLinear" and tensor_of(node.inputs[0]) is None for node in graph)


def lift_constants(graph: ir.Graph) -> None:
    """Turns every Constant node into an initializer, except strings: `onnx_file` refuses them where they are used.

    onnx_ir's LiftConstantsToInitializersPass would leave constants that are graph outputs, and lift strings.
    """
    for node in tuple(graph):
        if node.op_type == "Constant" and node.domain == "" and (results := _stated(node)) is not None:
            _replace(node, results)


def _state_target(node: ir.Node) -> bool:
    """Turns a CastLike into a Cast, where the dtype of its second input is known; returns whether it did."""
    like = node.inputs[1] if node.op_type == "CastLike" else None
    if like is None or like.dtype is None:
        return False
    node.op_type = "Cast"
    node.attributes["to"] = ir.AttrInt64("to", like.dtype)
    node.resize_inputs(1)
    return True


def _stated(node: ir.Node) -> Sequence[Array] | None:
    """The result of a Constant, as stored, and of a Shape or Size of a static shape; None for other nodes."""
    if node.op_type == "Constant":
        tensor = tensor_of(node.outputs[0])
        return None if tensor is None or tensor.dtype == ir.DataType.STRING else [tensor.numpy()]
    shape = dims(node.inputs[0]) if node.op_type in ("Shape", "Size") else None
    return None if shape is None else [shape_result(node, shape)]


def _like(value: ir.Value | None) -> Array | None:
    """Zeros of a value's shape and dtype, for EyeLike, which reads nothing else; None where they are unknown."""
    shape = dims(value)
    return None if shape is None or value is None or value.dtype is None else np.zeros(shape, value.dtype.numpy())


def _replace(node: ir.Node, results: Sequence[Array]) -> None:
    """Replaces the node's results by initializers under their names (2)."""
    graph = graph_of(node)
    for old, array in zip(node.outputs, results, strict=True):
        if not is_taken(old):
            continue
        name = old.name or unique_name(graph, "constant")
        dtype = _dtype(node, old) if array.dtype == np.float64 else ir.DataType.from_numpy(array.dtype)
        old.name = None
        new = add_constant(graph, name, array, dtype)
        if is_named_later(old):
            name_later(graph, new, preferred_name(old))
        new.metadata_props.update(old.metadata_props)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _dtype(node: ir.Node, result: ir.Value) -> ir.DataType:
    """The element type that a float64 result is rounded to: the graph's, the node's, or that of its operands."""
    if result.dtype is not None:
        return result.dtype
    for name in ("to", "dtype"):
        if name in node.attributes:
            return ir.DataType(node.attributes[name].as_int())
    if node.op_type in ("Constant", "ConstantOfShape") and "value" in node.attributes:
        return node.attributes["value"].as_tensor().dtype
    operands = (value.dtype for value in node.inputs if value is not None)
    return next((dtype for dtype in operands if is_float(dtype) and dtype is not None), ir.DataType.FLOAT)
