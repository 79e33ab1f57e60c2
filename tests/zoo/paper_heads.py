"""Heads of detection, segmentation and super-resolution, written from the papers."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 the name that everybody uses
from paper_convolutions import IMAGE, Block
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def _conv(inside: int, outside: int, size: int = 1, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.SiLU(inplace=True))


class ASPP(nn.Module):
    """DeepLabV3 (Chen et al., 2017): dilated branches beside the global mean, upsampled back."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 8, 1)
        self.dilated = nn.ModuleList(nn.Conv2d(16, 8, 3, padding=rate, dilation=rate) for rate in (2, 4))
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1), nn.ReLU())
        self.project = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        pooled = F.interpolate(self.pooled(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        y = self.project(torch.cat([self.first(x), *(conv(x) for conv in self.dilated), pooled], dim=1))
        return {"out": F.interpolate(y, size=(28, 28), mode="bilinear", align_corners=False), "aux": y.argmax(1)}


class LRASPP(nn.Module):
    """Lite R-ASPP of MobileNetV3 (Howard et al., 2019): a gate, an upsampling, and a skip from higher resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.cbr = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1, bias=False), nn.Sigmoid())
        self.low, self.high = nn.Conv2d(4, 3, 1), nn.Conv2d(8, 3, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        y = F.interpolate(self.cbr(high) * self.scale(high), size=low.shape[-2:], mode="bilinear", align_corners=False)
        return self.low(low) + self.high(y)


class SPPF(nn.Module):
    """YOLOv5's fast spatial pyramid pooling: three max pools of stride 1 in a row, all joined."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand, self.pool = _conv(16, 8), _conv(32, 16), nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        first = self.pool(x)
        second = self.pool(first)
        return self.expand(torch.cat((x, first, second, self.pool(second)), 1))


class C2f(nn.Module):
    """YOLOv8's stage: bottlenecks in a chain, every result joined."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = _conv(16, 16), _conv(32, 16)
        self.blocks = nn.ModuleList(nn.Sequential(_conv(8, 8, 3), _conv(8, 8, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.reduce(x).chunk(2, 1))
        parts.extend(block(parts[-1]) + parts[-1] for block in self.blocks)
        return self.expand(torch.cat(parts, 1))


class YoloHead(nn.Module):
    """An FPN (Lin et al., 2017) and a YOLOv8-like head: boxes by the mean of a softmax over bins (Li et al., 2020)."""

    def __init__(self, classes: int = 3, bins: int = 8) -> None:
        super().__init__()
        self.lateral, self.smooth, self.down = _conv(16, 8), _conv(16, 8, 3), _conv(8, 16, 3, 2)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4 * bins, 1) for width in (8, 16))
        self.scores = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in (8, 16))
        self.register_buffer("bins", torch.arange(bins, dtype=torch.float32))
        self.upsample, self.strides = nn.Upsample(scale_factor=2, mode="nearest"), (8.0, 16.0)

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        fine = self.smooth(torch.cat([self.upsample(self.lateral(low)), high], 1))
        levels = [fine, self.down(fine) + low]
        boxes = torch.cat([conv(x).flatten(2) for conv, x in zip(self.boxes, levels, strict=True)], 2)
        scores = torch.cat([conv(x).flatten(2) for conv, x in zip(self.scores, levels, strict=True)], 2)
        batch, _, places = boxes.shape
        distance = boxes.view(batch, 4, -1, places).transpose(2, 1).softmax(1).permute(0, 2, 3, 1) @ self.bins
        anchors, strides = self._anchors(levels)
        low_corner, high_corner = distance.chunk(2, 1)
        first, last = anchors - low_corner, anchors + high_corner
        boxes = torch.cat(((first + last) / 2, last - first), 1) * strides
        return torch.cat((boxes, scores.sigmoid()), 1), {"levels": fine}

    def _anchors(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        points, strides = [], []
        for level, stride in zip(levels, self.strides, strict=True):
            rows, columns = (torch.arange(size, dtype=level.dtype) + 0.5 for size in level.shape[-2:])
            grid = torch.meshgrid(rows, columns, indexing="ij")
            points.append(torch.stack((grid[1], grid[0]), -1).view(-1, 2))
            strides.append(torch.full((points[-1].shape[0], 1), stride, dtype=level.dtype))
        return torch.cat(points).transpose(0, 1)[None], torch.cat(strides).transpose(0, 1)


class Yolov5Decode(nn.Module):
    """YOLOv5's decoding: a view to anchors and places, a sigmoid, a grid, all of it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 2 * 7, 1)
        self.register_buffer("anchors", torch.tensor([[10.0, 13.0], [16.0, 30.0]]).view(1, 2, 1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        y = self.conv(x).view(batch, 2, 7, height, width).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack((columns, rows), 2).view(1, 1, height, width, 2).float()
        y[..., 0:2] = (y[..., 0:2] * 2.0 - 0.5 + grid) * 8.0
        y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * self.anchors
        return y.view(batch, -1, 7)


class CenterHead(nn.Module):
    """CenterNet's peaks (Zhou et al., 2019): a max pool as non-maximum suppression, then the best places."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        heat = torch.sigmoid(x)
        peaks = heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat).float()
        scores, places = torch.topk(peaks.flatten(1), 5)
        return scores, places


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015): transposed convolutions and skips; an odd size is padded as it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle = _conv(3, 8, 3), _conv(8, 16, 3)
        self.up, self.leave = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.enter(x)
        y = self.up(self.middle(F.max_pool2d(skip, 2)))
        rows, columns = skip.size(2) - y.size(2), skip.size(3) - y.size(3)
        y = F.pad(y, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return self.leave(torch.cat([skip, y], dim=1))


class Rescaler(nn.Module):
    """EDSR's super-resolution (Lim et al., 2017) with ESPCN's pixel shuffle (Shi et al., 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.45, 0.44, 0.40]).view(1, 3, 1, 1))
        self.head, self.body = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 8, 3, padding=1)
        self.tail = nn.Sequential(nn.Conv2d(8, 27, 3, padding=1), nn.PixelShuffle(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.head(x - self.mean))
        y = y + self.body(y).mul(0.1)
        bicubic = F.interpolate(x, scale_factor=3, mode="bicubic", align_corners=False)
        return (self.tail(y) + bicubic + self.mean).clamp_(0, 1)


class Parametrized(nn.Module):
    """Weight and spectral normalization as parametrizations, the latter's iteration frozen by eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Conv2d(16, 8, 3, padding=1))
        self.second = parametrizations.spectral_norm(nn.Conv2d(8, 8, 1))
        self.old = nn.utils.weight_norm(nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.old(self.second(self.first(x)).mean((2, 3)))


class Nested(nn.Module):
    """Several inputs, outputs in nested containers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, object]:
        y = self.conv(x) * scale
        return {"feat": [y, (y.mean(), y.flatten(1).amax(1))], "none": None, "last": {"max": y.max(dim=1)}}


_PAIR = ((1, 8, 10, 10), (1, 16, 5, 5))

BLOCKS: dict[str, Block] = {
    "deeplab-aspp": (ASPP, IMAGE),
    "lraspp": (LRASPP, ((1, 4, 16, 16), (1, 16, 8, 8))),
    "yolo-sppf": (SPPF, IMAGE),
    "yolo-c2f": (C2f, IMAGE),
    "yolo-dfl-head": (YoloHead, _PAIR),
    "yolov5-decode": (Yolov5Decode, ((1, 16, 6, 6),)),
    "centernet-peaks": (CenterHead, ((1, 3, 9, 9),)),
    "unet": (UNet, ((1, 3, 13, 15),)),
    "super-resolution": (Rescaler, ((1, 3, 8, 8),)),
    "parametrizations": (Parametrized, IMAGE),
    "nested-outputs": (Nested, ((1, 16, 5, 5), (1, 4, 1, 1))),
}
