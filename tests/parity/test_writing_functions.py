"""Link 3 of functions that TFLite has no operator for: a polynomial is as near as float32 is, or a fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from crossed import diagonal, slow_but
from test_writing import emitted, judged
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.core.verdicts import Verdict
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize

_SHAPE = (1, 4, 6, 7)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "asin": lambda x: torch.asin(torch.tanh(3 * x)),
    "acos": lambda x: torch.acos(torch.tanh(3 * x)),
    "atan": torch.atan,
    "sinh": torch.sinh,
    "asinh": torch.asinh,
    "acosh": lambda x: torch.acosh(1 + x.square()),
    "atanh": lambda x: torch.atanh(torch.tanh(x) * 0.9),
    "erf": torch.erf,
    "softplus": nn.functional.softplus,
    "within": lambda x: 1 + torch.atan(x) * torch.erf(x),
}


class Function(nn.Module):
    """A function of the elements."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.name](x)


def _made(module: nn.Module, shape: tuple[int, ...], variant: str = "fp32") -> tuple[Variant, dict[str, np.ndarray]]:
    inputs = {"x": torch.randn(shape, generator=torch.Generator().manual_seed(0)).numpy()}
    args = (torch.from_numpy(inputs["x"]),)
    model = optimize(capture(module.eval(), args, input_names=["x"], output_names=["y"]))
    (made,) = variants_of(model, (variant,), Quantization(batches=lambda: [inputs]), Silent())
    return made, inputs


@pytest.mark.parametrize(("name", "variant_name"), diagonal([*FUNCTIONS], ["fp32", "int8", "fp16", "int16x8"]))
def test_a_function_without_an_operator_holds_and_another_one_does_not(
    name: str, variant_name: str, tmp_path: Path
) -> None:
    variant, inputs = _made(Function(name), _SHAPE, variant_name)
    contents, path = emitted(variant, "tflite"), tmp_path / "net.tflite"
    right = judged(variant, inputs, contents, contents.data, path)
    assert right.verdict is Verdict.PASS, right.reason


@pytest.mark.parametrize(
    ("name", "coefficient"),
    slow_but([("sinh", 1 / 6)], [("atan", -0.333330942), ("erf", 1.12837915), ("sinh", 1 / 6)]),
)
def test_a_coefficient_that_is_a_millionth_off_is_told(name: str, coefficient: float, tmp_path: Path) -> None:
    variant, inputs = _made(Function(name), _SHAPE)
    contents = emitted(variant, "tflite")
    right, wrong = (np.float32(number).tobytes() for number in (coefficient, coefficient * (1 + 2e-6)))
    assert contents.data.count(right) == 1
    told = judged(variant, inputs, contents, contents.data.replace(right, wrong), tmp_path / "net.tflite")
    assert told.verdict is Verdict.FAIL


NEAR_ZERO: dict[str, Callable[[Tensor], Tensor]] = {"log1p": lambda x: torch.log1p(x.relu()), "expm1": torch.expm1}
FUNCTIONS |= NEAR_ZERO


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
@pytest.mark.parametrize("name", NEAR_ZERO)
def test_a_group_that_reads_another_operand_than_the_graph_is_judged_on_what_follows_from_it(
    name: str, format_: str, tmp_path: Path
) -> None:
    """The graph reads 1 + x, and the file x: changed apart from each other, they are no fault of the file's."""
    variant, inputs = _made(Function(name), _SHAPE)
    contents = emitted(variant, format_)
    right = judged(variant, inputs, contents, contents.data, tmp_path / f"net.{format_}")
    assert right.verdict is Verdict.PASS, right.reason


class Cosines(nn.Module):
    """Cosines between four rows and four others, of four heads: a norm is as many numbers in either order of axes."""

    def forward(self, x: Tensor) -> Tensor:
        q, k = x.reshape(1, 20, 2, 4, 4).permute(2, 0, 3, 4, 1)
        return nn.functional.normalize(q, dim=-1) @ nn.functional.normalize(k, dim=-1).transpose(-2, -1)


def test_an_order_of_axes_that_the_sample_told_stays_where_other_operands_are_all_the_same(tmp_path: Path) -> None:
    """A norm of the other sign is clamped to one number everywhere, which is the same in any order."""
    variant, inputs = _made(Cosines(), (1, 20, 32))
    contents = emitted(variant, "tflite")
    right = judged(variant, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_numbers_below_the_smallest_normal_one_are_no_fault(format_: str, tmp_path: Path) -> None:
    """A sigmoid of -730 is 1e-317 in float64, of which two ways to compute it leave different digits."""
    FUNCTIONS["saturated"] = lambda x: torch.sigmoid(0.1 * x - 730)
    variant, inputs = _made(Function("saturated"), _SHAPE)
    contents, path = emitted(variant, format_), tmp_path / f"net.{format_}"
    right = judged(variant, inputs, contents, contents.data, path)
    assert right.verdict is Verdict.PASS, right.reason


@pytest.mark.parametrize("corners", [True, False])
def test_the_nearest_element_of_a_grid_is_the_same_in_float64(corners: bool, tmp_path: Path) -> None:
    """Rounding by 1.5 * 2^23, added and taken away, is none in float64: the right file was called wrong."""
    FUNCTIONS["nearest"] = lambda x: nn.functional.grid_sample(
        x, torch.tanh(x[:, :2]).permute(0, 2, 3, 1), mode="nearest", align_corners=corners
    )
    variant, inputs = _made(Function("nearest"), _SHAPE)
    contents = emitted(variant, "tflite")
    right = judged(variant, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason


class Covariance(nn.Module):
    """Of channels, divided by its trace: symmetric, whatever the input is."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.relu().flatten(2)
        size = flat.shape[2]
        covariance = flat @ (torch.eye(size) / size - 1 / size**2) @ flat.transpose(1, 2)
        scaled = covariance / (covariance * torch.eye(x.shape[1])).sum((1, 2), keepdim=True)
        return scaled @ (1.5 * torch.eye(x.shape[1]) - 0.5 * scaled)


def test_the_order_of_a_symmetric_value_is_told_by_operands_that_are_not(tmp_path: Path) -> None:
    """On the sample its axes may be exchanged; on enlarged operands they may not, and the first guess was kept."""
    variant, inputs = _made(Covariance(), _SHAPE)
    contents = emitted(variant, "tflite")
    right = judged(variant, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason
