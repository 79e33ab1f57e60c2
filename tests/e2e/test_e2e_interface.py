"""What `edgeconv.export` takes, refuses and leaves behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgeconv
from edgeconv.cli import run
from edgeconv.devices import AGENT, Device
from edgeconv.flow.proof import check_devices

X = torch.zeros(1, 3, 8, 8)


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()).eval()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"args": X}, r"write \(x,\)"),
        ({"args": (1,)}, "there is no tensor among the arguments"),
        ({"args": (X.numpy(),)}, r"args\[0\]: it is an ndarray"),
        ({"module": None}, "module: it is None, not a torch.nn.Module"),
        ({"name": "a b"}, "cannot begin a file name"),
        ({"name": "../x"}, "cannot begin a file name"),
        ({"name": 3}, "cannot begin a file name"),
        ({"formats": ("tflit",)}, "formats: 'tflit' is not known"),
        ({"formats": ("onnx", "onnx")}, "stands twice"),
        ({"variants": ("int4",)}, "variants: 'int4' is not known"),
        ({"tflite_layout": "nwhc"}, "tflite_layout: 'nwhc' is not known"),
        ({"input_names": ("a", "b")}, "input_names: 2 names for 1 input"),
        ({"skip_rewrites": ("fold",)}, "no rewrite 'fold'"),
        ({"dynamic_batch": None}, "dynamic_batch: it is None; give True, or the names"),
        ({"dynamic_batch": {"input": {0: "batch"}}}, "dynamic_batch: it is a dict; give True, or the names"),
        ({"devices": ("onnxruntim",)}, "onnxruntime"),
        ({"samples": (edgeconv.Sample("s", {"zz": X.numpy()}),)}, "sample s: it has inputs"),
        ({"samples": (edgeconv.Sample("s", {"input": X.double().numpy()}),)}, "give numpy float32"),
        ({"samples": (edgeconv.Sample("s", {"input": X[0].numpy()}),)}, r"give array\[None\]"),
        ({"samples": (edgeconv.Sample("s", {"input": X.numpy() * np.nan}),)}, "NaN"),
    ],
)
def test_refuses_by_name(arguments: dict[str, Any], says: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"module": _module(), "args": (X,), "name": "net", "devices": ("onnxruntime",), **arguments}
    with pytest.raises(edgeconv.EdgeconvError, match=says) as caught:
        edgeconv.export(given.pop("module"), given.pop("args"), tmp_path / "out", **given)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_module_without_a_finite_output_proves_nothing(tmp_path: Path) -> None:
    class Nowhere(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float("nan")

    with pytest.raises(edgeconv.ParityError, match="all NaN or infinite"):
        edgeconv.export(Nowhere(), (X,), tmp_path, name="net", devices=("onnxruntime",))
    assert not list(tmp_path.iterdir())


def test_a_single_name_stands_for_one(tmp_path: Path) -> None:
    result = edgeconv.export(_module(), (X,), str(tmp_path), name="net", formats="tflite", output_names="y")
    assert [artifact.path for artifact in result.artifacts] == [tmp_path / "net.fp32.tflite"]
    assert result.artifacts[0].outputs[0].name == "y"
    assert result.report is None


def test_a_new_export_takes_the_old_report_away(tmp_path: Path) -> None:
    both = ("onnxruntime", "litert")
    edgeconv.export(_module(), (X,), tmp_path, name="net", devices=both)
    (tmp_path / "notes.txt").write_text("mine")
    result = edgeconv.export(_module(), (X * 2,), tmp_path, name="net", formats="onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.fp32.onnx", "notes.txt"]
    assert any("net.fp32.tflite of the earlier export is removed" in note for note in result.notes)


def test_a_file_that_changed_since_is_not_taken_away(tmp_path: Path) -> None:
    edgeconv.export(_module(), (X,), tmp_path, name="net", devices=("onnxruntime", "litert"))
    (tmp_path / "net.fp32.tflite").write_bytes(b"somebody's own")
    edgeconv.export(_module(), (X,), tmp_path, name="net", formats="onnx")
    assert (tmp_path / "net.fp32.tflite").read_bytes() == b"somebody's own"


def test_a_target_that_is_a_folder_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "net.fp32.tflite").mkdir()
    (tmp_path / "net.fp32.onnx").write_text("old")
    with pytest.raises(edgeconv.EmitError, match=r"net\.fp32\.tflite is a folder|Is a directory|is a folder"):
        edgeconv.export(_module(), (X,), tmp_path, name="net")
    assert (tmp_path / "net.fp32.onnx").read_text() == "old"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, a folder that nobody can write")
def test_an_unwritable_folder_is_told_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Path(__file__).parents[2] / "models" / "digits_dsc.toml"
    assert run(["export", str(recipe), "--out", "/proc/nowhere", "--no-parity"]) == 2
    told = capsys.readouterr()
    assert "cannot write here" in told.err
    assert "capture" not in told.out


def test_a_device_that_has_answered_is_not_asked_again_until_its_command_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    count, serve = f"open({str(started)!r}, 'a').write('.')", f"runpy.run_path({str(AGENT)!r}, run_name='__main__')"
    code = f"import runpy; {count}; {serve}"
    command = [sys.executable, "-c", code, "onnxruntime"]
    monkeypatch.setattr("edgeconv.devices.find", lambda name: Device(name, name, ("onnx",), lambda: command))
    for _ in range(2):
        check_devices(["counted"])
        assert started.read_text() == "."
    command[3:] = ["onnxruntime", "--threads", "2"]
    check_devices(["counted"])
    assert started.read_text() == ".."
    command[3:] = ["no runtime"]
    with pytest.raises(edgeconv.DeviceError, match="device counted: exited with status 2"):
        check_devices(["counted"])


def test_parity_with_another_recipe_is_refused(
    dsconv_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = Path(__file__).parents[2] / "models"
    text = (models / "dsconv_3x64_224.toml").read_text().replace("seed = 0", "seed = 3", 1)
    (tmp_path / "other.toml").write_text(text.replace("testcard_224.png", str(models / "testcard_224.png")))
    assert run(["parity", str(dsconv_export), "--recipe", str(tmp_path / "other.toml"), "--device", "onnxruntime"]) == 2
    assert "does not give these values" in capsys.readouterr().err


def test_the_callers_random_numbers_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    np.random.seed(3)
    torch.manual_seed(3)
    expected = (np.random.rand(), torch.rand(1).item())
    np.random.seed(3)
    torch.manual_seed(3)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5)).eval()
    np.random.seed(3)
    torch.manual_seed(3)
    edgeconv.export(module, (X,), tmp_path, name="net")
    assert (np.random.rand(), torch.rand(1).item()) == expected
