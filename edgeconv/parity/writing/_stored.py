"""Constant integers of a quantized graph as the real numbers that they stand for."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.edit import constant, tensor_of
from edgeconv.graph.names import unique_name
from edgeconv.parity.writing._cut import redirect
from edgeconv.reference import evaluate

_STORED = "/stored"


def store_real_numbers(model: ir.Model, computed: Collection[str]) -> dict[str, Array]:
    """Puts the real numbers that constant integers stand for in place of the integers, as constants of float64.

    Returns their steps, by the constants' names, as these broadcast. Integers of the names that are `computed` stay.
    """
    graph = model.graph
    nodes = [node for node in graph if node.op_type == "DequantizeLinear" and _is_constant(node.inputs[0])]
    nodes = [node for node in nodes if not node.outputs[0].is_graph_output()]
    nodes = [node for node in nodes if not _is_quantized_as(node.inputs[0], computed)]
    names = [node.outputs[0].name or "" for node in nodes]
    arrays = evaluate(model, {}, keep=names) if names else {}
    steps: dict[str, Array] = {}
    for node, name in zip(nodes, names, strict=True):
        scales = constant(node.inputs[1])
        steps[name] = _along(
            np.zeros(1) if scales is None else scales, node.attributes.get_int("axis", 1), arrays[name].ndim
        )
        result = node.outputs[0]
        result.name = unique_name(graph, name + _STORED)
        stored = ir.Value(name=name, shape=result.shape, type=ir.TensorType(ir.DataType.DOUBLE))
        stored.const_value = ir.tensor(arrays[name], name=name)
        graph.register_initializer(stored)
        redirect(result, stored)
        graph.remove(node, safe=True)
    return steps


def _along(scales: Array, axis: int, rank: int) -> Array:
    """Scales of slices along an axis, or one of all, as they broadcast to an array; float64."""
    shape = [-1 if place == axis % max(rank, 1) else 1 for place in range(rank)] if scales.size > 1 else []
    return scales.astype(np.float64).reshape(shape)


def _is_constant(value: ir.Value | None) -> bool:
    """Whether it is stored, or quantized from what is stored."""
    maker = value.producer() if value is not None else None
    if maker is not None and maker.op_type == "QuantizeLinear":
        value = maker.inputs[0]
    return tensor_of(value) is not None


def _is_quantized_as(value: ir.Value | None, names: Collection[str]) -> bool:
    """Whether QuantizeLinear makes it, under one of some names."""
    maker = value.producer() if value is not None else None
    return maker is not None and maker.op_type == "QuantizeLinear" and value is not None and value.name in names
