"""int8 convolutions of few channels with pixels as channels, bit for bit what plain ones make of the same integers.

Members thought of: stems of stride 2, of 3x3 and 7x7, padded alike, on one side and not at all; strides of 1 and 4,
others along rows than along columns; depthwise layers of 3 and 4 channels; few results of a 1x1 kernel; ranges whose
zero is no middle; what gains nothing, what does not come out even, dilations and 16 bits, which stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from crossed import diagonal
from torch import nn

from edgeconv.core import Emitted
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.integer import _convert, _pixels

_RESOLVERS = ("reference", "xnnpack")
_LAYERS: dict[str, tuple[nn.Module, tuple[int, int]]] = {
    "3x3, stride 2, padded": (nn.Conv2d(3, 16, 3, stride=2, padding=1), (48, 64)),
    "3x3, stride 2, padded on one side": (
        nn.Sequential(nn.ZeroPad2d((0, 1, 1, 0)), nn.Conv2d(3, 16, 3, stride=2)),
        (48, 64),
    ),
    "3x3, stride 2, not padded": (nn.Conv2d(3, 16, 3, stride=2), (49, 64)),
    "7x7, stride 2": (nn.Conv2d(3, 32, 7, stride=2, padding=3), (48, 64)),
    "4x4, stride 4": (nn.Conv2d(3, 16, 4, stride=4), (64, 128)),
    "3x5, strides of 1 and 2": (nn.Conv2d(4, 8, (3, 5), stride=(1, 2), padding=(1, 2)), (24, 64)),
    "5x5 of one channel": (nn.Conv2d(1, 6, 5, padding=2), (28, 28)),
    "depthwise of 3 channels": (nn.Conv2d(3, 3, 3, padding=1, groups=3), (48, 64)),
    "depthwise of 3 channels, stride 2": (nn.Conv2d(3, 3, 3, stride=2, padding=1, groups=3), (64, 96)),
    "depthwise of 4 channels": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (48, 64)),
    "1x1 to 8 channels": (nn.Conv2d(16, 8, 1), (48, 64)),
    "with a ReLU6": (nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU6()), (48, 64)),
}
_STAYING: dict[str, tuple[nn.Module, tuple[int, int]]] = {
    "many channels": (nn.Conv2d(32, 32, 3, padding=1), (16, 16)),
    "depthwise of 8 channels, whose own kernel is faster in wide tiles": (
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        (48, 64),
    ),
    "depthwise of 16 channels": (nn.Conv2d(16, 16, 3, padding=1, groups=16), (32, 32)),
    "an odd number of columns": (nn.Conv2d(3, 16, 3, stride=2, padding=1), (48, 63)),
    "dilated": (nn.Conv2d(3, 3, 3, padding=2, dilation=2, groups=3), (48, 64)),
    "groups": (nn.Conv2d(4, 8, 3, padding=1, groups=2), (48, 64)),
    "few pixels": (nn.Conv2d(3, 16, 3, stride=2, padding=1), (8, 8)),
}


_SAVED_NS = _pixels._LEAST_SAVED_NS


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are small here, so that tests are fast: whatever saves a twentieth is done."""
    monkeypatch.setattr(_pixels, "_LEAST_SAVED_NS", 0.0)


def _quantized(
    tflite: Any, module: nn.Module, size: tuple[int, int], scheme: str = "int8"
) -> tuple[ir.Model, np.ndarray]:
    channels = next(layer.in_channels for layer in module.modules() if isinstance(layer, nn.Conv2d))
    x = np.random.default_rng(0).standard_normal((1, channels, *size)).astype(np.float32) + 1
    return tflite.quantized(module, x, scheme), x


