"""Arithmetic with constants folded into the operator before it."""

from __future__ import annotations

import numpy as np
import pytest
from rewrite_graphs import assert_rewritten_exactly, graph, node, operators

CHANNELS = np.array([0.5, -2.0, 3.0, 1e-3, 7.0]).reshape(1, 5, 1, 1)
CONSTANTS = {"scalar": np.array(0.3), "one": np.array([-1.7]), "channels": CHANNELS, "channels3": CHANNELS[0]}


def conv_then(op, inputs, constants):
    rng = np.random.default_rng(1)
    constants = {"weight": rng.normal(size=(5, 4, 3, 3)), **constants}
    nodes = [node("Conv", ["input", "weight"], "conv", pads=[1] * 4), node(op, inputs, "output")]
    return graph(nodes, {"input": (2, 4, 6, 6)}, ["output"], constants)


@pytest.mark.parametrize("name", CONSTANTS)
@pytest.mark.parametrize(
    ("op", "first"),
    [("Add", False), ("Add", True), ("Sub", False), ("Sub", True), ("Mul", False), ("Mul", True), ("Div", False)],
)
def test_constants_per_channel_or_single(op, first, name):
    model = conv_then(op, ["c", "conv"] if first else ["conv", "c"], {"c": CONSTANTS[name]})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv"]


@pytest.mark.parametrize(
    ("op", "inputs", "constant"),
    [
        ("Div", ["c", "conv"], np.array(2.0)),  # a reciprocal
        ("Mul", ["conv", "c"], np.arange(6.0)),  # along the width
        ("Mul", ["conv", "c"], np.arange(6.0).reshape(6, 1)),  # along the height
        ("Add", ["conv", "c"], np.arange(30.0).reshape(5, 6, 1)),  # along two axes
        ("Add", ["conv", "c"], np.arange(2.0).reshape(2, 1, 1, 1)),  # along the batch
        ("Add", ["conv", "c"], np.ones((1, 1, 1, 1, 1))),  # adds an axis
        ("Div", ["conv", "c"], np.array(0.0)),
    ],
)
def test_what_is_not_per_channel_stays(op, inputs, constant):
    model = conv_then(op, inputs, {"c": constant})
    if op == "Div" and inputs[1] == "c":
        from edgeconv.rewrite import optimize

        optimize(model)  # its values are infinite: nothing to compare
    else:
        assert_rewritten_exactly(model)
    assert operators(model) == ["Conv", op]


def test_a_matmul_of_higher_rank_keeps_one_add():
    rng = np.random.default_rng(2)
    constants = {name: rng.normal(size=5) for name in ("bias", "scale", "offset")} | {"w": rng.normal(size=(4, 5))}
    nodes = [
        node("MatMul", ["input", "w"], "product"),
        node("Add", ["bias", "product"], "linear"),
        node("Mul", ["linear", "scale"], "scaled"),
        node("Sub", ["scaled", "offset"], "output"),
    ]
    model = graph(nodes, {"input": (2, 3, 4)}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["MatMul", "Add"]


def test_a_bias_that_two_operators_share_is_copied():
    rng = np.random.default_rng(3)
    constants = {"w": rng.normal(size=(4, 5)), "bias": rng.normal(size=5), "scale": rng.normal(size=5)}
    nodes = [
        node("Gemm", ["input", "w", "bias"], "fc"),
        node("Mul", ["fc", "scale"], "scaled"),
        node("Gemm", ["input", "w", "bias"], "again", alpha=2.0),
        node("Add", ["scaled", "again"], "output"),
    ]
    model = graph(nodes, {"input": (2, 4)}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Gemm", "Gemm", "Add"]
