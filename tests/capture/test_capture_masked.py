"""Assignments of computed rows under a mask are choices between two tensors, in both formats.

Members thought of: the assigned tensor itself, another one, both; the mask once, twice, of equal operators; operators
in place, chains of them, casts; `masked_select`, `masked_scatter`; masks over the first axes, over later ones; layers
of the selected rows; views; assignments one after the other; logarithms of negative numbers beside the mask; shifts
and divisions of integers by a number. Refused: rows that are summed or follow each other, another mask, a mask that was
written to, `masked_scatter` under a mask of fewer axes, divisions by integers that nobody selected.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from right_in_both import assert_right_in_both
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import edgeconv
from edgeconv.capture.torch._masked import settle_masks

_X = torch.linspace(-2, 2, 2 * 3 * 4 * 5).sin().reshape(2, 3, 4, 5) * 2


class _Of(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * 1.5, x, self.layer)


def _itself(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    y[x > 0] = torch.sigmoid(y[x > 0])
    return y


def _in_place(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    mask = x > 0
    y[mask] *= 2
    rows = y[~mask]
    same = rows.detach()
    rows.neg_()
    y[~mask] = same
    return y


def _others(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    mask, zeros = x > 0, torch.zeros_like(y)
    zeros[mask] = y[mask].clamp(max=1) * x[mask] + (x[mask] > 1).float()
    return zeros


def _read_before(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    mask = x > 0
    before = y[mask]
    y.mul_(3)
    y[mask] = before
    return y


def _selected(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    mask = x > 0.5
    y[mask] = torch.masked_select(x, mask) + 1
    return y.masked_scatter(x < 0, x[x < 0] * 3)


def _first_axes(y: Tensor, x: Tensor, layer: nn.Module) -> Tensor:
    y = y.permute(0, 2, 3, 1).contiguous()
    mask = x[:, 0] > 0
    y[mask] = F.layer_norm(layer(y[mask]), (3,)).softmax(-1) * torch.tensor([1.0, 2.0, 3.0])
    return y


def _last_axis(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    mask = x[0, 0, 0] > 0
    y[..., mask] = y[..., mask] * 2
    return y


def _logarithm(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    y[x > 0] = y[x > 0].log()
    return y


def _of_views(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    part = y[:, 1]
    mask = part < 0
    part[mask] = -part[mask]
    return y


def _shifted(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    counts = (x * 4).to(torch.int32)
    mask = counts > 0
    rows = counts[mask] << 1
    rows <<= 2
    rows >>= 1
    counts[mask] = rows // 3
    return counts


EXACT = [_itself, _in_place, _others, _read_before, _selected, _first_axes, _last_axis, _logarithm, _of_views, _shifted]


@pytest.mark.parametrize("function", EXACT)
def test_is_a_choice(function: Callable[..., Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert_right_in_both(_Of(function).eval(), (_X,), tmp_path)


def _summed(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    mask = x > 0
    y[mask] = y[mask] - y[mask].mean()
    return y


def _ordered(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    mask = x > 0
    y[mask] = y[mask].cumsum(0)
    return y


def _another(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    y[x > 0] = y[(x + 4) > 4]  # as many rows for this input
    return y


def _written(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    mask = x > 0
    rows = y[mask]
    mask.logical_not_().logical_not_()
    y[mask] = rows
    return y


def _made_of_what_was_written(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    rows = y[y > 0]
    y.neg_().neg_()
    y[y > 0] = rows
    return y


def _across(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    y = y.permute(0, 2, 3, 1).contiguous()
    mask = x[:, 0] > 0
    y[mask] = y[mask].softmax(0)
    return y


def _over_the_last_axis(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    square = y[0, 0, :, :4] + 0
    mask = x[0, 0, :, 0] > 0
    return square.masked_scatter(mask, square[mask])


def _divided(y: Tensor, x: Tensor, _: nn.Module) -> Tensor:
    counts = (x * 4).to(torch.int32)
    counts[counts > 0] = 60 // counts[counts > 0]
    return counts


_MORE = [_summed, _ordered, _another, _written, _made_of_what_was_written, _across, _over_the_last_axis, _divided]


@pytest.mark.parametrize("function", _MORE)
def test_rows_that_are_more_than_a_choice_are_refused(function: Callable[..., Tensor], tmp_path: Path) -> None:
    with pytest.raises(edgeconv.CaptureError, match="the size of what index gives depends on values"):
        edgeconv.export(_Of(function).eval(), (_X,), tmp_path, name="net")


def test_the_signature_knows_the_outputs() -> None:
    program = torch.export.export(_Of(_itself).eval(), (_X,))
    settle_masks(program)
    results = program.graph.output_node().args[0]
    assert [node.name for node in results] == list(program.graph_signature.user_outputs)


def test_in_every_variant(tmp_path: Path) -> None:
    module = _Of(_itself).eval()
    batches = [{"x": _X.numpy()}]
    result = edgeconv.export(
        module, (_X,), tmp_path, name="net", variants=("fp32", "fp16", "int8"), input_names=["x"],
        quantization=edgeconv.Quantization(batches=lambda: batches), devices=("onnxruntime", "litert"),
    )  # fmt: skip
    assert result.report is not None
    assert result.report.verdict is edgeconv.Verdict.PASS
    assert len(result.artifacts) == 6
