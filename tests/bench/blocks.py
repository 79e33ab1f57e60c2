"""Networks of published papers, as they are while they train: nothing is merged.

With parallel branches: RepVGG (Ding et al., 2021), MobileOne (Vasu et al., 2023), RepGhost (Chen et al., 2022) and
FastViT (Vasu et al., 2023). Beside them ConvNeXt (Liu et al., 2022) at the size that is called atto, and the decoder of
Simple Baselines (Xiao et al., 2018) on a small encoder. Written from the papers with torch only, so that every peer's
environment can import it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution without bias, padded to keep the size at stride 1, and its BatchNorm."""
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class Branches(nn.Module):
    """A sum of linear branches of the same input, then an activation: the block that RepVGG and MobileOne share.

    The branches are ``copies`` convolutions of the full kernel, a 1x1 convolution where ``pointwise``, and a BatchNorm
    of the input itself where ``identity`` and the shapes allow it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        *,
        copies: int = 1,
        pointwise: bool = True,
        identity: bool = True,
        activation: nn.Module | None = None,
        attention: nn.Module | None = None,
    ) -> None:
        super().__init__()
        full = [conv_bn(in_channels, out_channels, kernel_size, stride, groups) for _ in range(copies)]
        small = [conv_bn(in_channels, out_channels, 1, stride, groups)] if pointwise and kernel_size > 1 else []
        same = identity and stride == 1 and in_channels == out_channels
        self.branches = nn.ModuleList([*full, *small, *([nn.BatchNorm2d(in_channels)] if same else [])])
        self.attention = attention or nn.Identity()
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H/stride, W/stride)."""
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return self.activation(self.attention(total))


class SqueezeExcite(nn.Module):
    """Channel attention: global mean, two 1x1 convolutions, a gate."""

    def __init__(self, channels: int, hidden: int, gate: nn.Module) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.relu = nn.ReLU()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        mean = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.relu(self.reduce(mean))))


def _head(channels: int, classes: int = 1000) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def repvgg_a0() -> nn.Module:
    """RepVGG-A0: 3x3, 1x1 and identity branches all the way."""
    layers: list[nn.Module] = [Branches(3, 48, stride=2, activation=nn.ReLU())]
    channels = 48
    for width, depth in ((48, 2), (96, 4), (192, 14), (1280, 1)):
        for index in range(depth):
            layers.append(Branches(channels, width, stride=2 if index == 0 else 1, activation=nn.ReLU()))
            channels = width
    return nn.Sequential(*layers, *_head(channels))


def mobileone_s0() -> nn.Module:
    """MobileOne-S0: four copies of each depthwise and pointwise convolution beside 1x1 and identity branches."""
    layers: list[nn.Module] = [Branches(3, 48, stride=2, activation=nn.ReLU())]
    channels = 48
    for width, depth in ((48, 2), (128, 8), (256, 10), (1024, 1)):
        for index in range(depth):
            stride = 2 if index == 0 else 1
            layers.append(Branches(channels, channels, 3, stride, channels, copies=4, activation=nn.ReLU()))
            layers.append(Branches(channels, width, 1, copies=4, activation=nn.ReLU()))
            channels = width
    return nn.Sequential(*layers, *_head(channels))


class RepGhostModule(nn.Module):
    """A 1x1 convolution, then a depthwise 3x3 one beside a BatchNorm of its input; both are summed."""

    def __init__(self, in_channels: int, out_channels: int, *, relu: bool) -> None:
        super().__init__()
        self.primary = conv_bn(in_channels, out_channels)
        self.act = nn.ReLU() if relu else nn.Identity()
        final = nn.ReLU() if relu else nn.Identity()
        self.cheap = Branches(out_channels, out_channels, 3, 1, out_channels, pointwise=False, activation=final)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        return self.cheap(self.act(self.primary(x)))


