"""Functions of two operands that torch has and ONNX has not: each special number with each.

Members thought of: zeros of both signs, infinities, NaN, denormals, squares that overflow and that vanish; a number as
the second operand; operands that broadcast; integers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from right_in_both import Of, assert_right_in_both
from torch import Tensor

from edgeconv.capture import capture
from edgeconv.errors import CaptureError
from edgeconv.reference import evaluate

ODD = (0.0, -0.0, 1.5, -2.0, 3e30, -2e-30, float("inf"), -float("inf"), float("nan"), 1e-42)
PAIRS = torch.tensor(list(itertools.product(ODD, ODD)))

FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hypot": torch.hypot,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "copysign": torch.copysign,
    "copysign of a number": lambda x, y: torch.copysign(x, -0.0) + 0 * y,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_numbers_in_every_pair(name: str) -> None:
    function = FUNCTIONS[name]
    model = capture(Of(lambda x: function(x[:, 0], x[:, 1])), (PAIRS,), input_names=["x"], output_names=["y"])
    found = evaluate(model, {"x": PAIRS.double().numpy()})["y"]
    expected = function(*PAIRS.double().T).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=0)
    if name.startswith("copysign"):
        np.testing.assert_array_equal(np.signbit(found)[~np.isnan(found)], np.signbit(expected)[~np.isnan(expected)])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_plain_numbers_in_both_formats(name: str, tmp_path: Path) -> None:
    function = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    x, row = torch.randn(2, 3, 4, 5, generator=generator), torch.randn(5, generator=generator)
    assert_right_in_both(Of(lambda x: function(x, x.flip(1)) + function(x, row)), (x,), tmp_path)


def test_the_larger_of_integers(tmp_path: Path) -> None:
    x = torch.arange(12, dtype=torch.int32).reshape(3, 4)
    assert_right_in_both(Of(lambda x: torch.fmax(x, 5 - x) * torch.fmin(x, x.flip(1))), (x,), tmp_path)


def test_an_operator_without_a_form_is_told_by_its_name() -> None:
    with pytest.raises(CaptureError, match=r"torch operator aten\.erfinv has no ONNX form"):
        capture(Of(torch.erfinv), (torch.rand(2, 3),), input_names=["x"], output_names=["y"])


@pytest.mark.parametrize("function", [torch.atan2, lambda y, x: torch.complex(x, y).angle()], ids=["atan2", "angle"])
def test_angles_are_right_in_every_quadrant_and_between(
    function: Callable[[Tensor, Tensor], Tensor], tmp_path: Path
) -> None:
    numbers = torch.tensor(list(itertools.product((0.0, 1.0, -2.0, 3e-30, -1e30), repeat=2)))
    assert_right_in_both(Of(function), (numbers[:, 0].clone(), numbers[:, 1].clone()), tmp_path)
