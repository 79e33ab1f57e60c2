"""A runtime that is wrong where the user's inputs do not reach is found by inputs that are derived from the graph."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import edgeconv
from edgeconv.core import Comparison, Verdict
from edgeconv.devices import find
from edgeconv.flow import judge
from edgeconv.flow.prove import repeat
from edgeconv.flow.record import read_report
from edgeconv.parity import Golden, load_golden
from edgeconv.progress import Silent

# A runtime that reads another number than the file has.
_FAULTY = """
import sys
from edgeconv.devices import agent
runtime, right, wrong = sys.argv[1], bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
class Faulty(agent.RUNTIMES[runtime]):
    def load(self, model, **fields):
        assert model.count(right) == 1, model.count(right)
        return super().load(model.replace(right, wrong), **fields)
agent.RUNTIMES[runtime] = Faulty
sys.exit(agent.main([runtime]))
"""


class _Bent(torch.nn.Module):
    """An activation between two convolutions; the numbers before it are positive, and below 6, for noise."""

    def __init__(self, activation: torch.nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 1)
        self.activation = activation
        with torch.no_grad():
            self.first.weight *= 0.3
            self.first.bias.fill_(3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.activation(self.first(x)))
        return y


def _ceiling() -> torch.nn.Module:
    return torch.nn.Hardtanh(0.0, 6.125)


def _slope() -> torch.nn.Module:
    return torch.nn.LeakyReLU(0.2421875)


_PLACES = [
    pytest.param(_ceiling, 6.125, 6.25, "onnx", "onnxruntime", id="a ceiling, onnxruntime"),
    pytest.param(_slope, 0.2421875, 0.25, "onnx", "onnxruntime", id="a slope, onnxruntime"),
    pytest.param(_slope, 0.2421875, 0.25, "tflite", "litert", id="a slope, XNNPACK"),
    pytest.param(_slope, 0.2421875, 0.25, "tflite", "litert-reference", id="a slope, reference kernels"),
]


@pytest.mark.parametrize(("activation", "right", "wrong", "file_format", "device"), _PLACES)
def test_a_kernel_that_is_wrong_beyond_the_users_inputs_is_found_by_derived_ones_alone(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    activation: Callable[[], torch.nn.Module],
    right: float,
    wrong: float,
    file_format: str,
    device: str,
) -> None:
    numbers = [np.float32(number).tobytes().hex() for number in (right, wrong)]
    faulty = replace(find(device), command=lambda: [sys.executable, "-c", _FAULTY, device, *numbers])
    monkeypatch.setattr(judge, "find", lambda name: faulty)
    x = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))

    def row() -> Comparison:
        module = _Bent(activation()).eval()
        result = edgeconv.export(module, (x,), tmp_path / "net", name="net", formats=file_format, devices=device)
        assert result.report is not None
        return next(row for row in result.report.comparisons if row.artifact)

    found = row()
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith("link 4 (running) breaks: layer ")
    assert ", input derived (" in found.reason
    assert all(sample.verdict is Verdict.PASS for sample in found.samples), "no input of the user's shows it"
    monkeypatch.setattr(Golden, "probes", lambda golden, variant: ())
    assert row().verdict is Verdict.PASS


def test_the_report_tells_what_derived_inputs_reach_and_proving_again_uses_them(tmp_path: Path) -> None:
    module, x = _Bent(_ceiling()).eval(), torch.randn(1, 3, 24, 24)
    edgeconv.export(module, (x,), tmp_path, name="net", variants=("fp32", "fp16"), devices=("onnxruntime", "litert"))
    report = read_report(tmp_path)
    for artifact in report.artifacts:
        assert artifact.coverage is not None
        assert artifact.coverage.derived == artifact.coverage.unreached != ()
    assert set(load_golden(tmp_path / "net.golden.safetensors").derived) == {"fp32", "fp16"}
    page = (tmp_path / "parity.html").read_text()
    assert "Inputs derived from the graph reach 2 of these 2 parts" in page
    repeat(tmp_path, devices=None, progress=Silent())
    again = read_report(tmp_path)
    before = [link.layers for row in report.comparisons for link in row.links]
    assert [link.layers for row in again.comparisons for link in row.links] == before
