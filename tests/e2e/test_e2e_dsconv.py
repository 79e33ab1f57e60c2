"""The leading case, from recipe to report, as a user runs it."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import onnx
import pytest

from edgeconv.cli import run

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "models" / "dsconv_3x64_224.toml"
DEVICES = {"onnxruntime": 1, "litert": 2, "litert-reference": 2, "tflite-runtime": 2}  # artifacts that each takes


@pytest.fixture(scope="module")
def report(dsconv_export: Path) -> dict:
    return json.loads((dsconv_export / "parity.json").read_text())


def test_leaves_these_files_and_no_other(dsconv_export: Path) -> None:
    assert sorted(path.name for path in dsconv_export.iterdir()) == [
        "dsconv_3x64_224.fp32.nchw.tflite",
        "dsconv_3x64_224.fp32.onnx",
        "dsconv_3x64_224.fp32.tflite",
        "dsconv_3x64_224.golden.safetensors",
        "parity.html",
        "parity.json",
        "parity.junit.xml",
    ]


def test_onnx_is_four_operators_without_batch_norm(dsconv_export: Path) -> None:
    model = onnx.load(dsconv_export / "dsconv_3x64_224.fp32.onnx")
    assert [node.op_type for node in model.graph.node] == ["Conv", "LeakyRelu", "Conv", "LeakyRelu"]
    assert {item.key: item.value for item in model.metadata_props}["layout"] == "nchw"
    assert model.graph.input[0].name == "input"
    assert model.graph.output[0].name == "output"


def test_nhwc_tflite_is_four_operators(dsconv_export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(dsconv_export / "dsconv_3x64_224.fp32.tflite"), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["operator_count"] == 4
    assert sum(count for name, count in seen["operators"].items() if name.startswith("TRANSPOSE")) == 0
    assert seen["inputs"] == {"input": "float32 [1, 224, 224, 3]"}
    assert seen["outputs"] == {"output": "float32 [1, 224, 224, 64]"}
    assert "min_runtime_version" in seen["metadata"]


def test_nchw_tflite_keeps_torchs_layout(dsconv_export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(dsconv_export / "dsconv_3x64_224.fp32.nchw.tflite"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"output": "float32 [1, 64, 224, 224]"}


def test_every_device_holds_two_millionths(report: dict) -> None:
    assert report["verdict"] == "pass"
    counts = dict.fromkeys(DEVICES, 0)
    for row in report["comparisons"]:
        assert row["verdict"] == "pass", row
        if row["device"] in counts:
            counts[row["device"]] += 1
        for sample in row["samples"]:
            if "scale-1" in sample["sample"] and "scale-10" not in sample["sample"]:
                assert sample["metrics"]["max_abs"] <= 2e-6
    assert counts == DEVICES


def test_report_names_the_bytes_it_judged(dsconv_export: Path, report: dict) -> None:
    for artifact in report["artifacts"]:
        data = (dsconv_export / artifact["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == artifact["sha256"]
    assert report["environment"]["torch"]


def test_junit_has_a_case_per_comparison_and_link(dsconv_export: Path, report: dict) -> None:
    names = [case.get("name", "") for case in ET.parse(dsconv_export / "parity.junit.xml").findall(".//testcase")]
    assert sum("link " not in name for name in names) == len(report["comparisons"])
    links = [link for item in (*report["artifacts"], *report["comparisons"]) for link in item["links"]]
    assert sum("link " in name for name in names) == len(links) > 0


def test_page_stands_alone(dsconv_export: Path) -> None:
    page = (dsconv_export / "parity.html").read_text()
    assert "<script src" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert str(dsconv_export) not in page


def test_another_folder_gives_the_same_bytes(dsconv_export: Path, tmp_path: Path) -> None:
    assert run(["export", str(RECIPE), "--out", str(tmp_path / "elsewhere"), "--no-parity", "-q"]) == 0
    made = tmp_path / "elsewhere" / "dsconv_3x64_224"
    files = sorted(path.name for path in made.iterdir())
    assert len(files) == 3
    for name in files:
        assert (made / name).read_bytes() == (dsconv_export / name).read_bytes(), name


def test_no_path_of_this_machine_in_any_file(dsconv_export: Path) -> None:
    for path in dsconv_export.iterdir():
        data = path.read_bytes()
        assert str(ROOT).encode() not in data, path.name
        assert str(dsconv_export.parent).encode() not in data, path.name
