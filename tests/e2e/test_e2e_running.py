"""A runtime that computes something else than the file says is found, and its layer is named; a right one never is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from crossed import diagonal
from onnx import numpy_helper
from planted_stages import reading_other_numbers

import edgeconv
from edgeconv.core import Array, Artifact, Comparison, Run, Sample, Tolerance, Verdict
from edgeconv.core.verdicts import Link, LinkResult
from edgeconv.devices import Device, Sessions, _run, find
from edgeconv.flow import judge
from edgeconv.flow.proof import Proof
from edgeconv.flow.prove import repeat
from edgeconv.flow.record import read_report
from edgeconv.flow.running import judged_running
from edgeconv.nn import MobileNetDSC
from edgeconv.parity import load_golden
from edgeconv.parity.running._onnx import OnnxFile
from edgeconv.parity.running._tflite import TfliteFile
from edgeconv.progress import Silent
from edgeconv.reference.tflite import read

_PLACES = [
    ("mobilenet.fp32.onnx", "onnxruntime"),
    ("mobilenet.fp16.onnx", "onnxruntime"),
    ("mobilenet.fp32.tflite", "litert"),
    ("mobilenet.fp32.tflite", "litert-reference"),
    ("mobilenet.fp32.tflite", "tflite-runtime"),
    ("mobilenet.fp16.tflite", "litert"),
]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    """Files of a network of 28 layers of convolution, by name."""
    torch.manual_seed(0)
    module = MobileNetDSC(num_classes=10, width=0.25).eval()
    result = edgeconv.export(
        module,
        (torch.randn(1, 3, 64, 64),),
        tmp_path_factory.mktemp("running"),
        name="mobilenet",
        variants=("fp32", "fp16"),
    )
    return {artifact.path.name: artifact for artifact in result.artifacts}


def _samples(artifact: Artifact) -> tuple[Sample, ...]:
    rng = np.random.default_rng(5)
    name = artifact.inputs[0].name
    return tuple(Sample(str(at), {name: rng.standard_normal((1, 3, 64, 64)).astype(np.float32)}) for at in range(3))


def _link(device: Device, artifact: Artifact) -> LinkResult:
    """The link as an export judges it."""
    samples = _samples(artifact)
    row = Comparison(artifact.path.name, device.name, "output", None, Tolerance(), Verdict.PASS)
    with Sessions() as sessions:
        run = sessions.run(device, artifact, samples, timeout_s=60)
        assert run.verdict is Verdict.PASS, run.reason
        return judged_running(sessions, device, artifact, samples, run, [row], timeout_s=60)


def _weights(path: Path) -> dict[str, Array]:
    """The weights of convolutions as the file stores them, by the value that they give."""
    if path.suffix == ".onnx":
        graph = onnx.load(path).graph
        constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        return {node.output[0]: constants[node.input[1]] for node in graph.node if node.op_type == "Conv"}
    read_graph = read(path)
    stored = {at: tensor.data for at, tensor in enumerate(read_graph.tensors) if tensor.data is not None}
    halves = {item.outputs[0]: item.inputs[0] for item in read_graph.operators if item.name == "DEQUANTIZE"}
    weights = {}
    for operator in read_graph.operators:
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            at = operator.inputs[1]
            weights[read_graph.tensors[operator.outputs[0]].name] = stored[halves.get(at, at)]
    return weights


@pytest.mark.parametrize(("name", "device"), _PLACES)
def test_a_right_runtime_is_within_its_bounds_and_uses_them(
    artifacts: Mapping[str, Artifact], name: str, device: str
) -> None:
    link = _link(find(device), artifacts[name])
    assert link.verdict is Verdict.PASS, link.reason
    assert link.used is not None
    assert 0.05 < link.used <= 1
    assert link.sqnr_db is not None
    assert link.sqnr_db > (130 if "fp32" in name or device == "litert" else 70)


@pytest.mark.parametrize(("name", "device", "depth"), diagonal(_PLACES[:4], [0, 9, 20, 26]))
def test_a_fault_of_a_runtime_is_found_in_its_layer(
    artifacts: Mapping[str, Artifact], name: str, device: str, depth: int, tmp_path: Path
) -> None:
    layer, right = list(_weights(artifacts[name].path).items())[depth]
    wrong = right.copy()
    wrong[0] = np.roll(wrong[0], 1, -1) if wrong.shape[-1] > 1 else -wrong[0]
    link = _link(reading_other_numbers(find(device), right, wrong, tmp_path), artifacts[name])
    assert link.verdict is Verdict.FAIL
    assert link.used is not None
    assert link.used > 1
    # A piece has the name of its last value: the convolution's own, or that of the activation behind it.
    assert link.where.rpartition(".")[0] == layer.rpartition(".")[0]
    assert f"layer {link.where} (" in link.reason
    assert "times its bound" in link.reason


def test_a_broken_link_fails_the_row_in_one_line(
    monkeypatch: pytest.MonkeyPatch, artifacts: Mapping[str, Artifact], tmp_path: Path
) -> None:
    artifact = artifacts["mobilenet.fp32.onnx"]
    layer, right = list(_weights(artifact.path).items())[12]
    device = reading_other_numbers(find("onnxruntime"), right, -right, tmp_path)
    monkeypatch.setattr(judge, "find", lambda name: device)
    torch.manual_seed(0)
    result = edgeconv.export(
        MobileNetDSC(num_classes=10, width=0.25).eval(),
        (torch.randn(1, 3, 64, 64),),
        tmp_path / "out",
        name="mobilenet",
        formats="onnx",
        devices="onnxruntime",
    )
    assert result.report is not None
    (row,) = [row for row in result.report.comparisons if row.artifact]
    assert row.verdict is Verdict.FAIL
    assert row.links, row.reason
    assert [link.link for link in row.links] == [Link.RUNNING]
    assert "link 4 (running) breaks: layer features" in row.reason
    assert "\n" not in row.reason
    assert layer.rpartition(".")[0] in row.reason


def test_what_a_runtime_cannot_tell_is_no_verdict(artifacts: Mapping[str, Artifact]) -> None:
    """A runtime whose outputs change whatever it tells, as one that fuses everything would."""
    artifact = artifacts["mobilenet.fp32.onnx"]
    samples = _samples(artifact)
    row = Comparison(artifact.path.name, "onnxruntime", "output", None, Tolerance(), Verdict.PASS)
    with Sessions() as sessions:
        run = sessions.run(find("onnxruntime"), artifact, samples, timeout_s=60)
        outputs = tuple({name: array + 1 for name, array in output.items()} for output in run.outputs)
        judged = partial(judged_running, sessions, find("onnxruntime"), artifact, samples, timeout_s=60)
        link = judged(Run(run.device, run.artifact, outputs, environment=run.environment), [row])
    assert link.verdict is Verdict.SKIPPED
    assert "computes otherwise" in link.reason


@pytest.mark.parametrize(("name", "device"), _PLACES[:1] + _PLACES[2:3])
@pytest.mark.parametrize("remembers", [False, True])
def test_a_device_loads_a_probe_once_unless_its_runs_follow_from_each_other(
    name: str, device: str, remembers: bool, artifacts: Mapping[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[bool] = []
    run_probe = Sessions.run_probe

    def counted(
        self: Sessions, device: Device, artifact: Artifact, probe: bytes | None, *args: Any, **rest: Any
    ) -> Any:
        probes.append(probe is not None)
        return run_probe(self, device, artifact, probe, *args, **rest)

    monkeypatch.setattr(Sessions, "run_probe", counted)
    for file in (TfliteFile, OnnxFile):
        monkeypatch.setattr(file, "remembers", remembers)
    assert _link(find(device), artifacts[name]).verdict is Verdict.PASS
    assert probes == [True, remembers]


class _OntoLarge(torch.nn.Module):
    """A small sum of 144 products is added to a number that is thousands of times as large."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.large = torch.nn.Conv2d(16, 16, 1)
        with torch.no_grad():
            self.large.weight *= 3000

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(torch.relu(x)) + torch.relu(self.large(x))
        return y


