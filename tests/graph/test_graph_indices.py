"""Which outputs hold indices: class numbers and places, but neither quantities nor what is computed with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_graph_joints import Head
from torch import Tensor

from edgeconv.capture import capture
from edgeconv.graph.indices import indices_of

LABELS = torch.arange(6).flip(0)
EMBEDDING = torch.randn(6, 4)

INDICES: dict[str, Callable[[Tensor], Tensor]] = {
    "class numbers": lambda x: x.argmax(1),
    "the smallest": lambda x: x.argmin(1, keepdim=True).flatten(1),
    "places of the largest few": lambda x: x.flatten(2).topk(3)[1],
    "a label of each class": lambda x: LABELS[x.argmax(1)],
    "row and column of a place": lambda x: torch.cat([x.flatten(2).argmax(2) // 8, x.flatten(2).argmax(2) % 8], 1),
    "written as small integers": lambda x: x.argmax(1).to(torch.uint8),
    "yes or no": lambda x: x > 0,
    "written as floats": lambda x: x.argmax(1).float().flatten(1),
}
NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "scores": lambda x: x.sigmoid(),
    "the largest few": lambda x: x.flatten(2).topk(3)[0],
    "pixels": lambda x: (x.clamp(0, 1) * 255).round().to(torch.uint8),
    "coordinates of a class": lambda x: x.argmax(1).float() * 0.5 + 1.0,
    "an embedding of each class": lambda x: EMBEDDING[x.argmax(1)],
}


@pytest.mark.parametrize("name", INDICES)
def test_indices_stay_indices_to_the_output(name: str) -> None:
    graph = capture(Head(INDICES[name]), (torch.randn(1, 6, 8, 8),), input_names=["x"], output_names=["y"]).graph
    assert indices_of(graph) == {"y"}


@pytest.mark.parametrize("name", NUMBERS)
def test_quantities_are_none(name: str) -> None:
    graph = capture(Head(NUMBERS[name]), (torch.randn(1, 6, 8, 8),), input_names=["x"], output_names=["y"]).graph
    assert not indices_of(graph)
