"""Mutants of `.onnx` files that are mostly still of their format, so that readers get to what they say."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import onnx
from chances import FLOATS, NUMBERS, WORDS, bytes_of
from onnx import helper, numpy_helper
from onnx_bases import BASES
from protobuf_mutants import message_changed

OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})


def onnx_base(rng: random.Random) -> onnx.ModelProto:
    """A small network of operators that take one tensor, and some that take constants."""
    noise = np.random.default_rng(rng.randrange(2**31))
    constants: dict[str, Any] = {
        "w": noise.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "k": noise.standard_normal((1, 4, 1, 1)).astype(np.float32),
        "shape": np.array([1, 4, 6, 6], np.int64),
        "axes": np.array([2, 3], np.int64),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "indices": np.array([0, 2, 1], np.int64),
    }
    makers = [
        ("Relu", [], {}),
        ("Mul", ["k"], {}),
        ("Reshape", ["shape"], {}),
        ("Transpose", [], {"perm": [0, 1, 3, 2]}),
        ("MaxPool", [], {"kernel_shape": [2, 2]}),
        ("AveragePool", [], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
        ("Pad", ["pads"], {}),
        ("Gather", ["indices"], {"axis": 1}),
        ("Softmax", [], {"axis": 1}),
        ("ReduceMean", ["axes"], {"keepdims": 1}),
        ("Concat", ["k"], {"axis": 1}),
        ("Shape", [], {}),
    ]
    nodes = [helper.make_node("Conv", ["x", "w"], ["v0"], name="conv", strides=[1, 1], group=1)]
    for at in range(rng.randint(1, 6)):
        op, more, attributes = rng.choice(makers)
        nodes.append(helper.make_node(op, [f"v{at}", *more], [f"v{at + 1}"], **attributes))
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", rng.choice([13, 17, 18, 21]))], ir_version=9)


def onnx_of(rng: random.Random) -> bytes:
    """A network with one to four things wrong."""
    model = onnx_base(rng) if rng.random() < 0.4 else rng.choice(BASES)(rng)
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.5:
            message_changed(model, rng)
        elif model.graph.node:
            rng.choice(_CHANGES)(model, rng)
    data: bytes = model.SerializeToString()
    return bytes_of(data, rng) if rng.random() < 0.1 else data


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    if not node.attribute or rng.random() < 0.2:
        node.attribute.append(
            helper.make_attribute(rng.choice(("axis", "perm", "pads", "group", "to")), rng.choice(NUMBERS))
        )
        return
    attribute = rng.choice(node.attribute)
    if attribute.ints and rng.random() < 0.8:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
    elif attribute.ints:
        del attribute.ints[rng.randrange(len(attribute.ints)) :]
    else:
        attribute.i = rng.choice(NUMBERS)


def _operator(model: onnx.ModelProto, rng: random.Random) -> None:
    rng.choice(model.graph.node).op_type = rng.choice(OPERATORS)


def _wiring(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    names = ["", "nowhere", "x", "y", *(tensor.name for tensor in model.graph.initializer)]
    names += [name for each in model.graph.node for name in each.output]
    side = node.input if rng.random() < 0.7 else node.output
    if side and rng.random() < 0.7:
        side[rng.randrange(len(side))] = rng.choice(names)
    else:
        side.append(rng.choice(names))


def _tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    kind = rng.randrange(4)
    if kind == 0:
        tensor.data_type = rng.choice([0, 1, 2, 6, 7, 8, 9, 10, 11, 16, 17, 22, 23, 999])
    elif kind == 1 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
    else:
        size = {1: 4, 7: 8}.get(tensor.data_type, 0) * math.prod(tensor.dims)
        if size == len(tensor.raw_data) > 0 and not tensor.data_location:
            value = numpy_helper.to_array(tensor).copy()
            value.reshape(-1)[rng.randrange(value.size)] = rng.choice(NUMBERS if value.dtype == np.int64 else FLOATS)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _interface(model: onnx.ModelProto, rng: random.Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    if not values:
        return
    value = rng.choice(values)
    dims = value.type.tensor_type.shape.dim
    if dims and rng.random() < 0.7:
        dim = rng.choice(dims)
        dim.dim_value = rng.choice(NUMBERS)
        if rng.random() < 0.3:
            dim.dim_param = rng.choice(WORDS)
    else:
        value.type.tensor_type.elem_type = rng.choice([0, 1, 6, 7, 9, 10, 11, 999])


def _nodes(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = model.graph.node
    if rng.random() < 0.5:
        nodes.append(rng.choice(nodes))
    else:
        del nodes[rng.randrange(len(nodes))]
    if not nodes:
        nodes.append(helper.make_node("Relu", ["x"], ["y"]))


def _names(model: onnx.ModelProto, rng: random.Random) -> None:
    item = rng.choice([*model.graph.node, *model.graph.initializer, *model.graph.input])
    item.name = rng.choice(WORDS)


def _versions(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.opset_import:
        return
    model.opset_import[0].version = rng.choice([0, 1, 6, 7, 9, 11, 13, 22, 24, 99, -1])


_CHANGES = (_attribute, _attribute, _operator, _wiring, _tensor, _tensor, _interface, _nodes, _names, _versions)