def test_a_convolution_that_begins_with_what_is_added_is_right(tmp_path: Path) -> None:
    """ONNX Runtime's kernels add up onto the other operand of a sum that follows."""
    x = torch.randn(1, 16, 40, 40)
    result = edgeconv.export(_OntoLarge().eval(), (x,), tmp_path, name="sum", formats="onnx", devices="onnxruntime")
    assert result.report is not None
    (link,) = [link for row in result.report.comparisons for link in row.links]
    assert link.verdict is Verdict.PASS, link.reason


def _beyond(folder: Path) -> Path:
    """A report of a network that loses 80 dB of float32 by cancellation."""
    sample = Sample("large", {"x": 1e4 * torch.randn(1, 16, 40, 40).numpy()})
    devices = ("torch", "onnxruntime", "litert")
    module, arguments = _OntoLarge().eval(), (torch.randn(1, 16, 40, 40),)
    edgeconv.export(module, arguments, folder, name="sum", devices=devices, samples=[sample])
    return folder


def test_where_nobody_states_a_tolerance_the_default_gives_way_to_what_float32_is_off(tmp_path: Path) -> None:
    rows = read_report(_beyond(tmp_path)).comparisons
    assert {row.device for row in rows} == {"torch", "onnxruntime", "litert"}
    for row in rows:
        assert row.verdict is Verdict.PASS, row.reason
        assert re.match(r"up to [\d.e+]+ times the default tolerance.*float32 itself is this far off", row.reason)
        assert max(sample.excess for sample in row.samples) <= 1


