"""Layers that `keep_float` names in a module trained for int8: the module's numbers, where int32 biases move steps.

What biases of 32 bits, and float32, do to the module itself is told beside a proof.

Members: layers with BatchNorm, a clamp, a sum or nothing behind them; a Linear of three axes; one layer alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization as tq
from torch.ao.nn.quantized import FloatFunctional
from trained import CONFIGS, computed, trained

import edgeconv
from edgeconv.errors import QuantizeError

pytestmark = pytest.mark.filterwarnings("ignore")


class _Net(nn.Module):
    """Its result has steps as fine as a flip upstream shows in."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.sum = tq.QuantStub(), FloatFunctional()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.b = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.c, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.quant(x))
        x = self.sum.add(self.c(self.b(x)), x)
        result: Tensor = self.fc(x.flatten(1, 2))
        return result


def _off(module: Any, x: Tensor, folder: Path, step: float, **options: Any) -> list[int]:
    """How many numbers of each file are steps away from the module."""
    quantization = edgeconv.Quantization(**options)
    result = edgeconv.export(module, (x,), folder, name="net", variants="int8", quantization=quantization)
    expected = module(x).detach().numpy()
    return [int((np.abs(computed(artifact, x) - expected) > 0.5 * step).sum()) for artifact in result.artifacts]


@pytest.mark.parametrize("config", ["int8", "x86", "qnnpack"])
def test_layers_that_are_kept_in_float_have_the_modules_own_numbers(config: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = trained(_Net(), CONFIGS[config], (3, 32, 32))
    step = float(module.fc.activation_post_process.scale)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert min(_off(module, x, tmp_path / "integers", step)) > 0  # what it is about: biases of 32 bits
    assert _off(module, x, tmp_path / "floats", step, keep_float=("*",)) == [0, 0]
    layers = ("Conv", "Gemm", "a.1*", "b.1*")
    assert _off(module, x, tmp_path / "layers", step, keep_float=layers) == [0, 0]


def test_a_layer_alone_is_kept_in_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = trained(nn.Sequential(tq.QuantStub(), nn.Conv2d(3, 64, 3)), CONFIGS["qnnpack"], (3, 32, 32))
    step = float(module[1].activation_post_process.scale)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert min(_off(module, x, tmp_path / "integers", step)) > 0
    assert _off(module, x, tmp_path / "layer", step, keep_float=("1*",)) == [0, 0]


def test_what_moves_the_module_itself_is_told_and_is_what_the_runtime_has(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = trained(_Net(), CONFIGS["int8"], (3, 32, 32))
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    off, _ = _off(module, x, tmp_path / "alone", float(module.fc.activation_post_process.scale))
    proven = {"name": "net", "formats": "onnx", "variants": "int8", "devices": "onnxruntime"}
    result = edgeconv.export(module, (x,), tmp_path / "proven", **proven)
    (note,) = [note for note in result.report.notes if "the model itself is moved" in note]
    assert f"by biases of 32 bits, as integer kernels have them, up to 1 ({100 * off / (4 * 256 * 32):.2g} %)" in note
    floats = edgeconv.Quantization(keep_float=("*",))
    result = edgeconv.export(module, (x,), tmp_path / "floats", quantization=floats, **proven)
    assert not [note for note in result.report.notes if "biases of 32 bits" in note]


@pytest.mark.parametrize(("name", "told"), [("nowhere", "no operator makes 'nowhere'"), ("no*", "matches no operator")])
def test_what_means_no_operator_is_told(name: str, told: str, tmp_path: Path) -> None:
    module = trained(nn.Sequential(tq.QuantStub(), nn.Conv2d(3, 4, 3)), CONFIGS["int8"], (3, 8, 8))
    with pytest.raises(QuantizeError, match=f"keep_float: .*{told}"):
        _off(module, torch.randn(1, 3, 8, 8), tmp_path, 1.0, keep_float=(name,))
