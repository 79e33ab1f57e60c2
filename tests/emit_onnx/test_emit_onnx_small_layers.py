"""Small layers of a quantized graph that an `.onnx` file computes in floats: which, what of, and at what error.

Members thought of: depthwise and full ones, in the middle and before an output, with and without LeakyReLU; those that
are too large, followed by a ReLU (which saturation does), read twice, and outputs that are integers.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.core import Emitted
from edgeconv.emit.onnx import to_onnx
from edgeconv.nn import DepthwiseSeparableConv
from edgeconv.parity import metrics
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.rewrite import optimize


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return nn.functional.leaky_relu(y, 0.1) * y


def _leaky(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.LeakyReLU(0.1))))


_MODULES: dict[str, tuple[nn.Module, int, int]] = {  # and the roundings of the plan, and of the file
    "the block": (DepthwiseSeparableConv(4, 8), 5, 2),
    "a wide block": (DepthwiseSeparableConv(24, 8), 5, 5),
    "an output of 16 terms": (_leaky(nn.Conv2d(4, 16, 1), nn.Conv2d(16, 8, 1)), 5, 2),
    "an output without an activation": (nn.Conv2d(4, 8, 1), 2, 1),
    "an output of 36 terms": (_leaky(nn.Conv2d(4, 8, 3)), 3, 3),
    "depthwise of 9 channels": (_leaky(nn.Conv2d(9, 9, 3, groups=9), nn.Conv2d(9, 20, 3)), 5, 5),
    "before a ReLU": (nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3)), 3, 3),
    "read twice": (_Twice(), 4, 4),
}


def _quantized(module: nn.Module) -> tuple[ir.Model, np.ndarray]:
    channels = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d)).in_channels
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((1, channels, 96, 90)).astype(np.float32)} for _ in range(5)]
    graph = optimize(capture(module.eval(), (torch.zeros(1, channels, 96, 90),), input_names=["x"], output_names=["y"]))
    return apply(graph, make_plan(graph, calibrate(graph, batches[:4]))), batches[4]["x"]


def _roundings(emitted: Emitted) -> int:
    model = onnx.load_from_string(emitted.data)
    return Counter(node.op_type for node in model.graph.node)["QuantizeLinear"]


def _decibels(module: nn.Module, emitted: Emitted, x: np.ndarray) -> float:
    (actual,) = onnxruntime.InferenceSession(emitted.data).run(None, {"x": x})
    with torch.no_grad():
        exact = module.double()(torch.from_numpy(x).double()).numpy()
    return metrics(actual, exact).sqnr_db


@pytest.mark.parametrize("name", _MODULES)
def test_roundings_of_small_layers_are_left_out_and_nothing_gets_worse(name: str) -> None:
    torch.manual_seed(0)
    module, planned, written = _MODULES[name]
    graph, x = _quantized(module)
    whole, emitted = (to_onnx(graph, metadata={}, keep_roundings=keep) for keep in (True, False))
    assert (_roundings(whole), _roundings(emitted)) == (planned, written)
    assert (whole.notes, bool(emitted.notes)) == ((), planned > written)
    before, after = (_decibels(module, file, x) for file in (whole, emitted))
    assert after >= before - 0.2 > 20


@pytest.mark.parametrize("name", _MODULES)
def test_outputs_that_are_integers_stay_rounded(name: str) -> None:
    graph, _ = _quantized(_MODULES[name][0])
    emitted = to_onnx(graph, metadata={}, io="uint8")
    assert emitted.outputs[0].dtype == "uint8"


@pytest.mark.parametrize(("line", "roundings"), [("", 2), ("[quantize]\nkeep_roundings = true\n", 5)])
def test_a_recipe_may_keep_all_roundings(line: str, roundings: int, tmp_path: Path) -> None:
    recipe = tmp_path / "block.toml"
    factory = 'factory = "edgeconv.nn:DepthwiseSeparableConv"\nargs = { in_channels = 4, out_channels = 8 }'
    inputs = '[[inputs]]\nname = "x"\nshape = [1, 4, 96, 90]\n[export]\nvariants = ["int8"]\nformats = ["onnx"]'
    recipe.write_text(f'name = "block"\n[model]\n{factory}\n{inputs}\n{line}[[quantize.random]]\nseed = 0\n')
    result = edgeconv.export_recipe(edgeconv.load_recipe(recipe), tmp_path / "out", prove=False)
    (artifact,) = result.artifacts
    operators = Counter(node.op_type for node in onnx.load(artifact.path).graph.node)
    assert operators["QuantizeLinear"] == roundings
    assert any("computed in float" in note for note in result.notes) == (roundings == 2)


def test_small_images_stay_all_integers() -> None:
    graph = optimize(capture(DepthwiseSeparableConv(4, 8).eval(), (_SMALL,), input_names=["x"], output_names=["y"]))
    graph = apply(graph, make_plan(graph, calibrate(graph, [{"x": _SMALL.numpy()}])))
    assert to_onnx(graph, metadata={}).data == to_onnx(graph, metadata={}, keep_roundings=True).data


_SMALL = torch.linspace(-1, 1, 4 * 40 * 40).reshape(1, 4, 40, 40)


def test_onnxruntime_computes_the_block_in_two_convolutions(tmp_path: Path) -> None:
    graph, _ = _quantized(DepthwiseSeparableConv(4, 64))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(to_onnx(graph, metadata={}).data, options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert operators["FusedConv"] == 2
    assert not {"QLinearConv", "QLinearLeakyRelu", "Transpose", "ReorderOutput"} & operators.keys()


def test_the_proof_of_the_block_holds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((1, 3, 112, 112)).astype(np.float32) for _ in range(5)]
    result = edgeconv.export(
        DepthwiseSeparableConv(3, 16).eval(),
        (torch.from_numpy(x[0]),),
        tmp_path,
        name="block",
        formats="onnx",
        variants="int8",
        devices=("onnxruntime",),
        quantization=edgeconv.Quantization(batches=lambda: [{"x": array} for array in x[:4]]),
        samples=[edgeconv.Sample("unseen", {"x": x[4]})],
    )
    assert result.report.verdict.value == "pass", result.report
    links = [link for item in (*result.report.artifacts, *result.report.comparisons) for link in item.links]
    assert len(links) == 4
    assert all(link.verdict.value == "pass" for link in links)
