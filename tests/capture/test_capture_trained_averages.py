"""Averages, resizes and clamps that a module trained for integers rounds nowhere: integers where these are near enough.

Members: pools in front of layers with fine and with coarse results, of converted modules, and in front of layers that
stay float themselves; resizes that a join rounds; the same as files of integers alone (``keep_roundings``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn
from torch.ao import quantization as tq
from torch.ao.nn.quantized import FloatFunctional
from torch.nn import functional
from trained import CONFIGS, computed, trained

import edgeconv

pytestmark = pytest.mark.filterwarnings("ignore")

_IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class _Unrounded(nn.Module):
    """What torch.ao observes nowhere, between layers that it does."""

    def __init__(self, mode: str = "bilinear") -> None:
        super().__init__()
        self.mode = mode
        self.quant, self.join = tq.QuantStub(), FloatFunctional()
        self.a, self.b = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.pool, self.fc = nn.Conv2d(16, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.quant(x))
        y = functional.relu6(self.b(functional.avg_pool2d(x, 2)))
        y = self.join.cat([functional.interpolate(y, scale_factor=2, mode=self.mode), x], 1)
        result: Tensor = self.fc(self.pool(functional.leaky_relu(self.c(y), 0.1)).flatten(1))
        return result


class _Classifier(nn.Module):
    """A pool in front of a Linear, whose result has coarse or fine steps beside the pool's."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.conv, self.dequant = tq.QuantStub(), nn.Conv2d(3, 8, 3, padding=1), tq.DeQuantStub()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dequant(self.fc(self.pool(self.conv(self.quant(x))).flatten(1)))
        return result


def _classifier(steps: float, config: str = "int8") -> Any:
    """A trained one, the steps of whose result are as many times the pool's, for weights of one."""
    torch.manual_seed(1)
    module = trained(_Classifier(), CONFIGS[config], (3, 8, 8))
    module.fc.weight.data.sign_()
    module.fc.weight_fake_quant.scale.fill_(1 / 100)
    module.fc.activation_post_process.scale.fill_(float(module.conv.activation_post_process.scale) * steps)
    return module


def _exported(module: Any, folder: Path, *, alone: bool = False) -> edgeconv.ExportResult:
    quantization = edgeconv.Quantization(keep_roundings=alone)  # True: integers alone
    return edgeconv.export(module, (_IMAGES,), folder, name="net", variants="int8", quantization=quantization)


def _furthest(module: Any, result: edgeconv.ExportResult, step: float, *, by_graph: bool = False) -> float:
    """How many steps of the module's result the files are from it, at most."""
    expected = module(_IMAGES).detach().numpy()
    artifacts = result.artifacts[:1] if by_graph else result.artifacts
    return max(
        float(np.abs(computed(artifact, _IMAGES, by_graph=by_graph) - expected).max() / step) for artifact in artifacts
    )


def _told(result: edgeconv.ExportResult, words: str) -> list[str]:
    return [note for note in result.notes if words in note]


def _floats_inside(result: edgeconv.ExportResult) -> list[str]:
    """The tensors of floats of the `.tflite` file, but for its input and output."""
    details = Interpreter(str(result.artifacts[1].path)).get_tensor_details()
    return [detail["name"] for detail in details if detail["dtype"] is np.float32][2:]


def test_an_average_whose_rounding_would_move_the_next_layers_steps_stays_float(tmp_path: Path) -> None:
    module = _classifier(0.3)
    step = float(module.fc.activation_post_process.scale)
    alone = _exported(module, tmp_path / "alone", alone=True)
    assert _furthest(module, alone, step, by_graph=True) > 1.5  # what it is about
    assert _told(alone, "pool: rounded to the scale of what it reads")
    result = _exported(module, tmp_path)
    assert _furthest(module, result, step, by_graph=True) < 0.01
    assert _furthest(module, result, step) < 1.01
    (note,) = _told(result, "keep_roundings")
    assert "pool: stays float, with the layer that reads it" in note
    assert not _told(result, "rounded to the scale")


