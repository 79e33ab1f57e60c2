"""A runtime that is wrong where the user's inputs do not reach is found by inputs that are derived from the graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_stages import OneSided, reading_other_numbers

import edgeconv
from edgeconv.core import Comparison, Verdict
from edgeconv.devices import find
from edgeconv.flow import judge
from edgeconv.flow.prove import repeat
from edgeconv.flow.record import read_report
from edgeconv.parity import Golden, load_golden
from edgeconv.progress import Silent


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
    faulty = reading_other_numbers(find(device), np.float32(right), np.float32(wrong), tmp_path)
    monkeypatch.setattr(judge, "find", lambda name: faulty)
    x = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))

    def row() -> Comparison:
        module = OneSided(activation()).eval()
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
    module, x = OneSided(_ceiling()).eval(), torch.randn(1, 3, 24, 24)
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
