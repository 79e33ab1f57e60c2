"""What the README says is so: its links lead somewhere, its snippets run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgeconv
from edgeconv.devices import ENVIRONMENTS
from edgeconv.devices._environments import python_of
from edgeconv.operators import refreshed

ROOT = Path(edgeconv.__file__).parents[1]
README = (ROOT / "README.md").read_text()
ON_DEVICE = {"run_tflite_runtime.py", "run_litert.py", "run_onnxruntime.py"}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    anchors = {
        "#" + re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", README, re.M)
    }
    local = [link for link in links if not link.startswith("http")]
    assert local
    for link in local:
        assert link in anchors if link.startswith("#") else (ROOT / link).exists(), link


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make ([a-z-]+)", README, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_list_of_operators_is_that_of_the_tables() -> None:
    assert refreshed(README) == README, "run make readme"


def test_the_on_device_snippets_are_the_scripts() -> None:
    snippets = set(_blocks("python"))
    for name in ON_DEVICE:
        assert (ROOT / "export_scripts" / "on_device" / name).read_text() in snippets, name


@pytest.mark.parametrize("name", sorted(ON_DEVICE))
def test_the_on_device_snippets_run(name: str, dsconv_export: Path, tmp_path: Path) -> None:
    shutil.copytree(dsconv_export, tmp_path / "artifacts" / "dsconv_3x64_224")
    code = (ROOT / "export_scripts" / "on_device" / name).read_text()
    python = python_of(ENVIRONMENTS["tflite-runtime"]) if "tflite_runtime" in name else sys.executable
    done = subprocess.run(
        [str(python), "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    shape = "(1, 64, 224, 224)" if "onnx" in name else "(1, 224, 224, 64)"
    assert done.stdout.strip() == shape


def test_the_python_example_runs(tmp_path: Path) -> None:
    (code,) = [block for block in _blocks("python") if "edgeconv.export(" in block]
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.fp32.*"))) == 2
