"""Zero channels for depthwise convolutions between two others."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import evaluate, graph, node

from edgeconv.emit.onnx._pad_channels import pad_channels


def row(channels, stride=1, bias=True, activation="Relu", groups=1, outputs=("output",)):
    """Conv, activation, depthwise Conv, activation, Conv."""
    rng = np.random.default_rng(0)
    constants = {
        "a.weight": rng.normal(size=(channels, 4 // groups, 1, 1)),
        "b.weight": rng.normal(size=(channels, 1, 3, 3)),
        "c.weight": rng.normal(size=(5, channels, 1, 1)),
        "a.bias": rng.normal(size=channels),
        "b.bias": rng.normal(size=channels),
        "c.bias": rng.normal(size=5),
    }
    convolution = {"group": channels, "strides": [stride] * 2, "pads": [1] * 4}
    nodes = [
        node("Conv", ["input", "a.weight", *["a.bias"] * bias], "a", group=groups),
        node(activation, ["a"], "act"),
        node("Conv", ["act", "b.weight", *["b.bias"] * bias], "b", **convolution),
        node(activation, ["b"], "act_b"),
        node("Conv", ["act_b", "c.weight", *["c.bias"] * bias], "output"),
    ]
    used = {name for each in nodes for name in each.input}
    kept = {name: array for name, array in constants.items() if name in used}
    return graph(nodes, {"input": (2, 4, 5, 6)}, list(outputs), kept)


@pytest.mark.parametrize("taken", [True, False])
def test_a_mask_that_is_taken_keeps_its_channels(taken):
    model = row(58)
    made = next(each for each in model.graph if each.op_type == "Relu")
    mask = ir.Value(name="mask", type=ir.TensorType(ir.DataType.BOOL), shape=made.outputs[0].shape)
    dropout = ir.Node("", "Dropout", [made.inputs[0]], outputs=[made.outputs[0].__class__(name="kept"), mask])
    dropout.outputs[0].type, dropout.outputs[0].shape = made.outputs[0].type, made.outputs[0].shape
    model.graph.insert_before(made, dropout)
    made.replace_input_with(0, dropout.outputs[0])
    if taken:
        model.graph.outputs.append(mask)
    assert pad_channels(model.graph) != taken


@settings(deadline=None, max_examples=15)
@given(
    channels=st.sampled_from([15, 29, 58, 116]),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    activation=st.sampled_from(["Relu", "Sigmoid", "HardSwish"]),
)
def test_padded_channels_change_no_result(channels, stride, bias, activation):
    model = row(channels, stride, bias, activation)
    feeds = {"input": np.random.default_rng(1).normal(size=(2, 4, 5, 6))}
    before = evaluate(model, feeds)
    assert pad_channels(model.graph)
    after = evaluate(model, feeds)
    assert {array.shape[1] % 16 for name, array in after.items() if name != "output"} == {0}
    np.testing.assert_allclose(after["output"], before["output"], rtol=1e-12, atol=1e-12)
    assert not after.keys() & before.keys() - {"output"}, "no value is called what it no longer is"
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
    assert not pad_channels(model.graph)


@pytest.mark.parametrize(
    "arguments",
    [{"channels": 24}, {"channels": 17}, {"channels": 58, "outputs": ("output", "act")}, {"channels": 58, "groups": 2}],
    ids=["a multiple of 8", "too many more", "read from outside", "groups"],
)
def test_channels_that_gain_nothing_are_not_padded(arguments):
    assert not pad_channels(row(**arguments).graph)
