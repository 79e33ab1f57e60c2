"""Convolutional blocks in the style in which torchvision's and timm's users bring them, written from the papers.

Every entry of `BLOCKS` is a name, what makes the module, and the shapes of its inputs. They are as small as they can be
without losing what is special about them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 the name that everybody uses
from torch import Tensor, nn

Shapes = tuple[tuple[int, ...], ...]
Block = tuple[Callable[[], nn.Module], Shapes]

IMAGE: Shapes = ((1, 16, 14, 14),)


class LayerNorm2d(nn.Module):
    """Channels-first LayerNorm, written by hand as in ConvNeXt's published form."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.bias = nn.Parameter(torch.randn(channels) * 0.1)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class PermutedLayerNorm(nn.LayerNorm):
    """torchvision's LayerNorm2d: to channels-last, `F.layer_norm`, and back."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): the identity in eval mode."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * mask / (1 - self.rate)


class ConvNeXtBlock(nn.Module):
    """ConvNeXt (Liu et al., 2022): depthwise 7x7, LayerNorm and MLP channels-last, layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand, self.reduce = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.rand(channels))
        self.drop_path = DropPath(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.reduce(F.gelu(self.expand(y)))
        return x + self.drop_path(y.permute(0, 3, 1, 2))


class GlobalResponseNorm(nn.Module):
    """ConvNeXt V2 (Woo et al., 2023): the L2 norm over space, by its mean over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.randn(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        energy = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        share = energy / (energy.mean(dim=-1, keepdim=True) + 1e-6)
        return (self.gamma * (x * share) + self.beta + x).permute(0, 3, 1, 2)


class CBAM(nn.Module):
    """Convolutional block attention (Woo et al., 2018): of channels, then of places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, channels))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)]
        gate = torch.sigmoid(sum(self.mlp(each.flatten(1)) for each in pooled))
        x = x * gate[:, :, None, None]
        plane = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * torch.sigmoid(self.spatial(plane))


