"""Captured networks: every value that is named after a module equals what that module gives in torch, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from edgeconv.capture import capture
from edgeconv.reference import evaluate


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.reduce, self.expand = (
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, 4, 1),
            nn.Conv2d(4, channels, 1),
        )
        self.act, self.gate = nn.SiLU(), nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1)
        y = torch.cat([right, left], 1)
        n, c, h, w = y.shape
        return self.norm(self.conv(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)))


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1)
        self.pool, self.act = nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.PReLU(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.down(x))
        small = F.interpolate(self.pool(y), size=y.shape[2:], mode="bilinear", align_corners=False)
        return torch.softmax(self.up(y + small), 1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # No GELU: its graph holds the root of 2 as a float32 constant, so it differs from torch in the 9th digit.
        self.norm, self.qkv, self.project, self.act = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12), nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        y = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(y).reshape(n, h * w, 3, 3, 4).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * 0.5).softmax(-1)
        y = self.act(self.project((weights @ v).transpose(1, 2).reshape(n, h * w, c)))
        return y.transpose(1, 2).reshape(n, c, h, w) + x


class Audio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = (
            nn.Conv1d(6, 12, 7, dilation=2, groups=6),
            nn.GroupNorm(3, 12),
            nn.AvgPool1d(3, 2, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.glu(self.pool(F.mish(self.norm(self.conv(x)))), 1).std(-1)


NETWORKS = {
    "squeeze": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(), SqueezeExcite(8)),
        (2, 3, 17, 16),
    ),
    "shuffle": (Shuffle, (2, 8, 6, 5)),
    "segmenter": (Segmenter, (1, 3, 18, 14)),
    "attention": (Attention, (2, 12, 4, 3)),
    "audio": (Audio, (2, 6, 40)),
    "pixels": (
        lambda: nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, 18, 1),
            nn.PixelShuffle(3),
            nn.InstanceNorm2d(2, affine=True),
            nn.Softplus(),
        ),
        (1, 3, 8, 6),
    ),
    "pads": (
        lambda: nn.Sequential(
            nn.ReflectionPad2d(2),
            nn.Conv2d(2, 4, 3),
            nn.ReplicationPad2d((1, 2, 0, 1)),
            nn.LocalResponseNorm(3),
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            nn.ELU(),
            nn.Flatten(),
            nn.Linear(4 * 5 * 7, 7),
            nn.LogSoftmax(1),
        ),
        (1, 2, 7, 8),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_values_equal_the_modules_outputs(name: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    module = make().eval()
    for item in module.modules():
        if isinstance(item, nn.BatchNorm2d):
            nn.init.normal_(item.running_mean)
            nn.init.uniform_(item.running_var, 0.5, 2.0)
    x = torch.randn(shape)
    model = capture(module, (x,), input_names=["x"], output_names=["y"])
    values = evaluate(model, {"x": x.numpy()})
    expected, result = hooked(module.double(), x.double())
    close(values["y"], result)
    result_of = model.graph.outputs[0].metadata_props.get("edgeconv.module")
    assert set(expected) - {result_of} <= set(values)
    for path, array in expected.items():
        close(values["y" if path == result_of else path], array)


def hooked(module: nn.Module, x: torch.Tensor) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The output of every leaf of the module, by its path, and the module's own."""
    outputs: dict[str, np.ndarray] = {}

    def remember(path: str) -> Any:
        return lambda _module, _args, output: outputs.update({path: output.numpy().copy()})

    for path, item in module.named_modules():
        if not list(item.children()):
            item.register_forward_hook(remember(path))
    with torch.no_grad():
        return outputs, module(x).numpy()


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * max(1.0, float(np.abs(theirs).max())))
