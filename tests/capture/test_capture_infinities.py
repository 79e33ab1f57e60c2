"""Windows of infinite elements are laid out without sums, in which infinity times zero is not a number.

Members thought of: infinities of either sign, of a mask and of a logarithm; every window and some, with dilation and
padding; finite values behind a softmax, which stay a convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from right_in_both import Of, assert_right_in_both
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from edgeconv.capture import capture

_X = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))

WINDOWS: dict[str, Callable[[Tensor], Tensor]] = {
    "every place": lambda x: F.unfold(x.masked_fill(x < 0, -torch.inf), 3, padding=1),
    "some places": lambda x: F.unfold(torch.where(x < 0, torch.inf, x) * 2, (2, 3), (2, 1), (1, 0), (3, 2)),
    "log softmax": lambda x: F.unfold(x.masked_fill(x < 0, -torch.inf).log_softmax(1), 3, padding=1),
    "logarithms": lambda x: F.unfold(x.abs().round().log(), 2, stride=2),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_keep_infinities_apart(name: str, tmp_path: Path) -> None:
    assert_right_in_both(Of(WINDOWS[name]), (_X,), tmp_path)


def test_windows_of_finite_elements_are_a_convolution() -> None:
    module = Of(lambda x: F.unfold(x.masked_fill(x < 0, -torch.inf).softmax(3), 3))
    graph = capture(module, (_X,), input_names=["x"], output_names=[]).graph
    assert "Conv" in {node.op_type for node in graph}
