"""What is special about microcontrollers: the arena that each file needs, and kernels for some variants only."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import flatbuffers
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from device_models import make_samples, tflite_bytes, write_artifact

import edgeconv
from edgeconv.core import Verdict
from edgeconv.devices import DEVICES, install, run_artifact

TIMEOUT_S = 60.0
MICRO = DEVICES["tflite-micro"]


@pytest.fixture(scope="module", autouse=True)
def environment() -> None:
    install("tflite-micro")


def test_the_arena_is_told_for_each_file_and_not_of_the_device(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path, "tflite")
    run = run_artifact(MICRO, artifact, make_samples(), timeout_s=TIMEOUT_S)
    assert run.arena_bytes is not None
    assert 4 * 60 * 4 <= run.arena_bytes < 20_000  # four tensors of 60 floats, and what describes them
    assert "arena_bytes" not in run.environment
    assert run_artifact(DEVICES["litert"], artifact, make_samples(), timeout_s=TIMEOUT_S).arena_bytes is None


@pytest.mark.parametrize("variant", ["fp16", "int8-weights"])
def test_variants_without_kernels_are_skipped_and_say_which_have_some(variant: str, tmp_path: Path) -> None:
    artifact = dataclasses.replace(write_artifact(tmp_path, "tflite"), variant=variant)
    run = run_artifact(MICRO, artifact, make_samples(), timeout_s=TIMEOUT_S)
    assert run.verdict is Verdict.SKIPPED
    assert run.reason.endswith(f"has kernels for fp32, int8, int16x8 only, not for {variant}")


def test_an_operator_that_it_lacks_fails_with_the_interpreters_own_words(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path, "tflite")
    model = schema.ModelT.InitFromPackedBuf(tflite_bytes(), 0)
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.LSTM
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    artifact.path.write_bytes(bytes(builder.Output()))
    run = run_artifact(MICRO, artifact, make_samples(), timeout_s=TIMEOUT_S)
    assert run.verdict is Verdict.FAIL
    assert "LSTM" in run.reason
    assert "\n" not in run.reason


@pytest.mark.parametrize(
    "body",
    [
        "y = Gather(x, i)",
        "y = Gather<axis = 1>(x, j)",
        "y = Mod(i, j)",
        "y = Mod<fmod = 1>(i, j)",
        "y = Mod(i, five)",
        "y = Neg(i)",
        "y = Abs(i)",
        "a = ArgMax<axis = 1>(x) y = Cast<to = 6>(a)",
        "a = ArgMin<axis = 1>(x) b = Cast<to = 1>(a) c = Cast<to = 6>(a) d = Cast<to = 1>(c) y = Add(b, d)",
        "a = ArgMax<axis = 1, keepdims = 0>(x) y = Gather(x, a)",
    ],
)
def test_whole_numbers_are_written_in_operators_that_it_has(body: str, tmp_path: Path) -> None:
    """Its FLOOR_MOD and NEG take floats only, and its ARG_MAX gives no int64."""
    text = '<ir_version: 10, opset_import: ["": 20]> g (int32[2, 6] i, int32[2, 6] j, float[6, 6] x) => ({} y)'
    kind = "float" if "(x, " in body or "Add" in body else "int32"
    model = onnx.parser.parse_model(f"{text.format(kind)} <int32 five = {{5}}> {{ {body} }}")
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "m.onnx")
    options: dict[str, Any] = {"name": "m", "formats": "tflite", "devices": ("litert", "tflite-micro")}
    report = edgeconv.export_onnx(tmp_path / "m.onnx", tmp_path / "out", **options).report
    assert report is not None
    failed = {row.device: row.reason for row in report.comparisons if row.verdict is not Verdict.PASS}
    assert not failed
