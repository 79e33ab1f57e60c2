"""A file that is more than a step from a model trained for int8 says so in its row, and what brings it nearer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn
from torch.ao import quantization
from torch.ao.quantization.quantize_fx import prepare_qat_fx
from torch.nn import functional

import edgeconv
from edgeconv.core import Artifact, Comparison, Fidelity, Verdict
from edgeconv.flow import prove
from edgeconv.flow.own_steps import told_steps
from edgeconv.progress import Silent
from edgeconv.quantize import with_integer_biases
from edgeconv.reference import evaluate


def _row(steps: dict[int, int], verdict: Verdict = Verdict.PASS) -> Comparison:
    return Comparison("m.int8.tflite", "litert", "y", None, Fidelity(), verdict, lsb=steps)


ARTIFACT = Artifact(Path("m.int8.tflite"), "tflite", "int8", "nhwc", "", (), ())


def test_more_than_a_step_is_told_with_the_key_that_mends_it() -> None:
    (row,) = told_steps([_row({0: 90, 1: 5, 2: 4, 3: 1})], [ARTIFACT], {"int8"})
    assert row.verdict is Verdict.PASS
    assert row.reason.startswith("up to 3 steps from the integers of the model, 5 % more than one: keep_float")


@pytest.mark.parametrize(
    ("row", "trained"),
    [
        (_row({0: 90, 1: 10}), {"int8"}),
        (_row({}), {"int8"}),
        (_row({0: 90, 2: 10}), set()),
        (_row({0: 90, 2: 10}, Verdict.FAIL), {"int8"}),
    ],
)
def test_nothing_else_is_told(row: Comparison, trained: set[str]) -> None:
    assert told_steps([row], [ARTIFACT], trained) == (row,)


def test_a_proof_tells_it_of_trained_variants_alone_and_tells_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    def told(
        rows: Sequence[Comparison], artifacts: Sequence[Artifact], trained: Collection[str]
    ) -> tuple[Comparison, ...]:
        asked.append({*trained})
        return told_steps(rows, artifacts, trained)

    monkeypatch.setattr(prove, "told_steps", told)
    x = torch.randn(1, 3, 8, 8)
    module = nn.Sequential(quantization.QuantStub(), nn.Conv2d(3, 4, 3)).train()
    module.qconfig = quantization.get_default_qat_qconfig("qnnpack")  # type: ignore[assignment]
    prepared = quantization.prepare_qat(module)
    prepared(x)
    prepared.eval().apply(quantization.disable_observer)
    options = {"name": "net", "variants": "int8", "formats": "tflite", "devices": ("litert",)}
    edgeconv.export(prepared, (x,), tmp_path / "trained", **options)
    (tmp_path / "trained" / "net.int8.plan.json").write_text("{}")  # left there by an export of the float module
    prove.repeat(tmp_path / "trained", devices=None, progress=Silent())
    data = edgeconv.Quantization(batches=lambda: [{"input": x.numpy()}])
    edgeconv.export(nn.Conv2d(3, 4, 3).eval(), (x,), tmp_path / "plan", quantization=data, **options)
    prove.repeat(tmp_path / "plan", devices=None, progress=Silent())
    assert asked == [{"int8"}, {"int8"}, set(), set()]


class _Mixer(nn.Module):
    """Linear layers, a LayerNorm before and behind them, and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(16, 32), nn.LayerNorm(32)
        self.wide, self.narrow = nn.Linear(32, 64), nn.Linear(64, 32)
        self.last_norm, self.last = nn.LayerNorm(32), nn.Linear(32, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.narrow(functional.relu(self.wide(self.norm(x))))
        result: torch.Tensor = self.last(self.last_norm(x))
        return result


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["qnnpack", "x86"])
def test_rounded_biases_are_all_that_is_off_in_linear_layers(backend: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    x = torch.randn(64, 5, 16)
    prepared: Any = prepare_qat_fx(_Mixer().train(), quantization.get_default_qat_qconfig_mapping(backend), (x,))
    for _ in range(4):
        prepared(torch.randn(64, 5, 16))
    prepared.eval().apply(quantization.disable_observer)
    result = edgeconv.export(prepared, (x,), tmp_path, name="net", variants="int8", formats=("onnx", "tflite"))
    (path,) = (artifact.path for artifact in result.artifacts if artifact.format == "onnx")
    (file,) = (artifact for artifact in result.artifacts if artifact.format == "tflite")
    interpreter = Interpreter(str(file.path), num_threads=1)
    (computed,) = interpreter.get_signature_runner()(**{file.inputs[0].name: x.numpy()}).values()
    graph, name = ir.load(path), file.outputs[0].name
    with_floats, with_integers = (
        evaluate(model, {file.inputs[0].name: x.numpy()}, keep=[name])[name]
        for model in (graph, with_integer_biases(graph))
    )
    step = np.diff(np.unique(computed)).min()
    assert np.abs(with_floats - computed).max() > step / 2  # a LayerNorm carries one number to its whole row
    np.testing.assert_allclose(computed, with_integers, rtol=0, atol=step / 1000)
