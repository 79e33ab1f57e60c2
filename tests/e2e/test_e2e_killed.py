"""An export that dies at any stage leaves the files of the one before as they were."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import programs
import pytest

from edgeconv.cli import run
from edgeconv.flow.journal import STAGING_PREFIX
from edgeconv.flow.owner import abandoned

pytestmark = pytest.mark.xdist_group("clock")
RECIPE = """
name = "block"
[model]
factory = "edgeconv.nn:DepthwiseSeparableConv"
args = {{ in_channels = 3, out_channels = 8 }}
seed = {seed}
[model.warmup]
seed = 1
[[inputs]]
name = "input"
shape = [1, 3, 32, 32]
[parity]
devices = ["onnxruntime", "litert"]
"""
STAGES = (
    "model and inputs:",
    "capture:",
    "rewrite:",
    "emit block.fp32.onnx:",
    "emit block.fp32.tflite:",
    "torch float64",
    "on litert:",
)


def _recipe(folder: Path, seed: int) -> str:
    path = folder / f"block{seed}.toml"
    path.write_text(RECIPE.format(seed=seed))
    return str(path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    assert run(["export", _recipe(folder, 0), "--out", str(folder / "out"), "-q"]) == 0
    return folder / "out"


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("stage", STAGES)
def test_sigkill_after_a_stage(stage: str, first: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(first, tmp_path / "out"))
    before = _files(out / "block")
    command = ["export", _recipe(tmp_path, 1), "--out", str(out)]
    process = programs.Program(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    reached = any(stage in line for line in process.stdout)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.read()  # to its end: the command's own child, which the killed one no longer waits for, is gone too
    process.stdout.close()
    _wait_for_the_owners_of(out / "block")
    assert reached
    assert _files(out / "block") == before

    # The next export is not disturbed by what the dead one left, and sweeps it away.
    assert run(["export", _recipe(tmp_path, 1), "--out", str(out), "-q", "--no-parity"]) == 0
    assert not [path for path in (out / "block").iterdir() if path.is_dir()]
    assert _files(out / "block")["block.fp32.onnx"] != before["block.fp32.onnx"]


def _wait_for_the_owners_of(folder: Path) -> None:
    """Until those that left folders behind are dead, which takes a moment longer than their streams."""
    deadline = time.monotonic() + 30
    for path in folder.glob(f"{STAGING_PREFIX}*"):
        is_abandoned = False
        while not is_abandoned:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            with abandoned(path, STAGING_PREFIX) as is_abandoned:
                pass


def test_a_full_disk(first: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the same OSError, in the middle of a write."""
    out = Path(shutil.copytree(first, tmp_path / "out"))
    before = _files(out / "block")
    command = ["export", _recipe(tmp_path, 1), "--out", str(out), "--no-parity", "-q"]
    done = programs.run(command, largest_file=1024)
    assert done.returncode == 2, done.stderr
    assert "cannot write here" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert _files(out / "block") == before
    assert not [path for path in (out / "block").iterdir() if path.is_dir()]


def test_interrupted_by_the_user(first: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(first, tmp_path / "out"))
    before = _files(out / "block")
    process = programs.Program(
        ["export", _recipe(tmp_path, 1), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "model and inputs:" in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert _files(out / "block") == before
