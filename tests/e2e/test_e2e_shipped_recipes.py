"""What the shipped recipes promise of their smaller variants, on photographs that nothing was calibrated on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import edgeconv
from edgeconv.cli import run
from edgeconv.core import Verdict
from edgeconv.flow.inspection.tflite import read_tflite
from edgeconv.flow.pipeline import ExportResult

MODELS = Path(__file__).parents[2] / "models"
DEVICES = ("onnxruntime", "litert", "litert-reference", "tflite-runtime")


def _exported(name: str, out: Path, *variants: str) -> ExportResult:
    result = edgeconv.export_recipe(
        edgeconv.load_recipe(MODELS / f"{name}.toml"), out, devices=DEVICES, variants=variants
    )
    assert result.report is not None
    assert result.report.verdict is Verdict.PASS
    return result


@pytest.mark.slow
def test_the_block_in_integers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = _exported("dsconv_3x64_224", tmp_path, "int8")
    assert result.report is not None
    found = {row.device: row.metrics.sqnr_db for row in result.report.comparisons if row.metrics is not None}
    assert set(found) == set(DEVICES)
    assert min(found.values()) >= 36.0
    assert found["onnxruntime"] >= found["litert"] - 0.5
    file = tmp_path / "dsconv_3x64_224.int8.tflite"
    operators = Counter(read_tflite(file.read_bytes())["operators"])
    computing = {name.split()[0]: count for name, count in operators.items() if "QUANTIZE" not in name}
    assert computing == {"CONV_2D": 2, "LEAKY_RELU": 2, "RESHAPE": 2}  # pixels beside each other are read as channels
    assert run(["inspect", "--integer-only", str(file)]) == 0
    capsys.readouterr()


@pytest.mark.slow
def test_all_held_out_digits_in_integers_are_within_half_a_point(tmp_path: Path) -> None:
    result = _exported("digits_dsc", tmp_path, "fp16", "int8", "int8-weights", "int16x8")
    assert result.report is not None
    rows = [row for row in result.report.comparisons if ".int8." in row.artifact and row.top1]
    assert len(rows) == len(DEVICES)
    for row in rows:
        assert row.top1["labelled"] == 360
        assert row.top1["reference"] / 360 > 0.98
        assert abs(row.top1["correct"] - row.top1["reference"]) / 360 <= 0.005


@pytest.mark.slow
def test_efficientnet_lite0_small_and_faithful(tmp_path: Path) -> None:
    result = _exported("efficientnet_lite0", tmp_path, "fp32", "fp16", "int8")
    assert result.report is not None
    for row in result.report.comparisons:
        if ".int8." in row.artifact:
            assert row.metrics is not None
            assert row.metrics.sqnr_db >= 21.0
            assert row.top1["agree"] == len(row.samples)
    sizes = {(item.variant, item.format): item.size_bytes or 0 for item in result.artifacts}
    for format_ in ("onnx", "tflite"):
        assert sizes["int8", format_] <= 0.28 * sizes["fp32", format_]
        assert sizes["fp16", format_] <= 0.51 * sizes["fp32", format_]
