"""Small networks whose batch travels: merged with heads, windows and patches, moved behind the tokens, broadcast to."""

from __future__ import annotations

import torch
from pytorchcv.models.efficientnet import EfficientNet
from pytorchcv.models.shufflenetv2 import ShuffleNetV2
from torch import nn
from torch.nn import functional as F  # noqa: N812

from edgeconv.nn import DepthwiseSeparableConv, MobileNetDSC


class Segmentation(nn.Module):
    """Resizes by sizes and by scales, transposed convolutions of three kinds."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.deep = nn.Conv2d(8, 8, 3, 2, 1)
        self.twice = nn.ConvTranspose2d(8, 8, 2, 2)
        self.overlap = nn.ConvTranspose2d(8, 4, 3, 2, 1, 1)
        self.grouped = nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=2)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x):
        wide = F.relu(self.down(x))
        deep = F.relu(self.deep(wide))
        up = F.interpolate(deep, size=wide.shape[2:], mode="bilinear") + self.twice(deep) + self.grouped(deep)
        up = up + F.interpolate(F.adaptive_avg_pool2d(deep, 1), size=wide.shape[2:], mode="nearest")
        mixed = self.head(torch.cat([self.overlap(deep), up], 1))
        return F.interpolate(mixed, scale_factor=2, mode="bilinear", align_corners=True)


class Transformer(nn.Module):
    """Patches, an expanded class token, positions, torch's attention with the batch first or second."""

    def __init__(self, batch_first):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=batch_first)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        self.head = nn.Linear(16, 7)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        y = self.norm(x)
        y = y if self.attention.batch_first else y.transpose(0, 1)
        y = self.attention(y, y, y, need_weights=False)[0]
        y = y if self.attention.batch_first else y.transpose(0, 1)
        return self.head((x + y)[:, 0])


class Attention(nn.Module):
    """Heads as an axis of their own, a bias per head, and the products by hand."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(16, 48)
        self.bias = nn.Parameter(torch.randn(4, 16, 16))

    def forward(self, x):
        batch, tokens, channels = x.shape
        q, k, v = self.project(x).reshape(batch, tokens, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[None])
        y = y + (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return y.transpose(1, 2).reshape(batch, tokens, channels)


class Windows(nn.Module):
    """Windows merged with the batch, and a mask that differs from window to window (Swin)."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 24)
        self.register_buffer("mask", torch.randn(4, 16, 16))

    def forward(self, x):
        batch, channels, height, width = x.shape
        x = torch.roll(x.permute(0, 2, 3, 1), (-1, -1), (1, 2))
        x = x.view(batch, 2, 4, 2, 4, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, channels)
        q, k, v = self.project(x).reshape(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)).view(batch, 4, 2, 16, 16) + self.mask[None, :, None]
        y = (scores.view(-1, 2, 16, 16).softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, channels)
        y = y.view(batch, 2, 2, 4, 4, channels).permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)
        return y.permute(0, 3, 1, 2)


class MobileVit(nn.Module):
    """Unfolds to [batch * 4, patches, channels], which begins by merging batch, channels and rows (MobileViT)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        batch, channels, height, width = x.shape
        y = x.reshape(batch * channels * height // 2, 2, width // 2, 2).transpose(1, 2)
        y = y.reshape(batch, channels, height * width // 4, 4).transpose(1, 3)
        y = self.encoder(y.reshape(batch * 4, height * width // 4, channels))
        y = y.view(batch, 4, height * width // 4, channels).transpose(1, 3)
        y = y.reshape(batch * channels * height // 2, width // 2, 2, 2).transpose(1, 2)
        return self.head(x + y.reshape(batch, channels, height, width))


class Queries(nn.Module):
    """Learned queries expanded to the batch, and stacks of matrices merged with it."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 5, 8))
        self.convolution = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        features = self.convolution(x).flatten(2)
        scores = torch.bmm(self.queries.expand(x.shape[0], -1, -1), features).softmax(-1)
        batch, count, channels = (found := torch.bmm(scores, features.transpose(1, 2))).shape
        heads = found.reshape(batch, count, 2, 4).permute(0, 2, 1, 3).reshape(batch * 2, count, channels // 2)
        return torch.bmm(heads, heads.transpose(1, 2)).reshape(batch, 2, count, count)


class Layers(nn.Module):
    """Norms, shuffles, slices, reductions, reflected and constant borders, planes of constants."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect")
        self.group, self.instance = nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)

    def forward(self, x):
        y = F.pixel_unshuffle(F.pixel_shuffle(self.instance(self.group(self.convolution(x))), 2), 2)
        y = y.view(y.shape[0], 2, 4, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
        left, right = y.chunk(2, 1)
        y = torch.cat([right, left * left.mean((2, 3), keepdim=True)], 1)[:, [3, 1, 0]]
        y = F.pad(y / y.norm(dim=1, keepdim=True).clamp_min(1e-6), (1, 1, 1, 1))
        zeros = torch.zeros(x.shape[0], 1, *y.shape[2:], dtype=y.dtype)
        ramp = (torch.arange(8, dtype=y.dtype) / 8).expand(x.shape[0], 1, y.shape[2], -1)
        return torch.cat([zeros, y, ramp], 1)


def audio():
    """Convolutions in one dimension."""
    layers = [nn.Conv1d(4, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, 1, 1, groups=8)]
    layers += [nn.MaxPool1d(2), nn.ConvTranspose1d(8, 8, 4, 2, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 3), nn.Softmax(1))


def shufflenet():
    """Channel shuffles, three units."""
    network = ShuffleNetV2([[24, 24], [48, 48]], 16, 64, num_classes=6)
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return network


def efficientnet():
    """MBConv units with squeeze and excitation."""
    channels, kernels = [[8], [16, 16], [24]], [[3], [3, 5], [5]]
    strides, factors = [1, 2, 2], [[1], [6, 6], [6]]
    return EfficientNet(channels, 16, 48, kernels, strides, factors, in_size=(32, 32), num_classes=6)


# name -> (how to make the module, shape of one image)
NETWORKS = {
    "dsconv": (lambda: DepthwiseSeparableConv(3, 16), (3, 16, 16)),
    "mobilenet": (lambda: MobileNetDSC(num_classes=5, width=0.25), (3, 32, 32)),
    "shufflenet": (shufflenet, (3, 64, 64)),
    "efficientnet": (efficientnet, (3, 32, 32)),
    "segmentation": (Segmentation, (3, 32, 32)),
    "transformer": (lambda: Transformer(True), (3, 16, 16)),
    "transformer-second": (lambda: Transformer(False), (3, 16, 16)),
    "attention": (Attention, (16, 16)),
    "windows": (Windows, (8, 8, 8)),
    "mobilevit": (MobileVit, (3, 16, 16)),
    "queries": (Queries, (3, 4, 4)),
    "layers": (Layers, (4, 6, 6)),
    "audio": (audio, (4, 64)),
}
