"""Norms, distances and covariances of any order are right in both formats.

Members thought of: orders 0, below 1, 1, 2, between, 3, both infinities and below 0; along one axis, several, all;
between two sets of rows and within one; powers that leave float16. Covariances with weights of both kinds, of one
variable, of integers, of fewer observations than are taken away; correlations; a comparison of the module's own beside.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from right_in_both import Of, assert_right_in_both
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import edgeconv

ORDERS = (0, 0.5, 1, 1.5, 2, 3, float("inf"))
COUNTS = torch.tensor([1, 2, 1, 1])
SHARES = torch.tensor([0.1, 0.2, 0.3, 0.4])


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_distances_of_every_order(tmp_path: Path) -> None:
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        return *(F.pdist(x, p=p) for p in ORDERS), *(torch.cdist(x, x[:2].relu(), p=p) for p in ORDERS)

    assert_right_in_both(Of(forward), (_noise(5, 4),), tmp_path)


def test_norms_of_every_order(tmp_path: Path) -> None:
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        lines = (torch.linalg.vector_norm(x, p, dim=1) for p in (*ORDERS, -1, -float("inf")))
        return *lines, x.norm(3), torch.linalg.vector_norm(x, 0, dim=(0, 1), keepdim=True)

    assert_right_in_both(Of(forward), (_noise(5, 4),), tmp_path)


def test_powers_that_leave_float16(tmp_path: Path) -> None:
    module = Of(lambda x: (x.norm(3, dim=1), F.normalize(x, p=3)))
    assert_right_in_both(module, (_noise(5, 4) * 100,), tmp_path, variants=("fp16",), tolerance=2e-3)


@pytest.mark.filterwarnings("ignore:cov")  # of as many observations as are taken away
def test_covariances(tmp_path: Path) -> None:
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        weighted = x.cov(correction=0, fweights=COUNTS, aweights=SHARES), torch.cov(x, aweights=x[0].abs())
        few = torch.cov(x[:, :2], correction=2).isinf()
        return torch.cov(x), x[0].cov(), torch.cov((x * 5).long()), torch.cov(x, fweights=COUNTS), *weighted, few

    assert_right_in_both(Of(forward), (_noise(5, 4),), tmp_path)


def test_correlations(tmp_path: Path) -> None:
    module = Of(lambda x: (torch.corrcoef(x), x.mT.corrcoef(), x[0].corrcoef()))
    assert_right_in_both(module, (_noise(5, 4),), tmp_path)


def test_a_comparison_of_its_own_is_refused_beside_a_covariance(tmp_path: Path) -> None:
    module = Of(lambda x: torch.cov(x) if torch.equal(x, x * 1) else x)
    with pytest.raises(edgeconv.CaptureError, match=r"aten\.equal looks at the values of a tensor"):
        edgeconv.export(module, (_noise(5, 4),), tmp_path, name="n")
