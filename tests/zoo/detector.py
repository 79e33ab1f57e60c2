"""A detector like YOLOv8 in small, trained for a few seconds to find colored rectangles.

Trained, since random weights amplify what quantization rounds as no trained network does. Its scores are sparse. Boxes
are (center, size), from distributions over bins; three levels of strides 8, 16 and 32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE, CLASSES, _WIDTH, _BINS = 64, 3, 8, 16
_STRIDES, _COLORS = (8, 16, 32), torch.eye(3)
_Scene = tuple[Tensor, list[tuple[int, int, int, int, int]]]


def _conv(inside: int, outside: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.SiLU())


class _Stage(nn.Module):
    """Half of the channels pass two convolutions, and all are joined."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        half = outside // 2
        self.before, self.after = _conv(inside, outside, 1), _conv(3 * half, outside, 1)
        self.inner = nn.Sequential(_conv(half, half), _conv(half, half))

    def forward(self, x: Tensor) -> Tensor:
        kept, passed = self.before(x).chunk(2, 1)
        return self.after(torch.cat([kept, passed, passed + self.inner(passed)], 1))


class Detector(nn.Module):
    """Image (N, 3, 64, 64) of 0 to 1 -> (N, 4 + classes, 84): boxes in pixels beside scores of 0 to 1."""

    anchors: Tensor
    strides: Tensor

    def __init__(self) -> None:
        super().__init__()
        w = _WIDTH
        self.stem = nn.Sequential(_conv(3, w, 3, 2), _conv(w, 2 * w, 3, 2), _Stage(2 * w, 2 * w))
        self.down = nn.ModuleList(
            nn.Sequential(_conv(i * w, 2 * i * w, 3, 2), _Stage(2 * i * w, 2 * i * w)) for i in (2, 4, 8)
        )
        self.up, self.neck = nn.Upsample(scale_factor=2), nn.ModuleList([_Stage(24 * w, 8 * w), _Stage(12 * w, 4 * w)])
        widths = (4 * w, 8 * w, 16 * w)
        self.box = nn.ModuleList(nn.Sequential(_conv(i, 32), nn.Conv2d(32, 4 * _BINS, 1)) for i in widths)
        self.score = nn.ModuleList(nn.Sequential(_conv(i, 32), nn.Conv2d(32, CLASSES, 1)) for i in widths)
        grids = [torch.cartesian_prod(*[torch.arange(SIZE // stride) + 0.5] * 2).flip(1) for stride in _STRIDES]
        self.register_buffer("anchors", torch.cat(grids).T[None])
        counts = torch.tensor([len(grid) for grid in grids])
        self.register_buffer("strides", torch.tensor(_STRIDES).repeat_interleave(counts).float())

    def logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of the bins of the boxes' sides, and of the scores."""
        x = self.stem(x)
        third, fourth, fifth = [x := down(x) for down in self.down]
        fourth = self.neck[0](torch.cat([self.up(fifth), fourth], 1))
        levels = self.neck[1](torch.cat([self.up(fourth), third], 1)), fourth, fifth
        joined = [torch.cat([b(y), s(y)], 1).flatten(2) for b, s, y in zip(self.box, self.score, levels, strict=True)]
        box, score = torch.cat(joined, 2).split((4 * _BINS, CLASSES), 1)
        return box, score

    def forward(self, x: Tensor) -> Tensor:
        box, score = self.logits(x)
        bins = box.reshape(box.shape[0], 4, _BINS, -1).softmax(2)
        sides = (bins * torch.arange(float(_BINS)).reshape(1, 1, -1, 1)).sum(2)
        before, after = sides.chunk(2, 1)
        low, high = self.anchors - before, self.anchors + after
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * self.strides, score.sigmoid()], 1)


def scenes(count: int, seed: int) -> list[_Scene]:
    """Images (3, 64, 64) of one to three rectangles, and for each: left, top, right, bottom, class."""
    rng, found = torch.Generator().manual_seed(seed), []

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=rng))

    for _ in range(count):
        coarse = torch.rand(1, 3, 6, 6, generator=rng) * 0.4
        image = functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")[0]
        boxes = []
        for _ in range(whole(1, 4)):
            width, height, kind = whole(8, 32), whole(8, 32), whole(0, CLASSES)
            left, top = whole(0, SIZE - width), whole(0, SIZE - height)
            image[:, top : top + height, left : left + width] = _COLORS[kind].reshape(3, 1, 1)
            boxes.append((left, top, left + width, top + height, kind))
        noise = torch.rand(3, SIZE, SIZE, generator=rng) * 0.1
        found.append(((image + noise).clamp(0, 1), boxes))
    return found


def _targets(net: Detector, scene: _Scene) -> tuple[Tensor, Tensor]:
    """Scores (anchors, classes), and distances of the sides in strides (anchors, 4), which count where a score is 1."""
    places = (net.anchors[0] * net.strides).T
    scores, sides = torch.zeros(len(places), CLASSES), torch.zeros(len(places), 4)
    for left, top, right, bottom, kind in scene[1]:
        longest = max(right - left, bottom - top)
        stride = _STRIDES[0] if longest < 16 else _STRIDES[1] if longest < 26 else _STRIDES[2]
        center = torch.tensor([left + right, top + bottom]) / 2
        near = (net.strides == stride) & ((places - center).abs() < stride).all(1)
        scores[near] = torch.eye(CLASSES)[kind]
        corners = torch.tensor([[left, top]]), torch.tensor([[right, bottom]])
        sides[near] = torch.cat([places[near] - corners[0], corners[1] - places[near]], 1) / stride
    return scores, sides.clamp(0, _BINS - 1.01)


def _loss(net: Detector, batch: list[_Scene]) -> Tensor:
    box, logits = net.logits(torch.stack([image for image, _ in batch]))
    scores, sides = (torch.stack(parts) for parts in zip(*(_targets(net, scene) for scene in batch), strict=True))
    hits = scores.sum(2) > 0
    of_scores = functional.binary_cross_entropy_with_logits(logits.transpose(1, 2), scores, reduction="sum")
    bins = box.reshape(len(batch), 4, _BINS, -1).permute(0, 3, 1, 2)[hits].log_softmax(2)
    lower, share = sides[hits].long()[..., None], sides[hits].frac()[..., None]
    of_sides = bins.gather(2, lower) * (1 - share) + bins.gather(2, lower + 1) * share
    return of_scores / hits.sum().clamp(1) - 1.5 * of_sides.mean()


def trained(steps: int = 80) -> Detector:
    """In eval mode; the same on one kind of processor."""
    torch.manual_seed(0)
    net, rate = Detector().train(), 4e-3
    for score in net.score:
        nn.init.constant_(score[1].bias, -4.0)
    optimizer = torch.optim.AdamW(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for step in range(steps):
        optimizer.zero_grad()
        _loss(net, scenes(8, seed=step)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    return net.eval()
