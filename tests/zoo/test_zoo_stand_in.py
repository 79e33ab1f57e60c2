"""The stand-ins for trained networks leave float32 room in the bound, and wrong files none."""

from __future__ import annotations

import pytest
import torch
from pytorchcv_networks import network, sample_of
from torch import nn

from edgeconv.core import Tolerance


@pytest.fixture(scope="module")
def squeezenext() -> nn.Module:
    """The deepest of the mobile families: 105 layers of convolution, BatchNorm and ReLU."""
    return network("squeezenext", "sqnxt23_w1", (224, 224), {})


def _excess(output: torch.Tensor, reference: torch.Tensor) -> float:
    bound = Tolerance().atol + Tolerance().rtol * reference.abs()
    return float(((output - reference).abs() / bound).max())


def test_float32_takes_less_than_half_of_the_bound(squeezenext: nn.Module) -> None:
    (x,) = sample_of(((1, 3, 224, 224),))
    with torch.no_grad():
        output = squeezenext.float()(x)
        assert _excess(output, squeezenext.double()(x.double())) < 0.5


@pytest.mark.parametrize("layer", [0, 55, 109])
def test_one_filter_wrong_by_one_percent_is_outside_of_the_bound(squeezenext: nn.Module, layer: int) -> None:
    (x,) = (sample.double() for sample in sample_of(((1, 3, 224, 224),)))
    weight = [conv for conv in squeezenext.double().modules() if isinstance(conv, nn.Conv2d)][layer].weight
    right = weight.detach().clone()
    with torch.no_grad():
        reference = squeezenext(x)
        weight[0] *= 1.01
        try:
            assert _excess(squeezenext(x), reference) > 5
        finally:
            weight.copy_(right)
