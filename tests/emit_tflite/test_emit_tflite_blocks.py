"""Whole blocks: which operators a file holds, and what it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


def test_depthwise_separable_block_is_four_operators_in_nhwc(tflite: Any) -> None:
    block = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1, groups=3), nn.LeakyReLU(0.1), nn.Conv2d(3, 64, 1), nn.LeakyReLU(0.1))
    runs = tflite.check(block, (1, 3, 24, 24), atol=2e-6)
    assert runs["nhwc"].operators == ["DEPTHWISE_CONV_2D", "LEAKY_RELU", "CONV_2D", "LEAKY_RELU"]
    assert runs["nchw"].operators == ["TRANSPOSE", *runs["nhwc"].operators, "TRANSPOSE"]
    assert runs["nhwc"].partitions == runs["nchw"].partitions == 1


class _Inverted(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 6 * channels, 1)
        self.depthwise = nn.Conv2d(6 * channels, 6 * channels, 3, 1, 1, groups=6 * channels)
        self.project = nn.Conv2d(6 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.project(functional.relu6(self.depthwise(functional.relu6(self.expand(x)))))


class _MobileNetLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.blocks = nn.Sequential(_Inverted(8), _Inverted(8))
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(functional.relu6(self.stem(x)))
        return self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def test_mobilenet_has_no_transpose_and_fuses_every_relu6(tflite: Any) -> None:
    runs = tflite.check(_MobileNetLike(), (1, 3, 32, 32))
    assert "TRANSPOSE" not in runs["nhwc"].operators
    assert "RELU6" not in runs["nhwc"].operators
    assert runs["nhwc"].partitions == 1
    assert runs["nchw"].operators.count("TRANSPOSE") == 1


def test_flatten_before_linear_permutes_the_weights_instead(tflite: Any) -> None:
    runs = tflite.check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 7)), (1, 3, 8, 8))
    assert runs["nhwc"].operators == ["CONV_2D", "FULLY_CONNECTED"]


class _Separable(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        depthwise = nn.Conv1d(inputs, inputs, size, stride, size // 2, groups=inputs, bias=False)
        super().__init__(depthwise, nn.Conv1d(inputs, outputs, 1))


class _SpeechLike(nn.Module):
    """One residual block of one-dimensional separable convolutions, and characters' scores per frame."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = _Separable(8, 12, 11, 2), _Separable(12, 12, 13), _Separable(12, 12, 13)
        self.skip, self.tail = nn.Conv1d(12, 12, 1), nn.Conv1d(12, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem(x))
        x = functional.relu(self.outer(functional.relu(self.inner(x))) + self.skip(x))
        return functional.log_softmax(self.tail(x).transpose(1, 2), -1)


def test_one_dimensional_network_stays_in_the_delegate(tflite: Any) -> None:
    runs = tflite.check(_SpeechLike(), (1, 8, 40))
    assert runs["nhwc"].partitions == 1
    assert runs["nhwc"].operators.count("TRANSPOSE") == 1  # of the input, whose rank keeps torch's order
    assert runs["nhwc"].operators.count("DEPTHWISE_CONV_2D") == 3
