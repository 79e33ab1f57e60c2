"""Bad input gets one clear line and exit code 2, and nothing is left half-written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from edgeconv.cli import run
from edgeconv.nn import DepthwiseSeparableConv

RECIPE = """
name = "block"
[model]
factory = "{factory}"
args = {{ {args} }}
{model}
[[inputs]]
name = "input"
shape = {shape}
[parity]
devices = {devices}
"""
DEFAULTS = {
    "factory": "edgeconv.nn:DepthwiseSeparableConv",
    "args": "in_channels = 3, out_channels = 4",
    "model": "",
    "shape": "[1, 3, 16, 16]",
    "devices": '["onnxruntime", "litert"]',
}


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Exports a recipe with the given changes, expects exit code 2 and one line, and returns the line."""

    def export(*options: str, **changes: str) -> str:
        path = tmp_path / "block.toml"
        path.write_text(RECIPE.format(**{**DEFAULTS, **changes}))
        capsys.readouterr()
        assert run(["export", str(path), "--out", str(tmp_path / "out"), *options, "-q"]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert len(told.err.splitlines()) == 1, told.err
        assert told.err.startswith("edgeconv: error: ")
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*"))
        return told.err

    return export


def test_a_sound_recipe_is_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "block.toml"
    path.write_text(RECIPE.format(**DEFAULTS))
    assert run(["export", str(path), "--out", str(tmp_path / "out"), "-q"]) == 0


def test_a_missing_recipe_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err


def test_a_malformed_recipe_is_named(refused) -> None:
    assert "block.toml" in refused(model="weights = ")


def test_unknown_key_names_the_nearest(refused) -> None:
    assert "'weights'" in refused(model='weight = "x.safetensors"')


def test_a_shape_that_does_not_fit_is_told_in_channels(refused) -> None:
    told = refused(shape="[1, 4, 16, 16]")
    assert "channels" in told
    assert "depthwise" in told or "[1, 4, 16, 16]" in told


def test_weights_that_do_not_match(refused, tmp_path: Path) -> None:
    save_file(DepthwiseSeparableConv(3, 5).state_dict(), tmp_path / "w.safetensors")
    assert "pointwise" in refused(model='weights = "w.safetensors"')


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_wants_to_run_code(refused, tmp_path: Path) -> None:
    torch.save({"state": _Payload(tmp_path / "ran")}, tmp_path / "w.pt")
    refused(model='weights = "w.pt"')
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_with_nan(refused, tmp_path: Path) -> None:
    state = DepthwiseSeparableConv(3, 4).state_dict()
    state["pointwise.0.weight"][1] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    told = refused(model='weights = "w.safetensors"')
    assert "pointwise.0.weight" in told
    assert "NaN" in told


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a2146' * 8}\nsize 12345\n"
"""What git leaves of a file where git-lfs is not installed."""


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {"model": f'weights = "{name}"'}) for name in ("w.safetensors", "w.pth")),
        *((name, {"tail": f'[[parity.arrays]]\nfile = "{name}"'}) for name in ("x.npy", "x.npz")),
        ("x.png", {"tail": '[[parity.images]]\nfiles = ["x.png"]\n[preprocessing]'}),
    ],
)
def test_a_pointer_of_git_lfs_in_a_recipe(name: str, changes: dict[str, str], refused, tmp_path: Path) -> None:
    (tmp_path / name).write_text(POINTER)
    devices = DEFAULTS["devices"] + "\n" + changes.pop("tail", "")
    line = refused(devices=devices, **changes)
    assert f"'{name}' is a pointer of Git LFS, not the file itself; fetch it: git lfs pull" in line


