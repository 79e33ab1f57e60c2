"""int8 depthwise convolutions of several results per channel in groups: the same integers, and a proof that holds.

Members thought of: two, three and eight results, strides, 5x5, dilation, a prime number of channels, more channels than
a group may have; those that stay: one result each, a prime number above 32, weights of floats, groups of two channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.core import Sample
from edgeconv.emit.onnx import _forms, to_onnx
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.rewrite import optimize

_LAYERS: dict[str, tuple[int, dict[str, Any], int]] = {  # channels, what is special, channels of a group
    "two results": (16, {"out_channels": 32}, 16),
    "eight results, stride 2": (24, {"out_channels": 192, "stride": 2}, 24),
    "three results, 5x5": (7, {"out_channels": 21, "kernel_size": 5}, 7),
    "dilation": (8, {"out_channels": 16, "dilation": 2}, 8),
    "more channels than a group has": (48, {"out_channels": 96}, 24),
}
_STAYING: dict[str, tuple[int, dict[str, Any]]] = {
    "one result each": (16, {"out_channels": 16}),
    "a prime number of channels": (37, {"out_channels": 74}),
    "groups of two channels": (16, {"out_channels": 32, "groups": 8}),
}


def _inputs(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, 10, 11)).astype(np.float32)


def _module(channels: int, layer: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    options = {"kernel_size": 3, "padding": 1, "groups": channels, **layer}
    conv = nn.Conv2d(channels, **options)
    # A residual behind it, so that no rewrite splits the results.
    behind = nn.Sequential(nn.BatchNorm2d(conv.out_channels), nn.Softmax(1))
    return nn.Sequential(nn.Conv2d(3, channels, 1), nn.ReLU(), conv, behind).eval()


def _quantized(module: nn.Module) -> ir.Model:
    x = torch.zeros(1, 3, 10, 11)
    graph = optimize(capture(module, (x,), input_names=["x"], output_names=["y"]))
    return apply(graph, make_plan(graph, calibrate(graph, [{"x": _inputs(seed)} for seed in range(4)])))


def _plain(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> bytes:
    with monkeypatch.context() as context:
        context.setattr(_forms, "FORMS", tuple(form for form in _forms.FORMS if form is not _forms.group_depthwise))
        return to_onnx(model, metadata={}, io="int8").data


def _run(data: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def _groups(data: bytes) -> list[int]:
    nodes = onnx.load_from_string(data).graph.node
    return [item.i for node in nodes for item in node.attribute if item.name == "group" and item.i > 1]


@pytest.mark.parametrize("name", _LAYERS)
def test_groups_give_the_integers_of_the_depthwise_convolution(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    channels, layer, size = _LAYERS[name]
    model = _quantized(_module(channels, layer))
    grouped, plain = to_onnx(model, metadata={}, io="int8").data, _plain(model, monkeypatch)
    assert _groups(plain) == [channels]
    assert _groups(grouped) == ([channels // size] if size < channels else [])
    for seed in range(3):
        x = np.random.default_rng(seed).integers(0, 256, (1, 3, 10, 11)).astype(np.uint8)
        np.testing.assert_array_equal(_run(grouped, x), _run(plain, x))


@pytest.mark.parametrize("name", _STAYING)
def test_what_gains_nothing_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _quantized(_module(*_STAYING[name]))
    assert to_onnx(model, metadata={}, io="int8").data == _plain(model, monkeypatch)


def test_the_proof_holds_of_groups(tmp_path: Path) -> None:
    channels, layer, _ = _LAYERS["more channels than a group has"]
    result = edgeconv.export(
        _module(channels, layer),
        (torch.zeros(1, 3, 10, 11),),
        tmp_path,
        name="grouped",
        input_names=("x",),
        formats="onnx",
        variants="int8",
        quantization=edgeconv.Quantization(batches=lambda: [{"x": _inputs(seed)} for seed in range(6)]),
        samples=[Sample("unseen", {"x": _inputs(9)})],
        devices=("onnxruntime",),
    )
    assert result.report is not None
    assert [row.reason for row in result.report.comparisons] == [""]
