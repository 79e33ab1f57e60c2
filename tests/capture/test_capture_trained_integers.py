"""Modules that torch.ao prepared and trained for integers: their own numbers in both files.

Members: the default configurations of three backends; weights from -127 to 127 per channel, activations of int8, of 4
bits and of 7; BatchNorm fused, behind the layer, and absent; ReLU6, LeakyReLU, sums and joins by FloatFunctional;
linear layers of two and three axes; rounding that is written out; weights alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crossed import diagonal
from torch import Tensor, nn
from torch.ao import quantization as tq
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize
from trained import CONFIGS, PER_CHANNEL, computed, trained

import edgeconv

pytestmark = pytest.mark.filterwarnings("ignore")


class _Net(nn.Module):
    """Every value between layers is rounded, so that whole files are of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.sum, self.join = tq.QuantStub(), FloatFunctional(), FloatFunctional()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.1))
        self.c = nn.Sequential(nn.Conv2d(16, 4, 1), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.quant(x))
        y = self.sum.add(self.b(x), x)
        result: Tensor = self.c(self.join.cat([y, x], 1))
        return result


def _assert_the_modules_own(
    module: Any, x: Tensor, step: float, folder: Path, least_db: float = 30.0
) -> edgeconv.ExportResult:
    """The `.onnx` file says what the module computes, and both runtimes' kernels stay near it, step by step."""
    result = edgeconv.export(module, (x,), folder, name="net", variants="int8")
    expected = module(x).detach().numpy()
    assert len(result.artifacts) == 2
    distance = np.abs(computed(result.artifacts[0], x, by_graph=True) - expected) / step
    assert (distance > 0.01).mean() < 0.01
    for artifact in result.artifacts:
        error = computed(artifact, x) - expected
        decibels = 10 * np.log10((expected**2).sum() / max(float((error**2).sum()), 1e-12))
        assert decibels > least_db, artifact.path
    return result


@pytest.mark.parametrize(("name", "fused"), diagonal([*CONFIGS], [True, False]))
def test_trained_integers_are_those_of_both_files(name: str, fused: bool, tmp_path: Path) -> None:
    net: nn.Module = _Net().train()
    if fused:
        net = tq.fuse_modules_qat(net, [["a.0", "a.1", "a.2"], ["b.0", "b.1"]])
    module = trained(net, CONFIGS[name], (3, 12, 12))
    x = torch.randn(1, 3, 12, 12)
    result = _assert_the_modules_own(
        module, x, float(module.c[1].activation_post_process.scale), tmp_path, 12.0 if name == "four bits" else 30.0
    )
    assert not [note for note in result.notes if "stays float" in note]


@pytest.mark.parametrize("weights", ["uint8", "fbgemm", "qnnpack"])
def test_a_norm_that_torch_divides_by_and_multiplies_again_is_no_fault_of_the_rewrites(
    weights: str, tmp_path: Path
) -> None:
    """ConvBn quantizes a scaled weight and divides what it gives by the scale, a little off in float32."""
    net: nn.Module = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU()).train()
    torch.manual_seed(1)
    nn.init.uniform_(net[1].weight, 0.3, 2.0)
    net = tq.fuse_modules_qat(nn.Sequential(tq.QuantStub(), net).train(), [["1.0", "1.1", "1.2"]])
    module = trained(net, CONFIGS[weights], (3, 8, 8))
    result = edgeconv.export(
        module, (torch.randn(1, 3, 8, 8),), tmp_path, name="net", variants="int8", formats="onnx", devices="onnxruntime"
    )
    assert result.report is not None
    assert result.report.verdict == "pass", [row.reason for row in result.report.comparisons]


