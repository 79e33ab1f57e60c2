"""`edgeconv inspect` shows what a file holds, and answers any damage with one line."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from edgeconv.cli import run

NAMES = ("dsconv_3x64_224.fp32.onnx", "dsconv_3x64_224.fp32.tflite")
LIMIT = 4 << 30  # bytes of address space; importing the readers takes most of one


def _inspect_all(paths: list[Path]) -> list[tuple[int, int, str]]:
    """(exit code, lines on stderr, stderr) of each, in one process whose memory is bounded."""
    code = (
        "import contextlib, io, json, sys\n"
        "from edgeconv.cli import run\n"
        "found = []\n"
        "for path in json.load(sys.stdin):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:\n"
        "        code = run(['inspect', path])\n"
        "    found.append((code, len(told.getvalue().splitlines()), told.getvalue()))\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([str(path) for path in paths]),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT)),
    )
    return [tuple(item) for item in json.loads(done.stdout)]


def _assert_one_line_each(folder: Path, suffix: str, damaged: dict[str, bytes]) -> list[int]:
    paths = []
    for name, data in damaged.items():
        path = folder / f"{name}{suffix}"
        path.write_bytes(data)
        paths.append(path)
    codes = []
    for path, (code, lines, told) in zip(paths, _inspect_all(paths), strict=True):
        assert code in (0, 2), f"{path.name}: {told}"
        assert lines == (1 if code == 2 else 0), f"{path.name}: {told}"
        codes.append(code)
    return codes


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_byte_anywhere(name: str, dsconv_export: Path, tmp_path: Path) -> None:
    data = (dsconv_export / name).read_bytes()
    positions = sorted({*range(0, 240, 2), *range(240, len(data), max(1, len(data) // 100))})
    flipped = {}
    for position in positions:
        for mask in (0xFF, 0x40):
            changed = bytearray(data)
            changed[position] ^= mask
            flipped[f"{position}-{mask}"] = bytes(changed)
    codes = _assert_one_line_each(tmp_path, Path(name).suffix, flipped)
    assert 2 in codes


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_file(name: str, dsconv_export: Path, tmp_path: Path) -> None:
    data = (dsconv_export / name).read_bytes()
    lengths = sorted({*range(64), *range(64, len(data), max(1, len(data) // 60))})
    codes = _assert_one_line_each(tmp_path, Path(name).suffix, {str(n): data[:n] for n in lengths})
    assert codes[0] == 2
    assert codes[8] == 2


def test_a_wrong_length_before_a_field_of_zeros_takes_no_memory(dsconv_export: Path, tmp_path: Path) -> None:
    """Zeros read as tables without fields: building an object of each would take gigabytes."""
    from ai_edge_litert import schema_py_generated as schema

    data = (dsconv_export / NAMES[1]).read_bytes()
    model = schema.Model.GetRootAs(data, 0)
    offset = model._tab.Offset(8)  # of the subgraphs
    length_at = model._tab.Vector(offset) - 4
    zeros = bytes(64 << 20)
    bombs = {}
    for count in (1 << 16, 1 << 20, 1 << 24):
        changed = bytearray(data + zeros)
        changed[length_at : length_at + 4] = count.to_bytes(4, "little")
        bombs[f"subgraphs-{count}"] = bytes(changed)
    graph = model.Subgraphs(0)
    for field, name in ((4, "tensors"), (6, "inputs"), (10, "operators")):
        at = graph._tab.Vector(graph._tab.Offset(field)) - 4
        changed = bytearray(data + zeros)
        changed[at : at + 4] = (1 << 24).to_bytes(4, "little")
        bombs[name] = bytes(changed)
    _assert_one_line_each(tmp_path, ".tflite", bombs)


@pytest.mark.parametrize(
    ("name", "layout"), [("dsconv_3x64_224.fp32.tflite", "nhwc"), ("dsconv_3x64_224.fp32.nchw.tflite", "nchw")]
)
def test_what_a_tflite_file_holds(
    name: str, layout: str, dsconv_export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(dsconv_export / name), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    shape = [1, 224, 224, 3] if layout == "nhwc" else [1, 3, 224, 224]
    assert found["inputs"] == {"input": f"float32 {shape}"}
    assert found["operators"]["DEPTHWISE_CONV_2D v1"] == 1
    assert found["operator_count"] == sum(found["operators"].values())
    assert found["size_bytes"] == (dsconv_export / name).stat().st_size
    assert json.loads(found["metadata"]["edgeconv"])["layout"] == layout


def test_what_an_onnx_file_holds(dsconv_export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(dsconv_export / NAMES[0]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"] == {"input": "float [1, 3, 224, 224]"}
    assert found["outputs"] == {"output": "float [1, 64, 224, 224]"}
    assert found["operators"] == {"Conv": 2, "LeakyRelu": 2}
    assert found["opset"] == 18


def test_weights_in_another_file_are_not_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    (tmp_path / "m.bin").unlink()
    assert run(["inspect", str(tmp_path / "m.onnx")]) == 0
    assert "x: float ['n', 4]" in capsys.readouterr().out


def test_names_that_would_steer_the_terminal_are_shown_as_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx
    from onnx import TensorProto, helper

    name = "x\x1b[2J\nsize_bytes: 1"
    x = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", [name], ["y"])], "g", [x], [y]))
    onnx.save(model, tmp_path / "m.onnx")
    assert run(["inspect", str(tmp_path / "m.onnx")]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert r"x\x1b[2J\nsize_bytes: 1: float [1]" in told


@pytest.mark.parametrize(
    ("path", "told"),
    [("/nope", "no such file"), ("/nope.onnx", "no such file"), ("", "is empty"), (".", "is a folder")],
)
def test_what_is_no_file(path: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", path]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1


def test_texts_of_an_onnx_file_that_are_no_utf8_are_shown_as_far_as_they_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = helper.make_graph(
        [helper.make_node("OPERATOR", ["INPUT"], ["OUTPUT"])],
        "graph",
        [helper.make_tensor_value_info("INPUT", TensorProto.FLOAT, ["DIMENSION", 3])],
        [helper.make_tensor_value_info("OUTPUT", TensorProto.FLOAT, ["DIMENSION", 3])],
    )
    model = helper.make_model(graph)
    helper.set_model_props(model, {"THEKEY": "THEVALUE"})
    data = model.SerializeToString()
    for text in (b"OPERATOR", b"INPUT", b"OUTPUT", b"DIMENSION", b"THEKEY", b"THEVALUE"):
        data = data.replace(text, text[:-1] + b"\xff")
    (tmp_path / "m.onnx").write_bytes(data)
    assert run(["inspect", str(tmp_path / "m.onnx"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["inputs"] == {"INPU\ufffd": "float ['DIMENSIO\ufffd', 3]"}
    assert (list(said["outputs"]), list(said["operators"])) == (["OUTPU\ufffd"], ["OPERATO\ufffd"])
    assert said["metadata"] == {"THEKE\ufffd": "THEVALU\ufffd"}


def test_a_file_of_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, told in (("weights", "the file has no suffix"), ("weights.pt", "the suffix .pt is not known")):
        (tmp_path / name).write_bytes(b"x")
        assert run(["inspect", str(tmp_path / name)]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("data", [b"", b"\x1c\0\0\0TFL3" + b"\xff" * 40], ids=["empty", "damaged"])
@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
@pytest.mark.parametrize(
    "command",
    [
        ("inspect",),
        ("inspect", "--as-onnx", "as.onnx"),
        ("parity", "--recipe", "r.toml", "--out", "judged", "--artifact"),
    ],
    ids=["inspect", "as-onnx", "parity"],
)
def test_a_damaged_file_is_named(
    command: tuple[str, ...],
    suffix: str,
    data: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(
        'name = "m"\n[model]\nfactory = "torch.nn:ReLU"\n[[inputs]]\nname = "x"\nshape = [1, 3]\n'
    )
    Path(f"theirs{suffix}").write_bytes(data)
    assert run([*command, f"theirs{suffix}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"edgeconv: error: theirs{suffix}: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("m.tflite", "m.tflite: it is a .tflite file by its name, and a recipe is wanted; give a recipe (.toml) or an"),
        ("m.pth", "and a recipe is wanted; write a recipe (.toml) that names it as weights: edgeconv init"),
        ("net.py", "and a recipe is wanted; write a recipe (.toml) that names its class or function"),
    ],
)
@pytest.mark.parametrize("command", [("export",), ("parity", "--artifact", "m.tflite", "--out", "o", "--against")])
def test_files_that_are_no_recipes_are_told_what_to_do(
    command: tuple[str, ...], name: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02")
    assert run([*command, str(tmp_path / name)]) == 2
    assert told in capsys.readouterr().err
