"""Linear layers whose weights torchao holds as integers, and modules that round their weights alone.

torchao is no dependency: a tensor with the attributes of its ``Int8Tensor`` stands for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization as tq
from trained import PER_CHANNEL, computed

import edgeconv
from edgeconv.core import Sample
from edgeconv.errors import CaptureError, QuantizeError
from edgeconv.flow.source import TorchSource
from edgeconv.flow.stated import stated_of

_SCALE, _ZERO, _X = 0.02, 5, torch.randn(4, 16, generator=torch.Generator().manual_seed(3))


class _Held(Tensor):
    """A weight that says what its integers are."""

    def dequantize(self) -> Tensor:
        return self.as_subclass(Tensor).detach().clone()


class _Layer(nn.Linear):
    """Computes on integers, as torchao does."""

    def forward(self, x: Tensor) -> Tensor:
        held: Any = self.weight
        zero = held.act_quant_zero_point
        steps = (x / held.act_quant_scale).round() + zero
        low, high = (-64, 63) if held.act_quant_kwargs.reduce_range else (-128, 127)
        integers = (steps.clamp(low, high) - zero).double()
        sums = integers @ held.qdata.double().t()
        return (sums * held.act_quant_scale * held.scale.reshape(-1) + self.bias).float()


class _Options:
    def __init__(self, *, reduce_range: bool) -> None:
        self.reduce_range = reduce_range


def _held(layer: nn.Linear, rows: int = 1, **stated: Any) -> None:
    """Gives a layer a weight of integers, with scales for blocks of so many rows."""
    weight = layer.weight.detach()
    scale = (weight.abs().amax(1) / 127.5).reshape(-1, 1) if rows == 1 else (weight.abs().amax() / 127.5).reshape(1, 1)
    integers = (weight / scale).round().clamp(-128, 127)
    layer.weight = nn.Parameter((integers * scale).as_subclass(_Held), requires_grad=False)
    numbers = {
        "qdata": integers.to(torch.int8),
        "scale": scale,
        "zero_point": torch.zeros_like(scale),
        "block_size": [rows, layer.in_features],
        "act_pre_scale": None,
        "act_quant_scale": torch.tensor([[_SCALE]]),
        "act_quant_zero_point": torch.tensor([[_ZERO]]),
        "act_quant_kwargs": _Options(reduce_range=False),
        **stated,
    }
    for name, item in numbers.items():
        setattr(layer.weight, name, item)


def _net(rows: int = 1, **stated: Any) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(_Layer(16, 16), nn.ReLU(), _Layer(16, 16)).eval()
    for layer in (net[0], net[2]):
        _held(layer, rows, **stated)
    return net


@pytest.mark.parametrize(
    ("rows", "reduce_range", "pre_scale"), [(1, False, None), (16, False, None), (1, True, torch.linspace(0.5, 2, 16))]
)
def test_a_fixed_scale_of_what_layers_read_is_kept(
    rows: int, reduce_range: bool, pre_scale: Tensor | None, tmp_path: Path
) -> None:
    net = _net(rows, act_quant_kwargs=_Options(reduce_range=reduce_range), act_pre_scale=pre_scale)
    result = edgeconv.export(net, (_X,), tmp_path, name="net", variants="int8", devices=("onnxruntime", "litert"))
    assert result.report is not None
    assert result.report.verdict == "pass", [row.reason for row in result.report.comparisons]
    scaled = _X if pre_scale is None else _X * pre_scale
    hidden = net[1](net[0](scaled))
    expected = net[2](hidden if pre_scale is None else hidden * pre_scale).detach().numpy()
    onnx = next(artifact for artifact in result.artifacts if artifact.format == "onnx")
    np.testing.assert_allclose(computed(onnx, _X, by_graph=True), expected, atol=2e-5)


def test_what_such_layers_state_is_held() -> None:
    from edgeconv.capture.torch.call import called

    module, (x,), (name,) = called(_net(), (_X,), {})
    stated = stated_of(TorchSource(module, (x,), (name,)), Sample("x", {name: x.numpy()}))
    assert {item.name for item in stated} == {
        f"{layer}.{part}" for layer in (0, 2) for part in ("input_fake_quant", "weight_fake_quant")
    }
    first = next(item for item in stated if item.name == "0.input_fake_quant")
    assert (first.scales, first.zero_points, first.limits) == ((float(np.float32(_SCALE)),), (_ZERO,), (-128, 127))
    weight = next(item for item in stated if item.name == "0.weight_fake_quant")
    np.testing.assert_array_equal(weight.integers, _net()[0].weight.qdata.numpy())


@pytest.mark.parametrize(
    ("rows", "stated", "message"),
    [
        (1, {"act_quant_scale": torch.full((4, 1), _SCALE)}, "what it reads has 4 scales"),
        (1, {"block_size": [1, 8]}, "scales of blocks of 1x8"),
        (4, {"block_size": [4, 16]}, "scales of blocks of 4x16"),
    ],
)
def test_scales_of_rows_and_blocks_are_refused(rows: int, stated: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=message):
        edgeconv.export(_net(rows, **stated), (_X,), tmp_path, name="net", variants="int8")
    assert not any(tmp_path.iterdir())


def _of_rounded_weights() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).train()
    net.qconfig = tq.QConfig(activation=nn.Identity, weight=PER_CHANNEL)
    prepared = tq.prepare_qat(net)
    prepared(_X)
    return prepared.eval().apply(tq.disable_observer)


@pytest.mark.parametrize("variant", ["int8", "int8-mixed", "int16x8"])
def test_a_module_of_rounded_weights_is_not_calibrated(variant: str, tmp_path: Path) -> None:
    options = edgeconv.Quantization(batches=lambda: [{"input": _X.numpy()}])
    with pytest.raises(QuantizeError, match="rounds 2 weights itself, and nothing that its layers read") as error:
        edgeconv.export(_of_rounded_weights(), (_X,), tmp_path, name="net", variants=variant, quantization=options)
    assert error.value.where == variant
    assert "int8-weights" in error.value.hint


def test_a_module_of_rounded_weights_is_exported_as_floats(tmp_path: Path) -> None:
    module = _of_rounded_weights()
    result = edgeconv.export(module, (_X,), tmp_path, name="net", variants=("fp32", "int8-weights"))
    assert any(note.startswith("weights that the module rounds itself (2) become floats") for note in result.notes)
    with torch.no_grad():
        expected = module(_X).numpy()
    for artifact in result.artifacts:
        if artifact.variant == "fp32":
            np.testing.assert_allclose(computed(artifact, _X), expected, atol=1e-5)