@pytest.mark.parametrize("shape", [(6,), (5, 6)])
@pytest.mark.parametrize("name", ["qnnpack", "uint8"])
def test_trained_linear_layers(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    module = trained(nn.Sequential(tq.QuantStub(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)), CONFIGS[name], shape)
    x = torch.randn(1, *shape)
    result = _assert_the_modules_own(module, x, float(module[3].activation_post_process.scale), tmp_path)
    assert not [note for note in result.notes if "stays float" in note]


def _learnable(low: int, high: int, dtype: torch.dtype, scheme: torch.qscheme, channels: int = -1) -> Any:
    by_channel = scheme is torch.per_channel_symmetric
    observer = tq.MovingAveragePerChannelMinMaxObserver if by_channel else tq.MovingAverageMinMaxObserver
    options: dict[str, Any] = {"channel_len": channels, "ch_axis": 0} if by_channel else {"scale": 0.03}
    return _LearnableFakeQuantize.with_args(
        observer=observer, quant_min=low, quant_max=high, dtype=dtype, qscheme=scheme, use_grad_scaling=True, **options
    )


@pytest.mark.parametrize("channels", [-1, 7])
def test_scales_that_were_learned_are_kept(channels: int, tmp_path: Path) -> None:
    """LSQ as torch.ao has it: scale and zero point are parameters, and a zero point between integers is rounded."""
    scheme = torch.per_tensor_symmetric if channels < 0 else torch.per_channel_symmetric
    config = tq.QConfig(
        activation=_learnable(0, 255, torch.quint8, torch.per_tensor_affine),
        weight=_learnable(-127, 127, torch.qint8, scheme, channels),
    )
    module = trained(nn.Sequential(tq.QuantStub(), nn.Linear(6, 7)), config, (6,))
    x = torch.randn(1, 6)
    module[1].activation_post_process.toggle_observer_update(True)
    with pytest.raises(edgeconv.EdgeconvError, match=r"toggle_observer_update\(False\)"):
        edgeconv.export(module, (x,), tmp_path, name="net", variants="int8")
    for part in module.modules():
        if isinstance(part, _LearnableFakeQuantize):
            part.toggle_observer_update(False)
            part.zero_point.data += 0.4 if part.qscheme is torch.per_tensor_affine else 0.0
    result = _assert_the_modules_own(module, x, float(module[1].activation_post_process.scale), tmp_path)
    assert not [note for note in result.notes if "stays float" in note]


def _written_out(low: int, high: int) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.fake_quantize_per_tensor_affine(x, 0.05, (low + high) // 2, low, high)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-128, 127), (-127, 127), (0, 127), (-8, 7), (10, 20)])
def test_ranges_of_any_integers_are_kept(low: int, high: int, tmp_path: Path) -> None:
    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return _written_out(low, high)(x * 8)

    x = torch.randn(1, 4, 6, 6)
    _assert_the_modules_own(Rounded(), x, 0.05, tmp_path)


def test_weights_alone_that_are_rounded_are_weights(tmp_path: Path) -> None:
    """No activation is rounded: a network of floats, which every variant can be made of."""
    module = trained(
        nn.Sequential(nn.Conv2d(3, 4, 3)), tq.QConfig(activation=nn.Identity, weight=PER_CHANNEL), (3, 6, 6)
    )
    x = torch.randn(1, 3, 6, 6)
    for artifact in edgeconv.export(module, (x,), tmp_path, name="net").artifacts:
        np.testing.assert_allclose(computed(artifact, x), module(x).detach().numpy(), atol=1e-5)


def test_pools_and_reshapes_keep_the_steps(tmp_path: Path) -> None:
    """torch.ao rounds neither by itself; what follows is of integers all the same."""
    net = nn.Sequential(
        tq.QuantStub(), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    )
    module = trained(net, CONFIGS["qnnpack"], (3, 6, 6))
    x = torch.randn(1, 3, 6, 6)
    result = _assert_the_modules_own(module, x, float(module[5].activation_post_process.scale), tmp_path)
    assert not [note for note in result.notes if "stays float" in note]


def test_zero_points_that_are_no_integers_are_not_cut_off(tmp_path: Path) -> None:
    """They were, in silence; torch's own exporter refuses them."""

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scale, zero = torch.tensor([0.1, 0.3]), torch.tensor([-0.9, 2.7])
            return torch.fake_quantize_per_channel_affine(x * 2, scale, zero, 1, -128, 127)

    with pytest.raises(edgeconv.EdgeconvError):
        edgeconv.export(Rounded(), (torch.randn(1, 2, 3, 3),), tmp_path, name="net", variants="int8")
