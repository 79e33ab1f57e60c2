"""Blocks of published networks in the state in which they are trained: branches and BatchNormalization everywhere."""

from __future__ import annotations

import torch
from torch import nn


def conv_norm(channels_in, channels_out, kernel, stride=1, groups=1):
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


class RepVGGBlock(nn.Module):
    """relu(3x3 + 1x1 + identity), each with its BatchNormalization (RepVGG, CVPR 2021)."""

    def __init__(self, channels_in, channels_out, stride=1, groups=1):
        super().__init__()
        self.dense = conv_norm(channels_in, channels_out, 3, stride, groups)
        self.point = conv_norm(channels_in, channels_out, 1, stride, groups)
        self.norm = nn.BatchNorm2d(channels_in) if channels_in == channels_out and stride == 1 else None

    def forward(self, x):
        same = 0 if self.norm is None else self.norm(x)
        return torch.relu(self.dense(x) + self.point(x) + same)


class MobileOneBlock(nn.Module):
    """Several k x k, a 1x1 for a k above 1, an identity (MobileOne, CVPR 2023)."""

    def __init__(self, channels_in, channels_out, kernel, stride=1, groups=1, branches=2, activate=True):
        super().__init__()
        self.branches = nn.ModuleList(
            conv_norm(channels_in, channels_out, kernel, stride, groups) for _ in range(branches)
        )
        self.scale = conv_norm(channels_in, channels_out, 1, stride, groups) if kernel > 1 else None
        self.skip = nn.BatchNorm2d(channels_in) if channels_in == channels_out and stride == 1 else None
        self.activation = nn.ReLU() if activate else nn.Identity()

    def forward(self, x):
        total = 0 if self.skip is None else self.skip(x)
        total = total + (0 if self.scale is None else self.scale(x))
        for branch in self.branches:
            total = total + branch(x)
        return self.activation(total)


class RepGhostModule(nn.Module):
    """A pointwise convolution, then depthwise + BatchNormalization of the same (RepGhost, 2022)."""

    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.primary = nn.Sequential(*conv_norm(channels_in, channels_out, 1), nn.ReLU())
        self.cheap = conv_norm(channels_out, channels_out, 3, groups=channels_out)
        self.fusion = nn.BatchNorm2d(channels_out)

    def forward(self, x):
        x = self.primary(x)
        return torch.relu(self.cheap(x) + self.fusion(x))


class RepMixer(nn.Module):
    """x + scale * (mixer(x) - norm(x)) (FastViT, ICCV 2023)."""

    def __init__(self, channels, kernel=3):
        super().__init__()
        self.norm = MobileOneBlock(channels, channels, kernel, groups=channels, branches=0, activate=False)
        self.mixer = MobileOneBlock(channels, channels, kernel, groups=channels, branches=1, activate=False)
        self.layer_scale = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x):
        return x + self.layer_scale * (self.mixer(x) - self.norm(x))


class ConvFFN(nn.Module):
    """Depthwise 7x7 + 3x3, two pointwise convolutions with GELU between them, scaled, added."""

    def __init__(self, channels):
        super().__init__()
        self.large = conv_norm(channels, channels, 7, groups=channels)
        self.small = conv_norm(channels, channels, 3, groups=channels)
        self.fc1, self.fc2 = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)
        self.layer_scale = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x):
        inner = self.fc2(nn.functional.gelu(self.fc1(self.large(x) + self.small(x))))
        return x + self.layer_scale * inner


class AsymmetricBlock(nn.Module):
    """3x3 + 1x3 + 3x1 (ACNet, ICCV 2019) and a counted average (diverse branch block, CVPR 2021)."""

    def __init__(self, channels):
        super().__init__()
        self.square = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.row = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.column = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.average = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.BatchNorm2d(channels))

    def forward(self, x):
        return self.square(x) + self.row(x) + self.column(x) + self.average(x)


# name -> (the block, its operators when nothing is left to merge)
BLOCKS = {
    "repvgg": (lambda: RepVGGBlock(6, 6), ["Conv", "Relu"]),
    "repvgg-down": (lambda: RepVGGBlock(4, 6, stride=2), ["Conv", "Relu"]),
    "repvgg-grouped": (lambda: RepVGGBlock(6, 6, groups=2), ["Conv", "Relu"]),
    "mobileone-depthwise": (lambda: MobileOneBlock(6, 6, 3, groups=6, branches=4), ["Conv", "Relu"]),
    "mobileone-down": (lambda: MobileOneBlock(6, 6, 3, stride=2, groups=6), ["Conv", "Relu"]),
    "mobileone-pointwise": (lambda: MobileOneBlock(6, 6, 1), ["Conv", "Relu"]),
    "repghost": (lambda: RepGhostModule(4, 6), ["Conv", "Relu", "Conv", "Relu"]),
    "repmixer": (lambda: RepMixer(6), ["Conv"]),
    "asymmetric": (lambda: AsymmetricBlock(5), ["Conv"]),
}
