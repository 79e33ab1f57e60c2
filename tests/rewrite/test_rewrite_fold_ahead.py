"""Affine maps folded into the operators after them, wherever the borders allow it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import assert_rewritten_exactly, batch_norm, graph, node, operators, statistics

FEW = settings(deadline=None, max_examples=20)


def bn_conv(rng, *, pads=(0, 0, 0, 0), groups=1, shift=True, op="Conv", kernel=3, **attributes):
    constants = statistics(rng, 4)
    if not shift:
        constants |= {"bn.bias": np.zeros(4), "bn.running_mean": np.zeros(4)}
    constants |= {"weight": rng.normal(size=(4, 4 // groups, kernel, kernel)), "bias": rng.normal(size=4)}
    linear = node(op, ["bn", "weight", "bias"], "output", group=groups, pads=list(pads), **attributes)
    return graph([batch_norm("input", "bn"), linear], {"input": (2, 4, 7, 7)}, ["output"], constants)


@FEW
@given(
    groups=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    seed=st.integers(0, 2**16),
)
def test_unpadded_conv_absorbs_scale_and_shift(groups, stride, dilation, seed):
    rng = np.random.default_rng(seed)
    model = bn_conv(rng, groups=groups, strides=[stride] * 2, dilations=[dilation] * 2)
    assert_rewritten_exactly(model, seed)
    assert operators(model) == ["Conv"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_padded_conv_absorbs_a_scale_without_shift(groups):
    model = bn_conv(np.random.default_rng(2), pads=(1, 1, 1, 1), groups=groups, shift=False)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv"]


@pytest.mark.parametrize("padding", [{"pads": (0, 0, 0, 1)}, {"pads": (1, 1, 1, 1)}])
def test_padded_conv_refuses_a_shift(padding):
    model = bn_conv(np.random.default_rng(3), **padding)
    assert_rewritten_exactly(model)
    assert operators(model) == ["BatchNormalization", "Conv"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_transposed_conv_absorbs_a_scale(groups):
    model = bn_conv(np.random.default_rng(4), op="ConvTranspose", groups=groups, shift=False, strides=[2, 2])
    assert_rewritten_exactly(model)
    assert operators(model) == ["ConvTranspose"]


@pytest.mark.parametrize(("kernel", "left"), [(1, ["ConvTranspose"]), (3, ["BatchNormalization", "ConvTranspose"])])
def test_transposed_conv_absorbs_a_shift_only_where_every_output_sees_every_tap(kernel, left):
    model = bn_conv(np.random.default_rng(5), op="ConvTranspose", groups=2, kernel=kernel)
    assert_rewritten_exactly(model)
    assert operators(model) == left


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_linear_layers_absorb_it(op):
    rng = np.random.default_rng(6)
    constants = {"weight": rng.normal(size=(4, 5)), **statistics(rng, 4)}
    nodes = [batch_norm("input", "bn"), node(op, ["bn", "weight"], "output")]
    model = graph(nodes, {"input": (3, 4)}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Gemm"]


def test_all_readers_absorb_it_or_none_does():
    rng = np.random.default_rng(7)
    constants = {"weight": rng.normal(size=(4, 4, 1, 1)), **statistics(rng, 4)}
    first, second = node("Conv", ["bn", "weight"], "first"), node("Conv", ["bn", "weight"], "second", strides=[2, 2])
    inputs = {"input": (1, 4, 5, 5)}
    both = graph([batch_norm("input", "bn"), first, second], inputs, ["first", "second"], constants)
    assert_rewritten_exactly(both)
    assert operators(both) == ["Conv", "Conv"]
    nodes = [batch_norm("input", "bn"), first, node("Relu", ["bn"], "second")]
    one = graph(nodes, inputs, ["first", "second"], constants)
    assert_rewritten_exactly(one)
    assert operators(one) == ["BatchNormalization", "Conv", "Relu"]


PATHS = {
    "flatten": ([node("Flatten", ["bn"], "flat")], 4 * 36),
    "reshape": ([node("Reshape", ["bn", "row"], "flat")], 4 * 36),
    "pool-flatten": ([node("GlobalAveragePool", ["bn"], "gap"), node("Flatten", ["gap"], "flat")], 4),
    "mean": ([node("ReduceMean", ["bn", "axes"], "flat", keepdims=0)], 4),
    "average-flatten": (
        [
            node("AveragePool", ["bn"], "average", kernel_shape=[3, 3], strides=[3, 3], pads=[1, 1, 0, 0]),
            node("Flatten", ["average"], "flat"),
        ],
        4 * 4,
    ),
}


@pytest.mark.parametrize("path", PATHS)
def test_it_passes_through_pooling_and_flattening(path):
    rng = np.random.default_rng(8)
    nodes, width = PATHS[path]
    constants = {"weight": rng.normal(size=(5, width)), **statistics(rng, 4)}
    constants |= {"row": np.array([2, -1], np.int64), "axes": np.array([-1, -2], np.int64)}
    gemm = node("Gemm", ["flat", "weight"], "output", transB=1)
    model = graph([batch_norm("input", "bn"), *nodes, gemm], {"input": (2, 4, 6, 6)}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert "BatchNormalization" not in operators(model)
    assert operators(model)[-1] == "Gemm"
    # What is left between no longer equals the module's output, so it must not be found under the module's name.
    assert "flat" not in [value.name for item in model.graph for value in item.outputs]


def test_it_does_not_pass_through_an_average_that_counts_padding():
    rng = np.random.default_rng(9)
    constants = {"weight": rng.normal(size=(5, 4, 1, 1)), **statistics(rng, 4)}
    pool = node("AveragePool", ["bn"], "average", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    nodes = [batch_norm("input", "bn"), pool, node("Conv", ["average", "weight"], "output")]
    model = graph(nodes, {"input": (2, 4, 6, 6)}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["BatchNormalization", "AveragePool", "Conv"]


def test_normalized_input_keeps_its_shift_before_a_padded_conv():
    """(x - mean) / std: the division goes into the weights, the subtraction cannot."""
    rng = np.random.default_rng(10)
    constants = {"mean": rng.normal(size=(1, 4, 1, 1)), "std": rng.uniform(0.1, 2, size=(4, 1, 1))}
    constants["weight"] = rng.normal(size=(4, 4, 3, 3))
    nodes = [
        node("Sub", ["input", "mean"], "centred"),
        node("Div", ["centred", "std"], "normal"),
        node("Conv", ["normal", "weight"], "output", pads=[1] * 4),
    ]
    model = graph(nodes, {"input": (1, 4, 6, 6)}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Sub", "Conv"]


def test_a_pre_activation_batch_norm_stays():
    rng = np.random.default_rng(11)
    constants = {"weight": rng.normal(size=(4, 4, 1, 1)), **statistics(rng, 4)}
    nodes = [batch_norm("input", "bn"), node("Relu", ["bn"], "relu"), node("Conv", ["relu", "weight"], "output")]
    model = graph(nodes, {"input": (1, 4, 5, 5)}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["BatchNormalization", "Relu", "Conv"]


def test_a_map_that_widens_its_input_stays():
    """[N, 1, H, W] * [3, 1, 1] makes three channels of one: the convolution cannot read the one."""
    rng = np.random.default_rng(12)
    constants = {"scale": rng.normal(size=(3, 1, 1)), "weight": rng.normal(size=(4, 3, 1, 1))}
    nodes = [node("Mul", ["input", "scale"], "wide"), node("Conv", ["wide", "weight"], "output")]
    model = graph(nodes, {"input": (2, 1, 5, 5)}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Mul", "Conv"]
