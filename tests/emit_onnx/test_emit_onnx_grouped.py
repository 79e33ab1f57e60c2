"""int8 depthwise convolutions of several results per channel in groups: the same integers, and a proof that holds.

Members thought of: two, three and eight results, strides, 5x5, dilation, a prime number of channels, more channels than
a group may have; those that stay: one result each, a prime number above 32, weights of floats, groups of two channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_files import assert_same_integers, groups, noise, quantized, without
from torch import nn

import edgeconv
from edgeconv.core import Sample
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.onnx._grouped import group_depthwise

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


_SHAPE = (1, 3, 10, 11)


def _module(channels: int, layer: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    options = {"kernel_size": 3, "padding": 1, "groups": channels, **layer}
    conv = nn.Conv2d(channels, **options)
    # No rewrite splits the results: the Softmax mixes them.
    behind = nn.Sequential(nn.BatchNorm2d(conv.out_channels), nn.Softmax(1))
    return nn.Sequential(nn.Conv2d(3, channels, 1), nn.ReLU(), conv, behind).eval()


@pytest.mark.parametrize("name", _LAYERS)
def test_groups_give_the_integers_of_the_depthwise_convolution(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    channels, layer, size = _LAYERS[name]
    model = quantized(_module(channels, layer), _SHAPE)
    grouped = to_onnx(model, metadata={}, io="int8").data
    plain = without(group_depthwise, model, monkeypatch)
    assert groups(plain) == [channels]
    assert groups(grouped) == ([channels // size] if size < channels else [])
    assert_same_integers(grouped, plain, _SHAPE)


@pytest.mark.parametrize("name", _STAYING)
def test_what_gains_nothing_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized(_module(*_STAYING[name]), _SHAPE)
    assert to_onnx(model, metadata={}, io="int8").data == without(group_depthwise, model, monkeypatch)


def test_the_proof_holds_of_groups(tmp_path: Path) -> None:
    channels, layer, _ = _LAYERS["more channels than a group has"]
    result = edgeconv.export(
        _module(channels, layer),
        (torch.zeros(_SHAPE),),
        tmp_path,
        name="grouped",
        input_names=("x",),
        formats="onnx",
        variants="int8",
        quantization=edgeconv.Quantization(batches=lambda: [{"x": noise(_SHAPE, seed)} for seed in range(6)]),
        samples=[Sample("unseen", {"x": noise(_SHAPE, 9)})],
        devices=("onnxruntime",),
    )
    assert result.report is not None
    assert [row.reason for row in result.report.comparisons] == [""]
