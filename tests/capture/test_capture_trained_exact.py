"""Layers that `keep_float` names in a module trained for int8: the module's numbers, where int32 biases move steps.

What biases of 32 bits, and float32, do to the module itself is told beside a proof.

Members: layers with BatchNorm, a clamp, a sum or nothing behind them; a Linear of three axes; one layer alone; layers
whose BatchNorm the training rounded apart, of which LiteRT has the module's numbers without being asked; channels of
zeros, or next to nothing, whose biases do not fit into 32 bits at the scales that torch gives them; weights of few
bits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization as tq
from torch.ao.nn.quantized import FloatFunctional
from trained import CONFIGS, computed, trained

import edgeconv
from edgeconv import quantize
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


@pytest.mark.parametrize("config", [*CONFIGS])
def test_a_norm_that_was_not_fused_is_not_a_step_off(config: str, tmp_path: Path) -> None:
    """Its weight has no scale that the training chose: LiteRT's is one by which its bias is rounded as good as nowhere.

    A channel is left in 64 whose bias is within 1/127 of as many steps of the input, whatever the scale.
    """
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, bias=False)]
    for norm in (layers[1], last := nn.BatchNorm2d(16)):
        nn.init.uniform_(norm.weight, 0.3, 2.0)
        nn.init.normal_(norm.bias)
    module = trained(nn.Sequential(tq.QuantStub(), *layers, last), CONFIGS[config], (3, 32, 32))
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    result = edgeconv.export(module, (x,), tmp_path, name="net", variants="int8")
    step, expected = float(module[-1].activation_post_process.scale), module(x).detach().numpy()
    for artifact in result.artifacts:
        off = np.abs(computed(artifact, x) - expected) > 0.5 * step
        assert off.any(axis=(0, 2, 3)).sum() <= 1, artifact.path


def _assert_on_both_runtimes(module: Any, x: Tensor, folder: Path) -> list[str]:
    """That channel 1 of neither file is a step off; returns the notes on what stays float."""
    options: dict[str, Any] = {"name": "net", "variants": "int8", "devices": ("onnxruntime", "litert")}
    result = edgeconv.export(module, (x,), folder, **options)
    assert result.report.verdict == "pass", [row.reason for row in result.report.comparisons]
    step, expected = float(module[-1].activation_post_process.scale), module(x).detach().numpy()
    for artifact in result.artifacts:
        off = np.abs(computed(artifact, x) - expected) / step
        assert off[:, 1].max() < 0.5, artifact.path
    return [note for note in result.notes if "stays float" in note]


def _with_little(layer: Any, factor: float) -> Any:
    """A layer of which channel 1 has weights of next to nothing, or of nothing."""
    with torch.no_grad():
        layer.weight[1] *= factor
        layer.bias[1] = 40.0
    return layer


@pytest.mark.parametrize("config", ["int8", "uint8"])
@pytest.mark.parametrize(
    "make",
    [lambda: nn.Linear(6, 4), lambda: nn.Conv2d(6, 4, 1), lambda: nn.Conv2d(6, 6, 1, groups=6)],
    ids=["linear", "convolution", "depthwise"],
)
def test_channels_of_zeros_have_room_for_their_biases(
    make: Callable[[], nn.Module], config: str, tmp_path: Path
) -> None:
    """torch gives them a step of 1e-7, of which a bias of 40 is more than int32 holds."""
    torch.manual_seed(0)
    layer = _with_little(make(), 0.0)
    shape = (6,) if isinstance(layer, nn.Linear) else (6, 5, 5)
    module = trained(nn.Sequential(tq.QuantStub(), layer), CONFIGS[config], shape)
    assert not _assert_on_both_runtimes(module, torch.randn(4, *shape), tmp_path)


@pytest.mark.parametrize("scheme", [torch.per_channel_symmetric, torch.per_tensor_symmetric])
def test_a_layer_without_room_for_a_bias_stays_float(scheme: torch.qscheme, tmp_path: Path) -> None:
    by_channel = scheme is torch.per_channel_symmetric
    observer = tq.MovingAveragePerChannelMinMaxObserver if by_channel else tq.MovingAverageMinMaxObserver
    options = {"quant_min": -127, "quant_max": 127, "dtype": torch.qint8, "qscheme": scheme, "eps": 1e-14}
    weight = tq.FakeQuantize.with_args(observer=observer, **options)
    torch.manual_seed(0)
    layer = _with_little(nn.Linear(6, 4), 1.0)
    with torch.no_grad():
        layer.weight[1 if by_channel else slice(None)] *= 1e-9
    config = tq.QConfig(activation=CONFIGS["int8"].activation, weight=weight)
    module = trained(nn.Sequential(tq.QuantStub(), layer), config, (6,))
    notes = _assert_on_both_runtimes(module, torch.randn(4, 6), tmp_path)
    assert any("its bias does not fit into 32 bits" in note for note in notes)


@pytest.mark.parametrize("factor", [0.0, 1e-9])
def test_norms_of_next_to_nothing_have_room_for_their_biases(factor: float, tmp_path: Path) -> None:
    """A depthwise convolution of LiteRT saturated there: 33 steps."""
    torch.manual_seed(0)
    norm = _with_little(nn.BatchNorm2d(4), factor)
    net = nn.Sequential(tq.QuantStub(), nn.Conv2d(3, 4, 3, bias=False), norm)
    _assert_on_both_runtimes(trained(net, CONFIGS["int8"], (3, 8, 8)), torch.randn(4, 3, 8, 8), tmp_path)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_biases_beside_weights_of_few_bits_are_rounded_less(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers as multiples of eight, say, of an eighth of the scale, in units of which a bias is rounded."""
    most = 2 ** (bits - 1) - 1
    options = {"quant_min": -most, "quant_max": most, "dtype": torch.qint8, "qscheme": torch.per_channel_symmetric}
    weight = tq.FakeQuantize.with_args(observer=tq.MovingAveragePerChannelMinMaxObserver, ch_axis=0, **options)
    torch.manual_seed(0)
    net = nn.Sequential(tq.QuantStub(), nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3))
    module = trained(net, tq.QConfig(activation=CONFIGS["int8"].activation, weight=weight), (3, 24, 24))
    x = torch.randn(8, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    step, proven = float(module[-1].activation_post_process.scale), ("onnxruntime", "litert")
    result = edgeconv.export(module, (x,), tmp_path, name="net", variants="int8", devices=proven)
    assert result.report.verdict == "pass", [row.reason for row in result.report.comparisons]
    graph = ir.load(next(artifact.path for artifact in result.artifacts if artifact.format == "onnx"))
    stored = [item.const_value.numpy() for item in graph.graph.initializers.values() if item.dtype == ir.DataType.INT8]
    largest = [np.abs(array).max() for array in stored if array.ndim == 4]
    assert largest == [most * 2 ** (7 - bits)] * 2  # and no two products by uint8 saturate 16 bits
    less = _off(module, x, tmp_path / "less", step)
    monkeypatch.setattr(quantize, "with_finer_biases", lambda model: model)
    assert all(
        0 <= 2 ** (6 - bits) * few <= many for few, many in zip(less, _off(module, x, tmp_path, step), strict=True)
    )
