"""Folding beside float64 torch itself, case by case.

The graph is captured in float32 and its constants are widened to float64, so that nothing but the fold's own
arithmetic can differ from the module in float64. eps is a power of two: the ONNX attribute is a float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgeconv.capture import capture
from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize

EPS = 2.0**-17
X1, X2, X3 = (2, 6, 15), (2, 6, 9, 8), (1, 6, 5, 6, 7)


def _bn(make: Callable[..., nn.Module], channels: int) -> nn.Module:
    return make(channels, eps=EPS)


def _after(layer: nn.Module, make: Callable[..., nn.Module], channels: int) -> nn.Module:
    return nn.Sequential(layer, _bn(make, channels), nn.LeakyReLU(0.125))


B1, B2, B3 = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (lambda: _after(nn.Conv2d(6, 4, 3, padding=1), B2, 4), X2),
    "conv without bias": (lambda: _after(nn.Conv2d(6, 4, 3, bias=False), B2, 4), X2),
    "grouped": (lambda: _after(nn.Conv2d(6, 9, 3, stride=2, groups=3), B2, 9), X2),
    "depthwise": (lambda: _after(nn.Conv2d(6, 6, (3, 5), padding=(1, 2), groups=6), B2, 6), X2),
    "depthwise, multiplier 2": (lambda: _after(nn.Conv2d(6, 12, 3, groups=6, bias=False), B2, 12), X2),
    "dilated": (lambda: _after(nn.Conv2d(6, 4, 3, padding=2, dilation=2), B2, 4), X2),
    "grouped and dilated": (lambda: _after(nn.Conv2d(6, 4, 3, dilation=(1, 2), groups=2), B2, 4), X2),
    "conv 1-d": (lambda: _after(nn.Conv1d(6, 4, 5, stride=2, padding=2), B1, 4), X1),
    "conv 3-d": (lambda: _after(nn.Conv3d(6, 4, 3, padding=1, groups=2), B3, 4), X3),
    "transposed": (lambda: _after(nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1), B2, 4), X2),
    "transposed without bias": (lambda: _after(nn.ConvTranspose2d(6, 4, 3, bias=False), B2, 4), X2),
    "transposed, grouped": (
        lambda: _after(nn.ConvTranspose2d(6, 9, 3, stride=2, output_padding=1, groups=3), B2, 9),
        X2,
    ),
    "transposed, depthwise": (lambda: _after(nn.ConvTranspose2d(6, 6, 3, stride=2, groups=6), B2, 6), X2),
    "transposed, dilated": (lambda: _after(nn.ConvTranspose2d(6, 4, 3, padding=1, dilation=2), B2, 4), X2),
    "transposed 1-d": (lambda: _after(nn.ConvTranspose1d(6, 4, 4, stride=2), B1, 4), X1),
    "linear": (lambda: _after(nn.Linear(6, 4), B1, 4), (3, 6)),
    "linear without bias": (lambda: _after(nn.Linear(6, 4, bias=False), B1, 4), (3, 6)),
    "before a convolution": (lambda: nn.Sequential(_bn(B2, 6), nn.Conv2d(6, 4, 3)), X2),
    "before a grouped convolution": (lambda: nn.Sequential(_bn(B2, 6), nn.Conv2d(6, 4, 3, groups=2)), X2),
    "before a pointwise convolution": (lambda: nn.Sequential(_bn(B2, 6), nn.Conv2d(6, 4, 1, bias=False)), X2),
    "before a linear layer": (lambda: nn.Sequential(_bn(B1, 6), nn.Linear(6, 4)), (3, 6)),
    "on both sides": (lambda: nn.Sequential(_bn(B2, 6), nn.Conv2d(6, 4, 3), _bn(B2, 4)), X2),
}


def _built(make: Callable[[], nn.Module]) -> nn.Module:
    """Seeded; statistics far from trivial: negative gammas, variances over four orders, large means."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = make().eval()
    for layer in module.modules():
        if isinstance(layer, B1 | B2 | B3):
            size = (layer.num_features,)
            layer.weight.data = torch.randn(size, generator=generator)
            layer.bias.data = torch.randn(size, generator=generator)
            layer.running_mean = 3 * torch.randn(size, generator=generator)
            layer.running_var = 10 ** (4 * torch.rand(size, generator=generator) - 3)
    return module


def _widened(model: ir.Model) -> ir.Model:
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        array = value.const_value.numpy()
        if array.dtype == np.float32:
            value.const_value = ir.tensor(array.astype(np.float64), name=value.name)
            values.append(value)
    for value in values:
        if value.dtype == ir.DataType.FLOAT:
            value.dtype = ir.DataType.DOUBLE
    return model


@pytest.mark.parametrize("name", CASES)
def test_folds_as_float64_torch_computes(name: str) -> None:
    make, shape = CASES[name]
    module = _built(make)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    model = optimize(_widened(capture(module, (x,), input_names=["x"], output_names=["y"])))
    assert "BatchNormalization" not in [node.op_type for node in model.graph]
    found = evaluate(model, {"x": x.double().numpy()}, keep=["y"])["y"]
    with torch.no_grad():
        expected = module.double()(x.double()).numpy()
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()


def test_before_a_padded_convolution_it_stays() -> None:
    """Padding puts zeros behind the shift: no weights can say that, so nothing may be folded."""
    module = _built(lambda: nn.Sequential(_bn(B2, 6), nn.Conv2d(6, 4, 3, padding=1)))
    x = torch.randn(X2, generator=torch.Generator().manual_seed(9))
    model = optimize(_widened(capture(module, (x,), input_names=["x"], output_names=["y"])))
    assert "BatchNormalization" in [node.op_type for node in model.graph]
    found = evaluate(model, {"x": x.double().numpy()}, keep=["y"])["y"]
    with torch.no_grad():
        expected = module.double()(x.double()).numpy()
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()
