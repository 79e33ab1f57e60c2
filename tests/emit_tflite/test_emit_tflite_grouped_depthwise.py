"""int8 depthwise convolutions as grouped ones, bit for bit what the depthwise kernel makes of the same integers.

Members thought of: more than 25 taps, also in one direction; several results per channel; strides, dilations, padding
of one side; numbers of channels that eight does not divide, and a prime one; what has a kernel of its own, and stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgeconv.core import Emitted
from edgeconv.emit.tflite.integer import _blocks, _forms
from edgeconv.quantize import apply, calibrate, make_plan

_RESOLVERS = ("reference", "xnnpack")
_LAYERS: dict[str, tuple[int, int, dict[str, Any]]] = {  # channels, of a group, and what is special
    "7x7": (16, 8, {"kernel_size": 7, "padding": 3}),
    "13x2": (16, 8, {"kernel_size": (13, 2), "padding": (6, 0)}),
    "stride 2": (24, 8, {"kernel_size": 7, "padding": 3, "stride": 2}),
    "dilation 2": (8, 8, {"kernel_size": 7, "padding": 6, "dilation": 2}),
    "12 channels": (12, 6, {"kernel_size": 7, "padding": 3}),
    "a prime number of channels": (13, 13, {"kernel_size": 7}),
    "two results per channel": (16, 8, {"kernel_size": 3, "padding": 1, "out_channels": 32}),
    "three results per channel": (5, 5, {"kernel_size": 5, "out_channels": 15}),
}
_STAYING: dict[str, tuple[int, dict[str, Any]]] = {
    "5x5": (16, {"kernel_size": 5}),
    "1x25": (16, {"kernel_size": (1, 25)}),
    "a large prime number of channels": (131, {"kernel_size": 7}),
}


def _quantized(tflite: Any, channels: int, layer: dict[str, Any]) -> tuple[ir.Model, np.ndarray]:
    module = nn.Conv2d(channels, **{"out_channels": channels, **layer}, groups=channels)
    x = np.random.default_rng(0).standard_normal((1, channels, 15, 27)).astype(np.float32)
    graph = tflite.graph_of(module, torch.from_numpy(x))
    return apply(graph, make_plan(graph, calibrate(graph, [{"input0": x}]))), x


def _emitted(tflite: Any, graph: ir.Model) -> Emitted:
    emitted: Emitted = tflite.to_tflite(graph, metadata={}, io="int8")
    return emitted


def _results(tflite: Any, emitted: Emitted, x: np.ndarray, resolver: str) -> tuple[np.ndarray, list[str]]:
    ran = tflite.run(emitted, [x], resolver)
    return np.rint(ran.outputs[0] / emitted.outputs[0].scale).astype(int), ran.operators


@pytest.fixture
def depthwise(tflite: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Emits a graph with its depthwise convolutions as they are."""

    def emit(graph: ir.Model) -> Emitted:
        with monkeypatch.context() as context:
            context.delitem(_forms._FORMS, "DEPTHWISE_CONV_2D")  # type: ignore[arg-type]
            return _emitted(tflite, graph)

    return emit


@pytest.mark.parametrize("resolver", _RESOLVERS)
@pytest.mark.parametrize("name", _LAYERS)
def test_groups_give_the_integers_of_the_depthwise_kernel(
    tflite: Any, depthwise: Any, name: str, resolver: str
) -> None:
    channels, size, layer = _LAYERS[name]
    graph, x = _quantized(tflite, channels, layer)
    expected, own = _results(tflite, depthwise(graph), x, resolver)
    actual, operators = _results(tflite, _emitted(tflite, graph), x, resolver)
    assert "DEPTHWISE_CONV_2D" in own
    assert "DEPTHWISE_CONV_2D" not in operators
    assert operators.count("CONV_2D") == 1
    assert len(np.unique(expected)) > 100
    np.testing.assert_array_equal(actual, expected)
    multiplier = layer.get("out_channels", channels) // channels
    assert _blocks.channels_of_a_group(channels, multiplier) == size


@pytest.mark.parametrize("name", _LAYERS)
def test_the_oldest_runtime_computes_groups(tflite: Any, old_runtime: Any, name: str) -> None:
    channels, _, layer = _LAYERS[name]
    graph, x = _quantized(tflite, channels, layer)
    emitted = _emitted(tflite, graph)
    expected, _ = _results(tflite, emitted, x, "reference")
    actual = np.rint(old_runtime(emitted, [x])[0] / emitted.outputs[0].scale).astype(int)
    assert np.abs(actual - expected).max() <= 1


@pytest.mark.parametrize("name", _STAYING)
def test_what_has_a_kernel_or_gains_nothing_stays_depthwise(tflite: Any, name: str) -> None:
    channels, layer = _STAYING[name]
    graph, x = _quantized(tflite, channels, layer)
    _, operators = _results(tflite, _emitted(tflite, graph), x, "xnnpack")
    assert operators.count("DEPTHWISE_CONV_2D") == 1
    assert "CONV_2D" not in operators


def test_layers_of_16_bits_stay_depthwise(tflite: Any) -> None:
    module = nn.Conv2d(16, 16, 7, groups=16)
    x = np.random.default_rng(0).standard_normal((1, 16, 15, 27)).astype(np.float32)
    graph = tflite.graph_of(module, torch.from_numpy(x))
    calibration = calibrate(graph, [{"input0": x}])
    emitted = tflite.to_tflite(apply(graph, make_plan(graph, calibration, scheme="int16x8")), metadata={}, io="int16")
    assert "DEPTHWISE_CONV_2D" in tflite.run(emitted, [x], "reference").operators
