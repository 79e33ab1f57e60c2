"""int8 depthwise convolutions in groups of pixels and channels, bit for bit what the depthwise kernel makes of them.

Members thought of: kernels of odd and of even sizes, of one row; a prime number of channels; several results per
channel; images of two samples; a ReLU6 behind; ranges whose zero is no middle; strides, dilations, other padding,
widths that do not come out even, kernels of one column or that XNNPACK has, and 16 bits, which stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from crossed import diagonal
from torch import nn

from edgeconv.emit.tflite.integer import _interleaved

_RESOLVERS = ("reference", "xnnpack")
_SAME = {"kernel_size": 7, "padding": 3}
_LAYERS: dict[str, tuple[tuple[int, int, int, int], dict[str, Any]]] = {
    "7x7": ((1, 16, 16, 16), _SAME),
    "7x7 of two images": ((2, 12, 9, 14), _SAME),
    "5x9": ((1, 8, 12, 28), {"kernel_size": (5, 9), "padding": (2, 4)}),
    "1x27": ((1, 8, 24, 32), {"kernel_size": (1, 27), "padding": (0, 13)}),
    "6x6": ((1, 16, 16, 16), {"kernel_size": 6, "padding": "same"}),
    "a prime number of channels": ((1, 13, 14, 14), _SAME),
    "two results per channel": ((1, 8, 16, 16), {**_SAME, "out_channels": 16}),
    "three results per channel, 5x5": ((1, 4, 16, 16), {"kernel_size": 5, "padding": 2, "out_channels": 12}),
}
_STAYING: dict[str, tuple[tuple[int, int, int, int], dict[str, Any]]] = {
    "5x5": ((1, 16, 16, 16), {"kernel_size": 5, "padding": 2}),
    "27x1": ((1, 32, 32, 32), {"kernel_size": (27, 1), "padding": (13, 0)}),
    "stride 2": ((1, 16, 16, 16), {**_SAME, "stride": 2}),
    "dilated": ((1, 16, 16, 16), {"kernel_size": 7, "padding": 6, "dilation": 2}),
    "not padded": ((1, 16, 22, 22), {"kernel_size": 7}),
    "a prime width": ((1, 16, 16, 37), _SAME),
}
_SAVED_NS = _interleaved._LEAST_SAVED_NS


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are small here, so that tests are fast: whatever saves time is done."""
    monkeypatch.setattr(_interleaved, "_LEAST_SAVED_NS", 0.0)


def _quantized(
    tflite: Any, shape: tuple[int, ...], layer: dict[str, Any], scheme: str = "int8"
) -> tuple[ir.Model, np.ndarray]:
    channels = shape[1]
    module = nn.Sequential(nn.Conv2d(channels, **{"out_channels": channels, **layer}, groups=channels), nn.ReLU6())
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) + 1
    return tflite.quantized(module, x, scheme), x


@pytest.mark.parametrize(("name", "resolver"), diagonal([*_LAYERS], _RESOLVERS))
def test_groups_of_pixels_give_the_integers_of_the_depthwise_kernel(
    tflite: Any, depthwise: Any, name: str, resolver: str
) -> None:
    graph, x = _quantized(tflite, *_LAYERS[name])
    expected, own = tflite.integers(depthwise(graph), x, resolver)
    actual, operators = tflite.integers(tflite.in_integers(graph), x, resolver)
    assert "DEPTHWISE_CONV_2D" in own
    assert "DEPTHWISE_CONV_2D" not in operators
    assert operators.count("TRANSPOSE") == 2
    assert len(np.unique(expected)) > 50
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", _STAYING)
def test_what_gains_nothing_or_does_not_come_out_even_stays(tflite: Any, name: str) -> None:
    graph, x = _quantized(tflite, *_STAYING[name])
    assert "TRANSPOSE" not in tflite.integers(tflite.in_integers(graph), x)[1]


@pytest.mark.parametrize(("size", "interleaved"), [(14, False), (56, True)])
def test_small_images_as_of_microcontrollers_stay(
    tflite: Any, monkeypatch: pytest.MonkeyPatch, size: int, interleaved: bool
) -> None:
    monkeypatch.setattr(_interleaved, "_LEAST_SAVED_NS", _SAVED_NS)
    graph, x = _quantized(tflite, (1, 16, size, size), _SAME)
    assert ("TRANSPOSE" in tflite.integers(tflite.in_integers(graph), x)[1]) is interleaved


def test_weights_that_cost_more_are_fewer(tflite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = _quantized(tflite, *_LAYERS["7x7"])
    size = len(tflite.in_integers(graph).data)
    monkeypatch.setattr(_interleaved, "WEIGHT_NS", 10.0)
    assert len(tflite.in_integers(graph).data) < size - 1000


def test_layers_of_16_bits_stay_depthwise(tflite: Any) -> None:
    graph, x = _quantized(tflite, *_LAYERS["7x7"], scheme="int16x8")
    assert "DEPTHWISE_CONV_2D" in tflite.integers(tflite.in_integers(graph, "int16"), x)[1]


def test_the_oldest_runtime_computes_groups_of_pixels(tflite: Any, old_runtime: Any) -> None:
    graph, x = _quantized(tflite, *_LAYERS["7x7 of two images"])
    emitted = tflite.in_integers(graph)
    expected, operators = tflite.integers(emitted, x)
    assert "TRANSPOSE" in operators
    actual = tflite.steps_of(emitted, old_runtime(emitted, [x])[0])
    assert np.abs(actual - expected).max() <= 1
