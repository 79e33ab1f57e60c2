"""Masks as inputs and outputs of files of integers: of booleans, of zeros and ones, of bytes; proved on runtimes.

Members: a product with a mask of pixels; attentions whose mask is booleans (filled with minus infinity) or floats
(a product with -1e9); comparisons, their values as floats, squeezed, beside what they compare.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from crossed import diagonal
from torch import Tensor, nn

import edgeconv

_INPUTS = ("x", "mask")


class _Net(nn.Module):
    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 1), nn.Linear(8, 8)
        self.function = function

    def head(self, x: Tensor, mask: Tensor | float = 1.0) -> Tensor:
        result: Tensor = self.b(self.a(x).relu() * mask)
        return result

    def scores(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x) @ x.transpose(1, 2)
        return result

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self, *inputs)


def _image(seed: int) -> Tensor:
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def _pixels(seed: int) -> Tensor:
    return (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed + 99)) > 0.5).float()


def _sequence(seed: int) -> Tensor:
    return torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(seed))


def _padding(seed: int) -> Tensor:
    return (torch.arange(6) < 2 + seed % 5)[None]


_Case = tuple[Callable[..., object], Callable[[int], tuple[Tensor, ...]], list[str]]
CASES: dict[str, _Case] = {
    "pixels": (lambda m, x, k: m.head(x, k), lambda seed: (_image(seed), _pixels(seed)), ["io"] * 3),
    "filled": (
        lambda m, x, k: m.scores(x).masked_fill(~k[:, None], float("-inf")).softmax(-1) @ x,
        lambda seed: (_sequence(seed), _padding(seed)),
        ["io", "bool", "io"],
    ),
    "shifted": (
        lambda m, x, k: (m.scores(x) + (1 - k[:, None]) * -1e9).softmax(-1) @ x,
        lambda seed: (_sequence(seed), _padding(seed).float()),
        ["io"] * 3,
    ),
    "compared": (
        lambda m, x: (m.head(x) > 0, m.head(x)), lambda seed: (_image(seed),), ["io", "bool", "io"]
    ),
    "as floats": (lambda m, x: (m.head(x) > 0).float()[:, 0], lambda seed: (_image(seed),), ["io", "io"]),
}  # fmt: skip


@pytest.mark.parametrize(("case", "io"), diagonal([*CASES], ["int8", "uint8"]))
def test_masks_pass_on_every_runtime(case: str, io: str, tmp_path: Path) -> None:
    function, inputs, kinds = CASES[case]
    names = list(_INPUTS[: len(inputs(0))])
    data = [{name: array.numpy() for name, array in zip(names, inputs(seed), strict=True)} for seed in range(16)]
    result = edgeconv.export(
        _Net(function).eval(),
        inputs(0),
        tmp_path,
        name="net",
        variants="int8",
        input_names=names,
        quantization=edgeconv.Quantization(batches=lambda: data[:12], io=io),
        samples=[edgeconv.Sample(f"unseen-{index}", item) for index, item in enumerate(data[12:])],
        devices=("onnxruntime", "litert-reference"),
    )
    assert result.report is not None
    assert {row.verdict for row in result.report.comparisons} == {"pass"}, [c.reason for c in result.report.comparisons]
    for artifact in result.artifacts:
        own = "uint8" if artifact.format == "onnx" else io  # which onnxruntime computes with
        stored = [spec.dtype for spec in (*artifact.inputs, *artifact.outputs)]
        assert stored == [own if kind == "io" else kind for kind in kinds], artifact.path
