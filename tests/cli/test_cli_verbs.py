"""What each verb prints, for people and for programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgeconv
from edgeconv.cli import run
from edgeconv.core import Comparison, Metrics, SampleResult, Tolerance, Verdict

RECIPE = """
name = "block"
[model]
factory = "{factory}"
args = {{ in_channels = 3, out_channels = 8 }}
[[inputs]]
name = "input"
shape = [1, 3, 16, 20]
[outputs]
names = ["output"]
[parity]
devices = ["torch", "onnxruntime", "litert"]
{parity}
[[parity.random]]
seed = 0
[[parity.random]]
seed = 1
scale = 100.0
"""
CHATTY = """
import os, sys
import torch
from edgeconv.nn import DepthwiseSeparableConv

print("on import")

class Chatty(DepthwiseSeparableConv):
    def __init__(self, **args):
        super().__init__(**args)
        print("from the factory")
        sys.__stdout__.write("past the redirection")
        os.system("echo from a process")

    def forward(self, x):
        print("from forward")
        return super().forward(x)
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verbs") / "block.toml"
    path.write_text(RECIPE.format(factory="edgeconv.nn:DepthwiseSeparableConv", parity=""))
    return path


@pytest.fixture(scope="module")
def exported(recipe: Path) -> Path:
    assert run(["export", str(recipe), "--out", str(recipe.parent / "out"), "-q"]) == 0
    return recipe.parent / "out" / "block"


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "block"))


