"""An average pool behind a pointwise convolution is done before it, on fewer numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import assert_rewritten_exactly, graph, node, operators


def network(pool, channels=(4, 6), *, group=1, bias=True, size=(8, 7), strides=(1, 1), outputs=("output",)):
    """A pointwise convolution, then the pool."""
    rng = np.random.default_rng(1)
    constants = {"weight": rng.normal(size=(channels[1], channels[0] // group, 1, 1)), "axes": np.array([2, -1])}
    constants["width"] = np.array([3])
    names = ["input", "weight"]
    if bias:
        constants["bias"] = rng.normal(size=channels[1])
        names.append("bias")
    nodes = [node("Relu", ["input"], "relu"), node("Conv", ["relu", *names[1:]], "conv", group=group, strides=strides)]
    return graph([*nodes, pool], {"input": (2, channels[0], *size)}, outputs, constants)


def average(**attributes):
    return node("AveragePool", ["conv"], "output", **{"kernel_shape": [2, 2], "strides": [2, 2], **attributes})


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    counted=st.integers(0, 1),
    bias=st.booleans(),
    group=st.sampled_from([1, 2]),
    channels=st.tuples(st.sampled_from([4, 8]), st.sampled_from([2, 4, 8])),
)
def test_any_pool_computes_the_same(kernel, strides, pads, counted, bias, group, channels):
    pads = [min(pad, size - 1) for pad, size in zip(pads, (*kernel, *kernel), strict=True)]
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "count_include_pad": counted}
    model = network(average(**attributes), channels, group=group, bias=bias)
    assert_rewritten_exactly(model)


POOLS = {
    "average": average(),
    "uncounted": average(kernel_shape=[3, 3], pads=[1] * 4),
    "global": node("GlobalAveragePool", ["conv"], "output"),
    "mean": node("ReduceMean", ["conv", "axes"], "output"),
}


@pytest.mark.parametrize("name", POOLS)
def test_the_pool_comes_first(name):
    model = network(POOLS[name])
    assert_rewritten_exactly(model)
    assert operators(model)[0] == "Relu"
    assert operators(model)[-1] == "Conv"
    assert len(operators(model)) == 3


STAYS = {
    "no fewer positions": (average(strides=[1, 1], kernel_shape=[1, 2]), {"channels": (8, 2)}),
    "a counted padding and a bias": (average(pads=[1] * 4, count_include_pad=1), {}),
    "a strided convolution": (average(), {"strides": (2, 2)}),
    "a graph output": (average(), {"outputs": ("output", "conv")}),
    "a mean over the width only": (node("ReduceMean", ["conv", "width"], "output"), {}),
}


@pytest.mark.parametrize("name", STAYS)
def test_pools_that_must_stay_behind_the_convolution_do(name):
    pool, options = STAYS[name]
    model = network(pool, **options)
    assert_rewritten_exactly(model)
    assert operators(model)[1] == "Conv"
