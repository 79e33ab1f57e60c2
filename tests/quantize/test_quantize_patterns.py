"""Which operators `keep_float` means: values, torch modules and types, with and without ``*``; and slips."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgeconv
from edgeconv.cli import run
from edgeconv.errors import QuantizeError
from edgeconv.quantize import Plan


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 4, 3), nn.Tanh())
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def _kept(folder: Path, *patterns: str) -> set[str]:
    data = [{"x": np.random.default_rng(seed).random((1, 3, 16, 16), np.float32)} for seed in range(4)]
    quantization = edgeconv.Quantization(batches=lambda: data, keep_float=patterns, rounding="nearest", pair_safe=False)
    example = (torch.zeros(1, 3, 16, 16),)
    edgeconv.export(
        Net().eval(), example, folder, name="m", variants="int8", input_names=["x"], output_names=["y"],
        quantization=quantization,
    )  # fmt: skip
    plan = Plan.from_json((folder / "m.int8.plan.json").read_text())
    return {name.removesuffix(".reordered") for name in plan.kept_float}


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (("body.0",), {"body.0"}),
        (("body.?",), {"body.0", "body.1", "body.2", "body.3"}),
        (("head.*",), {"head.0", "head.1", "y"}),
        (("Sigmoid",), {"body.1", "head.1"}),
        (("Tanh", "y", "*.1"), {"body.3", "y", "body.1", "head.1"}),
    ],
)
def test_patterns_mean_values_modules_and_types(patterns: tuple[str, ...], kept: set[str], tmp_path: Path) -> None:
    assert _kept(tmp_path, *patterns) == kept


@pytest.mark.parametrize("pattern", ["conv", "conv*", "norm", "c?nv"])
def test_a_layer_is_named_by_the_module_whose_weights_it_has_too(pattern: str, tmp_path: Path) -> None:
    """With a BatchNorm folded in, the convolution makes what the BatchNorm's module does."""
    parts = OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), act=nn.ReLU(), last=nn.Conv2d(4, 2, 1))
    data = [{"x": np.random.default_rng(seed).random((1, 3, 8, 8), np.float32)} for seed in range(2)]
    quantization = edgeconv.Quantization(batches=lambda: data, keep_float=(pattern,), pair_safe=False)
    example = (torch.zeros(1, 3, 8, 8),)
    edgeconv.export(
        nn.Sequential(parts).eval(), example, tmp_path, name="m", variants="int8", input_names=["x"],
        quantization=quantization,
    )  # fmt: skip
    plan = Plan.from_json((tmp_path / "m.int8.plan.json").read_text())
    assert {name.removesuffix(".equalized") for name in plan.kept_float} == {"norm"}


def test_a_pattern_that_means_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match=r"keep_float: 'hed\.\*' matches no operator; name an operator's first"):
        _kept(tmp_path, "hed.*")


def test_a_recipe_is_told_its_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (
        'name = "n"', '[model]', 'factory = "torch.nn:ReLU"', '[[inputs]]', 'name = "x"', 'shape = [1, 3, 8, 8]',
        '[export]', 'variants = ["int8"]', '[quantize]', 'keep_float = ["head.*"]', '[[quantize.random]]', 'count = 2',
    )  # fmt: skip
    (tmp_path / "n.toml").write_text("\n".join(lines))
    assert run(["export", str(tmp_path / "n.toml"), "--out", str(tmp_path), "--no-parity", "-q"]) == 2
    assert "n.toml: quantize.keep_float: 'head.*' matches no operator" in capsys.readouterr().err
