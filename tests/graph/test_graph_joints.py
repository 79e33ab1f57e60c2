"""Of what parts outputs are joined: axes that move, joints of joints, parts that differ, outputs of one piece.

Members: what computes behind a join and leaves the parts apart, or mixes them; joins in other words.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.capture import capture
from edgeconv.core import Parts
from edgeconv.graph.joints import joints_of


class Head(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _boxes_and_scores(x: Tensor, axis: int = 1) -> Tensor:
    return torch.cat([x[:, :4] * 640, x[:, 4:].sigmoid()], axis)


def _scales(x: Tensor) -> Tensor:
    """As detectors join three scales of boxes and scores."""
    parts = [_boxes_and_scores(x[..., :size, :size]).flatten(2) for size in (8, 4, 2)]
    return torch.cat(parts, 2).transpose(1, 2)


def _uneven_scales(x: Tensor) -> Tensor:
    return torch.cat([_boxes_and_scores(x), torch.cat([x[:, :3], x[:, 3:].exp()], 1)], 2)


_FIRST = (torch.arange(10) < 4).view(1, 10, 1, 1)

CASES: dict[str, tuple[Callable[[Tensor], Tensor], list[Parts]]] = {
    "boxes and scores": (_boxes_and_scores, [Parts(1, (4, 6))]),
    "anchors last": (lambda x: _boxes_and_scores(x).flatten(2).permute(0, 2, 1), [Parts(2, (4, 6))]),
    "reshaped": (lambda x: _boxes_and_scores(x).reshape(1, 10, 4, 16), [Parts(1, (4, 6))]),
    "an axis that is no more": (lambda x: _boxes_and_scores(x).reshape(1, 5, 2, 64), []),
    "scales": (_scales, [Parts(1, (64, 16, 4)), Parts(2, (4, 6))]),
    "uneven scales": (_uneven_scales, [Parts(2, (8, 8))]),
    "joints of joints": (lambda x: torch.cat([_boxes_and_scores(x), x.exp()], 1), [Parts(1, (4, 6, 10))]),
    "of one piece": (lambda x: x * 2, []),
    "scaled": (lambda x: _boxes_and_scores(x) * 2, [Parts(1, (4, 6))]),
    "clamped": (lambda x: _boxes_and_scores(x).clamp(0, 1), [Parts(1, (4, 6))]),
    "added to": (lambda x: _boxes_and_scores(x) + x, [Parts(1, (4, 6))]),
    "broadcast": (lambda x: _boxes_and_scores(x)[0] * x, [Parts(1, (4, 6))]),
    "ends that differ": (
        lambda x: _boxes_and_scores(x) * torch.cat([x[:, :7], x[:, 7:].exp()], 1),
        [Parts(1, (4, 3, 3))],
    ),
    "pooled": (lambda x: functional.max_pool2d(_boxes_and_scores(x), 2), [Parts(1, (4, 6))]),
    "pooled along the join": (lambda x: functional.max_pool2d(torch.cat([x, x.exp()], 2), 2), []),
    "enlarged": (lambda x: functional.interpolate(_boxes_and_scores(x), scale_factor=2.0), [Parts(1, (4, 6))]),
    "padded": (lambda x: functional.pad(_boxes_and_scores(x), (1, 1)), [Parts(1, (4, 6))]),
    "padded along the join": (lambda x: functional.pad(torch.cat([x, x.exp()], 3), (1, 1)), []),
    "reduced": (lambda x: _boxes_and_scores(x).amax(0), [Parts(0, (4, 6))]),
    "reduced, and kept": (lambda x: _boxes_and_scores(x).mean((2, 3), keepdim=True), [Parts(1, (4, 6))]),
    "reduced along the join": (lambda x: _boxes_and_scores(x).sum(1), []),
    "softmax": (lambda x: _boxes_and_scores(x).softmax(1), []),
    "softmax of another axis": (lambda x: _boxes_and_scores(x).softmax(3), [Parts(1, (4, 6))]),
    "picked along the join": (lambda x: _boxes_and_scores(x)[:, torch.tensor([5, 0, 7])], []),
    "picked beside it": (lambda x: _boxes_and_scores(x)[:, :, torch.tensor([5, 0, 7])], [Parts(1, (4, 6))]),
    "one of another axis": (lambda x: _boxes_and_scores(x)[0], [Parts(0, (4, 6))]),
    "cut": (lambda x: _boxes_and_scores(x)[:, 1:6], [Parts(1, (3, 2))]),
    "each second": (lambda x: _boxes_and_scores(x)[:, ::2], []),
    "the largest": (lambda x: _boxes_and_scores(x).flatten(2).topk(3, 2)[0], [Parts(1, (4, 6))]),
    "chosen by a mask": (lambda x: torch.where(_FIRST, x * 640, x.sigmoid()), [Parts(1, (4, 6))]),
    "chosen by a mask of two axes": (lambda x: torch.where(_FIRST & (torch.arange(8) < 3), x * 640, x.sigmoid()), []),
    "padded terms": (
        lambda x: functional.pad(x[:, :4] * 640, (0, 0, 0, 0, 0, 6)) + functional.pad(x[:, 4:], (0, 0, 0, 0, 4, 0)),
        [Parts(1, (4, 6))],
    ),
    "terms that overlap": (
        lambda x: functional.pad(x[:, :4], (0, 0, 0, 0, 0, 6)) + functional.pad(x[:, 3:], (0, 0, 0, 0, 3, 0)),
        [],
    ),
    "masked terms": (lambda x: x.exp() * _FIRST.float() + x.sigmoid() * (~_FIRST).float(), [Parts(1, (4, 6))]),
}


@pytest.mark.parametrize("name", CASES)
def test_joints_follow_their_axes_to_the_output(name: str) -> None:
    function, joints = CASES[name]
    model = capture(Head(function), (torch.randn(1, 10, 8, 8),), input_names=["x"], output_names=["y"])
    assert joints_of(model.graph) == ({"y": tuple(joints)} if joints else {})


def test_the_channels_of_a_layer_are_one_part() -> None:
    layer = nn.Conv2d(10, 6, 1)
    for function, joints in (
        (layer, [Parts(1, (6,))]),
        (lambda x: layer(x).flatten(2).transpose(1, 2), [Parts(2, (6,))]),
        (lambda x: torch.cat([layer(x), layer(x) * 2], 1), [Parts(1, (6, 6))]),
        (lambda x: layer(x).sigmoid(), []),
        (lambda x: x @ x, []),
    ):
        model = capture(Head(function), (torch.randn(1, 10, 8, 8),), input_names=["x"], output_names=["y"])
        assert joints_of(model.graph) == ({"y": tuple(joints)} if joints else {})