@pytest.mark.parametrize(
    ("verb", "name"), [("export", "m.onnx"), ("export", "m.toml"), ("inspect", "m.tflite"), ("bench", "m.tflite")]
)
def test_a_pointer_of_git_lfs_in_place_of_a_file(
    verb: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(POINTER)
    assert run([verb, str(tmp_path / name)]) == 2
    line = f"edgeconv: error: {tmp_path / name}: is a pointer of Git LFS, not the file itself; fetch it: git lfs pull\n"
    assert capsys.readouterr().err == line


def test_a_pointer_of_git_lfs_in_place_of_the_weights_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    node, path = onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), tmp_path / "m.onnx"
    x, y = (onnx.helper.make_tensor_value_info(n, 1, [1, size]) for n, size in (("x", 4), ("y", 3)))
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y], [weight]), ir_version=9)
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").write_text(POINTER)
    assert run(["export", str(path), "--out", str(tmp_path / "out"), "-q"]) == 2
    assert "'w.bin' is a pointer of Git LFS, not the file itself; fetch it: git lfs pull" in capsys.readouterr().err


def test_data_dependent_control_flow(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "branching.py").write_text(
        "import torch\n"
        "class Branching(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x + 1 if x.sum() > 0 else x - 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "control flow" in refused(factory="branching:Branching", args="")


def test_an_operator_that_tflite_cannot_express(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exotic.py").write_text(
        "import torch\nclass Exotic(torch.nn.Module):\n    def forward(self, x):\n        return torch.linalg.det(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "Det" in refused(factory="exotic:Exotic", args="")


def test_output_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "block.toml").write_text(RECIPE.format(**DEFAULTS))
    (tmp_path / "file").write_text("in the way")
    assert run(["export", str(tmp_path / "block.toml"), "--out", str(tmp_path / "file"), "-q"]) == 2
    told = capsys.readouterr().err
    assert "cannot write here" in told
    assert len(told.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "in the way"


def test_unknown_device_names_the_nearest(refused) -> None:
    assert "onnxruntime" in refused(devices='["onnxruntim"]')
    assert "onnxruntime" in refused("--device", "onnxrt")


def test_a_runtime_that_is_not_installed(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECONV_RUNTIMES", str(tmp_path / "empty"))
    assert "edgeconv devices --install tflite-runtime" in refused(devices='["tflite-runtime"]')


def test_an_unknown_rewrite_is_answered_with_the_nearest(refused) -> None:
    assert "fold" in refused("--no-rewrite", "fold_batch_nrom")


@pytest.mark.parametrize("verb", ["parity", "bisect"])
@pytest.mark.parametrize("place", ["a folder", "a file", "nothing"])
def test_a_place_without_a_report(verb: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a file").write_text("")
    assert run([verb, str(tmp_path / place)]) == 2
    assert f"{place}: no parity.json here; give the folder of an export" in capsys.readouterr().err


def test_parity_of_a_damaged_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "parity.json").write_text("{")
    assert run(["parity", str(tmp_path)]) == 2
    assert "parity.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.onnx", "x.tflite", "x.bin"])
def test_inspect_of_what_is_no_model(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(b"\x18\x00\x00\x00TFL3" + b"\xff" * 64)
    assert run(["inspect", str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err


def test_a_misspelled_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "--outt", "x"]) == 2
    assert "--outt" in capsys.readouterr().err


def test_two_recipes_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(RECIPE.format(**DEFAULTS))
    assert run(["export", str(tmp_path / "a.toml"), str(tmp_path / "b.toml"), "--out", str(tmp_path / "out")]) == 2
    assert "two recipes are named 'block'" in capsys.readouterr().err


def test_the_script_itself_exits_with_two(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("edgeconv")
    done = subprocess.run(
        [str(script), "export", str(tmp_path / "none.toml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_file_that_no_device_takes_does_not_pass(tmp_path: Path) -> None:
    """Not an input error: the files are there and whole, but nothing is known of one of them."""
    path = tmp_path / "block.toml"
    path.write_text(RECIPE.format(**{**DEFAULTS, "devices": '["onnxruntime"]'}))
    assert run(["export", str(path), "--out", str(tmp_path / "out"), "-q"]) == 1
    assert "no device judged block.fp32.tflite" in (tmp_path / "out" / "block" / "parity.json").read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--shape", "x=0,3,8,8"), "--shape: shape[0]: should be at least 1, not 0"),
        (("--shape", "x=1.5,3,8,8"), "--shape: shape[0]: '1.5' cannot be used; give a number"),
        (("--shape", f"x={'9' * 5000},3,8,8"), "--shape: a dimension has 5,000 digits; write NAME=1,3,224,224"),
        (("--shape", "9" * 5000), f"--shape: '{'9' * 79} names no input"),
        (("--set", f"x={'9' * 5000}"), f"--set: '{'9' * 79} is no number"),
        (("--samples", "nope.npz"), "--samples: there is no file"),
        (("--samples", "other.npz"), "--samples: other.npz has no array 'x', but: y; save each input under its name"),
        (("--samples", "nan.npz"), "--samples: nan.npz holds NaN or Inf"),
        (("--device", "torch"), "the device torch runs modules, and this is an .onnx file; leave out --device torch"),
        (("--device", "onxruntime"), "--device: unknown device 'onxruntime'; did you mean onnxruntime"),
        (("--no-rewrite", "fold"), "--no-rewrite: there is no rewrite 'fold'"),
        (
            ("--variant", "float16"),
            "--variant: 'float16' is not known; choose of fp32, fp16, int8, int8-mixed, int8-weights, int16x8; did",
        ),
        (("--c-array", "--format", "onnx"), "--format: the C source is made of TFLite only"),
    ],
)
def test_a_file_without_a_recipe_is_told_its_flags(
    options: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = [onnx.helper.make_tensor_value_info(name, 1, [1, 3, 8, 8]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), "m.onnx")
    np.savez("other.npz", y=np.zeros((1, 3, 8, 8), np.float32))
    np.savez("nan.npz", x=np.full((1, 3, 8, 8), np.nan, np.float32))
    proven = () if "--device" in options or "--samples" in options else ("--no-parity",)
    assert run(["export", "m.onnx", "--out", "out", *options, *proven]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert told in line
    assert "parity.arrays" not in line
    assert "inputs[" not in line


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        (
            [2**31, 2**31],
            "the input 'x': shape[0]: should be at most 2147483647, not 2147483648 (also wrong: shape[1])",
        ),
        ([1] * 1000, "the input 'x': shape: has more than 8 items"),
    ],
)
@pytest.mark.parametrize("source", ["m.onnx", "r.toml"])
def test_what_a_file_declares_is_told_as_its_own(
    source: str,
    shape: list[int],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not as a fault of --shape, which nobody gave, or of a field that the recipe does not have."""
    monkeypatch.chdir(tmp_path)
    tensors = [onnx.helper.make_tensor_value_info(name, 1, shape) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), "m.onnx")
    Path("r.toml").write_text('name = "r"\n[model]\nonnx = "m.onnx"\n')
    assert run(["export", source, "--out", "out", "--no-parity", "-q"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"m.onnx: {told}" in line
    assert "--shape" not in line
    assert "inputs[" not in line


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (["--out", ""], "the argument behind --out"),
        (["--out="], "--out"),
        (["--samples="], "--samples"),
        ([""], "the argument behind -q"),
    ],
)
def test_an_empty_argument_is_refused(
    options: list[str], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell script's unset variable, which as a path would be the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("block.toml").write_text(RECIPE.format(**DEFAULTS))
    assert run(["export", "block.toml", "--no-parity", "-q", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"edgeconv: error: {where}: is empty (an unset variable?); give a value, or leave it out"
    assert [path.name for path in tmp_path.iterdir()] == ["block.toml"]


def test_a_recipe_whose_inputs_are_all_fixed_is_told_so(refused) -> None:
    assert "block.toml: all of its inputs are fixed; leave one of them open" in refused("--set", "input=1")
