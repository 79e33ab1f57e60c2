"""Of what parts outputs are joined: axes that move, joints of joints, parts that differ, outputs of one piece."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

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


CASES: dict[str, tuple[Callable[[Tensor], Tensor], list[Parts]]] = {
    "boxes and scores": (_boxes_and_scores, [Parts(1, (4, 6))]),
    "anchors last": (lambda x: _boxes_and_scores(x).flatten(2).permute(0, 2, 1), [Parts(2, (4, 6))]),
    "reshaped": (lambda x: _boxes_and_scores(x).reshape(1, 10, 4, 16), [Parts(1, (4, 6))]),
    "an axis that is no more": (lambda x: _boxes_and_scores(x).reshape(1, 5, 2, 64), []),
    "scales": (_scales, [Parts(1, (64, 16, 4)), Parts(2, (4, 6))]),
    "uneven scales": (_uneven_scales, [Parts(2, (8, 8))]),
    "joints of joints": (lambda x: torch.cat([_boxes_and_scores(x), x.exp()], 1), [Parts(1, (4, 6, 10))]),
    "of one piece": (lambda x: x * 2, []),
    "computed with": (lambda x: _boxes_and_scores(x) * 2, []),
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
