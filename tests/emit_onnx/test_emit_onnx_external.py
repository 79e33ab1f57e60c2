"""Weights that one file cannot hold: beside the ``.onnx`` file, and refused for TFLite.

The limit is lowered, so that kilobytes stand for gigabytes. Kinds thought of: fp32 beside the file, float16 that fits
into it again, another opset, shared weights, a folder that was moved, a second export over the first (with
none beside the file, over a stranger's file of that name), weights that were changed, lost or a link, the bench.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import edgeconv
from edgeconv.bench import read_file
from edgeconv.cli import run
from edgeconv.core import DATA_SUFFIX
from edgeconv.emit import tflite
from edgeconv.emit.onnx import _external
from edgeconv.progress import Silent
from edgeconv.report import from_json


class Net(nn.Module):
    """A convolution that is small, and one matrix that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 8, 3, 2), nn.Linear(72, 72)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu().flatten(1)
        return self.wide(self.wide(x).relu())


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_external, tflite):
        monkeypatch.setattr(module, "LARGEST_FILE_BYTES", 16 * 2**10)  # the matrix takes 20 KiB, and 10 in float16


@pytest.mark.parametrize("opset", [18, 13, 21])
def test_weights_lie_beside_the_file(net: nn.Module, tmp_path: Path, opset: int) -> None:
    result = edgeconv.export(
        net, (X,), tmp_path / "out", name="net", formats="onnx", variants=("fp32", "fp16"), devices="onnxruntime",
        opset=opset,
    )  # fmt: skip
    assert result.report is not None
    assert [row.verdict.value for row in result.report.comparisons if row.artifact] == ["pass", "pass"]
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if ".onnx" in path.name)
    assert names == ["net.fp16.onnx", "net.fp32.onnx", f"net.fp32.onnx{DATA_SUFFIX}"]
    size = result.artifacts[0].size_bytes
    assert size == sum(path.stat().st_size for path in (tmp_path / "out").glob("net.fp32.onnx*"))
    moved = shutil.copytree(tmp_path / "out", tmp_path / "elsewhere") / "net.fp32.onnx"
    onnx.checker.check_model(str(moved), full_check=True)
    session = onnxruntime.InferenceSession(str(moved), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    np.testing.assert_allclose(y, net(X).detach().numpy(), atol=1e-5)
    assert onnx.load(moved, load_external_data=False).opset_import[0].version == opset


def test_the_file_is_an_input_again(net: nn.Module, tmp_path: Path) -> None:
    edgeconv.export(net, (X,), tmp_path, name="net", formats="onnx")
    result = edgeconv.export_onnx(tmp_path / "net.fp32.onnx", tmp_path / "again", name="net", formats="onnx")
    first, second = (folder / f"net.fp32.onnx{DATA_SUFFIX}" for folder in (tmp_path, tmp_path / "again"))
    assert result.artifacts[0].format == "onnx"
    assert first.read_bytes() == second.read_bytes()


def test_tflite_is_refused_in_one_line(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(edgeconv.EmitError, match=r"tflite: the weights take 0\.00 GiB, and a \.tflite file holds less"):
        edgeconv.export(net, (X,), tmp_path, name="net", formats="tflite")
    assert not list(tmp_path.iterdir())
    result = edgeconv.export(net, (X,), tmp_path, name="net", formats="tflite", variants="fp16")
    assert result.artifacts[0].path.exists()


DATA = f"net.fp32.onnx{DATA_SUFFIX}"


def _parity(folder: Path) -> int:
    return run(["parity", str(folder), "-q"])


def test_the_report_knows_the_weights(net: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edgeconv.export(net, (X,), tmp_path, name="net", formats="onnx", devices="onnxruntime")
    plain = json.loads((tmp_path / "parity.json").read_text())
    data = (tmp_path / DATA).read_bytes()
    assert plain["artifacts"][0]["data_sha256"] == hashlib.sha256(data).hexdigest()
    assert _parity(tmp_path) == 0
    assert json.loads((tmp_path / "parity.json").read_text())["artifacts"] == plain["artifacts"]
    (tmp_path / DATA).write_bytes(data[:-1] + b"x")  # padding: no value differs
    assert _parity(tmp_path) == 2
    assert f"{DATA}: changed since its report was written" in capsys.readouterr().err
    (tmp_path / DATA).unlink()
    assert _parity(tmp_path) == 2
    (tmp_path / "elsewhere").write_bytes(data)
    (tmp_path / DATA).symlink_to(tmp_path / "elsewhere")
    assert _parity(tmp_path) == 2
    assert "is a symbolic link" in capsys.readouterr().err


def test_weights_of_an_earlier_export_go(net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edgeconv.export(net, (X,), tmp_path, name="net", formats="onnx", devices="onnxruntime")
    monkeypatch.setattr(_external, "LARGEST_FILE_BYTES", 2**31)
    result = edgeconv.export(net, (X,), tmp_path, name="net", formats="onnx", devices="onnxruntime")
    assert not (tmp_path / DATA).exists()
    assert any(note.startswith(f"{DATA} of the earlier export is removed") for note in result.notes)
    (tmp_path / DATA).write_bytes(b"a stranger's")
    edgeconv.export(net, (X,), tmp_path, name="net", formats="onnx", devices="onnxruntime")
    assert (tmp_path / DATA).read_bytes() == b"a stranger's"


def test_weights_that_were_changed_are_somebody_elses(net: nn.Module, tmp_path: Path) -> None:
    edgeconv.export(net, (X,), tmp_path, name="net", formats="onnx", devices="onnxruntime")
    (tmp_path / DATA).write_bytes(b"another's")
    edgeconv.export(net, (X,), tmp_path, name="net", formats="onnx", variants="fp16", devices="onnxruntime")
    assert not (tmp_path / "net.fp32.onnx").exists()
    assert (tmp_path / DATA).read_bytes() == b"another's"


def test_no_data_beside_a_tflite_file(tmp_path: Path, net: nn.Module) -> None:
    edgeconv.export(net, (X,), tmp_path, name="net", variants="fp16", devices="onnxruntime")
    plain = json.loads((tmp_path / "parity.json").read_text())
    next(item for item in plain["artifacts"] if item["format"] == "tflite")["data_sha256"] = "0" * 64
    with pytest.raises(edgeconv.ParityError, match=r"which only \.onnx files have"):
        from_json(json.dumps(plain))


def test_the_bench_hands_the_weights_on(net: nn.Module, tmp_path: Path) -> None:
    edgeconv.export(net, (X,), tmp_path, name="net", formats="onnx")
    file = read_file(tmp_path / "net.fp32.onnx")
    assert file.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("net.fp32.onnx*"))
    assert run(["bench", str(tmp_path), "--device", "onnxruntime", "--rounds", "1", "--runs", "1", "-q"]) == 0


class _Stages(Silent):
    def __init__(self) -> None:
        self.begun: list[str] = []

    def stage(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        self.begun.append(title)
        return super().stage(title)


def test_tflite_is_refused_before_gigabytes_are_written(net: nn.Module, tmp_path: Path) -> None:
    stages = _Stages()
    with pytest.raises(edgeconv.EmitError, match="tflite: the weights take"):
        edgeconv.export(net, (X,), tmp_path / "out", name="net", variants=("fp32", "int8-weights"), progress=stages)
    assert stages.begun
    assert not [name for name in stages.begun if name.startswith("emit")]


@pytest.mark.slow
def test_weights_above_the_true_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2.3 GB, which neither protobuf nor onnx's checker holds in one piece."""
    monkeypatch.undo()
    size = 24_000
    net = nn.Linear(size, size, bias=False, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        net.weight.zero_().fill_diagonal_(0.5)
    x = torch.randn(1, size, generator=torch.Generator().manual_seed(0))
    with pytest.raises(edgeconv.EmitError, match=r"tflite: the weights take 2\.15 GiB"):
        edgeconv.export(net, (x,), tmp_path / "out", name="net")
    (artifact,) = edgeconv.export(net, (x,), tmp_path / "out", name="net", formats="onnx").artifacts
    del net
    assert artifact.path.with_name(artifact.path.name + DATA_SUFFIX).stat().st_size == 4 * size * size
    assert run(["inspect", str(artifact.path)]) == 0
    session = onnxruntime.InferenceSession(str(artifact.path), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_array_equal(y, x.numpy() / 2)
    shutil.rmtree(tmp_path / "out")
