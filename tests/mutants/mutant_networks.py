"""The networks that faults are planted in: those of the zoo and of the bench, at sizes where a verdict takes little.

Each is built twice from a seed: `BENIGN`, with BatchNorm statistics from data as a trained network has them, and
`RANDOM`, with plain random weights and statistics, which nothing has made well conditioned.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import blocks
import paper_attention
import paper_convolutions
import paper_heads
import torch
from stand_in import stand_in
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from edgeconv.nn import DepthwiseSeparableConv, MobileNetDSC

BENIGN, RANDOM = "benign", "random"
WEIGHTS = (BENIGN, RANDOM)
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Network:
    """A network by name: what makes it, and the shapes of its inputs (NCHW)."""

    name: str
    factory: Callable[[], nn.Module]
    shapes: Shapes

    def build(self, weights: str, seed: int) -> nn.Module:
        """The module in eval mode; the same seed gives the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.factory()
            if weights == BENIGN:
                return stand_in(module, self.shapes)
            _draw_statistics(module)
        return module.eval()


def _draw_statistics(module: nn.Module) -> None:
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
                layer.running_mean.normal_(0.0, 0.5)
                layer.running_var.uniform_(0.3, 2.0)
                if layer.affine:
                    layer.weight.uniform_(0.5, 1.5)
                    layer.bias.normal_(0.0, 0.5)


class Relu6Network(nn.Module):
    """MobileNetV2's operators: ReLU6, strides, an inverted residual, a padded average, logits and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.BatchNorm2d(32), nn.ReLU6())
        self.project = nn.Sequential(nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.last = nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU6())
        self.classifier = nn.Linear(24 * 2 * 2, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        x = x + self.project(self.depthwise(self.expand(x)))
        logits = self.classifier(self.last(self.pool(x)).flatten(1))
        return logits, logits.softmax(1)


class PreluNetwork(nn.Module):
    """PReLU, groups, dilation, a padded average that counts its padding, two resizes, a gate, two outputs alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 5, 2, 2), nn.PReLU(16))
        self.grouped = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=4), nn.PReLU(16))
        self.dilated = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 2, dilation=2), nn.GELU(approximate="tanh"))
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.gate = nn.Conv2d(16, 16, 1)
        self.first, self.second = nn.Conv2d(32, 4, 3, 1, 1), nn.Conv2d(32, 4, 3, 1, 1)
        for slopes in (self.stem[1].weight, self.grouped[1].weight):
            nn.init.uniform_(slopes, 0.05, 0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        y = self.pool(self.grouped(x)) - self.dilated(x)
        y = torch.cat([y * torch.sigmoid(self.gate(x)), x], 1)
        finer = functional.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
        nearest = functional.interpolate(y, scale_factor=2, mode="nearest")
        return self.first(finer), torch.clamp(self.second(nearest), -1.5, 1.5)


def _zoo(module: str, factory: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        network: nn.Module = getattr(importlib.import_module(f"pytorchcv.models.{module}"), factory)()
        return network

    return build


def _repvgg() -> nn.Module:
    layers = [blocks.Branches(3, 16, stride=2, activation=nn.ReLU())]
    layers += [blocks.Branches(16, 16, activation=nn.ReLU()), blocks.Branches(16, 24, stride=2, activation=nn.ReLU())]
    return nn.Sequential(*layers, *blocks._head(24, 10))


def _mobileone() -> nn.Module:
    layers = [blocks.Branches(3, 16, stride=2, activation=nn.ReLU())]
    for width, stride in ((16, 1), (24, 2)):
        layers.append(blocks.Branches(16, 16, 3, stride, 16, copies=2, activation=nn.ReLU()))
        layers.append(blocks.Branches(16, width, 1, copies=2, activation=nn.ReLU()))
    return nn.Sequential(*layers, *blocks._head(24, 10))


def _repghost() -> nn.Module:
    first = blocks.RepGhostBottleneck(16, 24, 16, 3, 1, attend=False)
    second = blocks.RepGhostBottleneck(16, 24, 24, 5, 2, attend=True)
    return nn.Sequential(blocks.conv_bn(3, 16, 3, 2), nn.ReLU(), first, second, *blocks._head(24, 10))


def _mobilenet() -> nn.Module:
    stack = [(24, 1), (32, 2), (32, 1), (32, 1), (48, 2), (48, 1)]
    return MobileNetDSC(10, stem_channels=16, blocks=stack)


def _paper(name: str) -> Network:
    tables = (paper_convolutions.BLOCKS, paper_heads.BLOCKS, paper_attention.BLOCKS)
    factory, shapes = next(table[name] for table in tables if name in table)
    return Network(name, factory, shapes)


_PAPERS = (
    *("convnext", "cbam", "coord-attention", "ghostnetv2-dfc", "blurpool-resnet", "resnest", "shufflenetv2"),
    *("mbconv-same-padding", "deeplab-aspp", "lraspp", "yolo-sppf", "yolo-c2f", "yolo-dfl-head", "unet"),
    *("super-resolution", "mobilevit"),
)
NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network("dsconv", lambda: DepthwiseSeparableConv(3, 16), ((1, 3, 20, 20),)),
        Network("mobilenet-dsc", _mobilenet, ((1, 3, 32, 32),)),
        Network("resnet20", _zoo("resnet_cifar", "resnet20_cifar10"), ((1, 3, 32, 32),)),
        Network("repvgg", _repvgg, ((1, 3, 24, 24),)),
        Network("mobileone", _mobileone, ((1, 3, 24, 24),)),
        Network("repghost", _repghost, ((1, 3, 24, 24),)),
        Network("fastvit", lambda: blocks.fastvit_t8((1, 1), (16, 32)), ((1, 3, 32, 32),)),
        Network("relu6", Relu6Network, ((1, 3, 16, 16),)),
        Network("prelu", PreluNetwork, ((1, 3, 14, 14),)),
        *map(_paper, _PAPERS),
    )
}
