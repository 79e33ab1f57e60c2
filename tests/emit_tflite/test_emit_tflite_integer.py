"""Quantized graphs as files of integers: each operator within one step of the float64 reference, nothing float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from calibration_noise import Noise
from crossed import diagonal
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_ir.passes.common import ShapeInferencePass
from torch import nn
from torch.nn import functional

from edgeconv.core import Emitted
from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.emit.onnx import to_onnx
from edgeconv.errors import EmitError
from edgeconv.flow.inspection.integers_tflite import float_parts_of_tflite
from edgeconv.nn import DepthwiseSeparableConv
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.reference import evaluate

_IMAGE = (1, 8, 6, 6)


def _quantized(tflite: Any, module: nn.Module, shape: tuple[int, ...], scheme: str = "int8") -> ir.Model:
    rng = np.random.default_rng(0)
    graph = tflite.graph_of(module, torch.zeros(shape))
    samples = [{"input0": rng.standard_normal(shape).astype(np.float32) * 2} for _ in range(4)]
    return apply(graph, make_plan(graph, calibrate(graph, samples), scheme=scheme))


def _steps(tflite: Any, graph: ir.Model, emitted: Emitted, shape: tuple[int, ...], resolver: str) -> Any:
    """The largest distance from the float64 reference, in steps of the output."""
    inputs = np.random.default_rng(1).standard_normal(shape).astype(np.float32) * 2
    name = graph.graph.outputs[0].name or ""
    expected = evaluate(graph, {"input0": inputs}, keep=[name])[name]
    (actual,) = tflite.run(emitted, [inputs], resolver).outputs
    assert emitted.outputs[0].scale is not None
    return np.abs(np.rint((actual - expected) / emitted.outputs[0].scale)).max()


def _function(tflite: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    return tflite.Function(function)  # type: ignore[no-any-return]


_MODULES: dict[str, nn.Module] = {
    "convolution": nn.Conv2d(8, 12, 3, padding=1),
    "strided convolution": nn.Conv2d(8, 12, 3, stride=2, padding=1),
    "grouped convolution": nn.Conv2d(8, 12, 3, groups=4),
    "dilated depthwise convolution": nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
    "convolution of one axis": nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 6, 3)),
    "transposed convolution": nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed convolution of unequal strides": nn.Sequential(nn.ConvTranspose2d(8, 6, 3, (2, 3), 1), nn.ReLU()),
    "relu of a transposed convolution": nn.Sequential(
        nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ReLU6(), nn.Conv2d(6, 4, 1)
    ),
    "relu of a pixel shuffle": nn.Sequential(nn.Conv2d(8, 8, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(2, 4, 1)),
    "chain of one axis": nn.Sequential(
        nn.Flatten(2), nn.Conv1d(8, 6, 3), nn.ReLU(), nn.Conv1d(6, 4, 3), nn.MaxPool1d(2)
    ),
    "grouped transposed convolution": nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=4),
    "fully connected": nn.Sequential(nn.Flatten(), nn.Linear(288, 10)),
    "relu": nn.ReLU(),
    "fused relu6": nn.Sequential(nn.Conv2d(8, 12, 1), nn.ReLU6()),
    "fused clip": nn.Sequential(nn.Conv2d(8, 12, 1), nn.Hardtanh(-0.5, 0.7)),
    "leaky relu": nn.LeakyReLU(0.1),
    "prelu": nn.PReLU(8),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "silu": nn.SiLU(),
    "hard swish": nn.Hardswish(),
    "hard sigmoid": nn.Hardsigmoid(),
    "gelu": nn.GELU(),
    "elu": nn.ELU(0.7),
    "softmax": nn.Softmax(1),
    "log softmax": nn.LogSoftmax(1),
    "maximum pool": nn.MaxPool2d(3, 2, 1),
    "average pool": nn.AvgPool2d(3, 2, 1),
    "average pool without its padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "global average pool": nn.AdaptiveAvgPool2d(1),
    "global maximum pool": nn.AdaptiveMaxPool2d(1),
    "nearest": nn.Upsample(scale_factor=2),
    "bilinear": nn.Upsample(size=(13, 11), mode="bilinear"),
    "bicubic": nn.Upsample(scale_factor=2, mode="bicubic"),
    "pixel shuffle": nn.PixelShuffle(2),
    "channel shuffle": nn.ChannelShuffle(2),
    "zero padding": nn.ZeroPad2d(2),
    "constant padding": nn.ConstantPad2d(1, 0.7),
    "reflection": nn.ReflectionPad2d(1),
}
_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum with itself": lambda x: x + functional.relu(x),
    "difference from a constant": lambda x: 1.5 - x,
    "product with a constant per channel": lambda x: x * torch.linspace(-1, 2, 8)[:, None, None],
    "square by product": lambda x: x * x,
    "concatenation": lambda x: torch.cat([x, functional.relu(x)], 1),
    "concatenation with a prescribed scale": lambda x: torch.cat([functional.relu6(x), torch.sigmoid(x)], 1),
    "halves": lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1],
    "magnitude": torch.abs,
    "negative": torch.neg,
    "quotient by a constant": lambda x: functional.relu6(x + 3) / 6,
    "exponential": lambda x: torch.exp(x * 0.3),
    "maximum": lambda x: torch.maximum(x, -x),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "mean over channels": lambda x: x.mean(1, keepdim=True),
    "sum over the image": lambda x: x.sum((2, 3)),
    "maximum over channels": lambda x: x.amax(1, keepdim=True),
    "slice": lambda x: x[:, 1:5, ::2, 1::2],
    "gather": lambda x: x[:, [3, 1, 0]],
    "transposed": lambda x: x.permute(0, 2, 3, 1),
    "product of two": lambda x: x @ x.transpose(2, 3),
}
# Kernels round twice where one operator of torch is several of TFLite.
_TWICE = {"silu", "hard sigmoid"}


def _module(tflite: Any, name: str) -> nn.Module:
    """With weights that are the same in every run."""
    torch.manual_seed(0)
    module = _MODULES[name] if name in _MODULES else _function(tflite, _FUNCTIONS[name])
    for part in module.modules():
        if isinstance(part, nn.modules.conv._ConvNd | nn.Linear | nn.PReLU):
            part.reset_parameters()
    return module


@pytest.mark.parametrize(("name", "resolver"), diagonal([*_MODULES, *_FUNCTIONS], ["reference", "xnnpack"]))
def test_one_operator_is_within_one_step_and_all_integer(tflite: Any, name: str, resolver: str) -> None:
    graph = _quantized(tflite, _module(tflite, name), _IMAGE)
    emitted = tflite.to_tflite(graph, metadata={}, io="int8")
    assert float_parts_of_tflite(emitted.data) == []
    assert emitted.notes == ()
    assert _steps(tflite, graph, emitted, _IMAGE, resolver) <= (2 if name in _TWICE else 1)


@pytest.mark.parametrize(
    "name", ["convolution", "leaky relu", "silu", "sum with itself", "concatenation", "fully connected"]
)
def test_old_runtimes_run_the_integers(tflite: Any, old_runtime: Any, name: str) -> None:
    graph = _quantized(tflite, _module(tflite, name), _IMAGE)
    emitted = tflite.to_tflite(graph, metadata={}, io="int8")
    inputs = np.random.default_rng(1).standard_normal(_IMAGE).astype(np.float32)
    expected = evaluate(graph, {"input0": inputs})[graph.graph.outputs[0].name or ""]
    (actual,) = old_runtime(emitted, [inputs])
    assert np.abs(actual - expected).max() <= 1.01 * (emitted.outputs[0].scale or 0) * (2 if name in _TWICE else 1)


@settings(deadline=None, max_examples=20)
@given(
    size=st.integers(3, 9),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    bias=st.booleans(),
)
def test_convolutions_of_any_shape(
    tflite: Any, size: int, groups: int, kernel: int, stride: int, padding: int, bias: bool
) -> None:
    torch.manual_seed(size * kernel)
    module = nn.Conv2d(4, 8, kernel, stride, padding, groups=groups, bias=bias)
    with torch.no_grad():  # channels of alike ranges: a last layer with others stays float
        module.weight /= module.weight.abs().amax((1, 2, 3), keepdim=True)
    shape = (1, 4, size, size)
    graph = _quantized(tflite, module, shape)
    emitted = tflite.to_tflite(graph, metadata={}, io="int8")
    assert float_parts_of_tflite(emitted.data) == []
    assert _steps(tflite, graph, emitted, shape, "reference") <= 1


# What TFLite has no int16 kernel for, by an operator that stays float.
_FLOAT_OF_SIXTEEN = {"gelu": "GELU", "log softmax": "LOG_SOFTMAX", "elu": "EXP"}
# Two steps: kernels that look up and interpolate, and several operators one after another.
_TWO_OF_SIXTEEN = {
    "tanh",
    "softmax",
    "bicubic",
    "relu of a transposed convolution",
}


@pytest.mark.parametrize(
    ("name", "resolver"),
    diagonal([name for name in (*_MODULES, *_FUNCTIONS) if name not in _FLOAT_OF_SIXTEEN], ["xnnpack", "reference"]),
)
def test_sixteen_bit_activations_are_within_one_step_and_all_integer(tflite: Any, name: str, resolver: str) -> None:
    graph = _quantized(tflite, _module(tflite, name), _IMAGE, "int16x8")
    emitted = tflite.to_tflite(graph, metadata={}, io="int16")
    assert emitted.inputs[0].dtype == emitted.outputs[0].dtype == "int16"
    assert float_parts_of_tflite(emitted.data) == []
    assert emitted.notes == ()
    assert _steps(tflite, graph, emitted, _IMAGE, resolver) <= (2 if name in _TWO_OF_SIXTEEN else 1)


@pytest.mark.parametrize("resolver", ["reference", "xnnpack"])
@pytest.mark.parametrize("name", list(_FLOAT_OF_SIXTEEN))
def test_what_has_no_sixteen_bit_kernel_is_a_float_island(tflite: Any, name: str, resolver: str) -> None:
    module = nn.Sequential(nn.LeakyReLU(0.1), _module(tflite, name), nn.PixelShuffle(2))
    graph = _quantized(tflite, module, _IMAGE, "int16x8")
    emitted = tflite.to_tflite(graph, metadata={}, io="int16")
    assert any(note.startswith(f"{_FLOAT_OF_SIXTEEN[name]} '1") for note in emitted.notes)
    assert all("has no" in note for note in emitted.notes)
    assert _steps(tflite, graph, emitted, _IMAGE, resolver) <= 1


def test_a_logarithm_of_sixteen_bits_stays_float_as_its_table_is_off_where_the_operand_is_small(tflite: Any) -> None:
    """Straight lines between its 513 entries are up to 255 steps off a share of 1e-3."""
    module = _function(tflite, lambda x: torch.sigmoid(x).clamp(1e-3).log())
    emitted = tflite.to_tflite(_quantized(tflite, module, _IMAGE, "int16x8"), metadata={})
    assert [part for part in float_parts_of_tflite(emitted.data) if part.startswith("LOG ")]


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
@pytest.mark.parametrize(("name", "code"), [("sigmoid", "LOGISTIC"), ("tanh", "TANH"), ("softmax", "SOFTMAX")])
def test_prescribed_scales_are_the_plans(tflite: Any, name: str, code: str, scheme: str) -> None:
    graph = _quantized(tflite, _module(tflite, name), _IMAGE, scheme)
    emitted = tflite.to_tflite(graph, metadata={}, io="int8" if scheme == "int8" else "int16")
    operators = tflite.run(emitted, [np.zeros(_IMAGE, np.float32)]).operators
    assert [operator for operator in operators if operator != "TRANSPOSE"] == [code]


def test_float_borders_quantize_inside(tflite: Any) -> None:
    graph = _quantized(tflite, nn.LeakyReLU(0.1), _IMAGE)
    emitted = tflite.to_tflite(graph, metadata={})
    inputs = [np.random.default_rng(1).standard_normal(_IMAGE).astype(np.float32)]
    ran = tflite.run(emitted, inputs, "reference")
    integers = tflite.run(tflite.to_tflite(graph, metadata={}, io="int8"), inputs, "reference")
    assert ran.operators == ["QUANTIZE", "LEAKY_RELU", "DEQUANTIZE"]
    assert (emitted.inputs[0].dtype, emitted.outputs[0].dtype) == ("float32", "float32")
    assert float_parts_of_tflite(emitted.data) == []
    np.testing.assert_allclose(ran.outputs[0], integers.outputs[0], rtol=1e-6)


def test_a_layer_that_the_plan_keeps_float_is_an_island_and_is_named(tflite: Any) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 8, 1), nn.LeakyReLU(), nn.Conv2d(8, 8, 3), nn.LeakyReLU(), nn.Conv2d(8, 4, 1))
    graph = tflite.graph_of(module, torch.zeros(_IMAGE))
    samples = [{"input0": np.random.default_rng(0).standard_normal(_IMAGE).astype(np.float32)}]
    plan = make_plan(graph, calibrate(graph, samples), options=QuantizationOptions(keep_float=("2",)))
    emitted = tflite.to_tflite(apply(graph, plan), metadata={}, io="int8")
    ran = tflite.run(emitted, [samples[0]["input0"]], "reference")
    island = ["DEQUANTIZE", "CONV_2D", "QUANTIZE"]
    assert ran.operators == ["CONV_2D", "LEAKY_RELU", *island, "LEAKY_RELU", "CONV_2D"]
    assert [note for note in emitted.notes if "CONV_2D '2" in note and "it was asked for" in note]
    assert any("CONV_2D" in line for line in float_parts_of_tflite(emitted.data))


class _Block(nn.Module):
    """What onnxruntime's quantizer treats in its own ways: removed activations, shared and doubled pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Hardswish(), nn.Conv2d(16, 16, 1))
        self.joined, self.slopes, self.head = nn.Conv2d(32, 16, 1), nn.PReLU(16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.joined(torch.cat([self.deep(x) + x, functional.leaky_relu(x, 0.1)], 1))
        x = functional.interpolate(functional.max_pool2d(self.slopes(x), 3, 2, 1), scale_factor=2.0, mode="bilinear")
        x = functional.silu(x * torch.sigmoid(x.mean((2, 3), keepdim=True)))
        return torch.softmax(self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1)), 1)


