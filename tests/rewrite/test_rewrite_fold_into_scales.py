"""Affine maps behind weights of integers go into their scales and biases; the integers stay what they are.

Members: Conv (grouped, depthwise), ConvTranspose, Gemm of both layouts, MatMul of ranks 2 and 3; one scale and one per
channel; zero points; BatchNormalization and chains of arithmetic; factors below zero, with integers whose negative the
type has not; a factor of zero; a result or a weight that others read; weights that are turned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from rewrite_graphs import batch_norm, graph, node, operators, statistics

from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize

# operator -> shapes of input and weight, the weight's axis of output channels, attributes, number of output channels
LINEAR: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, dict[str, Any], int]] = {
    "Conv": ((2, 3, 5, 5), (4, 3, 3, 3), 0, {"pads": [1, 1, 1, 1]}, 4),
    "Conv of groups": ((2, 4, 5, 5), (8, 2, 3, 3), 0, {"group": 2, "strides": [2, 2]}, 8),
    "Conv of depth": ((2, 4, 5, 5), (4, 1, 3, 3), 0, {"group": 4}, 4),
    "ConvTranspose": ((2, 3, 4, 4), (3, 4, 2, 2), 1, {"strides": [2, 2]}, 4),
    "Gemm": ((2, 3), (3, 4), 1, {}, 4),
    "Gemm turned": ((2, 3), (4, 3), 0, {"transB": 1}, 4),
}


def _model(name: str, rng: np.random.Generator, per_channel: bool, factors: np.ndarray, lowest: int = -127) -> ir.Model:
    shape, weight, axis, attributes, channels = LINEAR[name]
    count = channels if per_channel else 1
    sizes = (count,) if per_channel else ()
    along = (1, channels, *[1] * (len(shape) - 2))
    constants: dict[str, np.ndarray] = {
        "w.q": rng.integers(lowest, 128, weight).astype(np.int8),
        "w.s": rng.uniform(0.01, 0.2, sizes).astype(np.float32),
        "w.z": np.zeros(sizes, np.int8),
        "b": rng.normal(size=channels).astype(np.float32),
        "k": factors.reshape(along).astype(np.float32),
        "t": rng.normal(size=along).astype(np.float32),
    }
    nodes = [
        node("DequantizeLinear", ["w.q", "w.s", "w.z"], "w", **({"axis": axis} if per_channel else {})),
        node(name.split()[0], ["x", "w", "b"], "y", **attributes),
        node("Mul", ["y", "k"], "scaled"),
        node("Sub", ["t", "scaled"], "output"),
    ]
    return graph(nodes, {"x": shape}, ["output"], constants, TensorProto.FLOAT)


def _same(model: ir.Model, seed: int = 0) -> ir.Model:
    before = model.clone()
    shape = model.graph.inputs[0].shape
    assert shape is not None
    feed = {"x": np.random.default_rng(seed).normal(size=tuple(shape.numpy())).astype(np.float32)}
    after = optimize(model)
    expected, computed = (evaluate(each, feed)["output"] for each in (before, after))
    np.testing.assert_allclose(computed, expected, rtol=2e-6, atol=2e-6 * float(np.abs(expected).max()))
    return after


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(list(LINEAR)), per_channel=st.booleans(), seed=st.integers(0, 1000))
def test_arithmetic_behind_integers_is_in_their_scales(name: str, per_channel: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    factors = rng.uniform(0.1, 3, LINEAR[name][4]) * rng.choice([-1, 1], LINEAR[name][4])
    after = _same(_model(name, rng, per_channel, factors), seed)
    assert operators(after) == ["DequantizeLinear", name.split()[0]]


def test_integers_are_kept_and_equal_factors_leave_one_scale() -> None:
    rng = np.random.default_rng(1)
    model = _model("Conv", rng, False, np.full(4, -2.0))  # and the Sub changes the sign again
    integers = model.graph.initializers["w.q"].const_value
    after = _same(model)
    (dequantize, _) = after.graph
    kept, scale = (dequantize.inputs[index] for index in (0, 1))
    assert kept is not None
    assert scale is not None
    assert integers is not None
    assert kept.const_value is not None
    np.testing.assert_array_equal(kept.const_value.numpy(), integers.numpy())
    assert scale.shape == ()


def test_a_batch_norm_behind_integers_is_folded() -> None:
    rng = np.random.default_rng(2)
    shape, weight, _, attributes, channels = LINEAR["Conv"]
    constants = {
        "w.q": rng.integers(-127, 128, weight).astype(np.int8),
        "w.s": np.float32(0.03),
        "w.z": np.int8(0),
        **{name: array.astype(np.float32) for name, array in statistics(rng, channels).items()},
    }
    nodes = [
        node("DequantizeLinear", ["w.q", "w.s", "w.z"], "w"),
        node("Conv", ["x", "w"], "y", **attributes),
        batch_norm("y", "output"),
    ]
    assert operators(_same(graph(nodes, {"x": shape}, ["output"], constants, TensorProto.FLOAT))) == [
        "DequantizeLinear",
        "Conv",
    ]


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("shifted", [True, False])
def test_products_with_turned_weights(rank: int, shifted: bool) -> None:
    """torch holds the weights of linear layers turned; a MatMul has no bias for what is added."""
    rng = np.random.default_rng(3)
    constants = {
        "w.q": rng.integers(-127, 128, (4, 3)).astype(np.int8),
        "w.s": rng.uniform(0.01, 0.2, 4).astype(np.float32),
        "w.z": np.zeros(4, np.int8),
        "k": rng.uniform(0.5, 2, 4).astype(np.float32),
    }
    nodes = [
        node("DequantizeLinear", ["w.q", "w.s", "w.z"], "w", axis=0),
        node("Transpose", ["w"], "turned", perm=[1, 0]),
        node("MatMul", ["x", "turned"], "y"),
        node("Add" if shifted else "Mul", ["y", "k"], "output"),
    ]
    after = _same(graph(nodes, {"x": (2, 5, 3)[-rank:]}, ["output"], constants, TensorProto.FLOAT))
    assert operators(after) == ["DequantizeLinear", "MatMul", *(["Add"] if shifted else [])]


@pytest.mark.parametrize("why", ["no negative", "zero", "result is read", "weight is read"])
def test_what_cannot_be_said_by_scales_stays(why: str) -> None:
    rng = np.random.default_rng(4)
    factors = np.array([1.0, 2.0, 0.0 if why == "zero" else 3.0, 1.0])
    model = _model("Conv", rng, True, factors, lowest=-128)
    constant = model.graph.initializers["w.q"]
    assert constant.const_value is not None
    integers = constant.const_value.numpy().copy()
    integers.flat[0] = -128 if why == "no negative" else -5
    constant.const_value = ir.tensor(np.maximum(integers, -128 if why == "no negative" else -127), name="w.q")
    values = {value.name: value for each in model.graph for value in each.outputs}
    if why in ("result is read", "weight is read"):
        model.graph.outputs.append(values["y" if why == "result is read" else "w"])
    kept = [operator for operator in operators(_same(model)) if operator in ("Mul", "Sub")]
    assert kept, why


def test_a_bias_per_row_is_no_bias_per_channel() -> None:
    rng = np.random.default_rng(5)
    constants = {
        "w.q": rng.integers(-127, 128, (3, 2)).astype(np.int8),
        "w.s": np.float32(0.1),
        "b": np.array([[1.0], [10.0]], np.float32),
        "k": np.array([2.0, 3.0], np.float32),
    }
    nodes = [
        node("DequantizeLinear", ["w.q", "w.s"], "w"),
        node("Gemm", ["x", "w", "b"], "y"),
        node("Mul", ["y", "k"], "output"),
    ]
    _same(graph(nodes, {"x": (2, 3)}, ["output"], constants, TensorProto.FLOAT))


def test_scales_beyond_those_of_a_plan_are_not_stored() -> None:
    constants = {
        "w.q": np.ones((4, 3), np.int8), "w.s": np.float32(2.0**120), "k": np.full(4, 2.0**7.5, np.float32)
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", ["w.q", "w.s"], "w"),
        node("Gemm", ["x", "w"], "y", transB=1),
        node("Mul", ["y", "k"], "output"),
    ]
    model = optimize(graph(nodes, {"x": (2, 3)}, ["output"], constants, TensorProto.FLOAT))
    assert "Mul" in operators(model)
