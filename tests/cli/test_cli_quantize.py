"""`edgeconv quantize`: what it refuses, in one line and before any work, and a target that holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgeconv

DIGITS = Path(edgeconv.__file__).parents[1] / "models" / "digits_dsc.toml"
PROGRAM = Path(sys.executable).with_name("edgeconv")


def _run(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), "quantize", str(DIGITS), "--out", str(tmp_path / "out"), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "no target is given; give --target-sqnr or --target-agreement"),
        (("--target-sqnr", "30", "--target-agreement", "0.9"), "both targets are given"),
        (("--target-sqnr", "500"), "the SQNR is 500; give one above 0 and at most 100"),
        (("--target-sqnr", "30", "--variant", "int8-weights"), "choose of int8, int16x8"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    done = _run(tmp_path, *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_target_holds_in_the_files(tmp_path: Path) -> None:
    done = _run(tmp_path, "--target-sqnr", "31", "--device", "onnxruntime", "--device", "litert", "--quiet")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "digits_dsc" / "parity.json").read_text())
    assert {row["device"] for row in report["comparisons"]} == {"onnxruntime", "litert"}
    assert all(row["metrics"]["sqnr_db"] >= 31 for row in report["comparisons"])
    assert report["frontier"]
