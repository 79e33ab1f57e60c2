"""int8 depthwise convolutions as grouped ones, bit for bit what the depthwise kernel makes of the same integers.

Members thought of: more than 25 taps, also in one direction; several results per channel; strides, dilations, padding
of one side; numbers of channels that eight does not divide, and a prime one; what has a kernel of its own, and stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from ai_edge_litert.interpreter import Interpreter
from crossed import diagonal
from torch import nn

_RESOLVERS = ("reference", "xnnpack")
_LAYERS: dict[str, tuple[int, int, dict[str, Any]]] = {  # channels, of a group, and what is special
    "7x7": (16, 16, {"kernel_size": 7}),
    "13x2": (16, 16, {"kernel_size": (13, 2), "padding": (6, 0)}),
    "stride 2": (24, 8, {"kernel_size": 7, "padding": 3, "stride": 2}),
    "dilation 2": (8, 8, {"kernel_size": 7, "padding": 6, "dilation": 2}),
    "12 channels": (12, 12, {"kernel_size": 7, "padding": 3}),
    "a prime number of channels": (13, 13, {"kernel_size": 7}),
    "two results per channel": (16, 8, {"kernel_size": 3, "padding": 1, "out_channels": 32}),
    "three results per channel": (5, 5, {"kernel_size": 5, "out_channels": 15}),
}
_STAYING: dict[str, tuple[int, dict[str, Any]]] = {
    "5x5": (16, {"kernel_size": 5}),
    "1x25": (16, {"kernel_size": (1, 25)}),
    "a large prime number of channels": (131, {"kernel_size": 7}),
}


def _quantized(tflite: Any, channels: int, layer: dict[str, Any], scheme: str = "int8") -> tuple[ir.Model, np.ndarray]:
    module = nn.Conv2d(channels, **{"out_channels": channels, **layer}, groups=channels)
    x = np.random.default_rng(0).standard_normal((1, channels, 15, 27)).astype(np.float32)
    return tflite.quantized(module, x, scheme), x


def _channels_of_a_group(data: bytes) -> int:
    """The last axis of the only convolution's weight."""
    interpreter = Interpreter(model_content=data)
    (conv,) = (detail for detail in interpreter._get_ops_details() if detail["op_name"] == "CONV_2D")
    shapes = {detail["index"]: detail["shape"] for detail in interpreter.get_tensor_details()}
    return int(shapes[conv["inputs"][1]][-1])


@pytest.mark.parametrize(("name", "resolver"), diagonal([*_LAYERS], _RESOLVERS))
def test_groups_give_the_integers_of_the_depthwise_kernel(
    tflite: Any, depthwise: Any, name: str, resolver: str
) -> None:
    channels, size, layer = _LAYERS[name]
    graph, x = _quantized(tflite, channels, layer)
    expected, own = tflite.integers(depthwise(graph), x, resolver)
    grouped = tflite.in_integers(graph)
    actual, operators = tflite.integers(grouped, x, resolver)
    assert "DEPTHWISE_CONV_2D" in own
    assert "DEPTHWISE_CONV_2D" not in operators
    assert operators.count("CONV_2D") == 1
    assert len(np.unique(expected)) > 100
    np.testing.assert_array_equal(actual, expected)
    assert _channels_of_a_group(grouped.data) == size


@pytest.mark.parametrize("name", _LAYERS)
def test_the_oldest_runtime_computes_groups(tflite: Any, old_runtime: Any, name: str) -> None:
    channels, _, layer = _LAYERS[name]
    graph, x = _quantized(tflite, channels, layer)
    emitted = tflite.in_integers(graph)
    expected, _ = tflite.integers(emitted, x)
    actual = tflite.steps_of(emitted, old_runtime(emitted, [x])[0])
    assert np.abs(actual - expected).max() <= 1


@pytest.mark.parametrize("name", _STAYING)
def test_what_has_a_kernel_or_gains_nothing_stays_depthwise(tflite: Any, name: str) -> None:
    channels, layer = _STAYING[name]
    graph, x = _quantized(tflite, channels, layer)
    _, operators = tflite.integers(tflite.in_integers(graph), x, "xnnpack")
    assert operators.count("DEPTHWISE_CONV_2D") == 1
    assert "CONV_2D" not in operators


def test_layers_of_16_bits_stay_depthwise(tflite: Any) -> None:
    graph, x = _quantized(tflite, 16, {"kernel_size": 7}, "int16x8")
    assert "DEPTHWISE_CONV_2D" in tflite.integers(tflite.in_integers(graph, "int16"), x)[1]
