"""int8 functions of one number between DEQUANTIZE and QUANTIZE, of which XNNPACK makes a table of all integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import edgeconv
from edgeconv.flow.inspection.integers_tflite import float_parts_of_tflite
from edgeconv.reference import evaluate

Numbers = np.ndarray[Any, Any]
SHAPE = (1, 4, 8, 16)
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "abs": (torch.abs, ["ABS"]),
    "cos": (torch.cos, ["COS"]),
    "exp": (torch.exp, ["EXP"]),
    "gelu": (functional.gelu, ["GELU"]),
    "gelu by tanh": (lambda x: functional.gelu(x, approximate="tanh"), ["GELU"]),
    "log": (torch.log, ["MAXIMUM", "LOG"]),
    "sin": (torch.sin, ["SIN"]),
    "softplus": (functional.softplus, ["EXP", "ADD", "LOG"]),
    "sqrt": (torch.sqrt, ["MAXIMUM", "SQRT"]),
}
POSITIVE = ("log", "sqrt")
RANGES = {"exp": (-1.0, 1.0), "log": (0.05, 4.0), "sqrt": (0.05, 4.0)}  # of steeper exponentials the plan leaves floats


def _graph(tflite: Any, name: str, least: float, greatest: float) -> tuple[ir.Model, Numbers]:
    """The quantized graph of a function, and numbers of the range that it is quantized for, none of them at a tie."""
    numbers = np.random.default_rng(0).uniform(least, greatest, SHAPE).astype(np.float32)
    return tflite.quantized(tflite.Function(FUNCTIONS[name][0]), numbers), numbers


@pytest.mark.parametrize("resolver", ["xnnpack", "reference"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_table_of_the_delegate_has_the_integers_of_the_kernel(tflite: Any, name: str, resolver: str) -> None:
    least, greatest = RANGES.get(name, (-4.0, 4.0))
    graph, numbers = _graph(tflite, name, least, greatest)
    of_floats, of_integers = tflite.to_tflite(graph, metadata={}), tflite.in_integers(graph)
    ran = tflite.run(of_floats, [numbers], resolver)
    assert ran.operators == ["QUANTIZE", "DEQUANTIZE", *FUNCTIONS[name][1], "QUANTIZE", "DEQUANTIZE"]
    integers, operators = tflite.integers(of_integers, numbers, resolver)
    assert not {"DEQUANTIZE", "QUANTIZE"} & {*operators}
    assert float_parts_of_tflite(of_integers.data) == []
    off = np.abs(tflite.steps_of(of_integers, ran.outputs[0]) - integers)
    assert off.max() <= 1
    assert (off > 0).mean() <= 0.01, "at ties alone"


def test_what_is_infinite_in_between_is_looked_up(tflite: Any) -> None:
    """A QUANTIZE of infinity is undefined, and ln(1 + exp(100)) is 100."""
    graph, numbers = _graph(tflite, "softplus", -4.0, 100.0)
    operators = tflite.run(tflite.to_tflite(graph, metadata={}), [numbers], "reference").operators
    assert "GATHER" in operators
    assert operators.count("QUANTIZE") == 1


@pytest.mark.parametrize(("kind", "in_floats"), [("int8", False), ("float", True)])
def test_a_file_whose_own_inputs_are_integers_stays_integers_alone(kind: str, in_floats: bool, tmp_path: Path) -> None:
    before = "" if kind == "int8" else "q = QuantizeLinear(x, s, z)"
    read = "x" if kind == "int8" else "q"
    text = f"""<ir_version: 9, opset_import: ["": 17]> g ({kind}[1, 4, 6, 8] x) => (int8[1, 4, 6, 8] y)
        <float s = {{0.05}}, int8 z = {{3}}, float t = {{0.06}}, int8 n = {{-128}}>
        {{ {before} r = DequantizeLinear({read}, s, z) a = Abs(r) y = QuantizeLinear(a, t, n) }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    edgeconv.export_onnx(tmp_path / "net.onnx", tmp_path / "out", name="net", formats="tflite")
    (path,) = (tmp_path / "out").glob("*.tflite")
    parts = float_parts_of_tflite(path.read_bytes())
    assert any(part.startswith("ABS") for part in parts) is in_floats, parts


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(FUNCTIONS)),
    greatest=st.floats(0.01, 60.0),
    ratio=st.floats(0.0, 1.0),
    resolver=st.sampled_from(["xnnpack", "reference"]),
)
def test_any_scale_gives_the_nearest_integers(
    tflite: Any, name: str, greatest: float, ratio: float, resolver: str
) -> None:
    graph, numbers = _graph(tflite, name, 0.01 * greatest if name in POSITIVE else -greatest * ratio, greatest)
    output = graph.graph.outputs[0].name or ""
    expected = evaluate(graph, {"input0": numbers}, keep=[output])[output]
    (actual,) = tflite.run(tflite.to_tflite(graph, metadata={}), [numbers], resolver).outputs
    scale = tflite.in_integers(graph).outputs[0].scale
    assert np.abs(actual - expected).max() <= (1e-5 * np.abs(expected).max() if scale is None else 1.01 * scale)
