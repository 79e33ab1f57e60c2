"""Bags of embeddings and places among boundaries: right in both formats, or refused for what they are.

Members: sums, means and maxima; bags of equal and of other lengths, empty ones, a last offset that is an end; a padding
index, bags of nothing else; weights of samples; offsets that are computed. Boundaries that are constant or an input, in
rows, of another dtype; both sides; numbers on a boundary; int32 results. Arguments that are objects of tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from right_in_both import assert_right_in_both
from torch import nn

import edgeconv
from edgeconv.errors import CaptureError

_IDS = torch.tensor([[1, 2, 3], [2, 2, 2]])
_FLAT = torch.tensor([1, 2, 3, 4, 5, 6, 7])
_BOUNDARIES = torch.tensor([-1.0, 0.0, 0.5, 2.0])
_NUMBERS = torch.tensor([[-3.0, -1.0, -0.5, 0.0], [0.5, 1.0, 2.0, 9.0]])


class _Of(nn.Module):
    def __init__(self, function: Callable[..., object], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args: object) -> object:
        return self.function(self, *args)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_every_mode_are_right_in_both_formats(mode: str, tmp_path: Path) -> None:
    def forward(m: nn.Module, ids: torch.Tensor, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        starts = [torch.tensor(places) for places in ([0, 2, 5], [0, 0, 3], [0, 3, 7])]
        ends = m.ends(flat, torch.tensor([0, 2, 4, 7]))
        return (
            m.plain(ids),
            m.padded(ids),
            *(m.plain(flat, offsets) for offsets in starts),
            m.padded(flat, starts[1]),
            ends,
        )

    torch.manual_seed(0)
    parts = {
        "plain": nn.EmbeddingBag(10, 4, mode=mode),
        "padded": nn.EmbeddingBag(10, 4, mode=mode, padding_idx=2),
        "ends": nn.EmbeddingBag(10, 4, mode=mode, include_last_offset=True),
    }
    assert_right_in_both(_Of(forward, **parts), (_IDS, _FLAT), tmp_path)


def test_weighted_bags_are_right_in_both_formats(tmp_path: Path) -> None:
    module = _Of(lambda m, ids, w: m.bag(ids, per_sample_weights=w), bag=nn.EmbeddingBag(10, 4, mode="sum"))
    assert_right_in_both(module, (_IDS, torch.rand(2, 3)), tmp_path)


def test_bags_of_computed_lengths_are_refused(tmp_path: Path) -> None:
    module = _Of(lambda m, ids, starts: m.bag(ids, starts), bag=nn.EmbeddingBag(10, 4))
    with pytest.raises(
        CaptureError, match=r"bag: embedding_bag with offsets that are computed .* pass indices of shape"
    ):
        edgeconv.export(module, (_FLAT, torch.tensor([0, 2])), tmp_path, name="n")


def test_places_among_boundaries(tmp_path: Path) -> None:
    def forward(m: nn.Module, x: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            torch.bucketize(x, _BOUNDARIES),
            torch.bucketize(x, _BOUNDARIES, right=True, out_int32=True),
            torch.searchsorted(_BOUNDARIES, x),
            torch.searchsorted(_BOUNDARIES, x, side="right"),
            torch.searchsorted(_BOUNDARIES.expand(2, 4).contiguous(), x),
            torch.searchsorted(rows, x, right=True),
            torch.bucketize(ids, _BOUNDARIES),
            torch.bucketize(ids, torch.tensor([1, 2, 2, 3])),
        )

    assert_right_in_both(_Of(forward), (_NUMBERS, _IDS, torch.randn(2, 5).sort(-1)[0]), tmp_path)


@dataclasses.dataclass
class _Pair:
    a: torch.Tensor
    b: torch.Tensor


def test_an_argument_that_is_an_object_is_named(tmp_path: Path) -> None:
    module = _Of(lambda m, pair: pair.a + pair.b)
    with pytest.raises(CaptureError, match=r"args\[0\]: it is a _Pair, .* torch.export.register_dataclass"):
        edgeconv.export(module, (_Pair(_NUMBERS, _NUMBERS),), tmp_path, name="n")


def test_an_exporter_that_fails_leaves_no_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = _Of(lambda m, x: torch.linalg.eigvals(x[..., :6, :6]).abs())
    with pytest.raises(CaptureError, match="linalg_eig"):
        edgeconv.export(module, (torch.randn(2, 8, 6),), tmp_path, name="n", formats=("onnx",))
    assert "Traceback" not in "".join(capfd.readouterr())
