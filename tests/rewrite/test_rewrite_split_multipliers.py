"""Depthwise convolutions of several outputs per channel, before operators that absorb another order of channels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import assert_rewritten_exactly, graph, node, operators

CHANNELS = 8


def block(behind, count=2, kernel=3, stride=1, bias=True, outputs=("output",)):
    """A depthwise Conv, and the nodes behind its result ``wide``."""
    rng = np.random.default_rng(0)
    constants = {
        "dw.weight": rng.normal(size=(CHANNELS * count, 1, kernel, kernel)),
        "dw.bias": rng.normal(size=CHANNELS * count),
        "pw.weight": rng.normal(size=(5, CHANNELS * count, 1, 1)),
        "pw.bias": rng.normal(size=5),
        "half": np.array(0.5),
        "per_channel": rng.normal(size=(CHANNELS * count, 1, 1)),
    }
    inputs = ["input", "dw.weight", *["dw.bias"] * bias]
    attributes = {"group": CHANNELS, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
    nodes = [node("Conv", inputs, "wide", **attributes), *behind]
    used = {name for each in nodes for name in each.input}
    kept = {name: array for name, array in constants.items() if name in used}
    return graph(nodes, {"input": (2, CHANNELS, 6, 7)}, list(outputs), kept)


def pointwise(source, output="output"):
    return node("Conv", [source, "pw.weight", "pw.bias"], output)


GATED = [
    node("Mul", ["wide", "half"], "scaled"),
    node("Tanh", ["scaled"], "gate"),
    node("Mul", ["wide", "gate"], "gated"),
    pointwise("gated"),
]


@settings(deadline=None, max_examples=20)
@given(
    count=st.integers(1, 5),
    kernel=st.sampled_from([1, 3, 4]),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    behind=st.sampled_from([GATED, [pointwise("wide")], [node("Relu", ["wide"], "act"), pointwise("act")]]),
)
def test_split_multipliers_change_no_result(count, kernel, stride, bias, behind):
    model = block(behind, count, kernel, stride, bias)
    assert_rewritten_exactly(model, skip=("merge-chains",))
    assert operators(model).count("Concat") == (2 <= count <= 4)


def test_a_split_with_two_readers_is_joined_again():
    behind = [pointwise("wide", "one"), node("Relu", ["wide"], "act"), pointwise("act", "two")]
    model = block(behind, outputs=("one", "two"))
    assert_rewritten_exactly(model, skip=("merge-chains",))
    assert operators(model)[:3] == ["Conv", "Conv", "Concat"]


@pytest.mark.parametrize(
    ("behind", "outputs"),
    [
        ([node("Relu", ["wide"], "output")], ("output",)),
        ([pointwise("wide")], ("output", "wide")),
        ([node("ReduceMax", ["wide"], "output")], ("output",)),
        ([node("Mul", ["wide", "per_channel"], "act"), node("Relu", ["act"], "b"), pointwise("b")], ("output",)),
        ([node("Relu", ["wide"], "act"), pointwise("act"), node("Softmax", ["wide"], "b", axis=1)], ("output", "b")),
    ],
    ids=["graph output", "read from outside", "a maximum over all", "other numbers per channel", "over channels"],
)
def test_channels_whose_order_matters_stay(behind, outputs):
    model = block(behind, outputs=outputs)
    assert_rewritten_exactly(model, skip=("fold-scale-shift",))
    assert "Concat" not in operators(model)