@pytest.mark.parametrize(
    ("dedicated", "per_channel", "activations"),
    diagonal([(False, True), (True, True), (False, False), (True, False)], ["QUInt8", "QInt8"]),
)
def test_what_onnxruntime_quantized_is_accepted(
    tflite: Any, tmp_path: Path, activations: str, per_channel: bool, dedicated: bool
) -> None:
    from onnxruntime import quantization

    torch.manual_seed(0)
    graph = tflite.graph_of(_Block(), torch.zeros(1, 3, 16, 16))
    (tmp_path / "float.onnx").write_bytes(to_onnx(graph, metadata={}).data)
    quantization.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "quantized.onnx",
        Noise("input0", (1, 3, 16, 16), seed=0, count=4),
        per_channel=per_channel,
        activation_type=quantization.QuantType[activations],
        weight_type=quantization.QuantType.QInt8,
        extra_options={"DedicatedQDQPair": dedicated},
    )
    quantized = ir.load(tmp_path / "quantized.onnx")
    ShapeInferencePass()(quantized)
    emitted = tflite.to_tflite(quantized, metadata={}, io="int8")
    # It quantizes neither a PReLU nor what follows up to the Resize's result: no range of these is known.
    names = {note.split("'")[1].split("/")[0] for note in emitted.notes}
    assert names == {"slopes", "max_pool2d", "upsample_bilinear2d"}
    assert _steps(tflite, quantized, emitted, (1, 3, 16, 16), "reference") <= 2  # of 27 operators, ending in 1/256


