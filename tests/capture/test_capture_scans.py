"""Scans, ranks and reductions at computed places: right in both formats, or refused for what they are.

Members thought of: cumulative products, maxima and minima with the places where they were met (also equal ones), along
every axis, of one element, of integers, of halves; medians and k-th values from either end, of odd and even numbers,
of all. `scatter_reduce` by every reduction, with and without the tensor itself, of places that nothing comes to, of a
larger source. Adaptive pools of volumes whose windows differ.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from right_in_both import Of, assert_right_in_both
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import edgeconv
from edgeconv.capture import capture


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_scans_along_any_dimension_are_right_in_both_formats(dim: int, tmp_path: Path) -> None:
    def forward(x: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
        return x.cumprod(dim), *x.cummax(dim), *x.cummin(dim), *steps.cummax(dim), x[:, :1].cummin(1)[0]

    x = _noise(3, 7, 5)
    assert_right_in_both(Of(forward), (x, (x * 2).round()), tmp_path)


def test_products_that_leave_float16_on_the_way(tmp_path: Path) -> None:
    x = torch.tensor([[300.0, 0.003, 0.003, 300, 300], [1e-4, 1e-4, 200, 200, 1e4]])
    assert_right_in_both(Of(lambda x: x.cumprod(1)), (x,), tmp_path, variants=("fp16",), tolerance=1e-3)


def test_ranked_elements_are_right_in_both_formats(tmp_path: Path) -> None:
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        some = x.kthvalue(2, dim=1), x.kthvalue(6, dim=1, keepdim=True), x.median(1), x.median(-1, keepdim=True)
        return x.median(), x[:, 1:].median(), *(tensor for pair in some for tensor in pair)

    assert_right_in_both(Of(forward), (_noise(2, 7, 4),), tmp_path)


_PLACES = torch.tensor([[0, 0, 3, 3, 3], [1, 1, 1, 1, 1]])


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_reductions_at_computed_places(reduce: str, tmp_path: Path) -> None:
    def forward(x: Tensor, places: Tensor, source: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.scatter_reduce(1, places, source, reduce, include_self=self) for self in (True, False))

    assert_right_in_both(Of(forward), (_noise(2, 4), _PLACES, _noise(2, 6)), tmp_path)


@pytest.mark.parametrize("reduce", ["prod", "amax", "amin"])
def test_reductions_that_onnx_alone_has(reduce: str, tmp_path: Path) -> None:
    def forward(x: Tensor, places: Tensor, source: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.scatter_reduce(1, places, source, reduce, include_self=self) for self in (True, False))

    assert_right_in_both(Of(forward), (_noise(2, 4), _PLACES, _noise(2, 6)), tmp_path, formats=("onnx",))


def test_the_mean_of_integers_is_refused(tmp_path: Path) -> None:
    module = Of(lambda x, places: x.scatter_reduce(1, places, places, "mean"))
    with pytest.raises(edgeconv.CaptureError, match="scatter_reduce of means"):
        edgeconv.export(module, (torch.arange(8).reshape(2, 4), _PLACES), tmp_path, name="n", formats=("onnx",))


def test_adaptive_pools_of_volumes(tmp_path: Path) -> None:
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        sizes = (2, 3, 4), (3, 5, 7), (5, 2, 3)
        return *(F.adaptive_avg_pool3d(x, size) for size in sizes), *(F.adaptive_max_pool3d(x, size) for size in sizes)

    assert_right_in_both(Of(forward), (_noise(2, 3, 5, 6, 7),), tmp_path)


@pytest.mark.parametrize("dim", [0, 1])
def test_a_sum_at_computed_places_on_the_official_path(dim: int) -> None:
    module, x = Of(lambda x, places: x.scatter_reduce(dim, places, x * 2, "sum")), _noise(4, 5)
    arguments = (x, torch.zeros(4, 5, dtype=torch.int64))
    graph = capture(module, arguments, input_names=["x", "places"], output_names=[], path="official")
    assert "ScatterElements" in {node.op_type for node in graph.graph}
    for reduce, keywords in (("mean", {}), ("sum", {"include_self": False})):
        module = Of(lambda x, places, r=reduce, k=keywords: x.scatter_reduce(dim, places, x * 2, r, **k))
        with pytest.raises(edgeconv.CaptureError, match="scatter_reduce of means, or without"):
            capture(module, arguments, input_names=["x", "places"], output_names=[], path="official")
