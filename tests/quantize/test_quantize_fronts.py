"""Front ends of steep functions: float as far upstream as their integers would be heard behind the function.

Members: the logarithm of mel powers, of powers behind filters that halve the rate, a power of a small exponent, an
automatic gain (a quotient and a root). And what stays integers: networks in front of log-scores, of a logarithm of
features, of embeddings of length one, of LayerNorm and softmax written out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from crossed import slow_but
from test_quantize_idioms import Of
from torch import Tensor, nn
from torch.nn import functional

import edgeconv
from edgeconv.core import Array
from edgeconv.quantize import Plan

_SAMPLES = 4096


class _Powers(nn.Module):
    """Powers of a sound's short-time Fourier transform: (N, 1, samples) -> (N, bins, frames)."""

    def __init__(self, length: int, hop: int) -> None:
        super().__init__()
        angles = 2 * np.pi * np.arange(length // 2 + 1)[:, None] * np.arange(length) / length
        self.real, self.imaginary = (nn.Conv1d(1, len(angles), length, hop, bias=False) for _ in range(2))
        for layer, wave in ((self.real, np.cos(angles)), (self.imaginary, np.sin(angles))):
            layer.weight.data = torch.from_numpy((np.hanning(length) / length * wave)[:, None].astype(np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return self.real(x).square() + self.imaginary(x).square()


class _Bands(nn.Module):
    """The same of octaves, each of half the rate of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.powers, self.low = _Powers(128, 32), nn.Conv1d(1, 1, 65, 2, 32, bias=False)
        filter_ = np.sinc((np.arange(65) - 32) / 2) * np.hamming(65)
        self.low.weight.data = torch.from_numpy((filter_ / filter_.sum())[None, None].astype(np.float32))

    def forward(self, x: Tensor) -> Tensor:
        octaves = []
        for _ in range(3):
            octaves.append(functional.adaptive_avg_pool1d(self.powers(x), 32)[:, 16:])
            x = self.low(x)
        return torch.cat(octaves, 1)


def _mel() -> Tensor:
    """Triangles over 129 bins: (40, 129)."""
    centers = np.geomspace(1, 128, 42)
    widths = np.maximum(1.0, np.diff(centers)[1:])[:, None]
    return torch.from_numpy(np.clip(1 - np.abs(np.arange(129) - centers[1:-1, None]) / widths, 1e-3, 1)).float()


def _gain(powers: Tensor) -> Tensor:
    mean = functional.avg_pool1d(powers, 5, 1, 2)
    return (powers / (1e-6 + mean) ** 0.98 + 2) ** 0.5 - 2**0.5


_FRONTS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "mel": (lambda: _Powers(256, 64), lambda y: (_mel() @ y + 1e-10).log()),
    "octaves": (_Bands, lambda y: (y + 1e-9).log()),
    "root": (lambda: _Powers(256, 64), lambda y: (_mel() @ y + 1e-12) ** 0.15),
    "gain": (lambda: _Powers(256, 64), lambda y: _gain(_mel() @ y)),
}
_HARMLESS: dict[str, Callable[[Tensor], Tensor]] = {
    "log_softmax": lambda y: y.log_softmax(1),
    "log of softmax": lambda y: (y.softmax(1) + 1e-6).log(),
    "log of features": lambda y: (y.relu() + 1e-3).log(),
    "logsumexp": lambda y: y.logsumexp(1),
    "softplus": lambda y: (1 + (y * 2).exp()).log(),
    "length": lambda y: functional.normalize(y.mean((2, 3))),
    "layer norm": lambda y: (y - y.mean(1, True)) / (y.var(1, keepdim=True) + 1e-5).sqrt(),
    "softmax": lambda y: (exp := (y * 3).exp()) / exp.sum(1, keepdim=True),
}


def _sound(rng: np.random.Generator) -> Array:
    at, sound = np.arange(_SAMPLES), np.zeros(_SAMPLES)
    for _ in range(rng.integers(1, 5)):
        wave = np.sin(np.pi * 0.9 * 2 ** -rng.uniform(0, 5) * at + rng.uniform(0, 6))
        sound += 10 ** rng.uniform(-2.5, 0) * wave * np.exp(-at / _SAMPLES * rng.uniform(0, 6))
    return (sound + 1e-3 * rng.normal(size=_SAMPLES)).astype(np.float32)[None, None]


def _image(rng: np.random.Generator) -> Array:
    return rng.normal(size=(1, 3, 8, 8)).repeat(4, 2).repeat(4, 3).astype(np.float32)


def _layers(*widths: int) -> nn.Sequential:
    pairs = itertools.pairwise(widths)
    blocks = [(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairs]
    return nn.Sequential(*(layer for block in blocks for layer in block), nn.Conv2d(widths[-1], 6, 1))


def _exported(
    module: nn.Module,
    draw: Callable[[np.random.Generator], Array],
    folder: Path,
    variant: str = "int8",
    devices: tuple[str, ...] = ("onnxruntime", "litert"),
) -> edgeconv.ExportResult:
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for _ in range(10):  # BatchNorm's statistics
            module(torch.from_numpy(draw(rng)))
    batches = [{"x": draw(rng)} for _ in range(20)]
    return edgeconv.export(
        module.eval(),
        (torch.from_numpy(batches[0]["x"]),),
        folder,
        name="net",
        input_names=["x"],
        variants=variant,
        quantization=edgeconv.Quantization(batches=lambda: batches),
        samples=[edgeconv.Sample(f"unseen {index}", {"x": draw(rng)}) for index in range(6)],
        devices=devices,
    )


@pytest.mark.parametrize("case", slow_but(["octaves", "root", "gain"], _FRONTS))
def test_a_front_end_is_float_and_what_follows_is_not(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, function = _FRONTS[case]
    parts = {"front": make(), "norm": nn.BatchNorm2d(1), "body": _layers(1, 8, 16)}
    module = Of(lambda m, x: m.body(m.norm(function(m.front(x))[:, None])), **parts)
    result = _exported(module, _sound, tmp_path)
    assert result.report is not None
    found = [row.metrics.sqnr_db for row in result.report.comparisons if row.metrics is not None]
    assert len(found) == 2
    assert min(found) > 25, found
    plan = Plan.from_json((tmp_path / "net.int8.plan.json").read_text())
    filters = {"front.real", "front.powers.real", "front.low"} & plan.kept_float.keys()
    assert len(filters) == (2 if case == "octaves" else 1), plan.kept_float
    assert all("tells apart what 8 bits would not" in plan.kept_float[name] for name in filters)
    assert not any("body" in name or name in ("norm", "output") for name in plan.kept_float)


@pytest.mark.parametrize("case", _HARMLESS)
def test_a_network_that_ends_in_a_steep_function_stays_integer(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Of(lambda m, x: _HARMLESS[case](m.body(x)), body=_layers(3, 16, 32))
    _exported(module, _image, tmp_path, devices=())
    plan = Plan.from_json((tmp_path / "net.int8.plan.json").read_text())
    assert len(plan.weights) >= 2, plan.kept_float


def test_sixteen_bits_of_a_front_end_are_judged_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, function = _FRONTS["mel"]
    module = Of(lambda m, x: m.norm(function(m.front(x))[:, None]), front=make(), norm=nn.BatchNorm2d(1))
    result = _exported(module, _sound, tmp_path, "int16x8")
    assert result.report is not None
    assert min(row.metrics.sqnr_db for row in result.report.comparisons if row.metrics is not None) > 35


def _standardized(y: Tensor) -> Tensor:
    centered = y - y.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("behind", ["clamp", "bias"])
def test_a_layer_is_one_operator_with_the_clamp_or_bias_behind_it(behind: str, tmp_path: Path) -> None:
    """All of it stays float: the plan has no numbers for what is between the two."""
    rng = np.random.default_rng(0)
    offset = 20 * rng.standard_normal((1, 1, 16))

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(16, 8), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            result: Tensor = self.last(_standardized((y.abs() if behind == "bias" else y.relu()).transpose(1, 2)))
            return result

    torch.manual_seed(0)
    data = [{"x": (offset + rng.standard_normal((1, 64, 16)) / 50).astype(np.float32)} for _ in range(8)]
    quantization = edgeconv.Quantization(batches=lambda: data[:6])
    result = edgeconv.export(
        Small().eval(), (torch.zeros(1, 64, 16),), tmp_path, name="net", variants="int8", quantization=quantization
    )
    assert len(result.artifacts) == 2
    assert any(note.startswith("int8: layer") and "stays float" in note for note in result.notes), result.notes


def test_what_enters_a_steep_function_may_be_an_output(tmp_path: Path) -> None:
    """An export to int8 ended in a traceback."""

    class Feature(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.last = nn.Conv2d(3, 8, 1), nn.LocalResponseNorm(3), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            feature = self.layer(x).relu()
            return self.last(self.norm(feature).tanh()), feature

    torch.manual_seed(0)
    data = [{"x": torch.randn(1, 3, 8, 8).numpy()} for _ in range(2)]
    quantization = edgeconv.Quantization(batches=lambda: data)
    result = edgeconv.export(
        Feature().eval(),
        (torch.from_numpy(data[0]["x"]),),
        tmp_path,
        name="net",
        variants="int8",
        quantization=quantization,
        devices=(),
    )
    assert len(result.artifacts) == 2
