"""Ghost modules: channels beside a depthwise convolution of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import assert_rewritten_exactly, graph, node, operators


def module(inputs=4, kernel=3, dilation=1, bias=True, relu=(True, True), order=("y", "ghost"), outputs=()):
    """Conv [Relu] depthwise Conv [Relu] Concat."""
    rng = np.random.default_rng(0)
    constants = {
        "first.weight": rng.normal(size=(6, inputs, 1, 1)),
        "ghost.weight": rng.normal(size=(6, 1, kernel, kernel)),
        "first.bias": rng.normal(size=6),
        "ghost.bias": rng.normal(size=6),
    }
    attributes = {"group": 6, "pads": [(kernel - 1) * dilation // 2] * 4, "dilations": [dilation] * 2}
    names = ["linear" if relu[0] else "y", "sum" if relu[1] else "ghost"]
    nodes = [
        node("Conv", ["input", "first.weight", *["first.bias"] * bias], names[0]),
        *[node("Relu", ["linear"], "y")] * relu[0],
        node("Conv", ["y", "ghost.weight", *["ghost.bias"] * bias], names[1], **attributes),
        *[node("Relu", ["sum"], "ghost")] * relu[1],
        node("Concat", list(order), "output", axis=1),
    ]
    used = {name for each in nodes for name in each.input}
    kept = {name: array for name, array in constants.items() if name in used}
    return graph(nodes, {"input": (2, inputs, 7, 8)}, ["output", *outputs], kept)


@settings(deadline=None, max_examples=20)
@given(
    inputs=st.integers(1, 16),
    kernel=st.sampled_from([1, 3, 5]),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    relu=st.sampled_from([(True, True), (True, False), (False, False)]),
)
def test_carrying_through_changes_no_result(inputs, kernel, dilation, bias, relu):
    model = module(inputs, kernel, dilation, bias, relu)
    assert_rewritten_exactly(model, skip=("merge-chains", "fold-scale-shift"))
    assert "Concat" not in operators(model)


@pytest.mark.parametrize(
    "arguments",
    [
        {"inputs": 17},
        {"relu": (False, True)},
        {"order": ("ghost", "y")},
        {"order": ("y", "y")},
        {"outputs": ("y",)},
        {"outputs": ("ghost",)},
    ],
    ids=["too many sums", "a Relu behind only", "other order", "no ghost", "read from outside", "ghost from outside"],
)
def test_concats_that_cannot_be_carried_through_stay(arguments):
    model = module(**arguments)
    assert_rewritten_exactly(model)
    assert "Concat" in operators(model)
