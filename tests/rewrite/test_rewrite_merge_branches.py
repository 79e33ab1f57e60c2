"""Sums of convolutions, pools and scaled copies of one value become one convolution."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rewrite_blocks import BLOCKS, ConvFFN
from rewrite_graphs import (
    assert_rewritten_exactly,
    batch_norm,
    cast,
    constant,
    graph,
    node,
    operators,
    statistics,
)
from test_rewrite_captured import randomise

from edgeconv.capture import capture
from edgeconv.rewrite import optimize

SUMS = {"Add", "Sub", "Sum"}


def captured(module, channels):
    x = torch.randn(2, channels, 9, 9)
    model = capture(randomise(module), (x,), input_names=["image"], output_names=["result"])
    return cast(model, onnx.TensorProto.DOUBLE)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_as_trained_come_out_merged(name):
    make, expected = BLOCKS[name]
    module = make()
    channels = 4 if name in ("repvgg-down", "repghost") else next(module.parameters()).shape[0]
    model = captured(module, channels)
    assert_rewritten_exactly(model)
    assert operators(model) == expected


def test_a_residual_branch_behind_an_activation_stays_an_addition():
    model = captured(ConvFFN(6), 6)
    assert_rewritten_exactly(model)
    found = operators(model)
    assert [found.count(op) for op in ("Conv", "BatchNormalization")] == [3, 0]
    assert found[-1] == "Add"
    assert list(model.graph[0].attributes["kernel_shape"].as_ints()) == [7, 7]


def build(branches, ops, *, channels=4, size=(7, 8), outputs=("output",), seed=1):
    """A sum of branches of "input": each (kind, numbers) with the operators between them."""
    rng = np.random.default_rng(seed)
    nodes, constants, values = [], {}, []
    for index, (op, attributes, extra) in enumerate(branches):
        name = f"branch{index}"
        shapes = extra.get("shapes", {})
        made = {f"{name}.{key}": rng.normal(size=shape) for key, shape in shapes.items()}
        constants |= made
        if op == "BatchNormalization":
            constants |= statistics(rng, channels, name)
            nodes.append(batch_norm("input", name, name))
        elif op != "Identity":
            inputs = [f"{name}.{key}" for key in shapes]
            nodes.append(node(op, ["input", *inputs], name, **attributes))
        values.append("input" if op == "Identity" else name)
    total = values[0]
    for index, (op, value) in enumerate(zip(ops, values[1:], strict=True)):
        last = index == len(ops) - 1
        nodes.append(node(op, [total, value], "output" if last else f"sum{index}"))
        total = nodes[-1].output[0]
    return graph(nodes, {"input": (2, channels, *size)}, outputs, constants)


@st.composite
def branch(draw, stride, groups):
    """A branch that keeps the plane of stride-1 and halves it as stride-2 convolutions with "same" padding do."""
    kinds = ["conv", "conv", "pool"] + (["norm", "scale", "identity"] if stride == (1, 1) else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "norm":
        return "BatchNormalization", {}, {}
    if kind == "scale":
        return "Mul", {}, {"shapes": {"c": (1, 4, 1, 1)}}
    if kind == "identity":
        return "Identity", {}, {}
    kernel = [draw(st.sampled_from([1, 3, 5])) for _ in range(2)]
    dilations = [draw(st.sampled_from([1, 1, 2])) if kind == "conv" else 1 for _ in range(2)]
    half = [(size - 1) // 2 * step for size, step in zip(kernel, dilations, strict=True)]
    attributes = {"pads": [*half, *half], "strides": list(stride)}
    if kind == "pool":
        return "AveragePool", {"kernel_shape": kernel, "count_include_pad": 1, **attributes}, {}
    group = draw(st.sampled_from(groups))
    shapes = {"weight": (4, 4 // group, *kernel)} | ({"bias": (4,)} if draw(st.booleans()) else {})
    return "Conv", {"dilations": dilations, "group": group, **attributes}, {"shapes": shapes}


@settings(deadline=None, max_examples=60)
@given(data=st.data(), stride=st.tuples(st.integers(1, 2), st.integers(1, 2)), count=st.integers(2, 5))
def test_any_sum_computes_the_same_and_costs_no_more(data, stride, count):
    groups = data.draw(st.sampled_from([[1], [2], [4], [1, 2, 4]]))
    branches = [data.draw(branch(stride, groups)) for _ in range(count)]
    ops = [data.draw(st.sampled_from(["Add", "Sub"])) for _ in range(count - 1)]
    assume(not all(op == "Identity" for op, _, _ in branches))
    model = build(branches, ops, size=(data.draw(st.integers(6, 9)), 7))
    before = cost(model)
    assert_rewritten_exactly(model, rtol=1e-12)
    assert cost(model) <= before


def cost(model):
    """Multiply-adds per output position, an addition or a scale counting as one for each channel."""
    total = 0
    for item in model.graph:
        channels = item.outputs[0].shape[1]
        if item.op_type == "Conv":
            total += math.prod(item.inputs[1].shape)
        elif item.op_type == "AveragePool":
            total += channels * math.prod(item.attributes["kernel_shape"].as_ints())
        else:
            total += channels
    return total


DENSE = ("Conv", {"pads": [1] * 4}, {"shapes": {"weight": (4, 4, 3, 3), "bias": (4,)}})
POINT = ("Conv", {}, {"shapes": {"weight": (4, 4, 1, 1)}})
DEPTHWISE = ("Conv", {"pads": [1] * 4, "group": 4}, {"shapes": {"weight": (4, 1, 3, 3)}})
LARGE = ("Conv", {"pads": [3] * 4, "group": 4}, {"shapes": {"weight": (4, 1, 7, 7), "bias": (4,)}})
NORM = ("BatchNormalization", {}, {})
SAME = ("Identity", {}, {})

MERGE = {
    "dense and depthwise": [DENSE, DEPTHWISE],
    "large and small depthwise": [LARGE, DEPTHWISE, NORM, SAME],
    "identity into depthwise": [SAME, DEPTHWISE],
    "identity into pointwise": [NORM, POINT],
    "pointwise that says that it pads nothing": [
        POINT,
        ("Conv", {"auto_pad": "VALID"}, {"shapes": {"weight": (4, 4, 1, 1)}}),
    ],
    "equally dilated": [
        ("Conv", {"pads": [2] * 4, "dilations": [2, 2]}, {"shapes": {"weight": (4, 4, 3, 3)}}),
        ("Conv", {"pads": [4] * 4, "dilations": [2, 2]}, {"shapes": {"weight": (4, 4, 5, 5)}}),
        SAME,
    ],
}


@pytest.mark.parametrize("name", MERGE)
def test_what_merges_as_a_whole(name):
    model = build(MERGE[name], ["Add"] * (len(MERGE[name]) - 1))
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv"]


def test_dilation_is_kept_where_it_is_common():
    model = optimize(build(MERGE["equally dilated"], ["Add", "Add"]))
    assert list(model.graph[0].attributes["dilations"].as_ints()) == [2, 2]
    assert constant(model, "output.weight").shape == (4, 4, 5, 5)


def test_a_pointwise_takes_the_identity_but_no_depthwise():
    model = build([POINT, DEPTHWISE, NORM], ["Add", "Sub"])
    assert_rewritten_exactly(model)
    assert sorted(operators(model)) == ["Add", "Conv", "Conv"]


UNCOUNTED = ("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4}, {})
STAYS = {
    "an average that does not count its padding": [DENSE, UNCOUNTED],
    "wider dilation": [
        DENSE,
        ("Conv", {"pads": [4] * 4, "dilations": [4, 4]}, {"shapes": {"weight": (4, 4, 3, 3)}}),
    ],
    "copies without a window": [NORM, SAME],
}


@pytest.mark.parametrize("name", STAYS)
def test_branches_that_do_not_fit_stay_apart(name):
    model = build(STAYS[name], ["Add"])
    assert_rewritten_exactly(model)
    assert SUMS & set(operators(model))


def test_a_shift_before_padding_stays():
    rng = np.random.default_rng(5)
    nodes = [
        batch_norm("input", "bn"),
        node("Conv", ["bn", "weight"], "conv", pads=[1] * 4),
        node("Conv", ["input", "point"], "other"),
        node("Add", ["conv", "other"], "output"),
    ]
    weights = {"weight": rng.normal(size=(4, 4, 3, 3)), "point": rng.normal(size=(4, 4, 1, 1))}
    model = graph(nodes, {"input": (1, 4, 6, 6)}, ["output"], {**statistics(rng, 4), **weights})
    assert_rewritten_exactly(model)
    assert operators(model).count("Conv") == 2


def test_a_result_that_is_read_elsewhere_stays():
    model = build([DENSE, POINT], ["Add"], outputs=("output", "branch1"))
    assert_rewritten_exactly(model)
    assert sorted(operators(model)) == ["Add", "Conv", "Conv"]


def test_other_operands_of_the_sum_are_added_afterwards():
    rng = np.random.default_rng(6)
    nodes = [
        node("Conv", ["input", "w3"], "a", pads=[1] * 4),
        node("Conv", ["other", "w1"], "b"),
        node("Sub", ["a", "b"], "difference"),
        node("Conv", ["input", "w1"], "c"),
        node("Sum", ["difference", "c", "other"], "output"),
    ]
    weights = {"w3": rng.normal(size=(4, 4, 3, 3)), "w1": rng.normal(size=(4, 4, 1, 1))}
    model = graph(nodes, {"input": (1, 4, 6, 6), "other": (1, 4, 6, 6)}, ["output"], weights)
    assert_rewritten_exactly(model)
    assert sorted(operators(model)) == ["Add", "Conv", "Conv"]


def test_branches_of_one_dimension_are_merged():
    rng = np.random.default_rng(7)
    nodes = [
        node("Conv", ["input", "w"], "a", pads=[2, 2]),
        node("Conv", ["input", "p"], "b"),
        node("Add", ["a", "b"], "output"),
    ]
    weights = {"w": rng.normal(size=(4, 4, 5)), "p": rng.normal(size=(4, 2, 1))}
    nodes[1].attribute.append(onnx.helper.make_attribute("group", 2))
    model = graph(nodes, {"input": (2, 4, 11)}, ["output"], weights)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv"]


def test_a_broadcast_sum_stays():
    rng = np.random.default_rng(8)
    nodes = [
        node("GlobalAveragePool", ["input"], "pool"),
        node("Conv", ["pool", "p"], "gate"),
        node("Conv", ["input", "p"], "conv"),
        node("Add", ["conv", "gate"], "output"),
    ]
    model = graph(nodes, {"input": (2, 4, 5, 5)}, ["output"], {"p": rng.normal(size=(4, 4, 1, 1))})
    assert_rewritten_exactly(model)
    assert operators(model).count("Conv") == 2


def test_what_two_operands_became_takes_a_third():
    """Neither the dilated 5x5 nor the pool takes the 3x5 alone, but together they have all of its taps."""
    branches = [
        (
            "Conv",
            {"dilations": [1, 1], "group": 2, "pads": [1, 2, 1, 2], "strides": [1, 1]},
            {"shapes": {"weight": (4, 2, 3, 5)}},
        ),
        ("AveragePool", {"kernel_shape": [5, 5], "count_include_pad": 1, "pads": [2] * 4, "strides": [1, 1]}, {}),
        (
            "Conv",
            {"dilations": [1, 2], "group": 2, "pads": [2, 4, 2, 4], "strides": [1, 1]},
            {"shapes": {"weight": (4, 2, 5, 5)}},
        ),
    ]
    assert_rewritten_exactly(build(branches, ["Add", "Add"], size=(8, 7)), rtol=1e-12)
