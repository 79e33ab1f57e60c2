"""Weights and computation in float16, inputs and outputs in float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import EmitError

_LARGEST = float(np.finfo(np.float16).max)
# Operands that ONNX wants in float32 whatever the data is.
_FLOAT32_OPERANDS = {"Resize": (1, 2)}
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def in_halves(model: ir.Model) -> ir.Model:
    """A copy of the graph that computes in float16 between Casts of its inputs and outputs.

    Raises:
        EmitError: a constant is beyond float16's range.
    """
    model = model.clone()
    graph = model.graph
    kept = {
        value
        for node in graph
        for index in _FLOAT32_OPERANDS.get(node.op_type, ())
        if index < len(node.inputs) and (value := node.inputs[index]) is not None
    }
    for value in graph.initializers.values():
        if value.const_value is not None and value.dtype == _FLOAT and value not in kept:
            value.const_value = ir.tensor(_halved(value.const_value.numpy(), value.name or ""), name=value.name)
            value.type = ir.TensorType(_HALF)
    for node in list(graph):
        _halve_attributes(node)
        for value in node.outputs:
            if value.dtype == _FLOAT and value not in kept:
                value.type = ir.TensorType(_HALF)  # a new one: clones share theirs
    _cast_borders(graph)
    return model


def _halve_attributes(node: ir.Node) -> None:
    if node.op_type == "Cast" and node.attributes.get_int("to", 0) == _FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", _HALF)
    constant = node.attributes.get("value")
    if (
        node.op_type in ("Constant", "ConstantOfShape")
        and constant is not None
        and constant.as_tensor().dtype == _FLOAT
    ):
        name = node.outputs[0].name or ""
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(_halved(constant.as_tensor().numpy(), name)))


def _cast_borders(graph: ir.Graph) -> None:
    for value in graph.inputs:
        if value.dtype == _FLOAT and (uses := tuple(value.uses())):
            made = ir.Value(name=f"{value.name}.half", type=ir.TensorType(_HALF), shape=value.shape)
            cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", _HALF)], outputs=[made])
            for use in uses:
                use.node.replace_input_with(use.idx, made)
            graph.insert_before(graph[0], cast)
    for index, value in enumerate(list(graph.outputs)):
        producer = value.producer()
        if value.dtype == _HALF and producer is not None:
            made = ir.Value(name=value.name, type=ir.TensorType(_FLOAT), shape=value.shape)
            value.name = f"{value.name}.half"
            made.metadata_props.update(value.metadata_props)
            graph.insert_after(producer, ir.Node("", "Cast", [value], [ir.AttrInt64("to", _FLOAT)], outputs=[made]))
            graph.outputs[index] = made


def _halved(array: Array, name: str) -> Array:
    largest = float(np.max(np.abs(array), initial=0.0))
    if np.isfinite(largest) and largest > _LARGEST:
        if array.size == 1:  # a bound or a fill value that stands for "no limit"
            return np.clip(array, -_LARGEST, _LARGEST).astype(np.float16)
        raise EmitError(
            f"the constant {name!r} holds {largest:.4g}, and float16 ends at {_LARGEST:.0f}",
            where="ONNX, fp16",
            mend="export fp32, or scale the weights",
        )
    return array.astype(np.float16)
