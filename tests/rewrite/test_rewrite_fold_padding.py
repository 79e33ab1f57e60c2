"""Explicit padding folded into convolutions and average pools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import assert_rewritten_exactly, graph, node, operators

from edgeconv.rewrite import optimize

FEW = settings(deadline=None, max_examples=20)
CONV = node("Conv", ["pad", "weight"], "output", pads=[0, 1, 1, 0])


def padded(reader, amounts, *, extra=(), constants=None, outputs=("output",), **attributes):
    rng = np.random.default_rng(1)
    everything = {"weight": rng.normal(size=(5, 4, 3, 3)), "amounts": np.array(amounts, np.int64), **(constants or {})}
    pad = node("Pad", ["input", "amounts", *extra], "pad", **attributes)
    readers = reader if isinstance(reader, list) else [reader]
    return graph([pad, *readers], {"input": (2, 4, 6, 7)}, outputs, everything)


@FEW
@given(amounts=st.lists(st.integers(0, 3), min_size=4, max_size=4), stride=st.integers(1, 3))
def test_a_convolution_takes_it(amounts, stride):
    top, left, bottom, right = amounts
    conv = node("Conv", ["pad", "weight"], "output", pads=[0, 1, 1, 0], strides=[stride, 1])
    model = padded(conv, [0, 0, top, left, 0, 0, bottom, right])
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv"]


def test_the_axes_input_is_understood():
    constants = {"zero": np.array(0.0), "axes": np.array([-1, 2], np.int64)}
    model = padded(CONV, [1, 2, 0, 3], extra=["zero", "axes"], constants=constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv"]


@pytest.mark.parametrize(
    ("own", "counted"), [((0, 0, 0, 0), 0), ((0, 0, 0, 0), 1), ((1, 0, 0, 1), 1)], ids=["none", "none-counted", "own"]
)
def test_an_average_pool_takes_it_and_counts_it(own, counted):
    pool = node("AveragePool", ["pad"], "output", kernel_shape=[3, 3], pads=list(own), count_include_pad=counted)
    model = padded(pool, [0, 0, 1, 1, 0, 0, 1, 1])
    assert_rewritten_exactly(model)
    assert operators(model) == ["AveragePool"]


def test_all_readers_take_it_or_none_does():
    second = node("Conv", ["pad", "weight"], "second", strides=[2, 2])
    both = padded([CONV, second], [0, 0, 1, 1, 0, 0, 1, 1], outputs=("output", "second"))
    assert_rewritten_exactly(both)
    assert operators(both) == ["Conv", "Conv"]
    one = padded([CONV, node("Relu", ["pad"], "second")], [0, 0, 1, 1, 0, 0, 1, 1], outputs=("output", "second"))
    assert_rewritten_exactly(one)
    assert operators(one) == ["Pad", "Conv", "Relu"]


SPATIAL = [0, 0, 1, 1, 0, 0, 1, 1]
STAYS = {
    "batch": (CONV, [1, 0, 0, 0, 0, 0, 0, 0], {}),
    "value": (CONV, SPATIAL, {"extra": ["one"], "constants": {"one": np.array(1.0)}}),
    "reflect": (CONV, SPATIAL, {"mode": "reflect"}),
    "maximum": (node("MaxPool", ["pad"], "output", kernel_shape=[2, 2]), SPATIAL, {}),
    "rounded-up": (
        node("AveragePool", ["pad"], "output", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        SPATIAL,
        {},
    ),
    "uncounted": (node("AveragePool", ["pad"], "output", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), SPATIAL, {}),
    "all-padding": (node("AveragePool", ["pad"], "output", kernel_shape=[1, 2], strides=[2, 2]), SPATIAL, {}),
    "graph-output": (CONV, SPATIAL, {"outputs": ("output", "pad")}),
}


@pytest.mark.parametrize("case", STAYS)
def test_it_stays_where_the_reader_pads_otherwise(case):
    reader, amounts, more = STAYS[case]
    model = padded(reader, amounts, **more)
    assert_rewritten_exactly(model)
    assert operators(model)[0] == "Pad"


def test_cropping_stays_a_pad_of_its_own():
    model = optimize(padded(CONV, [0, 0, -1, 1, 0, 0, 1, 1]))
    assert operators(model) == ["Pad", "Conv"]