def test_the_depthwise_separable_block_is_four_integer_operators(tflite: Any) -> None:
    torch.manual_seed(0)
    shape = (1, 3, 32, 32)
    graph = _quantized(tflite, DepthwiseSeparableConv(3, 64), shape)
    emitted = tflite.to_tflite(graph, metadata={}, io="int8")
    ran = tflite.run(emitted, [np.zeros(shape, np.float32)])
    assert ran.operators == ["DEPTHWISE_CONV_2D", "LEAKY_RELU", "CONV_2D", "LEAKY_RELU"]
    assert ran.partitions == 1
    assert float_parts_of_tflite(emitted.data) == []
    assert _steps(tflite, graph, emitted, shape, "reference") <= 4


def test_int8_weights_are_read_by_hybrid_kernels(tflite: Any) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(8, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=64), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module = nn.Sequential(*layers, nn.Linear(64, 200))
    graph = tflite.graph_of(module, torch.zeros(_IMAGE))
    stored = apply(graph, make_plan(graph, None, scheme="int8-weights"))
    small, full = (tflite.to_tflite(model, metadata={}) for model in (stored, graph))
    inputs = np.random.default_rng(1).standard_normal(_IMAGE).astype(np.float32)
    expected = evaluate(graph, {"input0": inputs})[graph.graph.outputs[0].name or ""]
    assert len(small.data) < 0.5 * len(full.data)
    for resolver in ("reference", "xnnpack"):
        ran = tflite.run(small, [inputs], resolver)
        assert "DEQUANTIZE" not in ran.operators
        error = np.square(ran.outputs[0] - expected).sum()
        assert 10 * np.log10(np.square(expected).sum() / error) > 30