@pytest.fixture
def plain(tflite: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Emits a graph with every pixel by itself."""

    def emit(graph: ir.Model) -> Emitted:
        with monkeypatch.context() as context:
            context.setattr(_convert, "pack_pixels", lambda graph: None)
            return tflite.in_integers(graph)

    return emit


@pytest.mark.parametrize(("name", "resolver"), diagonal([*_LAYERS], _RESOLVERS))
def test_pixels_as_channels_give_the_same_integers(tflite: Any, plain: Any, name: str, resolver: str) -> None:
    graph, x = _quantized(tflite, *_LAYERS[name])
    expected, before = tflite.integers(plain(graph), x, resolver)
    actual, operators = tflite.integers(tflite.in_integers(graph), x, resolver)
    assert "RESHAPE" not in before
    assert "RESHAPE" in operators
    assert "DEPTHWISE_CONV_2D" not in operators
    assert len(np.unique(expected)) > 50
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", _STAYING)
def test_what_gains_nothing_or_does_not_come_out_even_stays(tflite: Any, plain: Any, name: str) -> None:
    graph, _ = _quantized(tflite, *_STAYING[name])
    assert tflite.in_integers(graph).data == plain(graph).data


@pytest.mark.parametrize(("size", "packed"), [((32, 32), False), ((224, 224), True)])
def test_small_images_as_of_microcontrollers_stay(
    tflite: Any, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], packed: bool
) -> None:
    monkeypatch.setattr(_pixels, "_LEAST_SAVED_NS", _SAVED_NS)
    graph, x = _quantized(tflite, _LAYERS["depthwise of 3 channels"][0], size)
    assert ("RESHAPE" in tflite.run(tflite.in_integers(graph), [x], "reference").operators) is packed


def test_layers_of_16_bits_keep_their_pixels(tflite: Any) -> None:
    graph, x = _quantized(tflite, *_LAYERS["depthwise of 3 channels"], scheme="int16x8")
    assert "RESHAPE" not in tflite.run(tflite.in_integers(graph, "int16"), [x], "reference").operators


def test_the_oldest_runtime_computes_pixels_as_channels(tflite: Any, old_runtime: Any) -> None:
    graph, x = _quantized(tflite, *_LAYERS["depthwise of 4 channels"])
    emitted = tflite.in_integers(graph)
    expected, _ = tflite.integers(emitted, x)
    actual = tflite.steps_of(emitted, old_runtime(emitted, [x])[0])
    assert np.abs(actual - expected).max() <= 1


def test_a_pad_that_another_operator_reads_stays(tflite: Any, plain: Any) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pad = nn.ZeroPad2d((1, 0, 1, 0))
            self.conv = nn.Conv2d(3, 16, 3, stride=2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            padded = self.pad(x)
            return self.conv(padded), padded

    two = Two()
    x = np.random.default_rng(0).standard_normal((1, 3, 48, 64)).astype(np.float32)
    graph = tflite.quantized(two, x)
    for expected, actual in zip(
        *(tflite.run(emitted, [x], "reference").outputs for emitted in (plain(graph), tflite.in_integers(graph))),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)


def test_every_choice_of_pixels_reads_what_the_window_reads() -> None:
    """The windows of a row, pixel by pixel, for all paddings and strides of small kernels."""
    for size, stride, begin in ((3, 1, 1), (3, 2, 1), (3, 2, 0), (7, 2, 3), (5, 1, 2), (4, 4, 0), (1, 1, 0), (2, 1, 0)):
        width = 48
        count = (width + 2 * begin - size) // stride + 1
        shape = _pixels._Shape(1, 1, 1, 1, width, count, size, stride, begin)
        for read, made, columns in _pixels._choices(shape):
            for at in range(count):
                first = (at // made * columns.stride - columns.begin) * read
                wanted = range(at * stride - begin, at * stride - begin + size)
                assert first <= wanted[0], (read, made)
                assert wanted[-1] < first + columns.size * read, (read, made)


def test_an_open_batch_changes_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of an open batch is lowered at two batch sizes, which have to give the same operators."""
    shape = _pixels._Shape(24, 3, 3, 16, 64, 32, 3, 2, 1)
    chosen = []
    for least in range(0, 8_000, 100):
        monkeypatch.setattr(_pixels, "_LEAST_SAVED_NS", float(least))
        images = [Tensor("x", (batch, 48, 64, 3), np.dtype(np.int8)) for batch in (1, 7, 11)]
        first, *others = (_pixels._fastest(shape, False, image) for image in images)
        assert others == [first, first], least
        chosen.append(first)
    assert None in chosen
    assert len(set(chosen)) > 1, "nothing is ever gained"
