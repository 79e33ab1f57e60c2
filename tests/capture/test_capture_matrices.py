"""Small matrices: determinants, inverses and linear systems in both formats; larger inverses are refused.

Members thought of: one to four rows, batches and single matrices, by every name that torch has for them; solutions for
matrices, vectors and from the right; signs and logarithms; elements whose products leave float16, and float32, in
rows of one size and of several; a row of zeros; the same in files of halves; cross products along any axis, of one
vector with many. Matrices of powers (rising, falling, of integers, of one power), outer products that are added.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from right_in_both import Of, assert_right_in_both
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
def test_small_matrices_are_solved_right_in_both_formats(size: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(2, 3, size, size, generator=generator) + 3 * torch.eye(size)
    x[0, 0, 0] *= -1  # a negative determinant
    assert_right_in_both(_Small(), (x, torch.randn(2, 3, size, 2, generator=generator)), tmp_path)


_CAMERA = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])


def _camera(x: Tensor) -> tuple[Tensor, ...]:
    right = x.mT / 500
    both = torch.linalg.solve(x, right), torch.linalg.solve(x, x[..., :1, :], left=False)
    return torch.linalg.inv(x) @ x, torch.det(x), *torch.linalg.slogdet(x), torch.logdet(x), *both


def test_products_that_leave_float16(tmp_path: Path) -> None:
    tolerance = 2e-3  # float16 keeps 11 bits: of what the forward itself does with an inverse
    module = Of(_camera)
    assert_right_in_both(module, (_CAMERA[None],), tmp_path, variants=("fp16",), tolerance=tolerance)


@pytest.mark.parametrize("rows", [(1e-12,) * 4, (1e18, 1e18, 1.0), (1.0, 1e-15, 1e-15, 1e-12)], ids=str)
def test_products_that_leave_float32(rows: tuple[float, ...], tmp_path: Path) -> None:
    matrix = torch.diag(torch.tensor(rows)) + torch.diag(torch.tensor(rows[:-1]), 1) / 4

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        logarithms = *torch.linalg.slogdet(x), torch.logdet(x)
        return torch.linalg.inv(x) @ x, *logarithms, torch.linalg.solve(x, x[..., :1])

    assert_right_in_both(Of(forward), (matrix[None],), tmp_path)


def test_a_row_of_zeros(tmp_path: Path) -> None:
    matrix = torch.tensor([[1.0, 2, 3], [0, 0, 0], [4, 5, 6]])
    assert_right_in_both(Of(lambda x: (torch.det(x), *torch.linalg.slogdet(x))), (matrix[None],), tmp_path)


class _Large(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x)


def test_an_inverse_of_more_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(edgeconv.CaptureError, match="linalg_inv of 5 rows has no ONNX form, up to 4 rows have"):
        edgeconv.export(_Large(), (torch.eye(5),), tmp_path, name="n")


def _powers(x: Tensor) -> tuple[Tensor, ...]:
    line, numbers = x[0], (x[0] * 3).long()
    falling = torch.vander(line), torch.vander(numbers, N=6), torch.vander(line, N=1)
    return *falling, torch.vander(line, N=3, increasing=True), *(torch.linalg.vander(x, N=count) for count in (2, 3, 7))


def test_matrices_of_powers_are_right_in_both_formats(tmp_path: Path) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    assert_right_in_both(Of(_powers), (x,), tmp_path)


def test_outer_products_are_added_in_both_formats(tmp_path: Path) -> None:
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        column, row, whole = x[:, 0], x[0], (x * 9).long()
        integers = torch.addr(whole, whole[:, 0], whole[0], alpha=2)
        forms = torch.addr(x, column, row, beta=0.5, alpha=2), torch.addr(x / 0, column, row, beta=0)
        return *forms, torch.addr(row, column, row), integers

    assert_right_in_both(Of(forward), (torch.randn(5, 4, generator=torch.Generator().manual_seed(2)),), tmp_path)


def _crossed(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    single = y[:1, :, :1]
    return torch.cross(x, y, dim=1), torch.linalg.cross(x.transpose(1, 2), y.transpose(1, 2)), torch.linalg.cross(
        x, single, dim=-2
    )  # fmt: skip


def test_cross_products_are_right_in_both_formats(tmp_path: Path) -> None:
    assert_right_in_both(Of(_crossed), (torch.randn(2, 3, 4), torch.randn(2, 3, 4)), tmp_path)
