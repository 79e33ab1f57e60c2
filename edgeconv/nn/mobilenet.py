"""A classifier of MobileNetV1's shape, made of depthwise separable blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgeconv.nn.dsconv import DepthwiseSeparableConv, is_int

MOBILENET_V1_BLOCKS: tuple[tuple[int, int], ...] = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)
"""(output channels, stride) of the 13 blocks: table 1 of arXiv:1704.04861, the last stride as in its reference code."""


class MobileNetDSC(nn.Module):
    """MobileNetV1 with `DepthwiseSeparableConv` blocks (biases, LeakyReLU), any width, any stack of blocks.

    ``stem`` (Conv2d 3x3, BatchNorm2d, LeakyReLU), ``features`` (the blocks), global average, ``dropout``,
    ``classifier`` (Linear).

    Args:
        num_classes: length of the output.
        width: multiplies the channels of the stem and of every block (rounded to a multiple of 8, at least 8).
        in_channels: C of the input.
        stem_channels: of the first convolution, before ``width``.
        stem_stride: of the first convolution.
        blocks: (output channels before ``width``, stride) of each block.
        dropout: probability in front of the classifier.
        negative_slope: of every LeakyReLU.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes), logits.

    Raises:
        ValueError: a number is out of its range, or ``blocks`` is empty or malformed.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        *,
        in_channels: int = 3,
        stem_channels: int = 32,
        stem_stride: int = 2,
        blocks: Sequence[tuple[int, int]] = MOBILENET_V1_BLOCKS,
        dropout: float = 0.0,
        negative_slope: float = 0.1,
    ) -> None:
        super().__init__()
        _check(num_classes, in_channels, stem_channels, stem_stride, width, blocks)
        channels = _scaled(stem_channels, width)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stem_stride, 1, bias=False),  # BatchNorm has a bias of its own
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(negative_slope),
        )
        self.features = nn.Sequential()
        for block_channels, stride in blocks:
            out_channels = _scaled(block_channels, width)
            block = DepthwiseSeparableConv(channels, out_channels, stride=stride, negative_slope=negative_slope)
            self.features.append(block)
            channels = out_channels
        # Modules where functions would do: each value of an exported file is named after the module it comes from.
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, num_classes), logits."""
        x = self.flatten(self.pool(self.features(self.stem(x))))
        logits: Tensor = self.classifier(self.dropout(x))  # nn.Module's call returns Any
        return logits


def _check(
    num_classes: int, in_channels: int, stem_channels: int, stem_stride: int, width: float, blocks: Sequence[object]
) -> None:
    numbers = (num_classes, in_channels, stem_channels, stem_stride)
    for name, value in zip(("num_classes", "in_channels", "stem_channels", "stem_stride"), numbers, strict=True):
        if not _is_positive(value):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if not width > 0:
        raise ValueError(f"width must be positive, got {width!r}")
    if not blocks:
        raise ValueError("blocks must have at least one (channels, stride)")
    for block in blocks:
        if not isinstance(block, (tuple, list)) or len(block) != 2 or not all(map(_is_positive, block)):
            raise ValueError(f"each of blocks must be (channels, stride), positive integers, got {block!r}")


def _is_positive(value: object) -> bool:
    return is_int(value) and value > 0


def _scaled(channels: int, width: float) -> int:
    """The channels times the width, as a multiple of 8, which fills the vector registers of the usual kernels."""
    return max(8, 8 * round(channels * width / 8))
