"""Attention blocks of hybrid and transformer networks, written from the papers in the style of timm and torchvision."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 the name that everybody uses
from paper_convolutions import Block, DropPath
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self attention with a joint projection; ``fused`` uses torch's own operator."""

    def __init__(self, width: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.scale, self.fused = heads, (width // heads) ** -0.5, fused
        self.qkv, self.proj = nn.Linear(width, width * 3), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, width))


class Encoder(nn.Module):
    """A pre-norm transformer block (Vaswani et al., 2017; Dosovitskiy et al., 2021)."""

    def __init__(self, width: int, heads: int = 2, *, fused: bool = True) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, fused=fused)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))
        self.drop_path = DropPath(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """Vision transformer (Dosovitskiy et al., 2021): patches, a class token, a position embedding."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16))
        self.blocks = nn.Sequential(Encoder(16, fused=fused), Encoder(16, fused=fused))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class MobileViTBlock(nn.Module):
    """MobileViT (Mehta & Rastegari, 2022): convolution, unfolding to patches, transformer, folding, fusion."""

    def __init__(self, channels: int = 8, width: int = 16, patch: int = 2) -> None:
        super().__init__()
        self.local = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, width, 1)
        )
        self.transformer, self.norm = Encoder(width), nn.LayerNorm(width)
        self.project, self.fuse = nn.Conv2d(width, channels, 1), nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        y, p = self.local(x), self.patch
        batch, width, height, breadth = y.shape
        rows, columns = height // p, breadth // p
        y = y.reshape(batch * width * rows, p, columns, p).transpose(1, 2)
        y = y.reshape(batch, width, rows * columns, p * p).transpose(1, 3).reshape(batch * p * p, rows * columns, width)
        y = self.norm(self.transformer(y))
        y = y.contiguous().view(batch, p * p, rows * columns, width).transpose(1, 3)
        y = y.reshape(batch * width * rows, columns, p, p).transpose(1, 2).reshape(batch, width, height, breadth)
        return self.fuse(torch.cat((x, self.project(y)), dim=1))


class SeparableAttention(nn.Module):
    """MobileViTv2 (Mehta & Rastegari, 2022): attention of linear cost over unfolded patches."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.qkv, self.out, self.width = nn.Conv2d(width, 1 + 2 * width, 1), nn.Conv2d(width, width, 1), width

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        y = F.unfold(x, kernel_size=(2, 2), stride=(2, 2)).reshape(batch, channels, 4, -1)
        query, key, value = self.qkv(y).split([1, self.width, self.width], dim=1)
        context = (key * F.softmax(query, dim=-1)).sum(dim=-1, keepdim=True)
        y = self.out(F.relu(value) * context.expand_as(value))
        return F.fold(y.reshape(batch, channels * 4, -1), (height, width), kernel_size=(2, 2), stride=(2, 2))


class SplitDepthwiseXCA(nn.Module):
    """EdgeNeXt (Maaz et al., 2022): a cascade of depthwise convolutions over splits, then attention of channels."""

    def __init__(self, channels: int = 16, heads: int = 4) -> None:
        super().__init__()
        part = channels // 4
        self.convs = nn.ModuleList(nn.Conv2d(part, part, 3, padding=1, groups=part) for _ in range(3))
        self.norm, self.qkv = nn.LayerNorm(channels), nn.Linear(channels, channels * 3)
        self.temperature, self.gamma = nn.Parameter(torch.rand(heads, 1, 1)), nn.Parameter(torch.rand(channels))
        self.proj, self.heads, self.part = nn.Linear(channels, channels), heads, part

    def forward(self, x: Tensor) -> Tensor:
        pieces, done, last = torch.split(x, self.part, 1), [], None
        for piece, conv in zip(pieces, self.convs, strict=False):
            last = conv(piece if last is None else last + piece)
            done.append(last)
        x = torch.cat((*done, pieces[-1]), 1)
        batch, channels, height, width = x.shape
        tokens = x.reshape(batch, channels, height * width).permute(0, 2, 1)
        qkv = self.qkv(self.norm(tokens)).reshape(batch, height * width, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 4, 1)
        scores = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)) * self.temperature
        y = (scores.softmax(dim=-1) @ v).permute(0, 3, 1, 2).reshape(batch, height * width, channels)
        tokens = tokens + self.gamma * self.proj(y)
        return tokens.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class LiteMLA(nn.Module):
    """EfficientViT (Cai et al., 2023): ReLU linear attention with an aggregated second scale."""

    def __init__(self, channels: int = 16, dim: int = 8) -> None:
        super().__init__()
        total = 3 * channels
        self.qkv, self.dim = nn.Conv2d(channels, total, 1, bias=False), dim
        self.aggregate = nn.Sequential(
            nn.Conv2d(total, total, 5, padding=2, groups=total, bias=False),
            nn.Conv2d(total, total, 1, groups=total // dim, bias=False),
        )
        self.proj, self.norm = nn.Conv2d(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        qkv = self.qkv(x)
        both = torch.cat([qkv, self.aggregate(qkv)], dim=1).reshape(batch, -1, 3 * self.dim, height * width)
        q, k, v = both.transpose(-1, -2).chunk(3, dim=-1)
        q, k = F.relu(q), F.relu(k)
        v = F.pad(v, (0, 1), mode="constant", value=1.0)
        y = q @ (k.transpose(-1, -2) @ v)
        y = y[..., :-1] / (y[..., -1:] + 1e-5)
        return x + self.norm(self.proj(y.transpose(-1, -2).reshape(batch, -1, height, width)))


class CascadedGroupAttention(nn.Module):
    """EfficientViT of Liu et al., 2023: heads in a cascade, each adds the result of the one before to its input."""

    def __init__(self, channels: int = 16, heads: int = 2, resolution: int = 7) -> None:
        super().__init__()
        part = channels // heads
        self.qkvs = nn.ModuleList(nn.Conv2d(part, 3 * part, 1) for _ in range(heads))
        self.depthwise = nn.ModuleList(nn.Conv2d(part, part, 3, padding=1, groups=part) for _ in range(heads))
        self.proj, self.heads, self.part = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 1)), heads, part
        places = [(row, column) for row in range(resolution) for column in range(resolution)]
        offsets: dict[tuple[int, int], int] = {}
        index = [offsets.setdefault((abs(a[0] - b[0]), abs(a[1] - b[1])), len(offsets)) for a in places for b in places]
        self.biases = nn.Parameter(torch.randn(heads, len(offsets)))
        self.register_buffer("index", torch.tensor(index).view(len(places), len(places)))

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        bias = self.biases[:, self.index]
        parts, outs, carried = x.chunk(self.heads, dim=1), [], None
        for number, (qkv, depthwise) in enumerate(zip(self.qkvs, self.depthwise, strict=True)):
            carried = parts[number] if carried is None else carried + parts[number]
            q, k, v = qkv(carried).view(batch, -1, height, width).split([self.part] * 3, dim=1)
            q, k, v = depthwise(q).flatten(2), k.flatten(2), v.flatten(2)
            scores = ((q.transpose(-2, -1) @ k) * self.part**-0.5 + bias[number]).softmax(dim=-1)
            carried = (v @ scores.transpose(-2, -1)).view(batch, self.part, height, width)
            outs.append(carried)
        return self.proj(torch.cat(outs, 1))


