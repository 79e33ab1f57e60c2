"""Heads whose numbers 8 bits alone would not hold, exported and proved in both formats, on inputs not calibrated on.

Members: embeddings divided by their length, written with lp_pool2d over channels, over positions and over a reshaped
map; two branches of one network that are compared (siamese); a spectrogram front (filters of a constant quotient, the
logarithm of their power, evened to 0 to 1, harmonics stacked as channels, BatchNorm), all in integers where the plan
lets them and with the fewest layers in float. Inputs and outputs are floats, and pixels or samples of uint8.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from crossed import slow_but
from torch import nn
from torch.nn import functional

import edgeconv
from edgeconv.core import Array


def _body() -> nn.Sequential:
    first = (nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*first, nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1))


class _Embedding(nn.Module):
    def __init__(self, head: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body, self.head = _body(), head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def _by_length(y: torch.Tensor) -> torch.Tensor:
    y = functional.adaptive_avg_pool2d(y, 1).permute(0, 2, 3, 1)
    return (y / functional.lp_pool2d(y, 2.0, (1, 32)).clamp(min=1e-6)).flatten(1)


def _by_length_of_positions(y: torch.Tensor) -> torch.Tensor:
    return y / functional.lp_pool2d(y, 2.0, (16, 16))


def _by_length_of_a_reshaped_map(y: torch.Tensor) -> torch.Tensor:
    return y / functional.lp_pool2d(y.flatten(2)[:, None], 2.0, (32, 1)).reshape(1, 1, 16, 16)


class _Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = _body(), nn.Linear(32, 24)

    def _embedded(self, x: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.last(functional.adaptive_avg_pool2d(self.body(x), 1).flatten(1)))

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = self._embedded(x), self._embedded(other)
        return (a * b).sum(1), (a - b).square().sum(1).sqrt()


_FREQUENCIES = 0.5 * 2 ** (np.arange(1, 65) / 12) / 64  # of the filters, in periods per sample


class _Spectrogram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        angles, window = 2 * np.pi * _FREQUENCIES[:, None] * np.arange(256), np.hanning(256) / 256
        self.real, self.imaginary = (nn.Conv1d(1, 64, 256, 64, bias=False) for _ in range(2))
        for layer, wave in ((self.real, np.cos(angles)), (self.imaginary, np.sin(angles))):
            layer.weight.data = torch.from_numpy((window * wave)[:, None].astype(np.float32))
        self.norm, self.last = nn.BatchNorm2d(1), nn.Conv2d(8, 1, 3, padding=1)
        self.first = nn.Sequential(nn.Conv2d(4, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        power = self.real(x).square() + self.imaginary(x).square()
        level = 10 * torch.log10(power + 1e-10)
        level = level - level.amin((1, 2), keepdim=True)
        level = self.norm((level / (level.amax((1, 2), keepdim=True) + 1e-6))[:, None])
        harmonics = [functional.pad(level, (0, 0, 0, shift))[:, :, shift:] for shift in (0, 12, 19, 24)]
        return torch.sigmoid(self.last(self.first(torch.cat(harmonics, 1))))


def _image(rng: np.random.Generator) -> Array:
    patches = rng.normal(size=(1, 3, 8, 8)).repeat(8, 2).repeat(8, 3)
    return (patches + 0.3 * rng.normal(size=patches.shape)).astype(np.float32)


def _sound(rng: np.random.Generator) -> Array:
    at = np.arange(4096)
    chosen = rng.choice(_FREQUENCIES, 4)
    tones = [rng.uniform(0.05, 1) * np.sin(2 * np.pi * frequency * at + rng.uniform(0, 6)) for frequency in chosen]
    decaying = sum(tones) * np.linspace(1, rng.uniform(0.01, 1), len(at))
    return (decaying + 0.003 * rng.normal(size=len(at))).astype(np.float32)[None, None]


_Draw = Callable[[np.random.Generator], Array]
_HEADS: dict[str, tuple[Callable[[], nn.Module], int, _Draw, float]] = {  # inputs, and the least decibels
    "length of channels": (lambda: _Embedding(_by_length), 1, _image, 30),
    "length of positions": (lambda: _Embedding(_by_length_of_positions), 1, _image, 22),
    "length of a reshaped map": (lambda: _Embedding(_by_length_of_a_reshaped_map), 1, _image, 22),
    "siamese": (_Siamese, 2, _image, 25),
    "spectrogram": (_Spectrogram, 1, _sound, 30),
}


_CASES = [(name, variant, io) for name in _HEADS for variant in ("int8", "int8-mixed") for io in ("float32", "uint8")]
_FAST = [(name, "int8", "float32") for name in ("length of channels", "length of a reshaped map", "siamese")]
_FAST += [("spectrogram", "int8-mixed", "float32")]


@pytest.mark.parametrize(
    ("name", "variant", "io"),
    slow_but(_FAST, _CASES),
)
def test_heads_hold_in_both_formats(name: str, variant: str, io: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, count, draw, least_db = _HEADS[name]
    module, rng = build(), np.random.default_rng(1)
    names = [f"x{index}" for index in range(count)]
    with torch.no_grad():
        for _ in range(10):  # BatchNorm's statistics
            module(*(torch.from_numpy(draw(rng)) for _ in names))
    batches = [{name: draw(rng) for name in names} for _ in range(28)]
    result = edgeconv.export(
        module.eval(),
        tuple(torch.from_numpy(batches[0][name]) for name in names),
        tmp_path,
        name="head",
        input_names=names,
        variants=variant,
        quantization=edgeconv.Quantization(batches=lambda: batches[:20], io=io),
        samples=[edgeconv.Sample(f"unseen {index}", batch) for index, batch in enumerate(batches[20:])],
        devices=("onnxruntime", "litert"),
    )
    assert result.report.verdict.value == "pass", [row.reason for row in result.report.comparisons]
    found = {(row.artifact, row.device, row.output): row.metrics.sqnr_db for row in result.report.comparisons}
    assert min(found.values()) >= least_db, found


class _Places(nn.Module):
    """What a map holds where a score is largest: float32 makes 1 of many scores, and takes the first of these."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores, self.map = nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = (self.scores(x) * 60 + 20).sigmoid().flatten(2).argmax(2, keepdim=True).expand(1, 2, 1)
        return self.map(x).flatten(2).gather(2, place)


def test_what_float32_misses_is_not_searched_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(24)]
    result = edgeconv.export(
        _Places().eval(),
        (torch.zeros(1, 3, 8, 8),),
        tmp_path,
        name="places",
        input_names=["x"],
        variants=("fp32", "int8-mixed"),
        formats="onnx",
        quantization=edgeconv.Quantization(batches=lambda: images[:8]),
        samples=[edgeconv.Sample(f"image {index}", image) for index, image in enumerate(images[8:])],
        devices=("onnxruntime",),
    )
    assert len(result.artifacts) == 2
    (note,) = (note for note in result.notes if "cannot be reached" in note)
    assert "with every layer in float the files miss it on the devices" in note
    assert {row.artifact for row in result.report.comparisons if row.verdict.value == "fail"} >= {
        "places.int8-mixed.onnx"
    }
