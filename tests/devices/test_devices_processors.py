"""int8 on processors whose kernels add two products in 16 bits: what a device tells of it, and what files make of it.

Which kernels run depends on the machine. Everything here holds on both kinds; what needs one of them says so.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from processors.hidden import environment_of, missing
from torch import nn

import edgeconv
from edgeconv.core import Artifact, Run, Sample
from edgeconv.devices import AGENT, DEVICES, INTEGER_KERNELS, SATURATING, Device, run_artifact
from edgeconv.devices._integer_probe import EXACT, integer_probe, read_probe

needs_hidden_instructions = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def older(without_cpuid: Path) -> Mapping[str, Device]:
    """ONNX Runtime and LiteRT on processors with AVX2 and no more, and with SSE and no more, by name."""
    devices = [
        _hidden(f"{runtime}-{processor}", runtime, format_, environment_of(processor, without_cpuid))
        for runtime, format_ in (("onnxruntime", "onnx"), ("litert", "tflite"))
        for processor in ("avx2", "sse")
    ]
    return {device.name: device for device in devices}


def _hidden(name: str, runtime: str, format_: str, variables: Mapping[str, str]) -> Device:
    command = ["env", *(f"{key}={value}" for key, value in variables.items()), sys.executable, "-P", str(AGENT)]
    return Device(name, f"{runtime} as on another processor", (format_,), lambda: [*command, runtime, "--threads", "1"])


def _samples(seed: int, count: int = 2) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [Sample(f"{index}", {"x": rng.standard_normal((1, 3, 16, 16), np.float32)}) for index in range(count)]


def _exported(out: Path, *, pair_safe: bool) -> Artifact:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 8, 1),
    ]
    quantization = edgeconv.Quantization(
        batches=lambda: [dict(sample.inputs) for sample in _samples(1, 6)], pair_safe=pair_safe, rounding="nearest"
    )
    made = edgeconv.export(
        nn.Sequential(*layers).eval(),
        (torch.zeros(1, 3, 16, 16),),
        out,
        name="net",
        formats="onnx",
        variants="int8",
        input_names=["x"],
        quantization=quantization,
    )
    (artifact,) = made.artifacts
    return artifact


def _outputs(run: Run) -> np.ndarray:
    assert run.reason == ""
    return np.stack([outputs["output"] for outputs in run.outputs])


def _run(device: Device, artifact: Artifact, samples: Sequence[Sample], **how: bool) -> Run:
    return run_artifact(device, artifact, samples, timeout_s=300.0, **how)


def test_a_probe_is_read_as_what_its_kernels_do() -> None:
    _, inputs = integer_probe()
    assert {name: (array.dtype.name, int(array.min())) for name, array in inputs.items()} == {"a": ("uint8", 255)}
    assert read_probe([np.full((8, 32), 127, np.uint8)]) == EXACT
    assert read_probe([np.full((8, 32), 64, np.uint8)]) == SATURATING
    assert read_probe([np.array([3, 127], np.uint8)]) == "unknown: the probe gave [3, 127]"
    assert read_probe([]) == "unknown: the probe gave []"


def test_onnxruntime_tells_of_its_integer_kernels_where_a_file_is_of_integers(tmp_path: Path) -> None:
    artifact = _exported(tmp_path, pair_safe=True)
    run = _run(DEVICES["onnxruntime"], artifact, _samples(7))
    has_vnni = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(run.environment["instructions"].split())
    is_x86 = run.environment["machine"] in ("x86_64", "AMD64")
    assert run.environment[INTEGER_KERNELS] == (EXACT if has_vnni or not is_x86 else SATURATING)


def test_unfused_and_fused_files_agree_within_a_step(tmp_path: Path) -> None:
    artifact = _exported(tmp_path, pair_safe=True)
    fused, unfused = (
        _run(DEVICES["onnxruntime"], artifact, _samples(7), optimized=optimized) for optimized in (True, False)
    )
    steps = np.unique(np.abs(np.diff(np.unique(_outputs(unfused)))))
    assert np.abs(_outputs(fused) - _outputs(unfused)).max() <= 1.01 * steps.min()


@needs_hidden_instructions
def test_pair_safe_files_compute_the_same_bits_on_avx2_and_others_do_not(
    tmp_path: Path, older: Mapping[str, Device]
) -> None:
    native, avx2, samples = DEVICES["onnxruntime"], older["onnxruntime-avx2"], _samples(7)
    safe, plain = (_exported(tmp_path / str(pair_safe), pair_safe=pair_safe) for pair_safe in (True, False))
    run = _run(avx2, safe, samples)
    assert run.environment[INTEGER_KERNELS] == SATURATING
    np.testing.assert_array_equal(_outputs(run), _outputs(_run(native, safe, samples)))
    exact = _outputs(_run(native, plain, samples, optimized=False))
    error = np.abs(_outputs(_run(avx2, plain, samples)) - exact).max()
    assert error > 20 * np.abs(_outputs(run) - _outputs(_run(native, safe, samples, optimized=False))).max()


@needs_hidden_instructions
def test_a_row_that_misses_by_saturation_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: Mapping[str, Device]
) -> None:
    result = _proven(tmp_path, monkeypatch, older, _RECIPE)
    assert result.report is not None
    (row,) = result.report.comparisons
    assert "SQNR is" in row.reason
    assert "with graph optimization off the same file holds" in row.reason
    assert "the integer kernels of this processor saturate; export with pair_safe = true" in row.reason
    assert any("saturate in 0" in note for note in result.notes)


@needs_hidden_instructions
@pytest.mark.parametrize("processor", ["avx2", "sse"])
def test_links_hold_on_the_kernels_of_older_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: Mapping[str, Device], processor: str
) -> None:
    recipe = _RECIPE.replace("pair_safe = false", "")
    recipe = recipe.replace('["onnx"]', '["onnx", "tflite"]').replace('["int8"]', '["fp32", "fp16", "int8"]')
    recipe = recipe.replace('["onnxruntime-avx2"]', f'["onnxruntime-{processor}", "litert-{processor}"]')
    result = _proven(tmp_path, monkeypatch, older, recipe)
    assert result.report is not None
    assert len(result.report.comparisons) == 6
    assert [row.reason for row in result.report.comparisons if row.verdict != "pass"] == []


def _proven(
    folder: Path, monkeypatch: pytest.MonkeyPatch, devices: Mapping[str, Device], recipe: str
) -> edgeconv.ExportResult:
    for name, device in devices.items():
        monkeypatch.setitem(DEVICES, name, device)
    monkeypatch.syspath_prepend(str(folder))
    (folder / "saturating_net.py").write_text(_MODULE)
    path = folder / "recipe.toml"
    path.write_text(recipe)
    return edgeconv.export_recipe(edgeconv.load_recipe(path), folder / "out")


_MODULE = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 1))
"""
_RECIPE = """
name = "net"

[model]
factory = "saturating_net:make"

[[inputs]]
name = "x"
shape = [1, 3, 16, 16]

[export]
formats = ["onnx"]
variants = ["int8"]

[parity]
devices = ["onnxruntime-avx2"]

[parity.fidelity.int8]
sqnr_db = 27.0

[[parity.random]]
seed = 1

[quantize]
pair_safe = false

[[quantize.random]]
seed = 2
count = 8
"""