class ECA(nn.Module):
    """Efficient channel attention (Wang et al., 2020): a 1-d convolution across the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2))
        return x * torch.sigmoid(y.transpose(-1, -2).unsqueeze(-1)).expand_as(x)


class CoordAttention(nn.Module):
    """Coordinate attention (Hou et al., 2021): pooled along each axis, joined, split, two gates."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.reduce, self.norm = nn.Conv2d(channels, 8, 1), nn.BatchNorm2d(8)
        self.high, self.wide = nn.Conv2d(8, channels, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.size()
        y = torch.cat([self.rows(x), self.columns(x).permute(0, 1, 3, 2)], dim=2)
        y = self.norm(self.reduce(y))
        y = y * (F.relu6(y + 3) / 6)
        high, wide = torch.split(y, [height, width], dim=2)
        return x * self.high(high).sigmoid() * self.wide(wide.permute(0, 1, 3, 2)).sigmoid()


class GhostModuleV2(nn.Module):
    """GhostNetV2 (Tang et al., 2022): a ghost module gated by decoupled fully connected attention at half the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.primary = nn.Sequential(nn.Conv2d(channels, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(True))
        self.cheap = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False), nn.BatchNorm2d(half), nn.ReLU(True)
        )
        self.attend = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, (1, 5), padding=(0, 2), groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, (5, 1), padding=(2, 0), groups=channels, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.attend(F.avg_pool2d(x, kernel_size=2, stride=2)))
        first = self.primary(x)
        both = torch.cat([first, self.cheap(first)], dim=1)
        return both * F.interpolate(gate, size=(both.shape[-2], both.shape[-1]), mode="nearest")


class BlurPool(nn.Module):
    """Anti-aliased downsampling (Zhang, 2019): a fixed binomial filter, reflected at the border."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.channels = channels
        self.register_buffer("filter", (row[:, None] * row / 16)[None, None].repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filter, stride=2, groups=self.channels)


class AntiAliased(nn.Module):
    """A ResNet block whose strides are blurred."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.blur, self.shortcut = BlurPool(channels), nn.Sequential(BlurPool(channels), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.blur(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(y + self.shortcut(x))


class StandardizedConv2d(nn.Conv2d):
    """Weight standardisation (Qiao et al., 2019), as in BiT: the weight is normalized in every forward."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-10)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class BatchStandardizedConv2d(nn.Conv2d):
    """The same by timm's trick: a batch norm of the weight as one image in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class BiTBlock(nn.Module):
    """Big Transfer (Kolesnikov et al., 2020): preactivation with GroupNorm and standardised weights."""

    def __init__(self, channels: int, conv: type[nn.Conv2d]) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)
        self.conv1 = conv(channels, channels, 3, padding=1, bias=False)
        self.conv2 = conv(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class SplitAttention(nn.Module):
    """ResNeSt (Zhang et al., 2020): radix groups weighed against each other by a softmax."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * 2, 3, padding=1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(channels * 2)
        self.reduce, self.expand = nn.Conv2d(channels, 8, 1, groups=2), nn.Conv2d(8, channels * 2, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)))
        batch, doubled, height, width = y.shape
        parts = y.reshape(batch, 2, doubled // 2, height, width)
        gap = parts.sum(dim=1).mean((2, 3), keepdim=True)
        logits = self.expand(F.relu(self.reduce(gap)))
        weights = logits.view(batch, 2, 2, -1).transpose(1, 2).softmax(dim=1).reshape(batch, -1)
        gates = weights.view(batch, -1, 1, 1).reshape(batch, 2, doubled // 2, 1, 1)
        return (parts * gates).sum(dim=1).contiguous()


class SelectiveKernel(nn.Module):
    """SKNet (Li et al., 2019): branches of two kernel sizes, stacked, weighed by a softmax over the branches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=d, dilation=d, groups=4, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            )
            for d in (1, 2)
        )
        self.reduce, self.select = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        paths = torch.stack([path(x) for path in self.paths], dim=1)
        gates = self.select(F.relu(self.reduce(paths.sum(1).mean((2, 3), keepdim=True))))
        gates = gates.view(x.shape[0], 2, -1, 1, 1).softmax(dim=1)
        return (paths * gates).sum(dim=1)


class HandWritten(nn.Module):
    """MobileNetV3's activations (Howard et al., 2019) as they were written before torch had them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y * F.relu6(y + 3.0, inplace=True) / 6.0
        gate = F.relu6(self.gate(y.mean([2, 3], keepdim=True)) + 3.0).mul(1.0 / 6.0)
        return y * gate * torch.clamp(x + 3, 0, 6).div(6)


class DynamicConv(nn.Module):
    """CondConv (Yang et al., 2019): the kernel itself is a weighted sum that depends on the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.route = nn.Linear(channels, 4)
        self.experts = nn.Parameter(torch.randn(4, channels * channels * 9) / math.sqrt(channels * 9))
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.route(x.mean((2, 3)))) @ self.experts
        weights = weights.view(x.shape[0] * self.channels, self.channels, 3, 3)
        y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), weights, padding=1, groups=x.shape[0])
        return y.view(x.shape[0], self.channels, *y.shape[2:])


class Involution(nn.Module):
    """Involution (Li et al., 2021): a kernel per place, applied to unfolded patches."""

    def __init__(self, channels: int, groups: int = 4, size: int = 3) -> None:
        super().__init__()
        self.kernels = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.ReLU(), nn.Conv2d(8, size * size * groups, 1))
        self.groups, self.size = groups, size

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        weight = self.kernels(x).view(batch, self.groups, 1, self.size**2, height, width)
        patches = F.unfold(x, self.size, padding=self.size // 2)
        patches = patches.view(batch, self.groups, channels // self.groups, self.size**2, height, width)
        return (weight * patches).sum(3).view(batch, channels, height, width)


class TemporalShift(nn.Module):
    """TSM (Lin et al., 2019): a part of the channels comes from the frame before, another from the one behind."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.conv, self.frames = nn.Conv2d(channels, channels, 1), frames

    def forward(self, x: Tensor) -> Tensor:
        total, channels, height, width = x.size()
        clips = x.view(total // self.frames, self.frames, channels, height, width)
        fold = channels // 8
        out = torch.zeros_like(clips)
        out[:, :-1, :fold] = clips[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = clips[:, :, 2 * fold :]
        return self.conv(out.view(total, channels, height, width))


class ShuffleUnit(nn.Module):
    """ShuffleNetV2 (Ma et al., 2018): half of the channels pass, then all are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False),
            nn.BatchNorm2d(half),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, dim=1)
        out = torch.cat((kept, self.branch(worked)), dim=1)
        batch, channels, height, width = out.size()
        out = out.view(batch, 2, channels // 2, height, width)
        return torch.transpose(out, 1, 2).contiguous().view(batch, channels, height, width)


class InvertedResidual(nn.Module):
    """EfficientNet's MBConv (Tan & Le, 2019) in TensorFlow's padding, computed from the input's size in the forward."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(channels, 32, 1, bias=False), nn.BatchNorm2d(32), nn.SiLU(inplace=True))
        self.depthwise, self.norm = nn.Conv2d(32, 32, 5, 2, groups=32, bias=False), nn.BatchNorm2d(32)
        self.squeeze, self.excite = nn.Conv2d(32, 4, 1), nn.Conv2d(4, 32, 1)
        self.project = nn.Sequential(nn.Conv2d(32, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        pads = [max((math.ceil(size / 2) - 1) * 2 + 5 - size, 0) for size in x.shape[-2:]]
        x = F.pad(x, [pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2])
        x = F.silu(self.norm(self.depthwise(x)))
        gate = self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        return self.project(gate.sigmoid_() * x)


BLOCKS: dict[str, Block] = {
    "convnext": (lambda: ConvNeXtBlock(16), IMAGE),
    "convnext-stem": (lambda: nn.Sequential(nn.Conv2d(3, 16, 4, 4), PermutedLayerNorm(16)), ((1, 3, 32, 32),)),
    "layernorm2d-by-hand": (lambda: LayerNorm2d(16), IMAGE),
    "convnextv2-grn": (lambda: GlobalResponseNorm(16), IMAGE),
    "cbam": (lambda: CBAM(16), IMAGE),
    "eca": (ECA, IMAGE),
    "coord-attention": (lambda: CoordAttention(16), IMAGE),
    "ghostnetv2-dfc": (lambda: GhostModuleV2(16), IMAGE),
    "blurpool-resnet": (lambda: AntiAliased(16), IMAGE),
    "bit": (lambda: BiTBlock(16, StandardizedConv2d), IMAGE),
    "bit-of-timm": (lambda: BiTBlock(16, BatchStandardizedConv2d), IMAGE),
    "resnest": (lambda: SplitAttention(16), IMAGE),
    "sknet": (lambda: SelectiveKernel(16), IMAGE),
    "activations-by-hand": (lambda: HandWritten(16), IMAGE),
    "involution": (lambda: Involution(16), IMAGE),
    "tsm": (lambda: TemporalShift(16, 4), ((4, 16, 6, 6),)),
    "shufflenetv2": (lambda: ShuffleUnit(16), IMAGE),
    "mbconv-same-padding": (lambda: InvertedResidual(16), ((1, 16, 15, 14),)),
    "condconv": (lambda: DynamicConv(16), IMAGE),
}