class RepGhostBottleneck(nn.Module):
    """Two RepGhost modules with a depthwise stride and attention between them, and a shortcut."""

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, kernel_size: int, stride: int, *, attend: bool
    ) -> None:
        super().__init__()
        middle: list[nn.Module] = []
        if stride > 1:
            middle.append(conv_bn(hidden, hidden, kernel_size, stride, hidden))
        if attend:
            middle.append(SqueezeExcite(hidden, max(8, hidden // 32 * 8), nn.Hardsigmoid()))
        self.main = nn.Sequential(
            RepGhostModule(in_channels, hidden, relu=True), *middle, RepGhostModule(hidden, out_channels, relu=False)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                conv_bn(in_channels, in_channels, kernel_size, stride, in_channels), conv_bn(in_channels, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H/stride, W/stride)."""
        return self.main(x) + self.shortcut(x)


# kernel size, hidden channels, output channels, attention, stride
_REPGHOST = (
    (3, 8, 16, False, 1),
    (3, 24, 24, False, 2),
    (3, 36, 24, False, 1),
    (5, 36, 40, True, 2),
    (5, 60, 40, True, 1),
    (3, 120, 80, False, 2),
    (3, 100, 80, False, 1),
    (3, 120, 80, False, 1),
    (3, 120, 80, False, 1),
    (3, 240, 112, True, 1),
    (3, 336, 112, True, 1),
    (5, 336, 160, True, 2),
    (5, 480, 160, False, 1),
    (5, 480, 160, True, 1),
    (5, 480, 160, False, 1),
    (5, 480, 160, True, 1),
)


def repghost() -> nn.Module:
    """A network like RepGhostNet of width 1.0."""
    layers: list[nn.Module] = [conv_bn(3, 16, 3, 2), nn.ReLU()]
    channels = 16
    for kernel_size, hidden, width, attend, stride in _REPGHOST:
        layers.append(RepGhostBottleneck(channels, hidden, width, kernel_size, stride, attend=attend))
        channels = width
    layers += [conv_bn(channels, 480), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(480, 1280, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1280, 1000))


class RepMixerBlock(nn.Module):
    """FastViT's block: ``x + s * (mix(x) - norm(x))``, then a convolutional feed-forward with its own scale."""

    def __init__(self, channels: int, mlp_ratio: int = 3) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.mixer = Branches(channels, channels, 3, 1, channels)
        hidden = channels * mlp_ratio
        self.feed = nn.Sequential(
            conv_bn(channels, channels, 7, 1, channels),
            nn.Conv2d(channels, hidden, 1),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1),
        )
        self.mix_scale = nn.Parameter(torch.full((channels, 1, 1), 0.5))
        self.feed_scale = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        x = x + self.mix_scale * (self.mixer(x) - self.norm(x))
        return x + self.feed_scale * self.feed(x)


class LargeKernel(nn.Module):
    """A 7x7 and a 3x3 grouped convolution of stride 2 side by side: FastViT's way between stages."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.large = conv_bn(in_channels, out_channels, 7, 2, in_channels)
        self.small = conv_bn(in_channels, out_channels, 3, 2, in_channels)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H/2, W/2)."""
        return self.act(self.large(x) + self.small(x))


def fastvit_t8(depths: Sequence[int] = (2, 2, 4, 2), widths: Sequence[int] = (48, 96, 192, 384)) -> nn.Module:
    """FastViT-T8: all of its token mixers are RepMixers."""
    first = widths[0]
    layers: list[nn.Module] = [
        Branches(3, first, 3, 2, activation=nn.GELU()),
        Branches(first, first, 3, 2, first, activation=nn.GELU()),
        Branches(first, first, 1, activation=nn.GELU()),
    ]
    for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        layers += [RepMixerBlock(width) for _ in range(depth)]
        if index + 1 < len(widths):
            following = widths[index + 1]
            layers += [LargeKernel(width, following), Branches(following, following, 1, activation=nn.GELU())]
    last, wide = widths[-1], widths[-1] * 2
    attention = SqueezeExcite(wide, wide // 16, nn.Sigmoid())
    layers.append(Branches(last, wide, 3, 1, last, attention=attention, activation=nn.GELU()))
    return nn.Sequential(*layers, *_head(wide))


class ConvNeXtBlock(nn.Module):
    """A 7x7 depthwise convolution, then LayerNorm and two products per pixel, channels last; scaled and added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.project = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(self.act(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext_atto(depths: Sequence[int] = (2, 2, 6, 2), widths: Sequence[int] = (40, 80, 160, 320)) -> nn.Module:
    """ConvNeXt: four stages, each after a strided convolution."""
    layers: list[nn.Module] = []
    before = 3
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        size = 4 if stage == 0 else 2
        down = nn.Conv2d(before, width, size, stride=size)
        layers += [down, ChannelNorm(width)] if stage == 0 else [ChannelNorm(before), down]
        layers += [ConvNeXtBlock(width) for _ in range(depth)]
        before = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(before), nn.Linear(before, 1000)]
    return nn.Sequential(*layers, *head)


def pose_decoder(widths: Sequence[int] = (32, 64, 128, 256), joints: int = 17) -> nn.Module:
    """A small encoder of depthwise separable convolutions, and three transposed convolutions up to heat maps."""
    layers: list[nn.Module] = [conv_bn(3, widths[0], 3, 2), nn.ReLU()]
    for before, width in zip(widths, [*widths[1:], widths[-1]], strict=True):
        layers += [conv_bn(before, before, 3, 2, before), nn.ReLU(), conv_bn(before, width), nn.ReLU()]
    for before in (widths[-1], 128, 128):
        layers += [nn.ConvTranspose2d(before, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(128, joints, 1))
