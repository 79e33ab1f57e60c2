"""BatchNormalization folded into the operator before it: against float64 torch, and refused where it would be wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import (
    EPSILON,
    assert_rewritten_exactly,
    batch_norm,
    cast,
    constant,
    evaluate,
    graph,
    node,
    operators,
)
from rewrite_graphs import statistics as bn_statistics
from torch import nn

from edgeconv.rewrite import optimize

FEW = settings(deadline=None, max_examples=20)


def conv_bn(rng, *, spatial=2, cin=4, cout=6, groups=1, kernel=3, stride=1, pad=0, dilation=1, bias=True, size=9):
    constants = {"conv.weight": rng.normal(size=(cout, cin // groups, *[kernel] * spatial)), **bn_statistics(rng, cout)}
    inputs = ["input", "conv.weight"]
    if bias:
        constants["conv.bias"] = rng.normal(size=cout)
        inputs.append("conv.bias")
    sizes = {"strides": stride, "dilations": dilation, "kernel_shape": kernel}
    attributes = {name: [value] * spatial for name, value in sizes.items()}
    convolution = node("Conv", inputs, "conv", group=groups, pads=[pad] * 2 * spatial, **attributes)
    return graph(
        [convolution, batch_norm("conv", "bn"), node("Relu", ["bn"], "output")],
        {"input": (2, cin, *[size] * spatial)},
        ["output"],
        constants,
    )


@FEW
@given(
    data=st.data(),
    spatial=st.integers(1, 3),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    multiplier=st.integers(1, 3),
    kernel=st.integers(1, 3),
    bias=st.booleans(),
)
def test_conv_of_any_shape_absorbs_it(data, spatial, groups, per_group, multiplier, kernel, bias):
    """Plain (groups 1), grouped and depthwise with multiplier (per_group 1), strided, padded, dilated; 1-d to 3-d."""
    draw = {
        name: data.draw(st.integers(low, 2), label=name) for name, low in (("stride", 1), ("pad", 0), ("dilation", 1))
    }
    seed = data.draw(st.integers(0, 2**16), label="seed")
    rng = np.random.default_rng(seed)
    model = conv_bn(
        rng,
        spatial=spatial,
        cin=groups * per_group,
        cout=groups * multiplier,
        groups=groups,
        kernel=kernel,
        bias=bias,
        size=6,
        **draw,
    )
    assert_rewritten_exactly(model, seed)
    assert operators(model) == ["Conv", "Relu"]
    assert model.graph[0].outputs[0].name == "bn"


@FEW
@given(
    spatial=st.integers(1, 3),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 2),
    multiplier=st.integers(1, 3),
    stride=st.integers(1, 3),
    pad=st.integers(0, 1),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_transposed_conv_of_any_shape_absorbs_it(spatial, groups, per_group, multiplier, stride, pad, bias, seed):
    rng = np.random.default_rng(seed)
    cin, cout = groups * per_group, groups * multiplier
    weight = rng.normal(size=(cin, multiplier, *[3] * spatial))
    constants = {"deconv.weight": weight, "deconv.bias": rng.normal(size=cout), **bn_statistics(rng, cout)}
    inputs = ["input", "deconv.weight", "deconv.bias"] if bias else ["input", "deconv.weight"]
    attributes = {"strides": [stride] * spatial, "pads": [pad] * 2 * spatial, "output_padding": [stride - 1] * spatial}
    model = graph(
        [node("ConvTranspose", inputs, "deconv", group=groups, **attributes), batch_norm("deconv", "output")],
        {"input": (1, cin, *[4] * spatial)},
        ["output"],
        constants,
    )
    assert_rewritten_exactly(model, seed)
    assert operators(model) == ["ConvTranspose"]


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("addend", [None, (5,), (1, 5), (1,), ()])
def test_gemm_absorbs_it(trans_a, trans_b, addend):
    rng = np.random.default_rng(7)
    constants = {"weight": rng.normal(size=(5, 4) if trans_b else (4, 5)), **bn_statistics(rng, 5)}
    if addend is not None:
        constants["bias"] = rng.normal(size=addend)
    inputs = ["input", "weight"] if addend is None else ["input", "weight", "bias"]
    gemm = node("Gemm", inputs, "fc", transA=trans_a, transB=trans_b, alpha=0.5, beta=-2.0)
    shape = (4, 3) if trans_a else (3, 4)
    model = graph([gemm, batch_norm("fc", "output")], {"input": shape}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Gemm"]


@pytest.mark.parametrize("with_bias", [False, True])
def test_matmul_of_rank_two_becomes_a_gemm(with_bias):
    rng = np.random.default_rng(8)
    constants = {"weight": rng.normal(size=(4, 5)), "bias": rng.normal(size=5), **bn_statistics(rng, 5)}
    nodes = [node("MatMul", ["input", "weight"], "product")]
    if with_bias:
        nodes.append(node("Add", ["bias", "product"], "sum"))
    nodes.append(batch_norm(nodes[-1].output[0], "output"))
    model = graph(nodes, {"input": (3, 4)}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Gemm"]


def test_agrees_with_float64_torch():
    torch.manual_seed(3)
    module = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2, dilation=2), nn.BatchNorm2d(6, eps=EPSILON)).double()
    norm = module[1]
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    norm.running_mean.normal_(0, 30)
    norm.running_var.uniform_(1e-6, 3)
    constants = {f"conv.{name}": item.detach().numpy() for name, item in module[0].named_parameters()}
    constants |= {f"bn.{name}": item.detach().numpy() for name, item in norm.state_dict().items() if item.ndim}
    convolution = node("Conv", ["input", "conv.weight", "conv.bias"], "conv", group=2, pads=[1] * 4, dilations=[2, 2])
    model = optimize(graph([convolution, batch_norm("conv", "output")], {"input": (2, 4, 8, 8)}, ["output"], constants))
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    np.testing.assert_allclose(evaluate(model, {"input": x.numpy()})["output"], expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_are_rounded_once(dtype):
    """Conv, then BatchNorm, then two scalings: the weight is the float64 result, rounded when all is done."""
    rng = np.random.default_rng(11)
    constants = {"conv.weight": rng.normal(size=(6, 4, 3, 3)), "conv.bias": rng.normal(size=6), **bn_statistics(rng, 6)}
    constants |= {"third": np.array(1 / 3), "offset": rng.normal(size=(6, 1, 1))}
    nodes = [
        node("Conv", ["input", "conv.weight", "conv.bias"], "conv"),
        batch_norm("conv", "bn"),
        node("Mul", ["bn", "third"], "scaled"),
        node("Add", ["scaled", "offset"], "output"),
    ]
    captured = graph(nodes, {"input": (1, 4, 5, 5)}, ["output"], constants)
    model = cast(captured, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    optimize(model)
    single = {name: array.astype(dtype).astype(np.float64) for name, array in constants.items()}
    scale = single["bn.weight"] / np.sqrt(single["bn.running_var"] + EPSILON)
    weight = single["conv.weight"] * scale[:, None, None, None] * single["third"]
    bias = (single["conv.bias"] - single["bn.running_mean"]) * scale + single["bn.bias"]
    bias = bias * single["third"] + single["offset"].reshape(-1)
    assert operators(model) == ["Conv"]
    assert constant(model, "conv.weight").dtype == dtype
    np.testing.assert_array_equal(constant(model, "conv.weight"), weight.astype(dtype))
    np.testing.assert_allclose(constant(model, "conv.bias"), bias.astype(dtype), rtol=np.finfo(dtype).eps)


def test_weights_that_two_convolutions_share_are_copied():
    rng = np.random.default_rng(12)
    constants = {"shared": rng.normal(size=(4, 4, 1, 1)), **bn_statistics(rng, 4)}
    nodes = [
        node("Conv", ["input", "shared"], "first"),
        batch_norm("first", "bn"),
        node("Relu", ["bn"], "relu"),
        node("Conv", ["relu", "shared"], "output"),
    ]
    model = graph(nodes, {"input": (1, 4, 3, 3)}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv", "Relu", "Conv"]
    np.testing.assert_array_equal(constant(model, "shared"), constants["shared"])


def mixed_depthwise(second):
    """Split, a convolution of each part, Concat, BatchNormalization: a mixed depthwise convolution."""
    rng = np.random.default_rng(13)
    constants = {"w3": rng.normal(size=(2, 1, 3, 3)), "w1": rng.normal(size=(4, 1, 1, 1)), **bn_statistics(rng, 6)}
    constants["sizes"] = np.array([2, 4], np.int64)
    nodes = [
        node("Split", ["input", "sizes"], ["left", "right"], axis=1),
        node("Conv", ["left", "w3"], "first", group=2, pads=[1] * 4),
        *second,
        node("Concat", ["first", second[-1].output[0]], "cat", axis=1),
        batch_norm("cat", "output"),
    ]
    return graph(nodes, {"input": (1, 6, 5, 5)}, ["output"], constants)


def test_it_passes_through_a_concat_of_convolutions():
    model = mixed_depthwise([node("Conv", ["right", "w1"], "second", group=4)])
    assert_rewritten_exactly(model)
    assert operators(model) == ["Split", "Conv", "Conv", "Concat"]
    assert not {"first", "second"} & {value.name for item in model.graph for value in item.outputs}


def test_left_alone_behind_a_concat_with_an_operand_that_is_not_linear():
    nodes = [node("Conv", ["right", "w1"], "second", group=4), node("Relu", ["second"], "relu")]
    model = mixed_depthwise(nodes)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Split", "Conv", "Conv", "Relu", "Concat", "BatchNormalization"]


def test_names_and_metadata_are_those_of_the_batch_norm():
    model = conv_bn(np.random.default_rng(1))
    convolution, norm = model.graph[0], model.graph[1]
    convolution.metadata_props["edgeconv.module"] = "block.0"
    convolution.outputs[0].metadata_props["edgeconv.module"] = "block.0"
    norm.outputs[0].metadata_props["edgeconv.module"] = "block.1"
    optimize(model)
    (value,) = model.graph[0].outputs
    assert value.name == "bn"
    assert dict(value.metadata_props) == {"edgeconv.module": "block.1"}
    assert model.graph[0].metadata_props["edgeconv.module"] == "block.0"


def _left_alone(nodes, constants, outputs=("output",), inputs=None, left="BatchNormalization"):
    model = graph(nodes, inputs or {"input": (1, 4, 6, 6)}, outputs, constants)
    assert_rewritten_exactly(model)
    assert left in operators(model)


def _constants(seed=5):
    rng = np.random.default_rng(seed)
    return {"conv.weight": rng.normal(size=(4, 4, 3, 3)), **bn_statistics(rng, 4)}


def test_left_alone_when_the_value_between_has_another_reader():
    nodes = [
        node("Conv", ["input", "conv.weight"], "conv"),
        batch_norm("conv", "bn"),
        node("Add", ["bn", "conv"], "output"),
    ]
    _left_alone(nodes, _constants())


def test_left_alone_when_the_value_between_is_a_graph_output():
    nodes = [node("Conv", ["input", "conv.weight"], "conv"), batch_norm("conv", "output")]
    _left_alone(nodes, _constants(), outputs=("conv", "output"))


@pytest.mark.parametrize("name", ["conv.weight", "bn.running_mean", "bn.weight"])
def test_left_alone_when_a_parameter_is_not_constant(name):
    constants = _constants()
    nodes = [node("Conv", ["input", "conv.weight"], "conv"), batch_norm("conv", "output")]
    shape = constants.pop(name).shape
    _left_alone(nodes, constants, inputs={"input": (1, 4, 6, 6), name: shape})


def test_left_alone_when_an_initializer_is_only_an_inputs_default():
    nodes = [node("Conv", ["input", "conv.weight"], "conv"), batch_norm("conv", "output")]
    inputs = {"input": (1, 4, 6, 6), "conv.weight": (4, 4, 3, 3)}
    _left_alone(nodes, _constants(), inputs=inputs)


def test_left_alone_in_training_mode():
    norm = batch_norm("conv", "output", training_mode=1)
    norm.output.extend(["running_mean", "running_var"])
    convolution = node("Conv", ["input", "conv.weight"], "conv")
    model = optimize(graph([convolution, norm], {"input": (2, 4, 6, 6)}, ["output"], _constants()))
    assert operators(model) == ["Conv", "BatchNormalization"]
    assert model.graph[1].attributes["training_mode"].as_int() == 1


def test_left_alone_when_a_weight_would_overflow():
    constants = _constants() | {"bn.weight": np.full(4, 1e300), "conv.weight": np.full((4, 4, 3, 3), 1e300)}
    model = graph(
        [node("Conv", ["input", "conv.weight"], "conv"), batch_norm("conv", "output")],
        {"input": (1, 4, 6, 6)},
        ["output"],
        constants,
    )
    optimize(model)
    assert operators(model) == ["Conv", "BatchNormalization"]
