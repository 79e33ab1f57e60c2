"""Arithmetic of booleans is logic, in both formats; infinities are told in TFLite, too.

Members: sums, products, the larger and the smaller of two; extremes along axes and of all; with a number of Python's;
isinf, isfinite, isposinf, isneginf, nan_to_num.
"""

from __future__ import annotations

from pathlib import Path

import torch
from right_in_both import assert_right_in_both


class _Logic(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b = x > 0, x > 1
        pairs = (a + b, a * b, torch.maximum(a, b), torch.minimum(a, b), a * True, a + False)
        return (*pairs, a.amax(1), b.amin(0, keepdim=True), a.max(), (a + b).float().sum())


class _Infinite(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = 1 / (x.relu() * x.sign())  # inf for 0 and below
        z = torch.where(x > 1, -y, y) / (x > -1).float()
        filled = torch.nan_to_num(torch.where(x > 1, -torch.inf, y), nan=1.0, posinf=2.0, neginf=-2.0)
        return y.isinf(), z.isinf(), y.isfinite(), torch.isposinf(-y), torch.isneginf(-y), filled


def test_logic_of_booleans_is_right_in_both_formats(tmp_path: Path) -> None:
    assert_right_in_both(_Logic(), (torch.randn(4, 6),), tmp_path)


def test_tests_for_infinities_are_right_in_both_formats(tmp_path: Path) -> None:
    assert_right_in_both(_Infinite(), (torch.tensor([[-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0]]),), tmp_path)
