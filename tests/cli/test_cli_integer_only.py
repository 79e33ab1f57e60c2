"""`edgeconv inspect --integer-only` says what is float, by name, and exits 1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
import torch
from torch import nn

from edgeconv.capture import capture
from edgeconv.cli import run
from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.rewrite import optimize


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network all integer, with float borders, with a float layer, and float, in both formats."""
    folder = tmp_path_factory.mktemp("integer_only")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LeakyReLU(), nn.Conv2d(4, 4, 3), nn.LeakyReLU(), nn.Conv2d(4, 2, 1))
    graph = optimize(capture(module.eval(), (torch.zeros(1, 3, 8, 8),), input_names=["x"], output_names=["y"]))
    calibration = calibrate(graph, [{"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}])
    whole = apply(graph, make_plan(graph, calibration))
    mixed = apply(graph, make_plan(graph, calibration, options=QuantizationOptions(keep_float=("2",))))
    for name, each in (("whole", whole), ("mixed", mixed), ("float", graph)):
        (folder / f"{name}.tflite").write_bytes(to_tflite(each, metadata={}).data)
        (folder / f"{name}.onnx").write_bytes(to_onnx(each, metadata={}).data)
    (folder / "inner.tflite").write_bytes(to_tflite(whole, metadata={}, io="int8").data)
    return folder


@pytest.mark.parametrize("name", ["whole.tflite", "inner.tflite", "whole.onnx"])
def test_files_of_integers_alone_pass(files: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(files / name), "--integer-only"]) == 0
    assert capsys.readouterr().out == f"{name}: integer only\n"


@pytest.mark.parametrize(("name", "operator"), [("mixed.tflite", "CONV_2D of '2/float'"), ("mixed.onnx", "Conv of '2")])
def test_a_float_layer_is_named(files: Path, name: str, operator: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(files / name), "--integer-only"]) == 1
    *parts, summary = capsys.readouterr().out.splitlines()
    assert any(line.startswith(operator) for line in parts)
    assert summary == f"{name}: {len(parts)} float parts"


def test_inner_conversions_are_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(files / "mixed.tflite"), "--integer-only"]) == 1
    kinds = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert kinds == ["DEQUANTIZE", "CONV_2D", "QUANTIZE"]


@pytest.mark.parametrize("name", ["float.tflite", "float.onnx"])
def test_float_files_fail(files: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(files / name), "--integer-only", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["integer_only"] is False
    assert len(found["float"]) >= 5


def test_a_damaged_file_is_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "damaged.tflite"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64)
    assert run(["inspect", str(path), "--integer-only"]) == 2
    assert "damaged" in capsys.readouterr().err


_QUANTIZED = """
<ir_version: 8, opset_import: ["" : 18, "own" : 1]>
net (float[1, 4] x) => (float[1, 4] y)
<float scale = {{0.1}}, int8 zero = {{0}}, bool yes = {{1}}>
{{
    q = QuantizeLinear(x, scale, zero)
    d = DequantizeLinear(q, scale, zero)
    {inside}
    p = QuantizeLinear(e, scale, zero)
    y = DequantizeLinear(p, scale, zero)
}}
{functions}
"""


@pytest.mark.parametrize(
    ("inside", "functions", "code", "says"),
    [
        ("e = Relu(d)", "", 0, ""),
        ("f = Exp(d) e = Exp(f)", "", 1, "Exp of 'f': writes 'f' as floats"),
        (
            "e = If(yes) <then_branch = a () => (float[1, 4] g) { h = Exp(d) g = Exp(h) },"
            " else_branch = b () => (float[1, 4] g) { g = Relu(d) }>",
            "",
            1,
            "Exp of 'h': writes 'h' as floats",
        ),
        (
            "e = own.F(d)",
            '<domain: "own", opset_import: ["" : 18]> F (a) => (c) { b = Exp(a) c = Exp(b) }',
            1,
            "Exp of",
        ),
        ("e = own.G(d)", "", 1, "G of 'e': nobody can tell what own computes in"),
    ],
    ids=["integers", "plain", "branch", "function", "unknown"],
)
def test_floats_hide_nowhere(
    inside: str, functions: str, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _QUANTIZED.format(inside=inside, functions=functions)
    (tmp_path / "net.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    assert run(["inspect", str(tmp_path / "net.onnx"), "--integer-only"]) == code
    assert says in capsys.readouterr().out
