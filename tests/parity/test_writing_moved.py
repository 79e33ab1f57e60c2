"""Link 3 of a value that a file has in two layouts, each with readers of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from crossed import slow_but
from test_writing import emitted, judged, quantized
from torch import Tensor, nn
from writing_faults import planted_in_tflite

from edgeconv.capture import capture
from edgeconv.core.verdicts import Verdict
from edgeconv.flow.variants import Quantization, Variant, variants_of
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize


class SharedSum(nn.Module):
    """A sum over branches, which is read as an image and as tokens of a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.tokens = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1), nn.Linear(8, 8)
        self.shares = nn.Parameter(torch.rand(1, 2, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = (torch.stack([self.wide(x), self.narrow(x)], 1) * self.shares).sum(1)
        return y + self.tokens(y.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(y.shape)


class FlatSum(SharedSum):
    """The same sum, as an image for a mean and flat: two values of the graph, each of which is rounded."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        y = (torch.stack([self.wide(x), self.narrow(x)], 1) * self.shares).sum(1)
        return y.mean((2, 3)), y.flatten(2) * 2


class MovedInFloat(nn.Module):
    """A value that is computed in float, and rounded twice: as it is, and behind a move that stays float."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.tokens = nn.LayerNorm(15), nn.Linear(15, 15)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x.flatten(1, 2))
        return self.tokens(y.transpose(0, 1)).transpose(0, 1) + y


class FlatInFloat(nn.Module):
    """A value that is computed and moved in float, and read as integers by two layers: the file rounds it once."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.first, self.second = nn.Conv2d(3, 8, 3), nn.Linear(8 * 7 * 13, 5), nn.Linear(8 * 7 * 13, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(x).flatten(1)
        return torch.cat([self.first(y).softmax(1), self.second(y).softmax(1)], 1)


def _made(
    build: type[nn.Module], variant: str, keep_float: tuple[str, ...] = ()
) -> tuple[Variant, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    module, data = build().eval(), torch.randn(1, 3, 9, 15)
    inputs = {"x": data.numpy()}
    model = optimize(capture(module, (data,), input_names=["x"], output_names=[]))
    (made,) = variants_of(model, (variant,), Quantization(batches=lambda: [inputs]), Silent())
    return made, inputs


def _faults_told(made: Variant, inputs: dict[str, np.ndarray], path: Path) -> set[str]:
    """The kinds of fault planted into a file that passes without them; each of them is told."""
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, path)
    assert right.verdict is Verdict.PASS, right.reason
    planted = {(kind, where): data for kind, data, where in planted_in_tflite(contents.data)}
    # A wider range of a tensor of the writer's own, which the graph does not have, moves no real number.
    wrong = {(kind, where): data for (kind, where), data in planted.items() if kind != "scale" or "/" not in where}
    kinds = [kind for kind, _ in wrong]
    ends = {at for kind in kinds for at in (kinds.index(kind), len(kinds) - 1 - kinds[::-1].index(kind))}
    wrong = {key: data for at, (key, data) in enumerate(wrong.items()) if at in ends}  # each kind at two places
    missed = [key for key, data in wrong.items() if judged(made, inputs, contents, data, path).verdict is Verdict.PASS]
    assert not missed
    return {kind for kind, _ in wrong}


@pytest.mark.parametrize("variant", ["int8", pytest.param("int16x8", marks=pytest.mark.slow)])
def test_both_layouts_hold_the_rounded_value_and_each_fault_behind_them_is_told(variant: str, tmp_path: Path) -> None:
    made, inputs = _made(SharedSum, variant)
    assert _faults_told(made, inputs, tmp_path / "net.tflite") >= {"ulp", "permuted", "zeroed"}


@pytest.mark.parametrize("variant", ["int8", "int16x8"])
def test_a_value_that_is_moved_from_another_is_not_what_its_source_holds(variant: str, tmp_path: Path) -> None:
    made, inputs = _made(FlatSum, variant)
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason


@pytest.mark.parametrize("variant", slow_but(["int16x8"], ["int8", "int16x8"]))
def test_activations_behind_each_other_that_are_computed_flat_hold_their_values(variant: str, tmp_path: Path) -> None:
    """Of a GroupNorm, whose groups are rows: what the first makes saturates where the graph does.

    Numbers that are further below zero than above have steps whose largest number the first does not have.
    """
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.LeakyReLU(0.1), nn.GELU()).eval()
    module[0].weight.data.abs_()
    data = -(torch.randn(1, 3, 9, 15) ** 2)
    made, inputs = quantized(module, data, variant)
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason
    wrong = (data for kind, data, _ in planted_in_tflite(contents.data) if kind in ("slope", "ulp", "permuted"))
    assert {judged(made, inputs, contents, data, tmp_path / "net.tflite").verdict for data in wrong} == {Verdict.FAIL}


@pytest.mark.parametrize(
    ("build", "keep_float", "variant"),
    slow_but(
        [(MovedInFloat, ("transpose",), "int8")],
        [(MovedInFloat, ("transpose",), "int8"), (FlatInFloat, ("wide", "flatten"), "int16x8")],
    ),
)
def test_a_file_may_round_before_a_move_that_the_graph_makes_in_float(
    build: type[nn.Module], keep_float: tuple[str, ...], variant: str, tmp_path: Path
) -> None:
    made, inputs = _made(build, variant, keep_float)
    assert _faults_told(made, inputs, tmp_path / "net.tflite") >= {"ulp", "permuted"}
