"""The depthwise separable block: a filter per channel, then a mix of the channels."""

from __future__ import annotations

from typing import TypedDict, TypeGuard

import torch
from torch import Tensor, nn

Pair = int | tuple[int, int]


class _Factory(TypedDict):
    """Where parameters lie, and of which type they are: what torch calls factory_kwargs."""

    device: torch.device | str | None
    dtype: torch.dtype | None


class DepthwiseSeparableConv(nn.Module):
    """Depthwise and pointwise convolution, each followed by BatchNorm and LeakyReLU (MobileNetV1, arXiv:1704.04861).

    ``depthwise`` is Conv2d(in, in, k, stride, padding, groups=in), BatchNorm2d(in), LeakyReLU; ``pointwise`` is
    Conv2d(in, out, 1), BatchNorm2d(out), LeakyReLU. State-dict keys are ``depthwise.0.weight`` …
    ``pointwise.1.num_batches_tracked``. The input is never changed in place.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel_size: of the depthwise convolution; an int or (height, width).
        stride: of the depthwise convolution.
        padding: zeros on each side, in both directions or (height, width).
        dilation: of the depthwise convolution.
        bias: whether both convolutions have a bias.
        negative_slope: of both LeakyReLUs.
        eps: of both BatchNorms.
        momentum: of both BatchNorms; None is a cumulative average.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H', W') with
        ``H' = floor((H + 2·padding - dilation·(kernel_size - 1) - 1) / stride) + 1``, W' likewise.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair = 3,
        stride: Pair = 1,
        padding: Pair = 1,
        *,
        dilation: Pair = 1,
        bias: bool = True,
        negative_slope: float = 0.1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if not is_int(value) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        kernel = pair("kernel_size", kernel_size, least=1)
        strides = pair("stride", stride, least=1)
        pads = pair("padding", padding, least=0)
        dilations = pair("dilation", dilation, least=1)
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps!r}")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1] or None, got {momentum!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        where: _Factory = {"device": device, "dtype": dtype}
        # A BatchNorm takes the bias before it out again; it stays an option, since checkpoints of this block have one.
        self.depthwise = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, kernel, strides, pads, dilations, in_channels, bias, **where),
            nn.BatchNorm2d(in_channels, eps, momentum, **where),
            nn.LeakyReLU(negative_slope),
        )
        self.pointwise = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=bias, **where),
            nn.BatchNorm2d(out_channels, eps, momentum, **where),
            nn.LeakyReLU(negative_slope),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        output: Tensor = self.pointwise(self.depthwise(x))  # nn.Module's call returns Any
        return output


def pair(name: str, value: Pair, *, least: int) -> tuple[int, int]:
    """An int as (int, int), a pair as it is.

    Raises:
        ValueError: not an int or a pair of them, or below ``least``.
    """
    values = value if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2 or not all(is_int(item) for item in values):
        raise ValueError(f"{name} must be an integer or a pair of them, got {value!r}")
    first, second = values
    if min(first, second) < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return first, second


def is_int(value: object) -> TypeGuard[int]:
    """Whether it is an int; True, which is one to Python, is none here."""
    return isinstance(value, int) and not isinstance(value, bool)
