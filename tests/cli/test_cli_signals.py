"""Ctrl-C and SIGTERM end the program in order: one line, the shell's exit code, nothing half-made left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import programs
import pytest

from edgeconv.cli import run

pytestmark = pytest.mark.xdist_group("clock")
SCRIPT = str(Path(sys.executable).with_name("edgeconv"))
RECIPE = """
name = "slow"
[model]
factory = "slow_cli_signals:Slow"
[[inputs]]
name = "input"
shape = [1, 3, 8, 8]
[parity]
devices = ["onnxruntime", "torch"]
[export]
formats = ["onnx"]
"""
MODULE = """
import itertools, os, pathlib, time
import torch

_runs = itertools.count(1)

def _at(moment):
    if os.environ.get("MOMENT") == moment:
        pathlib.Path(os.environ["REACHED"]).touch()
        time.sleep(60)

class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        _at("factory")
        self.conv = torch.nn.Conv2d(3, 4, 1)

    def forward(self, x):
        if not torch.compiler.is_compiling() and type(x) is torch.Tensor:
            _at(f"run {next(_runs)}")
        return self.conv(x)
"""
LINE = "what was finished stays, the rest left nothing behind"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "slow_cli_signals.py").write_text(MODULE)
    path = tmp_path / "slow.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("number", "code", "word", "moment"),
    [
        (signal.SIGINT, 130, "interrupted", "factory"),
        (signal.SIGINT, 130, "interrupted", "run 1"),  # the reference: the files are staged, and the proof has begun
        (signal.SIGTERM, 143, "terminated", "run 2"),  # in float32
        (signal.SIGHUP, 129, "terminated", "factory"),
    ],
)
def test_a_signal_ends_an_export_in_one_line_and_leaves_nothing(
    number: int, code: int, word: str, moment: str, recipe: Path, tmp_path: Path
) -> None:
    reached, out = tmp_path / "reached", tmp_path / "out"
    process = programs.Program(
        ["export", str(recipe), "--out", str(out)],
        env={**os.environ, "MOMENT": moment, "REACHED": str(reached)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 60
    while not reached.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code
    assert told == f"edgeconv: {word}; {LINE}\n"
    assert not out.exists()


def test_a_signal_that_was_to_be_ignored_is(recipe: Path, tmp_path: Path) -> None:
    """As under nohup."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "import edgeconv.cli as cli\n"
        "cli.run = lambda arguments: os.kill(os.getpid(), signal.SIGHUP) or 0\n"
        "cli.main()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("delay_s", [0.7, 2.0, 3.5])
def test_an_interrupt_at_any_moment(delay_s: float, recipe: Path, tmp_path: Path) -> None:
    """Where it lands is chance; it must never look like a bug, nor leave anything half-made."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [SCRIPT, "export", str(recipe), "--out", str(out), "-q"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode in (0, 130, -signal.SIGINT), told  # the last: before our first line
    assert "bug" not in told
    if process.returncode == 130:
        assert LINE in told
        assert not list(tmp_path.rglob(".edgeconv-*"))


def test_an_interrupt_inside_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "interrupting_cli.py").write_text("def factory():\n    raise KeyboardInterrupt\n")
    path = tmp_path / "slow.toml"
    path.write_text(RECIPE.replace("slow_cli_signals:Slow", "interrupting_cli:factory"))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(["export", str(path), "--out", str(tmp_path / "out"), "-q"]) == 130
    assert capsys.readouterr().err == f"edgeconv: interrupted; {LINE}\n"
