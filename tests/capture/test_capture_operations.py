"""What mobile networks are made of is captured, and computes what torch computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.capture import capture


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _shuffle(x: Tensor, groups: int = 4) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).permute(0, 2, 1, 3, 4).flatten(1, 2)


FAMILIES: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "convolutions": {
        "conv-grouped-dilated": lambda: nn.Conv2d(8, 4, 3, stride=2, padding=(1, 2), dilation=(1, 2), groups=4),
        "conv-same": lambda: nn.Conv2d(8, 4, 4, padding="same"),
        "conv-reflect": lambda: nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"),
        "conv-transpose": lambda: nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1),
        "conv-transpose-grouped": lambda: nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, groups=2, bias=False),
    },
    "normalization": {
        "batch-norm-without-affine": lambda: nn.BatchNorm2d(8, affine=False),
        "batch-norm-of-features": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8 * 7 * 9)),
        "group-norm": lambda: nn.GroupNorm(2, 8),
        "layer-norm": lambda: nn.LayerNorm(9),
        "instance-norm": lambda: nn.InstanceNorm2d(8),
    },
    "activations": {
        "prelu": lambda: nn.PReLU(8),
        "prelu-shared": nn.PReLU,
        "leaky-relu": lambda: nn.LeakyReLU(0.1),
        "relu6": nn.ReLU6,
        "hardtanh": lambda: nn.Hardtanh(-0.5, 0.75),
        "hardswish": nn.Hardswish,
        "hardsigmoid": nn.Hardsigmoid,
        "silu": lambda: nn.SiLU(inplace=True),
        "mish": nn.Mish,
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "gelu-tanh": lambda: nn.GELU(approximate="tanh"),
        "softplus": nn.Softplus,
        "softmax": lambda: nn.Softmax(dim=1),
    },
    "pooling": {
        "max-pool-ceil": lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        "average-pool-ceil": lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        "average-pool-padded": lambda: nn.AvgPool2d(2, 2, 1),
        "adaptive-average-1": lambda: nn.AdaptiveAvgPool2d(1),
        "adaptive-average-7x3": lambda: nn.AdaptiveAvgPool2d((7, 3)),
        "adaptive-max-1": lambda: nn.AdaptiveMaxPool2d(1),
    },
    "resizing": {
        "pixel-shuffle": lambda: nn.PixelShuffle(2),
        "pixel-unshuffle": lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 1, 0)), nn.PixelUnshuffle(2)),
        "upsample-nearest": lambda: nn.Upsample(scale_factor=2),
        "zero-pad": lambda: nn.ZeroPad2d((1, 2, 0, 3)),
        "reflection-pad": lambda: nn.ReflectionPad2d((1, 2, 1, 3)),
        "bilinear": lambda: Function(lambda x: functional.interpolate(x, scale_factor=2.0, mode="bilinear")),
        "bilinear-corners": lambda: Function(
            lambda x: functional.interpolate(x, (11, 5), mode="bilinear", align_corners=True)
        ),
        "nearest-to-size": lambda: Function(lambda x: functional.interpolate(x, size=(14, 18), mode="nearest")),
        "interpolate-like": lambda: Function(
            lambda x: functional.interpolate(functional.avg_pool2d(x, 2), x.shape[2:], mode="nearest")
        ),
    },
    "shapes": {
        "shuffle": lambda: Function(_shuffle),
        "chunk": lambda: Function(lambda x: torch.cat(x.chunk(3, dim=1)[::-1], dim=1)),
        "split-sizes": lambda: Function(
            lambda x: torch.cat([part * i for i, part in enumerate(x.split([1, 5, 2], 1))], 1)
        ),
        "slices": lambda: Function(lambda x: x[:, ::2, 1:, :-1] + x[:, 1::2, :-1, 1:]),
        "stack-unbind": lambda: Function(lambda x: torch.stack(x.unbind(1)[::2], dim=1)),
    },
    "arithmetic": {
        "mean": lambda: Function(lambda x: x.mean((2, 3), keepdim=True) * x.sigmoid()),
        "amax": lambda: Function(lambda x: x.amax(dim=1, keepdim=True) - x.sum(1, keepdim=True)),
        "where": lambda: Function(lambda x: torch.where(x > 0, x, x.exp() - 1)),
        "clamp": lambda: Function(lambda x: x.clamp(min=-0.25).clamp(max=0.5)),
        "clamp_int_and_float": lambda: Function(lambda x: x.clamp(-1, 0.5) + torch.clip(x, 0, max=1.5)),
        "scalars": lambda: Function(lambda x: (2.0 - x) / (x.abs() + 1) ** 2),
        "squeeze-flatten": lambda: Function(lambda x: x.mean(3, keepdim=True).squeeze(-1).unsqueeze(2).flatten(1)),
        "matmul": lambda: Function(lambda x: torch.softmax(x @ x.transpose(2, 3), -1) @ x),
        "attention": lambda: Function(lambda x: functional.scaled_dot_product_attention(x, x, x)),
        "normalize": lambda: Function(lambda x: functional.normalize(x, dim=1)),
        "in-place-on-a-slice": lambda: Function(lambda x: _doubled_half(x.clone())),
        "constant-in-forward": lambda: Function(
            lambda x: (x - torch.tensor([0.5]).view(1, 1, 1, 1)) * torch.arange(9.0)
        ),
        "linear-last": lambda: nn.Linear(9, 4, bias=False),
        "conv1d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 3, 5, 2, 2)),
    },
}


def _doubled_half(x: Tensor) -> Tensor:
    x[:, :4] *= 2
    return x


class Side(nn.Module):
    """Many modules side by side: one capture for all of them."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(modules)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [branch(x.clone()) for branch in self.branches.values()]


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_every_family_compute_what_torch_does(family: str, evaluate) -> None:
    torch.manual_seed(0)
    names = list(FAMILIES[family])
    module, x = Side({name: make() for name, make in FAMILIES[family].items()}).eval(), torch.randn(2, 8, 7, 9)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    with torch.no_grad():
        expected = dict(zip(names, module(x), strict=True))
    model = capture(module, (x,), input_names=["input"], output_names=names)
    assert not model.functions
    values = evaluate(model, (x,))
    for name in names:
        np.testing.assert_allclose(values[name], expected[name].numpy(), rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("rank", "sizes"), [(2, [2, 1, 5, 1]), (2, [2, 1, 5, 4]), (3, [2, 1, 2, 3, 4])])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.filterwarnings("ignore:.*unit-size grids")
