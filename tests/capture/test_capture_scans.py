"""Scans, ranks and reductions at computed places: right in both formats, or refused for what they are.

Members thought of: cumulative products, maxima and minima with the places where they were met (also equal ones), along
every axis, of one element, of integers, of halves; medians and k-th values from either end, of odd and even numbers,
of all, among NaN; most frequent elements. `scatter_reduce` and its kin by every reduction, with and without the tensor
itself, of places that nothing comes to, of a larger source. Adaptive pools of volumes whose windows differ, and places.
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


def test_the_most_frequent_elements(tmp_path: Path) -> None:
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        whole, steps = x.round(), (x * 2).round()
        kinds = steps.long().mode(1)[0], steps.int().mode()[0]
        return whole.mode(1)[0], whole.mode(0, keepdim=True)[0], *kinds

    assert_right_in_both(Of(forward), (_noise(3, 9, 4),), tmp_path)


def test_medians_among_nan(tmp_path: Path) -> None:
    def forward(x: Tensor, low: Tensor) -> tuple[Tensor, ...]:
        some, none = torch.where(x > 0.4, torch.nan, x), torch.where(x > low, torch.nan, x)
        ranked = some.nanmedian(1)[0], some.nanmedian(-1, keepdim=True)[0], none.nanmedian(0)[0], x.nanmedian(1)[0]
        return some.nanmedian(), (x * 3).int().nanmedian(1)[0], *ranked

    assert_right_in_both(Of(forward), (_noise(3, 8, 4), torch.tensor([-9.0, 9, 0, 1])), tmp_path)


@pytest.mark.parametrize("name", ["mode", "nanmedian"])
def test_places_that_no_two_runs_agree_on_are_refused(name: str, tmp_path: Path) -> None:
    module = Of(lambda x: getattr(x, name)(1))
    with pytest.raises(edgeconv.CaptureError, match=f"aten.{name}.* no ONNX form"):
        edgeconv.export(module, (_noise(2, 3),), tmp_path, name="n")


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


def test_what_is_added_at_places(tmp_path: Path) -> None:
    def forward(x: Tensor, places: Tensor, source: Tensor) -> tuple[Tensor, ...]:
        lines = torch.tensor([0, 2, 0])
        means = (x.index_reduce(1, lines, source[:, :3], "mean", include_self=self) for self in (True, False))
        added = x.scatter(1, places, source, reduce="add"), x.scatter(1, places, 2, reduce="add")
        put = x.put(torch.tensor([0, 5, -2]), source[0, :3]), x.put(places - 3, source[:, :5], accumulate=True)
        single = x[0].index_reduce(0, lines, source[0, :3], "mean")
        return *means, *added, *put, single

    assert_right_in_both(Of(forward), (_noise(2, 4), _PLACES, _noise(2, 6)), tmp_path)


def test_what_is_multiplied_at_places_which_onnx_alone_has(tmp_path: Path) -> None:
    def forward(x: Tensor, places: Tensor, source: Tensor) -> tuple[Tensor, ...]:
        lines = torch.tensor([0, 2, 0])
        slices = (x.index_reduce(1, lines, source[:, :3], how) for how in ("prod", "amax", "amin"))
        return *slices, x.scatter(1, places, source, reduce="multiply")

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


def test_places_of_the_maxima_of_adaptive_pools(tmp_path: Path) -> None:
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        volumes = (F.adaptive_max_pool3d(x, size, return_indices=True) for size in ((2, 3, 4), (5, 6, 7), (1, 1, 1)))
        equal = F.adaptive_max_pool2d(x[0].round(), (4, 3), return_indices=True)
        line = F.adaptive_max_pool1d(x[0, :, 0, 0], 4, return_indices=True)
        return *(tensor for pair in volumes for tensor in pair), *equal, *line

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
