"""What a search target is about: the distance of numbers, the share of equal indices, and parts that say nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.core.search_target import Measured, Target
from edgeconv.quantize._meter import Meter

X = np.random.default_rng(0).standard_normal((8, 1, 4, 6, 6)).astype(np.float32)


class Head(nn.Module):
    """Scores and their class numbers; `factor` is of what one channel varies, `turned` of two classes' scores."""

    def __init__(self, factor: float = 1.0, *, turned: bool = False) -> None:
        super().__init__()
        self.factor, self.turned = factor, turned

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        varied = torch.cat([x[:, :3], x[:, 3:] * self.factor], 1) + 30.0
        scores = torch.cat([x[:, 1:2], x[:, :1], x[:, 2:]], 1) if self.turned else x
        return varied, scores.argmax(1)


def _measured(factor: float = 1.0, *, turned: bool = False) -> Measured:
    reference, other = (
        capture(module, (torch.tensor(X[0]),), input_names=["x"], output_names=["varied", "classes"])
        for module in (Head(), Head(factor, turned=turned))
    )
    return Meter(reference, lambda: [{"x": x} for x in X], Target(sqnr_db=20.0)).measure(other)


def test_class_numbers_have_no_part_in_the_ratio_and_are_counted() -> None:
    measured = _measured(turned=True)
    assert measured.sqnr_db > 100
    assert measured.index_agreement is not None
    assert 0.3 < measured.index_agreement < 0.7
    assert Target(sqnr_db=20.0).holds(measured)
    assert not Target(sqnr_db=20.0, index_agreement=0.9).holds(measured)


def test_a_channel_that_says_nothing_misses_a_target_that_asks_for_all() -> None:
    measured = _measured(factor=0.0)
    assert measured.sqnr_db > 30
    assert (measured.lost_parts, measured.index_agreement) == (2, 1.0), "the operand of the join, and its channel"
    assert Target(sqnr_db=20.0, lost_parts=2).holds(measured)
    assert not Target(sqnr_db=20.0, lost_parts=1).holds(measured)
    assert Target(sqnr_db=20.0, lost_parts=0).holds(_measured(factor=0.7))
