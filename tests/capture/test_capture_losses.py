"""Losses of classes are right in both formats, and weigh, smooth and leave out what torch does.

Members thought of: logits by rows, of images, of a single sample; targets as numbers and as probabilities, ignored
ones, int32 ones; with and without weights of classes and smoothed labels; every reduction; files of halves. Two
classes: logits whose sigmoid is 0 or 1, weights of the positive one and of elements.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from right_in_both import Of, assert_right_in_both
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

REDUCTIONS = ("none", "mean", "sum")
WEIGHT = torch.tensor([1.0, 2, 3, 4])
TARGETS = torch.tensor([0, 1, -100, 3, 2])


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_that_are_numbers(smoothing: float, tmp_path: Path) -> None:
    def forward(x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            F.cross_entropy(x, target, weight, label_smoothing=smoothing, reduction=reduction)
            for weight in (None, WEIGHT)
            for reduction in REDUCTIONS
        )

    assert_right_in_both(Of(forward), (_noise(5, 4), TARGETS), tmp_path)


def test_targets_that_are_probabilities(tmp_path: Path) -> None:
    def forward(x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            F.cross_entropy(x, target, weight, label_smoothing=smoothing, reduction=reduction)
            for weight, smoothing in ((None, 0.0), (WEIGHT, 0.2))
            for reduction in REDUCTIONS
        )

    assert_right_in_both(Of(forward), (_noise(5, 4), _noise(5, 4, seed=2).softmax(1)), tmp_path)


def test_losses_of_images_and_of_a_single_sample(tmp_path: Path) -> None:
    def forward(x: Tensor, target: Tensor, narrow: Tensor) -> tuple[Tensor, ...]:
        single = F.cross_entropy(x[0, :, 0, 0], target[0, 0, 0].long(), label_smoothing=0.1)
        return single, F.nll_loss(x, target), *(
            F.cross_entropy(x, narrow.long(), WEIGHT[:3], label_smoothing=0.1, ignore_index=2, reduction=reduction)
            for reduction in REDUCTIONS
        )  # fmt: skip

    target = _noise(2, 4, 5).sign().long() + 1
    assert_right_in_both(Of(forward), (_noise(2, 3, 4, 5), target, target.int()), tmp_path)


def test_logarithms_that_are_given(tmp_path: Path) -> None:
    def forward(x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            F.nll_loss(x, target, weight, reduction=reduction) for weight in (None, WEIGHT) for reduction in REDUCTIONS
        )

    assert_right_in_both(Of(forward), (_noise(5, 4).log_softmax(1), TARGETS), tmp_path)
    assert_right_in_both(
        Of(F.cross_entropy), (_noise(5, 4), TARGETS.abs() % 4), tmp_path, variants=("fp16",), tolerance=2e-3
    )


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_losses_of_two_classes_whose_sigmoid_is_zero(variant: str, tmp_path: Path) -> None:
    def forward(x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        plain = (F.binary_cross_entropy_with_logits(x, target, reduction=reduction) for reduction in REDUCTIONS)
        return *plain, F.binary_cross_entropy_with_logits(x, target, WEIGHT, reduction="none", pos_weight=WEIGHT)

    x = _noise(5, 4) * 100
    arguments = (x, _noise(5, 4, seed=2).sigmoid())
    tolerance = 2e-5 if variant == "fp32" else 2e-3
    assert_right_in_both(Of(forward), arguments, tmp_path, variants=(variant,), tolerance=tolerance)
