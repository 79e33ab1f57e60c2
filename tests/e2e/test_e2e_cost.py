"""Counted costs against closed forms and published numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeconv.errors import CaptureError
from edgeconv.flow.cost import Amounts, cost
from edgeconv.nn import DepthwiseSeparableConv, MobileNetDSC


@settings(deadline=None, max_examples=20)
@given(
    cin=st.integers(2, 6),
    cout=st.integers(1, 9),
    k=st.integers(1, 4),
    stride=st.integers(1, 3),
    n=st.integers(1, 2),
    bias=st.booleans(),
)
def test_a_block_against_its_closed_form(cin: int, cout: int, k: int, stride: int, n: int, bias: bool) -> None:
    block = DepthwiseSeparableConv(cin, cout, k, stride, bias=bias)
    size = 10
    out = (size + 2 - k) // stride + 1
    result = cost(block, (torch.zeros(n, cin, size, size),))
    pixels = n * out * out
    assert result.pairs == 1
    assert result.own == Amounts(
        parameters=cin * k * k + cin * cout + (cin + cout) * bias + 2 * cin + 2 * cout,
        macs=pixels * (cin * k * k + cin * cout),
        activation_bytes=4 * 3 * pixels * (cin + cout),
    )
    assert result.ordinary == Amounts(
        parameters=cin * cout * k * k + cout * bias + 2 * cout,
        macs=pixels * cin * cout * k * k,
        activation_bytes=4 * 3 * pixels * cout,
    )
    # The saving that the architecture is known for: 1/cout + 1/k².
    assert result.own.macs / result.ordinary.macs == pytest.approx(1 / cout + 1 / k**2)


def test_the_ordinary_column_is_the_cost_of_the_ordinary_network() -> None:
    block = DepthwiseSeparableConv(3, 8, (3, 5), 2, (1, 0), dilation=2)
    ordinary = nn.Sequential(nn.Conv2d(3, 8, (3, 5), 2, (1, 0), 2), nn.BatchNorm2d(8), nn.LeakyReLU(0.1))
    x = (torch.zeros(1, 3, 20, 21),)
    assert cost(block, x).ordinary == cost(ordinary, x).own


def test_the_published_numbers_of_mobilenet() -> None:
    """Table 4 of arXiv:1704.04861: 569 against 4866 million multiply-adds."""
    result = cost(MobileNetDSC(), (torch.zeros(1, 3, 224, 224),))
    assert round(result.own.macs / 1e6) == 569
    assert round(result.ordinary.macs / 1e6) == 4867
    assert result.pairs == 13
    assert result.own.parameters == sum(item.numel() for item in MobileNetDSC().parameters())


def test_layers_are_listed_by_name_and_add_up() -> None:
    result = cost(DepthwiseSeparableConv(3, 64), (torch.zeros(1, 3, 224, 224),))
    assert [layer.name for layer in result.layers] == [
        f"{part}.{i}" for part in ("depthwise", "pointwise") for i in range(3)
    ]
    assert [layer.kind for layer in result.layers][::3] == ["Conv2d depthwise", "Conv2d pointwise"]
    assert result.layers[3].output_shape == (1, 64, 224, 224)
    assert sum((layer.own for layer in result.layers), Amounts()) == result.own
    assert sum((layer.ordinary for layer in result.layers), Amounts()) == result.ordinary


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(6, 9, 3, groups=3), (2, 6, 8, 8), 2 * 36 * 9 * 2 * 9),
        (nn.Conv1d(4, 8, 5, padding=2), (1, 4, 10), 10 * 8 * 4 * 5),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (1, 4, 5, 5), 25 * 4 * 3 * 4),
        (nn.Linear(10, 3), (7, 10), 7 * 30),
        (nn.MaxPool2d(2), (1, 4, 8, 8), 0),
    ],
)
def test_layers_by_themselves(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    x = torch.zeros(shape)
    result = cost(layer, (x,))
    assert result.own.macs == macs
    assert result.own.parameters == sum(item.numel() for item in layer.parameters())
    assert result.own.activation_bytes == layer(x).numel() * 4
    assert result.own == result.ordinary


def test_only_true_pairs_are_replaced() -> None:
    depthwise, pointwise = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 8, 1)
    x = (torch.zeros(1, 4, 8, 8),)
    for between, pairs in [
        (nn.ReLU6(), 1),
        (nn.Identity(), 1),
        (nn.BatchNorm2d(4), 1),
        (nn.MaxPool2d(2), 0),
        (nn.Conv2d(4, 4, 3, padding=1), 0),
    ]:
        assert cost(nn.Sequential(depthwise, between, pointwise), x).pairs == pairs, between
    assert cost(nn.Sequential(depthwise, nn.Conv2d(4, 8, 1, stride=2)), x).pairs == 0
    assert cost(nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)), x).pairs == 0
    multiplier = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.Conv2d(8, 5, 1, bias=False))
    assert cost(multiplier, x).ordinary.parameters == 4 * 5 * 9


def test_views_cost_no_memory_and_shared_parameters_count_once() -> None:
    views = nn.Sequential(nn.Identity(), nn.Dropout(0.5), nn.Flatten())
    assert cost(views, (torch.ones(1, 3, 4, 4),)).own == Amounts()
    twice = nn.Sequential(layer := nn.Linear(4, 4), layer)
    result = cost(twice, (torch.zeros(1, 4),)).own
    assert (result.parameters, result.macs) == (20, 32)


def test_every_parameter_is_counted_even_in_layers_that_are_never_called() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    result = cost(layer, (torch.zeros(1, 5, 16),))
    assert result.own.parameters == sum(item.numel() for item in layer.parameters())


def test_the_module_is_left_as_it_was() -> None:
    net = MobileNetDSC(3, 0.25, blocks=((16, 1),))
    net.train()
    net.features[0].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    cost(net, (torch.randn(2, 3, 8, 8),))
    assert net.training
    assert net.stem.training
    assert not net.features[0].training
    assert not any(layer._forward_hooks for layer in net.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    with pytest.raises(CaptureError, match="channels"):
        cost(net, (torch.randn(2, 5, 8, 8),))
    assert net.training
    assert not any(layer._forward_hooks for layer in net.modules())
