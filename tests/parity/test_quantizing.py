"""Link 2 of integers: faults planted into the quantizer are seen, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from crossed import diagonal
from planted_quantizer import FAULTS
from torch import Tensor, nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.core import Array, Verdict
from edgeconv.core.verdicts import Link, LinkResult
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.parity.quantizing import changing, quantizing
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize

INT16_LACKS = {"constants cut off", "zero points one off, as applied", "zero points one up", "zero points one down"} | {
    "integers from -127",
    "pairs in another order",
}
"""Faults of zero points, 8-bit constants and pairs: of int16 there are none."""
OF_THE_FLOAT_GRAPH = {"equalized on one side", "reordered on one side", "absorbed on one side"}
"""What all variants of a network have in common."""


class Branches(nn.Module):
    """Layers of every kind whose integers are judged: grouped, transposed, a product, joins, constants."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.depthwise = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8)
        self.point, self.second = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 12, 1)
        self.up = nn.ConvTranspose2d(12, 4, 2, stride=2, groups=2)
        self.last, self.activation = nn.Linear(52, 6), activation
        self.register_buffer("weights", torch.linspace(-1, 2, 12).reshape(12, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.activation
        y = f(self.second(f(self.point(f(self.depthwise(f(self.first(x))))))))
        joined = torch.cat([y, torch.sigmoid(20 * y), y * self.weights, self.up(y).reshape(1, 16, 6, 6)], 1)
        return self.last(joined.mean((2, 3))), joined


@cache
def _graph(activation: str) -> ir.Model:
    module = Branches({"leaky": nn.LeakyReLU(0.1), "relu": nn.ReLU(), "relu6": nn.ReLU6()}[activation]).eval()
    names = {"input_names": ["x"], "output_names": ["y", "z"]}
    return optimize(capture(module, (torch.zeros(1, 3, 8, 8),), **names))  # type: ignore[arg-type]


@cache
def _data() -> tuple[dict[str, Array], ...]:
    draw = np.random.default_rng(0)
    return tuple({"x": draw.standard_normal((1, 3, 8, 8), np.float32)} for _ in range(3))


def _judged(activation: str, names: tuple[str, ...], options: Mapping[str, Any]) -> dict[str, LinkResult | None]:
    settings = Quantization(batches=_data, iterations=5, **options)
    judged = {}
    for variant in variants_of(_graph(activation), names, settings, Silent()):
        assert variant.origin is not None
        broken = changing(variant.origin, _data()[0])
        judged[variant.name] = broken or quantizing(variant.origin, variant.model)
    return judged


@pytest.mark.parametrize(
    ("options", "activation"),
    diagonal([
        {},
        {"rounding": "nearest"},
        {"rounding": "nearest", "pair_safe": False, "equalize": False},
        {"rounding": "corrected", "absorb_biases": True, "observer": "min-max"},
        {"rounding": "learned", "per_channel": False, "observer": "percentile"},
        {"rounding": "learned", "relu6_as_relu": True},
        {"absorb_biases": True, "relu6_as_relu": True, "per_channel": False, "observer": "entropy"},
        {"keep_float": ("second", "up")},
    ], ["leaky", "relu", "relu6"]),
    ids=str,
)  # fmt: skip
def test_right_integers_hold(activation: str, options: Mapping[str, Any]) -> None:
    if activation == "relu6" and "absorb_biases" in options:
        options = {**options, "equalize": False}
    assert set(_judged(activation, ("int8", "int16x8", "int8-weights"), options).values()) == {None}


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 8, 3), nn.Linear(8, 8)], ids=["convolution", "linear"])
@pytest.mark.parametrize("pair_safe", [False, True])
def test_channels_without_weights_hold(layer: nn.Module, pair_safe: bool) -> None:
    """A pruned channel takes a scale like its neighbors', which pairs may have made larger."""
    torch.manual_seed(0)
    nn.init.uniform_(layer.weight, -1, 1)
    layer.weight.data[1], layer.bias.data[1] = 0.0, 0.0
    model = optimize(capture(layer.eval(), (torch.zeros(1, 3, 8, 8),), input_names=["x"], output_names=["y"]))
    for variant in variants_of(model, ("int8",), Quantization(batches=_data, pair_safe=pair_safe), Silent()):
        assert variant.origin is not None
        assert quantizing(variant.origin, variant.model) is None


class Normalized(nn.Module):
    """A normalization that no layer takes, as its result is read twice, in front of layers that are equalized."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.norm, self.first, self.last = nn.BatchNorm2d(3), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 4, 1)
        self.norm.running_mean, self.norm.running_var = torch.rand(3), torch.rand(3) + 0.3  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x * x)
        return self.last(torch.relu(self.first(torch.cat([x, nn.functional.pad(x, (1, -1))], 1))))


def test_constants_that_an_earlier_change_rounded_are_the_same_before_and_after_a_later_one() -> None:
    graph = optimize(capture(Normalized().eval(), (torch.zeros(1, 3, 8, 8),), input_names=["x"], output_names=["y"]))
    (variant,) = variants_of(graph, ("int8",), Quantization(batches=_data), Silent())
    assert variant.origin is not None
    assert [change.what for change in variant.origin.changes] == [
        "a normalization as a convolution",
        "equalization and the order of channels",
    ]
    assert changing(variant.origin, _data()[0]) is None


class Stepped(nn.Module):
    """Values on the edges of the bins that they are counted in: the largest is in a bin of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return torch.cat([self.last(torch.clamp(8 * y, -1.0, 1.0)), torch.clamp(y, 0.0, 1.0), torch.clamp(y, -4, 0)], 1)


@pytest.mark.parametrize("observer", ["percentile", "min-max", "mse", "entropy"])
def test_ranges_that_end_on_the_edge_of_a_bin_hold(observer: str) -> None:
    graph = optimize(capture(Stepped().eval(), (torch.zeros(1, 3, 8, 8),), input_names=["x"], output_names=["y"]))
    settings = Quantization(batches=_data, observer=observer, rounding="nearest")
    for variant in variants_of(graph, ("int8", "int16x8"), settings, Silent()):
        assert variant.origin is not None
        link = quantizing(variant.origin, variant.model)
        assert link is None, link.reason


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_breaks_the_link(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, options = FAULTS[name]
    plant(monkeypatch)
    activation = "leaky"
    names = ("int8",) if name in INT16_LACKS | OF_THE_FLOAT_GRAPH else ("int8", "int16x8")
    for variant, link in _judged(activation, names, options).items():
        assert link is not None, variant
        assert (link.link, link.verdict) == (Link.ROUNDING, Verdict.FAIL)
        assert link.reason


def test_the_report_says_what_the_quantizer_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, _ = FAULTS["bias cut off"]
    plant(monkeypatch)
    result = edgeconv.export(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval(),
        (torch.zeros(1, 3, 8, 8),),
        tmp_path,
        name="net",
        formats="onnx",
        variants=("fp32", "int8"),
        input_names=("x",),
        quantization=edgeconv.Quantization(batches=_data),
        samples=[edgeconv.Sample("x", _data()[0])],
        devices="onnxruntime",
    )
    assert result.report is not None
    verdicts = {row.artifact: row for row in result.report.comparisons if row.artifact}
    assert verdicts["net.fp32.onnx"].verdict is Verdict.PASS
    assert verdicts["net.int8.onnx"].verdict is Verdict.FAIL
    assert "link 2 (rounding) breaks: the bias of " in verdicts["net.int8.onnx"].reason
    assert "steps from the float graph's number, and 0.5 are allowed" in verdicts["net.int8.onnx"].reason
