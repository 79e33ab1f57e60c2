"""Weights that are stored as int8 for operators of floats, such that onnxruntime makes floats of them only once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeconv.emit.onnx._integers import replace_nodes
from edgeconv.graph.names import take_name

_BACK, _THERE = "DequantizeLinear", "QuantizeLinear"
_FLOAT_KERNELS = ("ConvTranspose", "GRU", "LSTM", "RNN")
"""Operators that onnxruntime has no kernel of integers for."""


def fold_at_load(graph: onnx.GraphProto) -> None:
    """Writes the DequantizeLinear of a stored weight as Cast and Mul, which is the same (`graph.stored_integers`).

    Of weights that are read by operators of floats: onnxruntime 1.32 folds these two when it loads the file, and packs
    the weights as of a float file; a DequantizeLinear it leaves in the graph, or makes one operator of it and a MatMul
    (MatMulNBits), which rounds the activations, too. As int8-weights, one thread, ms: MobileNetV2 19.1 and 8.3 (float
    8.4), ResNet-18 42.7 and 25.4 (25.8), a Linear of 196 by 384 to 1536 and back 4.5 and 3.5 (3.6). Once loaded, such a
    file takes the memory of a float one. Last, as onnxsim would fold them as well.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
    readers = {name: node for node in graph.node for name in node.input}
    in_floats = all(node.op_type != _THERE for node in graph.node)
    taken = constants.keys() | {name for node in graph.node for name in node.output} | {x.name for x in graph.input}
    nodes: list[onnx.NodeProto] = []
    dropped: set[str] = set()
    for node in graph.node:
        reader = readers.get(node.output[0])
        of_floats = reader is not None and (in_floats or reader.op_type in _FLOAT_KERNELS)
        if node.op_type != _BACK or not of_floats or not _is_at_zero(node, constants):
            nodes.append(node)
            continue
        name, scale = node.output[0], numpy_helper.to_array(constants[node.input[1]])
        if scale.size > 1:
            shape = [1] * len(constants[node.input[0]].dims)
            shape[helper.get_node_attr_value(node, "axis") if node.attribute else 1] = scale.size
            scale = scale.reshape(shape)
        for former in node.input[1:]:
            reads[former] -= 1
            dropped |= {former} if reads[former] == 0 else set()
        own = take_name(f"{name}.factor", taken)
        cast = take_name(f"{name}.integers", taken)
        taken |= {own, cast}
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(scale), own))
        nodes.append(helper.make_node("Cast", [node.input[0]], [cast], to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [cast, own], [name]))
    replace_nodes(graph, nodes)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in dropped:
            del graph.initializer[index]


def _is_at_zero(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether it makes floats of int8 constants whose zero is 0."""
    tensors = [constants.get(name) for name in node.input]
    if any(tensor is None for tensor in tensors) or tensors[0].data_type != onnx.TensorProto.INT8:  # type: ignore[union-attr]
        return False
    return all(not numpy_helper.to_array(tensor).any() for tensor in tensors[2:] if tensor is not None)