class EfficientFormerBlock(nn.Module):
    """EfficientFormer (Li et al., 2022): pooling as a token mixer, then attention with a learned bias."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.pool, self.scale = nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Parameter(torch.rand(channels, 1, 1))
        self.mlp = nn.Sequential(nn.Conv2d(channels, 32, 1), nn.BatchNorm2d(32), nn.GELU(), nn.Conv2d(32, channels, 1))
        self.encoder = Encoder(channels, fused=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * (self.pool(x) - x)
        x = x + self.mlp(x)
        return self.encoder(x.flatten(2).permute(0, 2, 1)).mean(1)


def _windows(x: Tensor, size: int) -> Tensor:
    batch, height, width, channels = x.shape
    x = x.view(batch, height // size, size, width // size, size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, channels)


class SwinBlock(nn.Module):
    """Swin (Liu et al., 2021): attention in shifted windows, with a mask and a relative position bias."""

    def __init__(self, width: int = 16, size: int = 8, window: int = 4, shift: int = 2, heads: int = 2) -> None:
        super().__init__()
        self.size, self.window, self.shift, self.heads = size, window, shift, heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("index", relative[..., 0] * (2 * window - 1) + relative[..., 1])
        regions = torch.zeros(1, size, size, 1)
        spans = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
        for number, (rows, columns) in enumerate((r, c) for r in spans for c in spans):
            regions[:, rows, columns, :] = number
        of = _windows(regions, window).squeeze(-1)
        mask = of.unsqueeze(1) - of.unsqueeze(2)
        self.register_buffer("mask", mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        y = self.norm1(x).view(batch, self.size, self.size, width)
        y = _windows(torch.roll(y, shifts=(-self.shift, -self.shift), dims=(1, 2)), self.window)
        y = self._attend(y).view(-1, self.window, self.window, width)
        count = self.size // self.window
        y = y.view(batch, count, count, self.window, self.window, width).permute(0, 1, 3, 2, 4, 5).contiguous()
        y = torch.roll(y.view(batch, self.size, self.size, width), shifts=(self.shift, self.shift), dims=(1, 2))
        x = x + y.view(batch, tokens, width)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        qkv = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = qkv[0] * (width // self.heads) ** -0.5 @ qkv[1].transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(tokens, tokens, -1).permute(2, 0, 1).contiguous()
        scores = scores + bias.unsqueeze(0)
        windows = self.mask.shape[0]
        scores = scores.view(count // windows, windows, self.heads, tokens, tokens) + self.mask[:, None][None]
        y = scores.view(-1, self.heads, tokens, tokens).softmax(-1) @ qkv[2]
        return self.proj(y.transpose(1, 2).reshape(count, tokens, width))


class PatchMerging(nn.Module):
    """Swin's downsampling: every second row and column, joined."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :], x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :]]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class SineEmbedding(nn.Module):
    """DETR's position encoding (Carion et al., 2020) made in the forward, and a decoder's cross attention."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.queries, self.width = nn.Parameter(torch.randn(5, width)), width

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(x.shape[0], *x.shape[2:], device=x.device)
        rows, columns = ones.cumsum(1), ones.cumsum(2)
        scale = 10000 ** (2 * (torch.arange(self.width // 2) // 2) / (self.width // 2))
        angles = [axis[..., None] * 2 * math.pi / scale for axis in (rows, columns)]
        waves = [torch.stack((a[..., 0::2].sin(), a[..., 1::2].cos()), dim=4).flatten(3) for a in angles]
        memory = (x + torch.cat(waves, dim=3).permute(0, 3, 1, 2)).flatten(2).permute(0, 2, 1)
        queries = self.queries.unsqueeze(0).repeat(x.shape[0], 1, 1)
        return self.attention(queries, memory, memory, need_weights=False)[0]


class EinsumAttention(nn.Module):
    """Attention as einops users write it."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(width, 3 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        q, k, v = self.qkv(x).view(batch, 3, 4, channels // 4, height * width).unbind(1)
        scores = torch.einsum("bhdi,bhdj->bhij", q * (channels // 4) ** -0.5, k)
        y = torch.einsum("bhij,bhdj->bhid", scores.softmax(-1), v)
        return y.permute(0, 1, 3, 2).reshape(batch, channels, height, width)


class _SelfAttention(nn.Module):
    """torch's own module with the weights as a second output."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention(x, x, x)


BLOCKS: dict[str, Block] = {
    "vit": (lambda: ViT(fused=True), ((1, 3, 32, 32),)),
    "vit-unfused": (lambda: ViT(fused=False), ((1, 3, 32, 32),)),
    "mobilevit": (MobileViTBlock, ((1, 8, 8, 8),)),
    "mobilevitv2": (SeparableAttention, ((1, 8, 8, 8),)),
    "edgenext": (SplitDepthwiseXCA, ((1, 16, 7, 7),)),
    "efficientvit-linear": (LiteMLA, ((1, 16, 8, 8),)),
    "efficientvit-cascade": (CascadedGroupAttention, ((1, 16, 7, 7),)),
    "efficientformer": (EfficientFormerBlock, ((1, 16, 7, 7),)),
    "swin-shifted": (SwinBlock, ((1, 64, 16),)),
    "swin-merging": (PatchMerging, ((1, 8, 8, 8),)),
    "detr": (SineEmbedding, ((1, 16, 4, 5),)),
    "einsum-attention": (EinsumAttention, ((1, 16, 6, 6),)),
    "transformer-encoder-layer": (
        lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True),
        ((2, 9, 16),),
    ),
    "multihead-attention-weights": (_SelfAttention, ((1, 6, 16),)),
}