def test_affine_grids_compute_what_torch_does(rank: int, sizes: list[int], corners: bool, evaluate) -> None:
    """Not among the families: torch's own exporter fails on some of them."""
    theta = torch.randn(2, rank, rank + 1)
    module = Function(lambda x: functional.affine_grid(x, sizes, align_corners=corners))
    model = capture(module, (theta,), input_names=["theta"], output_names=["grid"], path="fast")
    np.testing.assert_allclose(evaluate(model, (theta,))["grid"], module(theta).numpy(), rtol=1e-6, atol=1e-6)


def _of_all_ranks(x: Tensor) -> list[Tensor]:
    return [x.sum(), x[0, 0, 0], x[0, 0], x[0], x]


STACKS: dict[str, Callable[[Tensor], object]] = {
    "hstack": lambda x: [torch.hstack([part, part * 2]) for part in _of_all_ranks(x)],
    "hstack of a number and a vector": lambda x: [torch.hstack([x.sum(), x[0, 0, 0]])],
    "vstack": lambda x: [torch.vstack([part, part * 2]) for part in _of_all_ranks(x)],
    "row_stack": lambda x: [torch.row_stack([x[0, 0, 0], x[0, 0]])],
    "dstack": lambda x: [torch.dstack([part, part * 2]) for part in _of_all_ranks(x)],
    "column_stack": lambda x: [torch.column_stack([part, part * 2]) for part in _of_all_ranks(x)],
    "column_stack of a vector and a matrix": lambda x: [torch.column_stack([x[0, 0, :, 0], x[0, 1]])],
    "one of a kind, and integers": lambda x: [torch.vstack([x[0, 0, 0]]), torch.hstack([x, (x > 0).long()])],
    "atleast_1d of several": lambda x: list(torch.atleast_1d(*_of_all_ranks(x))),
    "atleast_2d of several": lambda x: list(torch.atleast_2d(*_of_all_ranks(x))),
    "atleast_3d of several": lambda x: list(torch.atleast_3d(*_of_all_ranks(x))),
    "atleast_1d": lambda x: [torch.atleast_1d(part) for part in _of_all_ranks(x)],
    "atleast_2d": lambda x: [torch.atleast_2d(part) for part in _of_all_ranks(x)],
    "atleast_3d": lambda x: [torch.atleast_3d(part) for part in _of_all_ranks(x)],
}


@pytest.mark.parametrize("name", STACKS)
def test_stacks_of_every_rank_are_those_of_torch(name: str, evaluate) -> None:
    """Not among the families: torch's own exporter writes them as loops over sequences."""
    x = torch.randn(2, 3, 4, 5)
    expected = STACKS[name](x)
    names = [f"y{index}" for index in range(len(expected))]
    model = capture(Function(STACKS[name]), (x,), input_names=["x"], output_names=names, path="fast")
    values = evaluate(model, (x,))
    for key, tensor in zip(names, expected, strict=True):
        assert values[key].shape == tuple(tensor.shape), key
        np.testing.assert_allclose(values[key], tensor.numpy(), rtol=1e-6, atol=1e-6, err_msg=key)