def test_float16_constants_are_half_the_file(tflite: Any) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 256, 3, padding=1), nn.ReLU6(), nn.Conv2d(256, 256, 3, padding=1))
    graph = tflite.graph_of(module, torch.zeros(_IMAGE))
    full, half = (tflite.to_tflite(graph, metadata={}, weights=kind) for kind in ("float32", "float16"))
    inputs = [np.random.default_rng(1).standard_normal(_IMAGE).astype(np.float32)]
    assert len(half.data) <= 0.51 * len(full.data)
    for resolver in ("reference", "xnnpack"):
        expected, ran = tflite.run(full, inputs, resolver), tflite.run(half, inputs, resolver)
        assert ran.partitions == expected.partitions
        np.testing.assert_allclose(ran.outputs[0], expected.outputs[0], atol=5e-3)


def test_what_float16_does_not_hold_stays_float32(tflite: Any) -> None:
    graph = tflite.graph_of(tflite.Function(lambda x: x + torch.tensor([1e6, 1.0])), torch.zeros(1, 2))
    half = tflite.to_tflite(graph, metadata={}, weights="float16")
    (actual,) = tflite.run(half, [np.zeros((1, 2), np.float32)]).outputs
    np.testing.assert_array_equal(actual, [[1e6, 1.0]])
    assert "float16 does not hold" in half.notes[0]


def test_unknown_choices_are_refused(tflite: Any) -> None:
    graph = tflite.graph_of(nn.ReLU(), torch.zeros(_IMAGE))
    with pytest.raises(EmitError, match="unknown io 'int4'"):
        tflite.to_tflite(graph, metadata={}, io="int4")
    with pytest.raises(EmitError, match="unknown weights 'bf16'"):
        tflite.to_tflite(graph, metadata={}, weights="bf16")


@pytest.mark.parametrize(("shape", "copies"), [((1, 6, 5, 16), 0), ((1, 30, 16), 2)])
def test_a_linear_of_an_images_last_axis_copies_nothing(tflite: Any, shape: tuple[int, ...], copies: int) -> None:
    torch.manual_seed(0)
    graph = _quantized(tflite, nn.Linear(16, 24), shape)
    emitted = tflite.to_tflite(graph, metadata={}, io="int8", layout="nchw")
    ran = tflite.run(emitted, [np.zeros(shape, np.float32)])
    assert ran.operators.count("CONV_2D") == 1
    assert ran.operators.count("RESHAPE") == copies
    assert _steps(tflite, graph, emitted, shape, "reference") <= 1