def test_quiet_is_quiet_and_json_is_one_document_whatever_the_module_prints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chatty_cli.py").write_text(CHATTY)
    path = tmp_path / "block.toml"
    path.write_text(RECIPE.format(factory="chatty_cli:Chatty", parity=""))
    arguments = ["export", str(path), "--out", str(tmp_path / "out")]
    capfd.readouterr()

    assert run([*arguments, "--json"]) == 0
    told = capfd.readouterr()
    (found,) = json.loads(told.out)
    for said in ("on import", "from the factory", "from a process", "from forward"):
        assert said in told.err
    assert found["recipe"] == "block"
    assert found["directory"] == str(tmp_path / "out" / "block")
    assert [item["file"] for item in found["artifacts"]] == ["block.fp32.onnx", "block.fp32.tflite"]
    assert found["report"] == json.loads((tmp_path / "out" / "block" / "parity.json").read_text())

    assert run([*arguments, "--quiet"]) == 0
    assert capfd.readouterr().out == ""
    assert run(["cost", str(path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["pairs"] == 1


def test_quiet_says_nothing_of_a_pass(recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(recipe), "--out", str(tmp_path), "--quiet"]) == 0
    assert tuple(capfd.readouterr()) == ("", "")


def test_quiet_tells_what_failed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "block.toml"
    strict = "tolerance = { atol = 1e-30, rtol = 0.0 }"
    path.write_text(RECIPE.format(factory="edgeconv.nn:DepthwiseSeparableConv", parity=strict))
    assert run(["export", str(path), "--out", str(tmp_path / "out"), "--quiet"]) == 1
    told = capfd.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("edgeconv: failed: block.fp32.onnx on onnxruntime, output output: ")
    assert len(lines[1]) > len("edgeconv: failed: block.fp32.onnx on onnxruntime, output output: ")
    assert lines[-1] == "edgeconv: failed: block: 3 of 3 comparisons failed"


def test_nothing_compared_is_said(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(recipe), "--out", str(tmp_path), "--device", "torch"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("block: fail: nothing was compared (")


def test_a_larger_bound_is_visible_beside_a_larger_error(capsys: pytest.CaptureFixture[str]) -> None:
    """An input of scale 100 has a hundredfold bound: its error alone would look like a failure."""
    from edgeconv.cli._verdicts import show_report
    from edgeconv.report import Report

    metrics = Metrics(1e-3, 1e-6, 1e-6, 4.0, 1e-4, 1.0, 120.0)
    cases = {"a": (0.5, Verdict.PASS), "b": (1.0001, Verdict.FAIL), "c": (float("nan"), Verdict.FAIL)}
    rows = tuple(
        Comparison(
            "x.onnx", "d", name, metrics, Tolerance(), verdict, "", (SampleResult("s", metrics, excess, verdict),)
        )
        for name, (excess, verdict) in cases.items()
    )
    show_report(Report("x", comparisons=rows), Path("x"))
    title, *shown, last = capsys.readouterr().out.splitlines()
    at = title.index("of the bound") + len("of the bound")
    assert [line[:at].rsplit("  ", 1)[-1].strip() for line in shown] == ["50.0 %", "1.01 times", "inf times"]
    assert last.startswith("x: fail: 2 of 3 comparisons failed")


def test_parity_again_gives_the_same_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["parity", str(folder), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report == json.loads((folder / "parity.json").read_text())
    assert report["verdict"] == "pass"


def test_parity_with_the_recipe_runs_torch_too(recipe: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["parity", str(folder), "--recipe", str(recipe), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    verdicts = {row["device"]: row["verdict"] for row in report["comparisons"]}
    assert verdicts == {"torch": "pass", "onnxruntime": "pass", "litert": "pass"}


def test_devices_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["devices", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["onnxruntime"]["formats"] == ["onnx"]
    assert rows["litert"]["formats"] == ["tflite"]
    assert rows["onnxruntime"]["problem"] == ""
    assert rows["onnxruntime"]["version"].startswith("onnxruntime ")


def test_installing_what_is_installed_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from edgeconv.devices import install

    install("tflite-runtime")  # a machine that runs these tests has it already, or can fetch it
    assert run(["devices", "--install", "tflite-runtime"]) == 0
    assert capsys.readouterr().out == "tflite-runtime: was installed already\n"
    assert run(["devices", "--install", "tflite-runtime", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runtime": "tflite-runtime", "installed_now": False}


def test_cost_in_closed_form(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3x3 depthwise then pointwise, 3 to 8 channels at 16x20, against one 3x3 convolution."""
    assert run(["cost", str(recipe), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    layers = {layer["kind"]: layer for layer in found["layers"]}
    pixels = 16 * 20
    assert layers["Conv2d depthwise"]["own"]["macs"] == pixels * 3 * 9
    assert layers["Conv2d pointwise"]["own"]["macs"] == pixels * 3 * 8
    assert layers["Conv2d pointwise"]["own"]["activation_bytes"] == pixels * 8 * 4
    assert layers["Conv2d pointwise"]["ordinary"]["macs"] == pixels * 3 * 9 * 8
    assert found["own"]["macs"] == pixels * (27 + 24)
    assert found["ordinary"]["macs"] == pixels * 216
    for which in ("own", "ordinary"):
        assert found[which]["parameters"] == sum(layer[which]["parameters"] for layer in found["layers"])
    assert "total" not in found


def test_cost_for_people(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cost", str(recipe)]) == 0
    *_, total, summary = capsys.readouterr().out.splitlines()
    assert total.startswith("total")
    assert f"{320 * 51:,}" in total
    assert f"{320 * 216:,}" in total
    assert summary.startswith(f"1 depthwise-pointwise pairs: {51 / 216:.1%} of the multiply-adds")


def test_bench_prints_a_row_per_file_and_device(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(exported), "--device", "onnxruntime", "--rounds", "1", "--runs", "1"]
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["rows"]
    assert row["artifact"] == "block.fp32.onnx"
    assert row["latency"]["median_ms"] > 0
    assert run([*arguments, "-q"]) == 0
    title, shown = capsys.readouterr().out.splitlines()
    assert title.split()[0] == "artifact"
    assert shown.split()[:2] == ["block.fp32.onnx", "onnxruntime"]


def test_version_prints_the_version_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"edgeconv {edgeconv.__version__}\n"


def test_the_package_runs_as_a_module_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgeconv", "inspect", str(tmp_path / "none.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("edgeconv: error: ")
    assert done.stderr.count("\n") == 1


def test_no_verb_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    alone = capsys.readouterr().out
    assert run(["--help"]) == 0
    assert capsys.readouterr().out == alone
    for verb in ("export", "parity", "devices", "inspect", "cost", "bench"):
        assert f"\n  {verb} " in alone
