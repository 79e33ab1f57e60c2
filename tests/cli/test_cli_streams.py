"""The real program on real streams: terminals, pipes, full disks, closed descriptors, old encodings."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import programs
import pytest
from crossed import diagonal
from onnx import TensorProto, helper

SCRIPT = str(Path(sys.executable).with_name("edgeconv"))
ASCII = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
MARKUP = "[red]:smile:[/b]"
EXPORT = "--format onnx --device onnxruntime"


def _write_block(path: Path, output: str = "output") -> None:
    """A model that is exported without torch, whose import would be most of each start."""
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [4, 3, 3, 3], [0.1] * 108)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "weight"], [output], pads=[1, 1, 1, 1])],
        "block",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 4, 16, 16])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    kept = {
        key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "PYTHONUNBUFFERED")
    }
    return {**kept, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "COLUMNS": "80", **changes}


def _on_a_terminal(arguments: list[str], **changes: str) -> tuple[int, str]:
    """Exit code and everything that a terminal got; of Python's own start where its settings are changed."""
    ours, theirs = pty.openpty()
    streams: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "env": _environment(changes)}
    process = subprocess.Popen([SCRIPT, *arguments], **streams) if changes else programs.Program(arguments, **streams)
    os.close(theirs)
    got = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not chunk:
            break
        got += chunk
    os.close(ours)
    return process.wait(timeout=120), got.decode()


def _shell(command: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**_environment(changes), "EDGECONV": SCRIPT},
        timeout=120,
    )


@pytest.fixture
def block(tmp_path: Path) -> Path:
    path = tmp_path / "block.onnx"
    _write_block(path)
    return path


@pytest.fixture(scope="module")
def on_a_terminal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a terminal gets of a whole export whose output has a name of markup."""
    folder = tmp_path_factory.mktemp("terminal")
    _write_block(folder / "block.onnx", MARKUP)
    code, told = _on_a_terminal(["export", str(folder / "block.onnx"), *EXPORT.split(), "--out", str(folder / "out")])
    assert code == 0, told
    return told


def test_progress_on_a_terminal(on_a_terminal: str) -> None:
    assert "✓" in on_a_terminal
    assert "\x1b[" in on_a_terminal
    assert "block: pass: 2 comparisons within tolerance" in on_a_terminal


def test_names_are_never_markup(on_a_terminal: str) -> None:
    assert MARKUP in on_a_terminal


def test_plain_lines_in_a_log(block: Path, tmp_path: Path) -> None:
    done = programs.run(["export", str(block), *EXPORT.split(), "--out", str(tmp_path / "out")], env=_environment({}))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == f"block -> {tmp_path / 'out' / 'block'}"
    assert any(line.startswith("  capture: ") for line in lines)
    title, _, row = lines[-4:-1]  # the first row is of the source
    assert title.split("  ")[0] == "verdict"
    assert "of the bound" in title
    assert row.startswith("pass")
    assert row.index("block.fp32.onnx") == title.index("artifact")
    assert lines[-1].startswith("block: pass: 2 comparisons within tolerance (")


def test_an_ascii_terminal(tmp_path: Path) -> None:
    _write_block(tmp_path / "block.onnx", "größe")
    arguments = ["export", str(tmp_path / "block.onnx"), *EXPORT.split(), "--out", str(tmp_path / "out")]
    code, told = _on_a_terminal(arguments, **ASCII)
    assert code == 0, told
    assert "ok capture" in told.replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert r"gr\xf6\xdfe" in told


def test_an_ascii_log(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("größe", "y"))
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["größe"], ["y"])], "g", [x], [y]))
    onnx.save(model, tmp_path / "m.onnx")
    done = _shell(f"$EDGECONV inspect {tmp_path / 'm.onnx'}", **ASCII)
    assert done.returncode == 0, done.stderr
    assert r"gr\xf6\xdfe: float [1]" in done.stdout


@pytest.mark.parametrize(
    ("verb", "unbuffered"), diagonal(["--help", "--version", "export {block} --out {out} --no-parity"], ["", "1"])
)
def test_a_full_disk_behind_standard_output(verb: str, unbuffered: str, block: Path, tmp_path: Path) -> None:
    arguments = verb.format(block=block, out=tmp_path / "out")
    done = _shell(f"$EDGECONV {arguments} > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "No space left" in done.stderr


def test_files_are_written_though_streams_are_closed(block: Path, tmp_path: Path) -> None:
    """Nobody listens, and the files are made all the same."""
    for closed in (">&-", "<&- >&- 2>&-"):
        proof = EXPORT if "2>" in closed else "--format onnx --no-parity"
        done = _shell(f"$EDGECONV export {block} {proof} --out '{tmp_path / closed}' {closed}")
        assert done.returncode == 0, (closed, done.stderr)
        assert done.stderr == ""
        assert (tmp_path / closed / "block" / "block.fp32.onnx").exists()
    assert (tmp_path / closed / "block" / "parity.json").exists()


def test_an_error_that_cannot_be_told_keeps_its_code() -> None:
    assert _shell("$EDGECONV inspect /nope 2>/dev/full").returncode == 2


@pytest.mark.parametrize(("verb", "unbuffered"), diagonal(["--help", "devices"], ["", "1"]))
def test_a_reader_that_leaves(verb: str, unbuffered: str) -> None:
    done = _shell(f"$EDGECONV {verb} | true; exit ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 141
    assert done.stderr == ""