def test_a_row_beyond_a_stated_tolerance_whose_links_hold_is_told_as_the_precision_of_float32(tmp_path: Path) -> None:
    proof = Proof(load_golden(_beyond(tmp_path) / "sum.golden.safetensors").samples, tolerance=Tolerance(1e-6, 1e-5))
    report = repeat(tmp_path, devices=None, progress=Silent(), make_proof=lambda _: proof)
    own, *rows = report.comparisons
    assert own.device == "torch"
    assert len(rows) == 2
    for row in rows:
        assert row.verdict is Verdict.FAIL
        assert [link.verdict for link in row.links] == [Verdict.PASS]
        assert "the file is right; float32 itself is this far off for this network" in row.reason


class _SmallScores(torch.nn.Module):
    """Scores of 1e-5: onnxruntime's sigmoid adds a rational function to 0.5, and is 1e-7 off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        torch.nn.init.constant_(self.conv.bias, -13.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.conv(x))


def test_a_runtime_that_is_beyond_the_outputs_own_scale_while_every_link_holds_is_told_and_passes(
    tmp_path: Path,
) -> None:
    module, x = _SmallScores().eval(), torch.randn(1, 3, 16, 16)
    edgeconv.export(module, (x,), tmp_path, name="scores", devices=("onnxruntime", "litert"))
    for report in (read_report(tmp_path), repeat(tmp_path, devices=None, progress=Silent())):
        onnxruntime, litert = report.comparisons
        assert (onnxruntime.verdict, litert.verdict) == (Verdict.PASS, Verdict.PASS)
        assert "times what its own scale allows" in onnxruntime.reason
        assert onnxruntime.reason.endswith("every link holds: the file is right")
        assert litert.reason == ""
        assert all(group.used < 1 for group in litert.groups)


class _Interpolated(torch.nn.Module):
    """An image resized in some way: onnxruntime computes it of float32, whose rounding to halves it leaves out."""

    def __init__(self, mode: str, *, aligned: bool) -> None:
        super().__init__()
        self.mode, self.aligned = mode, aligned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, scale_factor=2, mode=self.mode, align_corners=self.aligned)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_images_that_are_resized_of_unrounded_halves_are_right(mode: str, aligned: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    exported = edgeconv.export(
        _Interpolated(mode, aligned=aligned).eval(),
        (torch.randn(1, 3, 16, 16),),
        tmp_path,
        name="resized",
        formats="onnx",
        variants="fp16",
        devices="onnxruntime",
    )
    assert exported.report is not None
    (link,) = (link for row in exported.report.comparisons if row.artifact for link in row.links)
    assert link.verdict is Verdict.PASS, link.reason
    assert "Resize" not in link.reason.partition("; ")[2]  # of what could not be judged


class Squares(torch.nn.Module):
    """Sums and means of the squares of two rows: few enough terms that a rounding more is seen."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.square().sum(2), (x * x).mean(2), (x * x).sum(1)


def test_squares_that_are_added_up_unrounded_are_right(tmp_path: Path) -> None:
    """XNNPACK makes one operator of both, whose squares are never rounded: 1.05 times a bound of rounded ones."""
    sample = torch.randn(1, 2, 2, 400, generator=torch.Generator().manual_seed(0))
    result = edgeconv.export(
        Squares(), (sample,), tmp_path, name="squares", formats="tflite", devices=("litert", "litert-reference")
    )
    assert result.report is not None
    links = [link for row in result.report.comparisons for link in row.links]
    assert {link.verdict for link in links if link.link is Link.RUNNING} == {Verdict.PASS}
    assert result.report.verdict is Verdict.PASS


def test_a_file_runs_in_the_process_that_runs_its_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer to start a runtime than to run most files: the source, its neighbours and the file written."""
    started: list[str] = []
    start = _run.start
    monkeypatch.setattr(_run, "start", lambda device: started.append(device.name) or start(device))
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    result = edgeconv.export_onnx(
        tmp_path / "net.onnx", tmp_path / "out", name="net", formats="onnx", devices="onnxruntime"
    )
    assert result.report is not None
    assert [row.artifact for row in result.report.comparisons] == ["", "net.fp32.onnx"]
    assert started == ["onnxruntime"]
