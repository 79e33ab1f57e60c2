"""Averages of integers as convolutions by equal weights, in both formats.

Members thought of: windows with stride, dilation, and padding that counts; a window that is the whole image (MEAN in
TFLite); those that stay: padding that does not count, more than 25 taps, floats on one side.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.core import Emitted
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize

_SHAPE = (1, 3, 9, 8)
_POOLS: dict[str, tuple[nn.Module, str, str]] = {
    "2x2": (nn.AvgPool2d(2), "Conv", "DEPTHWISE_CONV_2D"),
    "3x3 in steps of 2": (nn.AvgPool2d(3, 2), "Conv", "DEPTHWISE_CONV_2D"),
    "1x5": (nn.AvgPool2d((1, 5), 1), "Conv", "DEPTHWISE_CONV_2D"),
    "padding that counts": (nn.AvgPool2d(3, 1, 1), "Conv", "DEPTHWISE_CONV_2D"),
    "padding that does not": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), "AveragePool", "AVERAGE_POOL_2D"),
    "sizes rounded up": (nn.AvgPool2d(2, ceil_mode=True), "AveragePool", "AVERAGE_POOL_2D"),
    "36 taps": (nn.AvgPool2d(6, 1), "AveragePool", "AVERAGE_POOL_2D"),
    "the whole image": (nn.AvgPool2d((9, 8)), "GlobalAveragePool", "MEAN"),
    "all but a row": (nn.AvgPool2d((8, 8)), "AveragePool", "AVERAGE_POOL_2D"),
}


def _inputs(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(_SHAPE).astype(np.float32)


def _quantized(pool: nn.Module) -> ir.Model:
    torch.manual_seed(0)
    module = nn.Sequential(nn.LeakyReLU(0.5), pool).eval()
    graph = optimize(capture(module, (torch.zeros(_SHAPE),), input_names=["x"], output_names=["y"]))
    return apply(graph, make_plan(graph, calibrate(graph, [{"x": _inputs(seed)} for seed in range(4)])))


def _run(emitted: Emitted, x: np.ndarray, *, tflite: bool) -> np.ndarray:
    source, result = emitted.inputs[0], emitted.outputs[0]
    if not tflite:
        (integers,) = onnxruntime.InferenceSession(emitted.data).run(None, {"x": source.to_file(x)})
        return result.from_file(integers)
    interpreter = Interpreter(model_content=emitted.data, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], source.to_file(x))
    interpreter.invoke()
    return result.from_file(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


@pytest.mark.parametrize("name", _POOLS)
def test_an_average_is_its_rounding_whatever_computes_it(name: str) -> None:
    pool, in_onnx, in_tflite = _POOLS[name]
    graph = _quantized(pool)
    files = [to_onnx(graph, metadata={}, io="int8"), to_tflite(graph, metadata={}, io="int8")]
    x = _inputs(9)
    expected = evaluate(graph, {"x": x}, keep=["y"])["y"]
    for emitted, tflite in zip(files, (False, True), strict=True):
        assert emitted.outputs[0].scale is not None
        off = np.abs(_run(emitted, x, tflite=tflite) - expected) / emitted.outputs[0].scale
        assert off.max() <= (2.01 if in_tflite == "AVERAGE_POOL_2D" and tflite else 1.01)
    types = {node.op_type for node in onnx.load_from_string(files[0].data).graph.node}
    assert (in_onnx in types, types & {"AveragePool", "Conv", "GlobalAveragePool"}) == (True, {in_onnx})
    interpreter = Interpreter(model_content=files[1].data)
    codes = {item["op_name"] for item in interpreter._get_ops_details()}
    assert codes & {"AVERAGE_POOL_2D", "DEPTHWISE_CONV_2D", "MEAN"} == {in_tflite}


class Squeezed(nn.Module):
    """Squeeze and excitation, whose mean is taken over axes counted from either end."""

    def __init__(self, axes: tuple[int, int]) -> None:
        super().__init__()
        self.axes = axes
        self.conv, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y * torch.sigmoid(self.gate(y.mean(self.axes, keepdim=True)))


@pytest.mark.parametrize("axes", [(2, 3), (-1, -2)])
def test_the_mean_of_an_image_is_one_operator_of_integers(axes: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = optimize(capture(Squeezed(axes).eval(), (torch.zeros(_SHAPE),), input_names=["x"], output_names=["y"]))
    quantized = apply(graph, make_plan(graph, calibrate(graph, [{"x": _inputs(seed)} for seed in range(4)])))
    for model, expected in ((graph, "GlobalAveragePool"), (quantized, "QLinearGlobalAveragePool")):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(to_onnx(model, metadata={}).data, options, providers=["CPUExecutionProvider"])
        types = {node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node}
        assert expected in types
        assert "ReduceMean" not in types


@pytest.mark.parametrize(
    ("shape", "axes", "keep"), [((1, 3, 9, 8), (2, 3), False), ((1, 3, 9, 8), (1, 2), True), ((1, 3, 9), (2,), True)]
)
def test_means_over_other_axes_stay(shape: tuple[int, ...], axes: tuple[int, ...], keep: bool) -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(axes, keepdim=keep)

    graph = optimize(capture(Mean(), (torch.zeros(shape),), input_names=["x"], output_names=["y"]))
    assert "ReduceMean" in {node.op_type for node in onnx.load_from_string(to_onnx(graph, metadata={}).data).graph.node}


def test_an_average_between_floats_stays() -> None:
    graph = optimize(capture(nn.AvgPool2d(2), (torch.zeros(_SHAPE),), input_names=["x"], output_names=["y"]))
    assert [node.op_type for node in onnx.load_from_string(to_onnx(graph, metadata={}).data).graph.node] == [
        "AveragePool"
    ]


def test_the_proof_holds_with_averages_as_convolutions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(3, 2), nn.Conv2d(8, 8, 1), nn.AvgPool2d(2)]
    x = torch.zeros(1, 3, 18, 18)
    data = [{"x": np.random.default_rng(at).standard_normal(x.shape).astype(np.float32)} for at in range(8)]
    result = edgeconv.export(
        nn.Sequential(*layers).eval(),
        (x,),
        tmp_path,
        name="averages",
        input_names=("x",),
        variants="int8",
        quantization=edgeconv.Quantization(batches=lambda: data[:6]),
        samples=[edgeconv.Sample(f"unseen-{at}", each) for at, each in enumerate(data[6:])],
        devices=("onnxruntime", "litert", "litert-reference"),
    )
    assert result.report is not None
    rows = result.report.comparisons
    assert [row.reason for row in rows] == ["", "", ""]
    assert all(row.metrics is not None and row.metrics.sqnr_db > 35.0 for row in rows)
