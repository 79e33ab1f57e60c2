"""Two convolutions in a row, one of them pointwise, become one where that saves multiply-adds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import assert_rewritten_exactly, graph, node, operators

INPUT = {"input": (2, 4, 7, 8)}


def chain(*layers, inputs=None, outputs=None, seed=1):
    """Convolutions in a row, each (channels, kernel, attributes, bias)."""
    rng = np.random.default_rng(seed)
    nodes, constants, value, channels = [], {}, "input", 4
    for index, (width, kernel, attributes, bias) in enumerate(layers):
        names = [f"weight{index}"]
        constants[names[0]] = rng.normal(size=(width, channels // attributes.get("group", 1), *kernel))
        if bias:
            names.append(f"bias{index}")
            constants[names[1]] = rng.normal(size=width)
        output = "output" if index == len(layers) - 1 else f"value{index}"
        nodes.append(node("Conv", [value, *names], output, **attributes))
        value, channels = output, width
    return graph(nodes, inputs or INPUT, outputs or ["output"], constants)


def cost(model):
    """Multiply-adds of all convolutions."""
    return sum(math.prod(item.inputs[1].shape) * math.prod(item.outputs[0].shape[2:]) for item in model.graph)


SAME = {"pads": [1] * 4}
WINDOWS = st.fixed_dictionaries(
    {
        "pads": st.tuples(*[st.integers(0, 2)] * 4).map(list),
        "strides": st.tuples(*[st.integers(1, 2)] * 2).map(list),
        "dilations": st.tuples(*[st.integers(1, 2)] * 2).map(list),
    }
)


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(),
    attributes=WINDOWS,
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
    width=st.sampled_from([4, 8, 16]),
    pointwise_first=st.booleans(),
)
def test_chains_compute_the_same_and_cost_no_more(data, attributes, kernel, groups, width, pointwise_first):
    strides = [1, 1] if pointwise_first else data.draw(st.sampled_from([[1, 1], [2, 2], [1, 2]]))
    point = ((1, 1), {"strides": strides, "group": groups[0]}, data.draw(st.booleans()))
    spatial = (kernel, {**attributes, "group": groups[1]}, data.draw(st.booleans()))
    first, second = (point, spatial) if pointwise_first else (spatial, point)
    model = chain((width, *first), (4, *second))
    before = cost(model)
    assert_rewritten_exactly(model)
    assert cost(model) <= before


MERGE = {
    "expanded and projected": [(32, (3, 3), SAME, True), (4, (1, 1), {}, True)],
    "projected and expanded, no bias": [(32, (1, 1), {}, False), (4, (3, 3), SAME, True)],
    "bias before a convolution without padding": [(32, (1, 1), {}, True), (4, (3, 3), {}, True)],
    "three in a row": [(32, (1, 1), {}, True), (32, (1, 1), {}, False), (4, (1, 1), {}, True)],
    "the first only once the others are one": [(1, (1, 1), {}, True), (12, (1, 1), {}, True), (1, (1, 1), {}, True)],
    "depthwise in a row": [(4, (3, 3), {**SAME, "group": 4}, True), (4, (1, 1), {"group": 4}, True)],
    "a stride afterwards": [(4, (3, 3), SAME, True), (4, (1, 1), {"strides": [2, 2]}, True)],
}


@pytest.mark.parametrize("name", MERGE)
def test_chains_that_cost_less_merged_are_merged_exactly(name):
    model = chain(*MERGE[name])
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv"]


STAYS = {
    "a bias before padding": [(32, (1, 1), {}, True), (4, (3, 3), SAME, True)],
    "a bottleneck": [(1, (1, 1), {}, True), (16, (1, 1), {}, True)],
    "depthwise and pointwise": [(4, (3, 3), {**SAME, "group": 4}, True), (4, (1, 1), {}, True)],
    "padding of a pointwise one": [(32, (3, 3), {}, True), (4, (1, 1), SAME, True)],
    "a stride before": [(32, (1, 1), {"strides": [2, 2]}, False), (4, (3, 3), {}, True)],
}


@pytest.mark.parametrize("name", STAYS)
def test_chains_that_gain_nothing_stay_two_convolutions(name):
    model = chain(*STAYS[name])
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv", "Conv"]


def test_a_value_that_is_read_elsewhere_stays():
    model = chain(*MERGE["expanded and projected"], outputs=["output", "value0"])
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv", "Conv"]


def test_an_average_pool_takes_the_scale_before_it():
    rng = np.random.default_rng(2)
    nodes = [
        node("Conv", ["input", "weight"], "scaled", group=4),
        node("AveragePool", ["scaled"], "output", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    model = graph(nodes, INPUT, ["output"], {"weight": rng.normal(size=(4, 1, 1, 1))})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv"]
