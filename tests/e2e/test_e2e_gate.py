"""Artifacts that are wrong on purpose must not pass the gate.

Each test exports the block small, puts a wrong artifact in the place of the right one, makes the report speak of the
wrong one's checksum (as it would, had the export itself made it), and repeats the proof.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from onnx import numpy_helper

import edgeconv
from edgeconv.cli import run
from edgeconv.flow.prove import repeat
from edgeconv.flow.source import TorchSource
from edgeconv.progress import Silent
from edgeconv.recipe import build_module

RECIPE = """
name = "block"
[model]
factory = "edgeconv.nn:DepthwiseSeparableConv"
args = { in_channels = 3, out_channels = 8 }
[model.warmup]
seed = 1
[[inputs]]
name = "input"
shape = [1, 3, 32, 32]
[outputs]
names = ["output"]
[parity]
devices = ["onnxruntime", "litert"]
tolerance = { atol = 2e-6, rtol = 0.0 }
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    (folder / "block.toml").write_text(RECIPE)
    assert run(["export", str(folder / "block.toml"), "--out", str(folder / "out"), "-q"]) == 0
    return folder / "out" / "block"


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "block"))


def _forge(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    assert path.read_bytes() != data
    path.write_bytes(data)
    report = json.loads((folder / "parity.json").read_text())
    (entry,) = [item for item in report["artifacts"] if item["file"] == name]
    entry["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "parity.json").write_text(json.dumps(report))


def _onnx_initializer(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    (tensor,) = [item for item in model.graph.initializer if item.name == name]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


def _slope(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "LeakyRelu":
            node.attribute[0].f = 0.01


def _channels_swapped(model: onnx.ModelProto) -> None:
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    for name in last.input[1:]:
        _onnx_initializer(model, name, lambda array: array[[1, 0, *range(2, len(array))]])


def _padding_shifted(model: onnx.ModelProto) -> None:
    pads = next(item for item in model.graph.node[0].attribute if item.name == "pads")
    pads.ints[:] = [0, 0, 2, 2]


@pytest.mark.parametrize("spoil", [_slope, _channels_swapped, _padding_shifted])
def test_a_wrong_onnx_file_fails_the_report(folder: Path, spoil: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / "block.fp32.onnx")
    spoil(model)
    _forge(folder, "block.fp32.onnx", model.SerializeToString())
    assert run(["parity", str(folder), "-q"]) == 1
    report = json.loads((folder / "parity.json").read_text())
    assert report["verdict"] == "fail"
    verdicts = {(row["artifact"], row["device"]): row["verdict"] for row in report["comparisons"]}
    assert verdicts["block.fp32.onnx", "onnxruntime"] == "fail"
    assert verdicts["block.fp32.tflite", "litert"] == "pass"
    assert "failure" in (folder / "parity.junit.xml").read_text()


def _tflite(folder: Path, spoil: Callable[[schema.ModelT], None]) -> bytes:
    model = schema.ModelT.InitFromPackedBuf((folder / "block.fp32.tflite").read_bytes(), 0)
    spoil(model)
    builder = Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tflite_slope(model: schema.ModelT) -> None:
    for operator in model.subgraphs[0].operators:
        if isinstance(operator.builtinOptions, schema.LeakyReluOptionsT):
            operator.builtinOptions.alpha = 0.01


def _tflite_channels(model: schema.ModelT) -> None:
    last = [op for op in model.subgraphs[0].operators if isinstance(op.builtinOptions, schema.Conv2DOptionsT)][-1]
    for index in last.inputs[1:]:
        tensor = model.subgraphs[0].tensors[index]
        buffer = model.buffers[tensor.buffer]
        array = np.frombuffer(bytes(buffer.data), np.float32).reshape(tensor.shape)
        buffer.data = np.frombuffer(array[[1, 0, *range(2, len(array))]].tobytes(), np.uint8)


def _tflite_padding(model: schema.ModelT) -> None:
    """The explicit pad of a strided convolution moved by one: (1 before, 0 after) becomes (0, 1)."""
    graph = model.subgraphs[0]
    pad = next(op for op in graph.operators if isinstance(op.builtinOptions, schema.PadOptionsT))
    buffer = model.buffers[graph.tensors[pad.inputs[1]].buffer]
    amounts = np.frombuffer(bytes(buffer.data), np.int32).reshape(4, 2).copy()
    assert amounts[1:3].tolist() == [[1, 0], [1, 0]]
    amounts[1:3] = [0, 1]
    buffer.data = np.frombuffer(amounts.tobytes(), np.uint8)


def test_a_tflite_file_with_shifted_padding_fails_the_report(tmp_path: Path) -> None:
    """Of a stride of 2, whose symmetric padding TFLite's SAME is not: the slip that converters make."""
    text = RECIPE.replace("out_channels = 8", "out_channels = 8, stride = 2")
    (tmp_path / "block.toml").write_text(text)
    assert run(["export", str(tmp_path / "block.toml"), "--out", str(tmp_path), "-q"]) == 0
    folder = tmp_path / "block"
    _forge(folder, "block.fp32.tflite", _tflite(folder, _tflite_padding))
    assert run(["parity", str(folder), "-q"]) == 1


@pytest.mark.parametrize("spoil", [_tflite_slope, _tflite_channels])
def test_a_wrong_tflite_file_fails_the_report(folder: Path, spoil: Callable[[schema.ModelT], None]) -> None:
    _forge(folder, "block.fp32.tflite", _tflite(folder, spoil))
    assert run(["parity", str(folder), "-q"]) == 1


def test_a_dropped_batch_norm_eps_fails_the_report(folder: Path, good: Path, tmp_path: Path) -> None:
    recipe = edgeconv.load_recipe(good.parents[1] / "block.toml")
    module = build_module(recipe)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eps = 0.0
    wrong = edgeconv.export(
        module,
        (torch.zeros(1, 3, 32, 32),),
        tmp_path / "wrong",
        name="block",
        input_names=("input",),
        output_names=("output",),
    )
    for artifact in wrong.artifacts:
        _forge(folder, artifact.path.name, artifact.path.read_bytes())
    assert run(["parity", str(folder), "-q"]) == 1
    report = json.loads((folder / "parity.json").read_text())
    assert {row["verdict"] for row in report["comparisons"]} == {"fail"}


def test_the_untouched_folder_passes_again(folder: Path) -> None:
    assert run(["parity", str(folder), "-q"]) == 0


def test_an_artifact_that_changed_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "parity.json").read_bytes()
    with (folder / "block.fp32.onnx").open("ab") as file:
        file.write(b"\0")
    assert run(["parity", str(folder), "-q"]) == 2
    told = capsys.readouterr().err
    assert "block.fp32.onnx: changed since its report" in told
    assert len(told.splitlines()) == 1
    assert (folder / "parity.json").read_bytes() == before


def test_a_corrupt_artifact_is_a_failed_row(folder: Path) -> None:
    data = (folder / "block.fp32.tflite").read_bytes()
    _forge(folder, "block.fp32.tflite", data[: len(data) // 2])
    assert run(["parity", str(folder), "-q"]) == 1
    report = json.loads((folder / "parity.json").read_text())
    (row,) = [row for row in report["comparisons"] if row["device"] == "litert"]
    assert row["verdict"] == "fail"
    assert row["reason"]


def test_rows_of_devices_that_are_not_asked_for_stay(folder: Path) -> None:
    before = json.loads((folder / "parity.json").read_text())["comparisons"]
    assert run(["parity", str(folder), "--device", "litert", "--device", "litert-reference", "-q"]) == 0
    after = json.loads((folder / "parity.json").read_text())["comparisons"]
    assert {(row["device"], row["artifact"]) for row in after} == {
        ("onnxruntime", "block.fp32.onnx"),
        ("litert", "block.fp32.tflite"),
        ("litert-reference", "block.fp32.tflite"),
    }
    (old,) = [row for row in before if row["device"] == "onnxruntime"]
    assert old in after


def test_another_folder_can_take_the_new_report(folder: Path, tmp_path: Path) -> None:
    before = _report_files(folder)
    assert run(["parity", str(folder), "--out", str(tmp_path / "new"), "-q"]) == 0
    assert _report_files(folder) == before
    assert set(_report_files(tmp_path / "new" / "block")) == {"parity.json", "parity.html", "parity.junit.xml"}


def _report_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("parity.*")}


class _Halves(torch.nn.Module):
    """Numbers in one half of its output, infinities in the other."""

    divisor: torch.Tensor

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor([factor, 1.0]))
        self.register_buffer("divisor", torch.tensor([1.0, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor / self.divisor


def test_infinite_values_hide_no_other_module(tmp_path: Path) -> None:
    x = torch.tensor([[1.5, -2.0]])
    result = edgeconv.export(_Halves(2.0), (x,), tmp_path, name="halves", formats="onnx", devices="onnxruntime")
    assert result.report is not None
    assert result.report.verdict is edgeconv.Verdict.PASS
    for factor, same in ((2.0, True), (2.0 + 1e-6, False)):
        source = TorchSource(_Halves(factor), (x,), ("x",), (), "here", ())
        with nullcontext() if same else pytest.raises(edgeconv.ParityError, match="does not give these values"):
            repeat(tmp_path, devices=None, source=source, progress=Silent())


class _Detector(torch.nn.Module):
    """Boxes of 0 to some hundreds of pixels, joined with scores of 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.LeakyReLU(0.1))
        self.box, self.cls = torch.nn.Conv2d(16, 4, 1), torch.nn.Conv2d(16, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return torch.cat([self.box(y).relu().flatten(2) * 200, self.cls(y).sigmoid().flatten(2)], 1).transpose(1, 2)


def test_scores_that_a_joint_scale_makes_zero_fail_a_detector(tmp_path: Path) -> None:
    """The signal-to-noise ratio of the whole output is good: boxes in pixels hide what became of the scores."""
    torch.manual_seed(0)
    module = _Detector().eval()
    data = [{"x": torch.randn(1, 3, 16, 16).numpy()} for _ in range(4)]

    def rows(plan: str) -> list[edgeconv.Comparison]:
        result = edgeconv.export(
            module, (torch.zeros(1, 3, 16, 16),), tmp_path, name="detector", variants="int8", input_names=["x"],
            output_names=["y"], devices=("onnxruntime", "litert"),
            samples=[edgeconv.Sample(f"image-{index}", sample) for index, sample in enumerate(data)],
            quantization=edgeconv.Quantization(batches=lambda: data, plan=plan),
        )  # fmt: skip
        assert result.report is not None
        return [row for row in result.report.comparisons if row.artifact]

    apart = rows("")
    assert [(row.verdict.value, dict(row.parts)) for row in apart] == [("pass", {"all": 2, "lost": 0})] * 2
    plan = json.loads((tmp_path / "detector.int8.plan.json").read_text())
    plan["tensors"] |= dict.fromkeys(plan["kept_float"], plan["tensors"]["mul"])
    plan["kept_float"] = {}
    for row in rows(json.dumps(plan)):
        assert row.metrics is not None
        assert row.metrics.sqnr_db > 20, "the boxes alone"
        assert row.verdict.value == "fail"
        assert "parts of the output say nothing, at most 0 may; what says nothing is channels " in row.reason
    assert run(["parity", str(tmp_path), "-q"]) == 1, "the folder alone says so, too"
