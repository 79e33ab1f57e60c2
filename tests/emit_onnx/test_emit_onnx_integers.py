"""Quantized and float16 graphs as .onnx files: what onnxruntime makes of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from edgeconv.capture import capture
from edgeconv.core import Array, Emitted
from edgeconv.emit.onnx import to_onnx
from edgeconv.errors import EmitError
from edgeconv.flow.inspection.integers_onnx import float_parts_of_onnx
from edgeconv.quantize import apply, calibrate, keep_in_float, make_plan
from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize

_SHAPE = (1, 3, 8, 8)


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Sequential(nn.Conv2d(3, 8, 1), nn.LeakyReLU(0.1)), nn.Conv2d(8, 4, 1)
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(), nn.Conv2d(8, 8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y: torch.Tensor = self.head(torch.sigmoid(x + self.deep(x)))
        return y


def _graph(module: nn.Module) -> ir.Model:
    return optimize(capture(module.eval(), (torch.zeros(_SHAPE),), input_names=["x"], output_names=["y"]))


def _inputs(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(_SHAPE).astype(np.float32)


def _quantized() -> ir.Model:
    torch.manual_seed(0)
    graph = _graph(_Residual())
    return apply(graph, make_plan(graph, calibrate(graph, [{"x": _inputs(seed)} for seed in range(4)])))


def _run(emitted: Emitted, inputs: Array) -> Array:
    session = onnxruntime.InferenceSession(emitted.data)
    (actual,) = session.run(None, {"x": emitted.inputs[0].to_file(inputs)})
    return emitted.outputs[0].from_file(actual)


def test_every_heavy_operator_is_fused_to_integers(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    data = to_onnx(_quantized(), metadata={}).data
    onnxruntime.InferenceSession(data, options)
    counts = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert counts == {
        "QuantizeLinear": 1,
        "QLinearConv": 4,
        "QLinearLeakyRelu": 1,
        "QLinearAdd": 1,
        "QLinearSigmoid": 1,
        "DequantizeLinear": 1,
    }
    assert float_parts_of_onnx(data) == []


@pytest.mark.parametrize("opset", [13, 18])
def test_a_layer_kept_in_float_stays_float_on_onnxruntime(tmp_path: Path, opset: int) -> None:
    """onnxruntime quantizes the weights of a float layer between integers by itself, and says nothing."""
    torch.manual_seed(0)
    graph = _graph(_Residual())
    plan = make_plan(graph, calibrate(graph, [{"x": _inputs(seed)} for seed in range(4)]))
    depthwise = next(node.outputs[0].name for node in graph.graph if node.attributes.get_int("group", 1) > 1)
    mixed = apply(graph, keep_in_float(graph, plan, [depthwise or ""], "its weights are coarse in 8 bits"))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    emitted = to_onnx(mixed, metadata={}, opset=opset)
    onnxruntime.InferenceSession(emitted.data, options)
    optimized = onnx.load(options.optimized_model_filepath).graph
    counts = Counter(node.op_type for node in optimized.node)
    assert (counts["QLinearConv"], counts["Conv"] + counts["FusedConv"]) == (3, 1)
    (layer,) = (node for node in optimized.node if node.op_type in ("Conv", "FusedConv"))
    (weight,) = (tensor for tensor in optimized.initializer if tensor.name == layer.input[1])
    original = next(node.inputs[1].const_value for node in graph.graph if node.outputs[0].name == depthwise)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), original.numpy())
    expected = evaluate(mixed, {"x": _inputs(9)}, keep=["y"])["y"]
    step = plan.tensors["y"].scale
    assert np.abs(_run(emitted, _inputs(9)) - expected).max() <= 2.01 * step


@pytest.mark.parametrize("opset", [13, 18, 22])
@pytest.mark.parametrize("io", ["float32", "int8"])
def test_the_numbers_are_those_of_the_graph(opset: int, io: str) -> None:
    graph = _quantized()
    emitted = to_onnx(graph, metadata={}, opset=opset, io=io)
    expected = evaluate(graph, {"x": _inputs(9)}, keep=["y"])["y"]
    step = max(to_onnx(graph, metadata={}, io="int8").outputs[0].scale or 0.0, 1e-9)
    assert emitted.outputs[0].dtype == ("float32" if io == "float32" else "uint8")
    assert np.abs(_run(emitted, _inputs(9)) - expected).max() <= 2.01 * step


def test_the_callers_graph_stays_as_it_was() -> None:
    graph = _quantized()
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    to_onnx(graph, metadata={}, io="int8")
    to_onnx(_graph(nn.Conv2d(3, 4, 1)), metadata={}, weights="float16")
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before


def test_float16_is_half_the_file_and_computes_in_it() -> None:
    torch.manual_seed(0)
    graph = _graph(nn.Sequential(nn.Conv2d(3, 256, 3, padding=1), nn.ReLU6(), nn.Conv2d(256, 256, 3, padding=1)))
    full, half = (to_onnx(graph, metadata={}, weights=kind) for kind in ("float32", "float16"))
    model = onnx.load_from_string(half.data)
    assert len(half.data) <= 0.51 * len(full.data)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Conv", "Clip", "Conv", "Cast"]
    assert (half.inputs[0].dtype, half.outputs[0].dtype) == ("float32", "float32")
    np.testing.assert_allclose(_run(half, _inputs(9)), _run(full, _inputs(9)), atol=5e-3)


def test_float16_of_resize_keeps_its_scales() -> None:
    graph = _graph(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=2.0, mode="bilinear")))
    full, half = (to_onnx(graph, metadata={}, weights=kind) for kind in ("float32", "float16"))
    np.testing.assert_allclose(_run(half, _inputs(9)), _run(full, _inputs(9)), atol=5e-3)


def test_what_float16_does_not_hold_stays_float32() -> None:
    module = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        module.weight[0, 0] = 1e6
    half = to_onnx(_graph(module), metadata={}, weights="float16")
    np.testing.assert_array_equal(_run(half, _inputs(9)), _run(to_onnx(_graph(module), metadata={}), _inputs(9)))
    assert "float16 does not hold" in half.notes[0]


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(EmitError, match="unknown io 'int4'"):
        to_onnx(_quantized(), metadata={}, io="int4")


def test_integers_that_the_graph_reads_or_gives_stay_what_they_are() -> None:
    """Between them int8 may be written as uint8."""
    text = """<ir_version: 10, opset_import: ["": 21]> one (int8[1, 4] x) => (int8[1, 4] y)
        <float s = {0.1}, int8 z = {3}> {
        a = DequantizeLinear(x, s, z) b = Relu(a) b_q = QuantizeLinear(b, s, z) c = DequantizeLinear(b_q, s, z)
        d = Neg(c) y = QuantizeLinear(d, s, z) }"""
    model = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    emitted = to_onnx(ir.from_proto(model), metadata={})
    assert (emitted.inputs[0].dtype, emitted.outputs[0].dtype) == ("int8", "int8")
    integers = np.array([[-100, 3, 7, 90]], np.int8)
    (actual,) = onnxruntime.InferenceSession(emitted.data).run(None, {"x": integers})
    np.testing.assert_array_equal(actual, [[3, 3, -1, -84]])


def test_integers_that_onnxruntime_may_rewrite_have_one_reader_each() -> None:
    """Equal layers, whose zero points and weights onnxsim would make one constant of."""
    torch.manual_seed(0)
    twin = nn.Conv2d(8, 8, 3, padding=1)
    graph = _graph(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), twin, nn.ReLU(), twin, nn.ReLU(), nn.Conv2d(8, 8, 1)))
    emitted = to_onnx(apply(graph, make_plan(graph, calibrate(graph, [{"x": _inputs(1)}]))), metadata={})
    proto = onnx.load_from_string(emitted.data)
    int8 = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    readers = Counter(name for node in proto.graph.node for name in node.input if name in int8)
    assert len(int8) == 8  # four weights, of which two are equal, and their zero points
    assert set(readers.values()) == {1}
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    (wide,) = onnxruntime.InferenceSession(emitted.data, options).run(None, {"x": _inputs(2)})
    scale = next(tensor for tensor in proto.graph.initializer if tensor.name == "y.scale")
    assert np.abs(wide - _run(emitted, _inputs(2))).max() <= 1.01 * onnx.numpy_helper.to_array(scale)


class _Gated(nn.Module):
    """Its rounding in float16 differs with every form: norms, products of products, a gate, parts in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3, padding=1)
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.wide(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = torch.cat([x[:, ::2], x[:, 1::2]], 1)
        x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        x = self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x.transpose(2, 3).contiguous().transpose(2, 3) * x


@pytest.mark.parametrize("seed", range(4))
def test_float16_is_simplified_before_it_is_rounded(seed: int) -> None:
    """Members of the kind: every graph that onnxsim changes, which was compared in float16 by float32's tolerance."""
    torch.manual_seed(seed)
    graph = _graph(_Gated())
    full, half = (to_onnx(graph, metadata={}, weights=kind) for kind in ("float32", "float16"))
    expected = _run(full, _inputs(9))
    np.testing.assert_allclose(_run(half, _inputs(9)), expected, atol=4e-3 * np.abs(expected).max())


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (1, 0)])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, 3)])
def test_last_windows_of_average_pools_are_divided_by_what_counts(
    kernel: int, stride: int, padding: tuple[int, int]
) -> None:
    """onnxruntime's integer kernel is off by up to 67 steps where the last window hangs over."""
    pool = nn.AvgPool2d(kernel, stride, padding, ceil_mode=True, count_include_pad=True)
    graph = _graph(nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU(), pool))
    quantized = apply(graph, make_plan(graph, calibrate(graph, [{"x": _inputs(seed)} for seed in range(4)])))
    emitted = to_onnx(quantized, metadata={})
    exact = evaluate(quantized, {"x": _inputs(7)}, keep=["y"])["y"]
    step = np.diff(np.unique(np.round(exact, 6))).min()
    assert np.abs(_run(emitted, _inputs(7)) - exact).max() <= 1.01 * step
    assert float_parts_of_onnx(emitted.data) == []


