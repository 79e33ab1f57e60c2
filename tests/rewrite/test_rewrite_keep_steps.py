"""Results that are on the steps of a scale say so, and no others.

Members: ReLU, max pools, moves one after another; pads with zeros and with others; pairs whose two halves differ in
scale or zero point; joins of several values; sequences; results that are rounded already or read as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto
from rewrite_graphs import graph, node, operators

from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize

_PAIR = ["QuantizeLinear", "DequantizeLinear"]
_CONSTANTS: dict[str, np.ndarray] = {
    "s": np.float32(0.1), "s2": np.float32(0.07), "z": np.int8(3), "z2": np.int8(-50),
    "shape": np.array([1, -1]), "pads": np.array([0, 0, 1, 0, 0, 0, 0, 1]), "zero": np.float32(0),
    "fill": np.float32(0.5),
}  # fmt: skip
KEEP: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "Relu": ("Relu", [], {}),
    "MaxPool": ("MaxPool", [], {"kernel_shape": [2, 2]}),
    "GlobalMaxPool": ("GlobalMaxPool", [], {}),
    "Reshape": ("Reshape", ["shape"], {}),
    "Transpose": ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    "Pad with zeros": ("Pad", ["pads", "zero"], {}),
}
OTHERS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "Neg": ("Neg", [], {}),
    "LeakyRelu": ("LeakyRelu", [], {}),
    "AveragePool": ("AveragePool", [], {"kernel_shape": [2, 2]}),
    "Pad with others": ("Pad", ["pads", "fill"], {}),
}


def _model(kind: tuple[str, list[str], dict[str, Any]], second: tuple[str, str] = ("s", "z")) -> ir.Model:
    operator, others, attributes = kind
    nodes: list[onnx.NodeProto] = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("DequantizeLinear", ["q", *second], "d"),
        node(operator, ["d", *others], "y", **attributes),
        node("Tanh", ["y"], "output"),
    ]
    return graph(nodes, {"x": (1, 3, 4, 4)}, ["output"], _CONSTANTS, TensorProto.FLOAT)


def _optimized(model: ir.Model) -> ir.Model:
    feed = {"x": 3 * np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)}
    before = evaluate(model, feed)["output"]
    after = optimize(model)
    np.testing.assert_array_equal(evaluate(after, feed)["output"], before)
    return after


@pytest.mark.parametrize("name", KEEP)
def test_what_moves_or_picks_keeps_the_steps(name: str) -> None:
    assert operators(_optimized(_model(KEEP[name]))) == [*_PAIR, KEEP[name][0], *_PAIR, "Tanh"]


@pytest.mark.parametrize("name", OTHERS)
def test_what_computes_does_not(name: str) -> None:
    assert operators(_optimized(_model(OTHERS[name]))).count("QuantizeLinear") == 1


@pytest.mark.parametrize("second", [("s2", "z"), ("s", "z2")])
def test_halves_of_a_pair_that_differ_are_no_steps(second: tuple[str, str]) -> None:
    """Rounding again by the first half's scale would change what the second gave."""
    assert operators(_optimized(_model(KEEP["Relu"], second))).count("QuantizeLinear") == 1


def test_zero_points_that_are_computed_are_not_taken_for_equal() -> None:
    nodes = [
        node("ReduceMax", ["x"], "most", keepdims=0),
        node("ReduceMin", ["x"], "least", keepdims=0),
        node("Cast", ["most"], "high", to=TensorProto.INT8),
        node("Cast", ["least"], "low", to=TensorProto.INT8),
        node("QuantizeLinear", ["x", "s", "high"], "q"),
        node("DequantizeLinear", ["q", "s", "low"], "d"),
        node("Relu", ["d"], "y"),
        node("Tanh", ["y"], "output"),
    ]
    model = graph(nodes, {"x": (1, 3, 4, 4)}, ["output"], _CONSTANTS, TensorProto.FLOAT)
    assert operators(_optimized(model)).count("QuantizeLinear") == 1


def test_sequences_are_not_rounded() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "d"),
        node("SplitToSequence", ["d"], "parts", axis=1),
        node("SequenceAt", ["parts", "i"], "output"),
    ]
    inputs = {"x": (1, 3, 4, 4)}
    model = graph([*nodes[:2], node("Relu", ["d"], "output")], inputs, ["output"], _CONSTANTS, TensorProto.FLOAT)
    proto = ir.to_proto(model)
    del proto.graph.node[2:]
    proto.graph.node.extend(nodes[2:])
    proto.graph.input.append(onnx.helper.make_tensor_value_info("i", TensorProto.INT64, []))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    optimized = optimize(ir.from_proto(onnx.shape_inference.infer_shapes(proto)))
    assert operators(optimized).count("QuantizeLinear") == 1
