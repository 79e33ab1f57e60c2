"""The reference block and the network made of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from edgeconv.nn import MOBILENET_V1_BLOCKS, DepthwiseSeparableConv, MobileNetDSC


class WellKnown(nn.Module):
    """The block as it is usually written, layer by layer."""

    def __init__(self, cin: int, cout: int, k: int = 3, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            nn.Conv2d(cin, cin, k, stride, padding, groups=cin), nn.BatchNorm2d(cin), nn.LeakyReLU(0.1, inplace=True)
        )
        self.pointwise = nn.Sequential(nn.Conv2d(cin, cout, 1), nn.BatchNorm2d(cout), nn.LeakyReLU(0.1, inplace=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


@pytest.mark.parametrize("options", [(3, 64), (4, 6, 5, 2, 2), (1, 2, 3, 3, 0)])
def test_checkpoints_of_the_well_known_block_load_and_mean_the_same(options: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    known, ours = WellKnown(*options), DepthwiseSeparableConv(*options)
    known(torch.randn(4, options[0], 9, 9))
    assert list(ours.state_dict()) == list(known.state_dict())
    ours.load_state_dict(known.state_dict(), strict=True)
    x = torch.randn(2, options[0], 11, 8)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(x), known.train(mode)(x), rtol=0, atol=0)


def test_the_state_dict_has_the_well_known_keys() -> None:
    keys = list(DepthwiseSeparableConv(3, 64).state_dict())
    assert keys[0] == "depthwise.0.weight"
    assert keys[-1] == "pointwise.1.num_batches_tracked"
    assert len(keys) == 14


@settings(deadline=None, max_examples=20)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    slope=st.floats(0, 1),
)
def test_every_option_reaches_its_layer(kernel, stride, padding, dilation, slope) -> None:
    block = DepthwiseSeparableConv(
        3, 5, kernel, stride, padding, dilation=dilation, negative_slope=slope, eps=1e-3, bias=False
    ).double()
    norms = block.depthwise[1], block.pointwise[1]
    for norm in norms:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    block.eval()
    x = torch.randn(2, 3, 9, 10, dtype=torch.float64)
    y = functional.conv2d(x, block.depthwise[0].weight, None, stride, padding, dilation, groups=3)
    y = (y - norms[0].running_mean[:, None, None]) / (norms[0].running_var[:, None, None] + 1e-3).sqrt()
    y = torch.where(y > 0, y, y * slope)
    y = torch.einsum("oi,nihw->nohw", block.pointwise[0].weight[..., 0, 0], y)
    y = (y - norms[1].running_mean[:, None, None]) / (norms[1].running_var[:, None, None] + 1e-3).sqrt()
    torch.testing.assert_close(block(x), torch.where(y > 0, y, y * slope), rtol=1e-9, atol=1e-12)


def test_the_input_is_never_changed_and_gradients_reach_everything() -> None:
    for module in (DepthwiseSeparableConv(3, 4), MobileNetDSC(5, 0.25, blocks=((16, 1), (32, 2)))):
        x = torch.randn(4, 3, 16, 16)
        before = x.clone()
        module.train()(x).square().sum().backward()
        assert torch.equal(x, before)
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        # A bias in front of BatchNorm has no effect (its gradient is rounding noise); all else has.
        parameters = [(name, item) for name, item in module.named_parameters() if not name.endswith("wise.0.bias")]
        assert [name for name, item in parameters if item.grad.abs().max() < 1e-7] == []
        module.eval()(x)
        assert torch.equal(x, before)


def test_a_few_steps_reduce_the_loss() -> None:
    torch.manual_seed(0)
    module = MobileNetDSC(2, 0.25, blocks=((16, 1), (32, 2)))
    x = torch.randn(32, 3, 8, 8)
    labels = (x.mean((1, 2, 3)) > 0).long()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


BAD_BLOCKS = [
    ((0, 4), {}, "in_channels must be a positive integer, got 0"),
    ((3, -1), {}, "out_channels"),
    ((3, 4.0), {}, "out_channels must be a positive integer, got 4.0"),
    ((True, 4), {}, "in_channels"),
    ((3, 4, 0), {}, "kernel_size must be at least 1, got 0"),
    ((3, 4, (3, 3, 3)), {}, "kernel_size must be an integer or a pair of them"),
    ((3, 4, "3"), {}, "kernel_size must be an integer or a pair of them, got '3'"),
    ((3, 4, 3, (1, 0)), {}, "stride must be at least 1"),
    ((3, 4, 3, 1, -1), {}, "padding must be at least 0"),
    ((3, 4, 3, 1, "same"), {}, "padding must be an integer or a pair of them, got 'same'"),
    ((3, 4), {"dilation": 0}, "dilation must be at least 1"),
    ((3, 4), {"eps": 0.0}, "eps must be positive"),
    ((3, 4), {"momentum": 1.5}, "momentum must be in"),
]


@pytest.mark.parametrize(("args", "options", "message"), BAD_BLOCKS)
def test_bad_arguments_of_the_block_are_named(args, options, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        DepthwiseSeparableConv(*args, **options)


def test_further_options_are_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        DepthwiseSeparableConv(3, 4, 3, 1, 1, 2)  # type: ignore[misc]


def test_mobilenet_has_the_published_shape() -> None:
    net = MobileNetDSC().eval()
    shapes = []
    for block in net.features:
        block.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    sizes = [112, 56, 56, 28, 28, 14, 14, 14, 14, 14, 14, 7, 7]
    channels = [out for out, _ in MOBILENET_V1_BLOCKS]
    assert shapes == [(c, size, size) for c, size in zip(channels, sizes, strict=True)]


def test_every_option_of_mobilenet_changes_the_network() -> None:
    net = MobileNetDSC(10, 0.5, in_channels=1, stem_channels=24, stem_stride=1, blocks=((48, 1), (96, 2)), dropout=0.5)
    assert net.stem[0].weight.shape == (16, 1, 3, 3)  # 12 rounds to even multiples of 8
    assert net.classifier.weight.shape == (10, 48)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(net.eval()(x), net.eval()(x))
    assert not torch.equal(net.train()(x), net.train()(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a positive integer, got 0"),
        ({"width": 0.0}, "width must be positive"),
        ({"width": float("nan")}, "width must be positive"),
        ({"in_channels": -3}, "in_channels"),
        ({"stem_stride": 1.5}, "stem_stride"),
        ({"blocks": ()}, "blocks must have at least one"),
        ({"blocks": ((64,),)}, "each of blocks must be"),
        ({"blocks": ((64, 0),)}, "each of blocks must be"),
        ({"blocks": ((-64, 1),)}, "each of blocks must be"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_bad_arguments_of_mobilenet_are_named(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MobileNetDSC(**options)
