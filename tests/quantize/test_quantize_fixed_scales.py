"""Sigmoid, Softmax and Tanh whose prescribed steps are too coarse for what they make stay float; others do not.

Members: scores of a class that is seldom seen, alone and joined with boxes; a heat map; softmax over many, as an output
and as attention; a tanh of small numbers. And what stays integers: masks, gates about a half, scores of few classes,
SiLU, attention over few.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from test_quantize_idioms import Of
from torch import Tensor, nn

import edgeconv
from edgeconv.core import Artifact
from edgeconv.quantize import Plan

_TOKENS = 100  # each has 2.56 steps


def _attention(x: Tensor, sharpness: float, tokens: int) -> Tensor:
    sequence = x.flatten(2)[..., :tokens].transpose(1, 2)
    return (sequence @ sequence.transpose(1, 2) * sharpness).softmax(-1) @ sequence


_COARSE: dict[str, Callable[[Tensor], Tensor]] = {
    "seldom seen": lambda y: (y * 0.3 - 5).sigmoid(),
    "beside boxes": lambda y: torch.cat([y[:, :4].abs() * 200, (y[:, 4:] * 0.3 - 5).sigmoid()], 1)[:, 4:],
    "small beside boxes": lambda y: torch.cat([y[:, :4].abs() * 200, (y[:, 4:] * 0.5 - 6).sigmoid()], 1)[:, 4:],
    "over many": lambda y: (y.flatten(2) * 0.3).softmax(2),
    "attention over many": lambda y: _attention(y, 0.02, _TOKENS),
    "small tanh": lambda y: (y * 0.01).tanh(),
}
_FINE: dict[str, Callable[[Tensor], Tensor]] = {
    "mask": lambda y: (y * 3).sigmoid(),
    "gate": lambda y: y * (y.mean((2, 3), keepdim=True) * 0.1).sigmoid(),
    "few classes": lambda y: y.mean((2, 3)).mul(9).softmax(1),
    "silu": lambda y: y * y.sigmoid(),
    "attention over few": lambda y: _attention(y, 0.3, 16),
}


def _exported(function: Callable[[Tensor], Tensor], folder: Path) -> tuple[nn.Module, edgeconv.ExportResult]:
    torch.manual_seed(0)
    module = Of(lambda m, x: function(m.layer(x)), layer=nn.Conv2d(8, 8, 1)).eval()
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((1, 8, 12, 12)).astype(np.float32)} for _ in range(12)]
    result = edgeconv.export(
        module,
        (torch.zeros(1, 8, 12, 12),),
        folder,
        name="net",
        input_names=["x"],
        variants="int8",
        quantization=edgeconv.Quantization(batches=lambda: batches),
    )
    return module, result


def _decibels(module: nn.Module, artifact: Artifact) -> float:
    """Of what the results differ from their mean, over the error."""
    pairs = []
    for seed in range(4):
        x = np.random.default_rng(100 + seed).standard_normal((1, 8, 12, 12)).astype(np.float32)
        stored = {artifact.inputs[0].name: artifact.inputs[0].to_file(x)}
        if artifact.format == "onnx":
            (computed,) = onnxruntime.InferenceSession(artifact.path).run(None, stored)
        else:
            (computed,) = Interpreter(str(artifact.path)).get_signature_runner()(**stored).values()
        with torch.no_grad():
            pairs.append((artifact.outputs[0].from_file(np.asarray(computed)), module(torch.from_numpy(x)).numpy()))
    actual, expected = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    return float(10 * np.log10(expected.var() / np.square(actual - expected).mean()))


@pytest.mark.parametrize("case", _COARSE)
def test_what_a_prescribed_scale_says_too_little_of_is_float(case: str, tmp_path: Path) -> None:
    module, result = _exported(_COARSE[case], tmp_path)
    assert min(_decibels(module, artifact) for artifact in result.artifacts) > 25
    assert [note for note in result.notes if "say too little of what" in note], result.notes
    plan = Plan.from_json((tmp_path / "net.int8.plan.json").read_text())
    assert plan.weights, plan.kept_float


@pytest.mark.parametrize("case", _FINE)
def test_where_the_steps_are_fine_integers_stay(case: str, tmp_path: Path) -> None:
    _, result = _exported(_FINE[case], tmp_path)
    assert not [note for note in result.notes if "say too little of what" in note], result.notes
