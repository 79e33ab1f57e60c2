"""Networks that hold what an `.onnx` file may hold: each part has a place from which mutants take it elsewhere."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
_SHAPE = [1, 3, 8, 8]


def _model(nodes: list[Any], constants: dict[str, Any], rng: random.Random, **more: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, _SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", rng.choice([13, 17, 18, 21])), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **more)


def _branch(name: str, op: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
    return helper.make_graph([node(op, ["x"], [f"{name}_out"])], name, [], [out])


def with_subgraphs(rng: random.Random) -> onnx.ModelProto:
    """If of a constant or a computed condition, and a Loop."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["cond"], ["go"]), node("Add", ["state", "one"], ["next"])],
        "body",
        [info("i", TensorProto.INT64, []), info("cond", TensorProto.BOOL, []), info("state", TensorProto.FLOAT, None)],
        [info("go", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, None)],
    )
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "one"], ["computed"]),
        node(
            "If",
            [rng.choice(("true", "computed"))],
            ["v"],
            then_branch=_branch("t", "Relu"),
            else_branch=_branch("e", "Neg"),
        ),
        node("Loop", ["count", "true", "v"], ["y"], body=body),
    ]
    return _model(nodes, {"true": np.array(True), "one": np.float32(1), "count": np.array(3, np.int64)}, rng)


def with_functions(rng: random.Random) -> onnx.ModelProto:
    """Two functions, of which one calls the other, and attributes that are handed on."""
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    inner = helper.make_function("f", "Inner", ["a"], ["b"], [node("LeakyRelu", ["a"], ["b"], alpha=0.1)], opset)
    leaky = node("LeakyRelu", ["c"], ["b"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    outer = helper.make_function(
        "f", "Outer", ["a"], ["b"], [node("Inner", ["a"], ["c"], domain="f"), leaky], opset, ["slope"]
    )
    nodes = [node("Outer", ["x"], ["v"], domain="f", slope=0.2), node("Inner", ["v"], ["y"], domain="f")]
    return _model(nodes, {}, rng, functions=[inner, outer])


def with_parts(rng: random.Random) -> onnx.ModelProto:
    """Sparse and external weights, annotations, metadata, training information, stated values, doc strings."""
    model = _model(
        [node("Conv", ["x", "w"], ["v"], name="conv"), node("Mul", ["v", "k"], ["y"], name="scale")],
        {"w": np.ones((4, 3, 3, 3), np.float32), "k": np.ones((1, 4, 1, 1), np.float32)},
        rng,
    )
    graph = model.graph
    values = numpy_helper.from_array(np.ones(2, np.float32), "s")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0, 5], np.int64), "at"), [8])
    external = TensorProto(name="e", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "in.onnx.data"), ("offset", "0"), ("length", "16")):
        external.external_data.add(key=key, value=value)
    wanted = rng.randrange(3)
    if wanted == 0:
        graph.sparse_initializer.append(sparse)
    elif wanted == 1:
        graph.initializer.append(external)
    graph.quantization_annotation.add(tensor_name="v").quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="k")
    graph.value_info.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 4, 6, 6]))
    model.metadata_props.add(key="names", value='{"x": 1}')
    graph.node[0].metadata_props.add(key="namespace", value="a/b")
    graph.doc_string, model.producer_name = "words", "someone"
    training = model.training_info.add()
    training.initialization.CopyFrom(_branch("init", "Identity"))
    training.algorithm.CopyFrom(_branch("step", "Identity"))
    training.update_binding.add(key="w", value="step_out")
    return model


def quantized(rng: random.Random) -> onnx.ModelProto:
    """A convolution between QuantizeLinear and DequantizeLinear, its weights stored as integers."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], axis=0),
        node("Conv", ["d", "dw"], ["c"]),
        node("QuantizeLinear", ["c", "s", "z"], ["qc"]),
        node("DequantizeLinear", ["qc", "s", "z"], ["y"]),
    ]
    constants = {
        "s": np.float32(0.05),
        "z": np.int8(3),
        "w": np.ones((4, 3, 3, 3), np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
    }
    return _model(nodes, constants, rng)


def of_sequences(rng: random.Random) -> onnx.ModelProto:
    """Recurrent layers, operators of several outputs, and those of many options."""
    long = np.int64
    chains: tuple[tuple[list[Any], dict[str, Any]], ...] = (
        (
            [
                node("Reshape", ["x", "rows"], ["r"]),
                node("LSTM", ["r", "w", "u", "b"], ["v", "h", "c"], hidden_size=4),
                node("Squeeze", ["v", "axis"], ["y"]),
            ],
            {
                "rows": np.array([3, 8, 8], long),
                "w": np.ones((1, 16, 8), np.float32),
                "u": np.ones((1, 16, 4), np.float32),
                "b": np.zeros((1, 32), np.float32),
                "axis": np.array([1], long),
            },
        ),
        (
            [
                node("Split", ["x", "parts"], ["a", "b"], axis=1),
                node("TopK", ["a", "k"], ["top", "at"], axis=3),
                node("Resize", ["b", "", "scales"], ["up"], mode="nearest"),
                node("MaxPool", ["up"], ["p", "where"], kernel_shape=[2, 2], strides=[2, 2]),
                node("Concat", ["p", "b"], ["y"], axis=1),
            ],
            {"parts": np.array([1, 2], long), "k": np.array([2], long), "scales": np.array([1, 1, 2, 2], np.float32)},
        ),
        (
            [
                node("Slice", ["x", "from", "to", "axes", "steps"], ["s"]),
                node("Einsum", ["s", "x"], ["e"], equation="nchw,nchw->nhw"),
                node("Where", ["mask", "e", "zero"], ["w"]),
                node("Unsqueeze", ["w", "axes"], ["y"]),
            ],
            {
                "from": np.array([0], long),
                "to": np.array([8], long),
                "axes": np.array([2], long),
                "steps": np.array([1], long),
                "mask": np.ones((1, 8, 8), np.bool_),
                "zero": np.float32(0),
            },
        ),
    )
    return _model(*rng.choice(chains), rng)


BASES = (with_subgraphs, with_functions, with_parts, quantized, of_sequences)
