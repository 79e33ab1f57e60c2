"""Small matrices: determinants, inverses and linear systems in both formats; larger inverses are refused.

Members thought of: one to four rows, batches and single matrices, by every name that torch has for them; solutions for
matrices, vectors and from the right; signs and logarithms.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from right_in_both import assert_right_in_both
from torch import Tensor, nn

import edgeconv


class _Small(nn.Module):
    def forward(self, x: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        single, vectors = x[0, 0], right[..., 0]
        inverses = torch.linalg.inv(x), torch.inverse(single), torch.linalg.inv_ex(x)[0]
        whole = torch.linalg.det(x), torch.det(single), *torch.linalg.slogdet(x), torch.logdet(x @ x.mT)
        rows = torch.linalg.solve(x, right.mT, left=False)
        return *inverses, *whole, torch.linalg.solve(x, right), torch.linalg.solve(single, vectors[0, 0]), rows


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_small_matrices(size: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(2, 3, size, size, generator=generator) + 3 * torch.eye(size)
    x[0, 0, 0] *= -1  # a negative determinant
    assert_right_in_both(_Small(), (x, torch.randn(2, 3, size, 2, generator=generator)), tmp_path)


class _Large(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x)


def test_an_inverse_of_more_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(edgeconv.CaptureError, match="linalg_inv of 5 rows has no ONNX form, up to 4 rows have"):
        edgeconv.export(_Large(), (torch.eye(5),), tmp_path, name="n")