class _Normalized(nn.Module):
    """A head whose ReLU stands alone between integers, and whose scores have a large bias."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.norm, self.scores = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)
        self.scores.bias.data[:] = -4.6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.scores(torch.relu(self.norm(self.tower(x))))
        return y


@pytest.mark.parametrize("ratio", [0.9, 1.02, 1.4])
def test_onnxruntime_scales_no_bias_behind_two_pairs(ratio: float, tmp_path: Path) -> None:
    """It makes one pair of two, with another scale: a bias was 2 % off, and a layer computed in float."""
    torch.manual_seed(0)
    graph = _graph(_Normalized())
    plan = make_plan(graph, calibrate(graph, [{"x": _inputs(seed)} for seed in range(4)]))
    clamp = next(node for node in graph.graph if node.op_type == "Relu")
    before, behind = (value.name or "" for value in (clamp.inputs[0], clamp.outputs[0]) if value is not None)
    top = (127 - plan.tensors[before].zero_point) * plan.tensors[before].scale
    changed = replace(plan.tensors[behind], scale=float(np.float32(top * ratio / 255)))
    quantized = apply(graph, replace(plan, tensors={**plan.tensors, behind: changed}))
    emitted, options = to_onnx(quantized, metadata={}), onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(emitted.data, options)
    optimized = onnx.load(options.optimized_model_filepath).graph
    assert [node.op_type for node in optimized.node].count("QLinearConv") == 2
    expected = evaluate(quantized, {"x": _inputs(9)}, keep=["y"])["y"]
    assert np.abs(_run(emitted, _inputs(9)) - expected).max() <= 1.01 * plan.tensors["y"].scale
