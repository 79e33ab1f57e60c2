"""The idioms of torch that forwards are written in, each a function of one image of 8 channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 the name that everybody uses
from torch import Tensor, nn


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> object:
        return self.function(*args)


def _softmax_by_hand(x: Tensor) -> Tensor:
    e = torch.exp(x - x.max(dim=1, keepdim=True).values)
    return e / e.sum(dim=1, keepdim=True)


def _in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 1.0
    y[:, 1:3, ::1] += y[:, 3:5]
    y.mul_(2).add_(x)
    y[:, :, 0, :].zero_()
    return y


def _masks(x: Tensor) -> Tensor:
    mask = (x > 0) & (x < 1) | ~(x > -1)
    return torch.where(mask, x, torch.full_like(x, 0.5)).masked_fill(x.isnan(), 0.0)


def _grid(x: Tensor) -> Tensor:
    """Places that move with the image."""
    base = F.affine_grid(torch.eye(2, 3).to(x)[None], [1, 1, *x.shape[2:]], align_corners=False)
    return base + 0.2 * x[:, :2].permute(0, 2, 3, 1).tanh()


def _by_var_mean(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
    return (x - mean) * (variance + 1e-5).rsqrt()


def _places_of_best(x: Tensor) -> tuple[Tensor, Tensor]:
    place = x.flatten(2).argmax(2)
    return torch.fmod(place, x.shape[3]), torch.div(place, x.shape[3], rounding_mode="floor")


IDIOMS: dict[str, Callable[..., object]] = {
    "softmax-by-hand": _softmax_by_hand,
    "layernorm-by-hand": lambda x: (
        (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    ),
    "layernorm-by-std": lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6),
    "rms-norm-by-hand": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),
    "instance-by-var-mean": _by_var_mean,
    "swish-by-hand": lambda x: x * torch.sigmoid(1.702 * x),
    "mish-by-hand": lambda x: x * torch.tanh(F.softplus(x)),
    "gelu-by-hand": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "roll": lambda x: torch.roll(x, (1, -2), (2, 3)),
    "unfold": lambda x: F.unfold(x, 3, padding=1, stride=2),
    "fold": lambda x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1),
    "tensor-unfold": lambda x: x.unfold(2, 3, 2),
    "cumsum": lambda x: torch.cumsum(x, 2),
    "argmax": lambda x: (x.argmax(1), x.flatten(1).argmax(1)),
    "topk": lambda x: x.mean((2, 3)).topk(3),
    "sort": lambda x: x.sort(dim=1, descending=True)[0],
    "one-hot": lambda x: F.one_hot(x.argmax(1), 8).float().permute(0, 3, 1, 2),
    "meshgrid": lambda x: (
        x + torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="xy")).sum(0).T.to(x)
    ),
    "linspace": lambda x: x * torch.linspace(-1, 1, x.shape[-1]).view(1, 1, 1, -1),
    "eye": lambda x: x @ torch.eye(7).to(x) + torch.ones(1, 1, 6, 7) - torch.zeros(7),
    "in-place": _in_place,
    "masks": _masks,
    "fmod": lambda x: torch.fmod(x, 0.7) + torch.remainder(x, 0.3),
    "rows-and-columns-of-the-best": _places_of_best,
    "floor-divide": lambda x: torch.div(x, 0.4, rounding_mode="floor") + torch.div(x, 0.4, rounding_mode="trunc"),
    "repeat-interleave": lambda x: x.repeat_interleave(2, dim=1),
    "gather": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "index-computed": lambda x: x.flatten(2)[:, :, x.mean((0, 1)).flatten().topk(3)[1]],
    "adaptive-max-uneven": lambda x: F.adaptive_max_pool2d(x, (4, 5)),
    "adaptive-avg-uneven": lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
    "max-pool-indices": lambda x: F.max_unpool2d(*F.max_pool2d(x[:, :, :, :6], 2, return_indices=True), 2),
    "grid-sample": lambda x: F.grid_sample(x, _grid(x), align_corners=False),
    "affine-grid": lambda x: F.grid_sample(
        x,
        F.affine_grid(x.new_tensor([[[0.9, 0.1, 0.0], [-0.1, 0.8, 0.1]]]), list(x.shape), align_corners=True),
        align_corners=True,
    ),
    "std-of-all": lambda x: x / x.std(),
    "local-response": lambda x: F.local_response_norm(x, 3),
    "lp-pool": lambda x: F.lp_pool2d(x.abs(), 2, 2),
    "gem": lambda x: F.avg_pool2d(x.clamp(min=1e-6).pow(3), (x.size(-2), x.size(-1))).pow(1 / 3),
    "pairwise-distance": lambda x: torch.cdist(x.flatten(2), x.flatten(2)),
    "cosine": lambda x: F.cosine_similarity(x[:, :4], x[:, 4:], dim=1),
    "outer": lambda x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)) / 42,
    "einsum-weights": lambda x: torch.einsum("bchw,oc->bohw", x, torch.arange(24.0).view(3, 8).to(x) / 24),
    "einsum-sum": lambda x: torch.einsum("bchw,bchw->bc", x, x.sigmoid()),
    "logsumexp": lambda x: x.logsumexp((2, 3)),
    "norms": lambda x: x.norm(dim=1) + torch.linalg.vector_norm(x, 1, dim=1),
    "all-any": lambda x: ((x > 5).any(1).float(), (x > -9).all().float()),
    "sign-trig": lambda x: torch.sign(x) * torch.sin(x) + torch.cos(x),
    "pads": lambda x: F.pad(F.pad(x, (1, 2, 2, 1), mode="replicate"), (1, 1, 1, 1), value=-1.0)[:, :, 1:, 2:],
    "circular": lambda x: F.pad(x, (1, 1, 2, 2), mode="circular"),
    "flip": lambda x: x.flip(-1) + x.flip((1, 2)),
    "diff": lambda x: torch.diff(x, dim=2),
    "tril": lambda x: torch.tril(x) + torch.triu(x, 1),
    "nearest-odd": lambda x: F.interpolate(x, size=(9, 4), mode="nearest"),
    "nearest-exact": lambda x: F.interpolate(x, size=(9, 10), mode="nearest-exact"),
    "bilinear-down": lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear"),
    "antialias": lambda x: F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True),
    "channel-shuffle": lambda x: F.channel_shuffle(x, 4),
    "prelu-functional": lambda x: F.prelu(x, torch.linspace(0.1, 0.8, 8).to(x)),
    "glu": lambda x: F.glu(x, 1),
    "hard-shrink": lambda x: F.hardshrink(x, 0.4) + F.softshrink(x, 0.2) + F.threshold(x, 0.1, 0.3) + F.tanhshrink(x),
    "activations": lambda x: (
        F.selu(x) + F.celu(x, 0.7) + F.elu(x, 0.5) + F.softsign(x) + F.logsigmoid(x) + F.hardswish(x)
    ),
    "log-softmax": lambda x: F.log_softmax(x, 1) + F.softmin(x, 2),
    "nan-to-num": lambda x: torch.nan_to_num(x / 2) + torch.logaddexp(x, x.abs()),
    "addmm": lambda x: torch.addmm(x.new_ones(8), x.mean((2, 3)), x.new_ones(8, 8) / 8),
    "lstm-free-scan": lambda x: torch.stack([x[:, :, i].tanh() for i in range(x.shape[2])], 2),
    "swapaxes": lambda x: x.swapaxes(1, 3).movedim(0, -1).squeeze(-1).mT.contiguous(),
    "complex-slices": lambda x: x[..., ::2, 1:-1][:, [0, 3, 5]] + x[:, 1:4, ::2, :5],
    "list-index-pairs": lambda x: x[:, [0, 1], [1, 2]],
    "masked-mean": lambda x: (x * (x > 0)).sum((2, 3)) / (x > 0).sum((2, 3)).clamp(min=1),
    "bucket": lambda x: (x.unsqueeze(-1) > torch.tensor([-1.0, 0.0, 1.0])).sum(-1),
    "float-of-int": lambda x: (x * 10).int().float() + (x > 0).long() * 2 + x.floor(),
    "pow-of-tensor": lambda x: x.abs().add(0.1).pow(x.sigmoid()) + 2**x,
    "lerp": lambda x: torch.lerp(x, x.relu(), 0.3) + torch.addcmul(x, x, x, value=0.1),
    "min-max": lambda x: (
        torch.maximum(x, x.mean(1, keepdim=True)) - torch.minimum(x, torch.zeros(1)) + x.amin((2, 3), True)
    ),
    "prod": lambda x: x.prod(1),
    "expand-stack": lambda x: torch.stack([x[:, 0], x[:, 1].expand(1, 6, 7)], -1),
    "scatter": lambda x: torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), 1.0),
    "split-uneven": lambda x: torch.cat(x.split([1, 4, 3], 1)[::-1], 1),
    "tensor-split": lambda x: torch.cat([p.mean(1, keepdim=True) for p in torch.tensor_split(x, 3, 1)], 1),
    "baddbmm": lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2, :, :7].transpose(1, 2) @ x[:, 3], beta=0.5, alpha=2.0),
}
