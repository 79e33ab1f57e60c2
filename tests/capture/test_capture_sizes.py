"""A size that values decide is refused only where the values are those of an input.

Members: nonzero, masks as indices and masked_select, of constants and of inputs; sizes that follow from them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edgeconv.capture import capture
from edgeconv.errors import CaptureError
from edgeconv.reference import evaluate

MASK = torch.tensor([True, False, True, True])
Function = Callable[[torch.Tensor], torch.Tensor]


class Head(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _upper(x: torch.Tensor) -> torch.Tensor:
    places = torch.ones(4, 4).triu().view(16).nonzero()
    return x.reshape(x.shape[0], 16)[:, places].squeeze(-1) * 2


def _upper_beside_a_sum(x: torch.Tensor) -> torch.Tensor:
    places = torch.ones(4, 4).triu().view(16).nonzero().squeeze(1)
    chosen = x.reshape(x.shape[0], 16)[:, places]
    return chosen + chosen.mean(1, keepdim=True)


OF_CONSTANTS: dict[str, Function] = {
    "nonzero": _upper,
    "nonzero, and what follows": _upper_beside_a_sum,
    "a mask": lambda x: x[:, MASK] + 1,
}
OF_INPUTS: dict[str, tuple[Function, str]] = {
    "nonzero": (lambda x: x.flatten().nonzero(), "nonzero"),
    "a mask": (lambda x: x[x > 0], "index"),
    "a mask beside a constant": (lambda x: x[:, MASK & (x[0].sum(1) > 0)], "index"),
    "masked_select": (lambda x: torch.masked_select(x, x > 0), "masked_select"),
}


@pytest.mark.parametrize("name", OF_CONSTANTS)
def test_constants_decide_once(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 4)
    module = Head(OF_CONSTANTS[name])
    model = capture(module, (x,), input_names=["x"], output_names=["y"])
    (y,) = (evaluate(model, {"x": x.numpy()})[value.name or ""] for value in model.graph.outputs)
    np.testing.assert_allclose(
        y, module(x.double()).numpy(), rtol=1e-12, atol=1e-12
    )  # beside the reference, no float32


@pytest.mark.parametrize("name", OF_INPUTS)
def test_inputs_must_not(name: str) -> None:
    function, operation = OF_INPUTS[name]
    with pytest.raises(CaptureError, match=f"the size of what {operation} gives depends on values"):
        capture(Head(function), (torch.randn(1, 4, 4),), input_names=["x"], output_names=["y"])