def test_an_average_whose_rounding_hardly_moves_the_next_layers_steps_stays_float_too(tmp_path: Path) -> None:
    module = _classifier(4.0)
    step = float(module.fc.activation_post_process.scale)
    alone = _exported(module, tmp_path / "alone", alone=True)
    assert _furthest(module, alone, step, by_graph=True) > 0.9  # what it is about
    assert not _floats_inside(alone)
    result = _exported(module, tmp_path)
    assert _furthest(module, result, step, by_graph=True) < 0.01
    assert _told(result, "pool: stays float, with the layer that reads it")


def test_an_average_before_a_layer_that_rounds_nothing_is_not_rounded_either(tmp_path: Path) -> None:
    """The layer is of floats anyway, and its result has no steps that would hide the error."""
    module = _classifier(1.0)
    module.fc.activation_post_process = nn.Identity()
    assert _furthest(module, _exported(module, tmp_path), 1e-4) < 1.01


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_pools_resizes_and_clamps_that_nobody_rounds_give_the_modules_numbers(mode: str, tmp_path: Path) -> None:
    module = trained(_Unrounded(mode), CONFIGS["int8"], (3, 8, 8))
    result = _exported(module, tmp_path)
    step = float(module.fc.activation_post_process.scale)
    assert _furthest(module, result, step, by_graph=True) < 0.5
    assert _furthest(module, result, step) < 1.01


@pytest.mark.parametrize("config", ["int8", "x86"])
@pytest.mark.parametrize("between", [nn.Identity(), nn.ReLU(), nn.Hardtanh(-0.3, 0.41)])
def test_what_is_clamped_and_then_rounded_has_those_steps_at_once(
    between: nn.Module, config: str, tmp_path: Path
) -> None:
    """Of 7 bits, too (x86), which are a clamp in front of the rounding."""

    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.join, self.between = tq.QuantStub(), FloatFunctional(), between
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(self.quant(x))
            y = functional.interpolate(self.b(x), scale_factor=2, mode="bilinear")
            result: Tensor = self.join.cat([self.between(y), x], 1)
            return result

    module = trained(Clamped(), CONFIGS[config], (3, 8, 8))
    result = _exported(module, tmp_path)
    step = float(module.join.activation_post_process.scale)
    assert _furthest(module, result, step, by_graph=True) < 0.01
    assert _furthest(module, result, step) < 1.01
    assert not _told(result, "stays float, with the layer")


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_all_is_of_integers_where_that_is_asked_for(mode: str, tmp_path: Path) -> None:
    """A resize that a join rounds, or that moves elements, changes no number, and is not told."""
    module = trained(_Unrounded(mode), CONFIGS["int8"], (3, 8, 8))
    result = _exported(module, tmp_path, alone=True)
    assert not _told(result, "stays float")
    assert not _floats_inside(result)
    (note,) = _told(result, ": rounded")
    assert "avg_pool2d, relu6, leaky_relu and 1 more: rounded" in note


def test_a_resize_that_a_join_rounds_has_the_joins_steps_at_once(tmp_path: Path) -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.join = tq.QuantStub(), FloatFunctional()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(self.quant(x))
            y = functional.interpolate(self.b(x), scale_factor=2, mode="bilinear")
            result: Tensor = self.join.cat([y, x], 1)
            return result

    module = trained(Joined(), CONFIGS["int8"], (3, 8, 8))
    module.join.activation_post_process.scale *= 1.3
    result = _exported(module, tmp_path)
    step = float(module.join.activation_post_process.scale)
    assert _furthest(module, result, step, by_graph=True) < 0.01
    assert _furthest(module, result, step) < 1.01
    assert not _floats_inside(_exported(module, tmp_path / "alone", alone=True))


def test_an_average_of_a_converted_module_is_rounded_as_torch_does(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")
    converted = tq.convert(_classifier(0.3, "qnnpack"))
    result = _exported(converted, tmp_path)
    assert not _told(result, "stays float")
    assert _furthest(converted, result, float(converted.fc.scale), by_graph=True) < 1.01


def test_an_average_that_is_an_output_is_not_rounded(tmp_path: Path) -> None:
    module = trained(nn.Sequential(tq.QuantStub(), nn.AvgPool2d(4)), CONFIGS["int8"], (3, 8, 8))
    assert _furthest(module, _exported(module, tmp_path), 1e-4) < 1.01
