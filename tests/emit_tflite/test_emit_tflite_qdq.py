"""Graphs that another quantizer made: every pair saturates and rounds in the file as it does in the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper, parser, shape_inference

import edgeconv
from edgeconv.errors import EmitError
from edgeconv.flow.inspection.integers_tflite import float_parts_of_tflite
from edgeconv.reference import evaluate

_IMAGE = (1, 8, 8, 8)
_PAIR = "{y}_q = QuantizeLinear({x}, {y}_s, {y}_z) {y} = DequantizeLinear({y}_q, {y}_s, {y}_z)"
_SQUARE, _TALL = (", ".join(str(at * 37 % 255 - 127) for at in range(count)) for count in (64, 2048))
_CONSTANTS = f""", int64[3] shape = {{8, 8, 8}}, float[8, 1, 1] factor = {{1, 2, 3, 4, -1, -2, -3, -4}},
    int8[512, 4] weight_q = {{{_TALL}}}, int8[8, 8] square_q = {{{_SQUARE}}}, float weight_s = {{0.005}},
    int8 weight_z = {{0}}, float[8] bias = {{1, 2, 3, 4, -1, -2, -3, -4}}"""
_WEIGHTS = """weight = DequantizeLinear(weight_q, weight_s, weight_z)
    square = DequantizeLinear(square_q, weight_s, weight_z)"""
_SATURATING = {"a": (0.1, 0), "c": (1 / 64, -20), "y": (1 / 32, -20)}
Parameters = tuple[float, int]


def _model(body: str, pairs: dict[str, Parameters], dtype: str = "int8") -> ir.Model:
    """A graph of ONNX's text format; ``x -> y`` in the body is a pair with these parameters."""
    lines = [
        _PAIR.format(x=line.split("->")[0].strip(), y=line.split("->")[1].strip()) if "->" in line else line
        for line in body.strip().splitlines()
    ]
    constants = [
        f"float {name}_s = {{{scale!r}}}, {dtype} {name}_z = {{{zero}}}" for name, (scale, zero) in pairs.items()
    ]
    text = f"""<ir_version: 10, opset_import: ["": 21]>
        one (float{list(_IMAGE)} x) => (float[] y) <{", ".join(constants)}{_CONSTANTS}>
        {{ {_WEIGHTS} {" ".join(lines)} }}"""
    return ir.from_proto(shape_inference.infer_shapes(_shaped(parser.parse_model(text))))


def _shaped(proto: Any) -> Any:
    """Leaves the output's shape to inference."""
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


def _steps(tflite: Any, model: ir.Model, resolver: str, io: str = "int8", scale: float = 6.0) -> float:
    """The largest distance of the file from the graph, in steps of the output."""
    emitted = tflite.to_tflite(model, metadata={}, io=io)
    assert emitted.notes == ()
    assert float_parts_of_tflite(emitted.data) == []
    x = (np.random.default_rng(0).standard_normal(_IMAGE) * scale).astype(np.float32)
    (actual,) = tflite.run(emitted, [x], resolver).outputs
    expected = evaluate(model, {"x": x}, keep=["y"])["y"]
    assert np.ptp(expected) > 20 * emitted.outputs[0].scale
    return float(np.abs(np.rint((actual - expected) / emitted.outputs[0].scale)).max())


_ONE = {
    "maximum pool that clamps": ("MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(a)", (0.1, 0), (6 / 255, -128)),
    "maximum pool to finer steps": ("MaxPool<kernel_shape=[2, 2]>(a)", (0.1, 0), (0.03, 7)),
    "average pool to finer steps": ("AveragePool<kernel_shape=[2, 2], strides=[2, 2]>(a)", (0.1, 0), (0.03, 0)),
    "average pool to coarser steps": ("AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(a)", (0.1, 0), (0.12, 0)),
    "reshape": ("Flatten(a)", (0.1, 0), (0.05, 3)),
    "transpose": ("Transpose<perm=[0, 2, 3, 1]>(a)", (0.1, 0), (0.05, 3)),
    "sigmoid": ("Sigmoid(a)", (0.05, 0), (0.5 / 255, -128)),
    "tanh": ("Tanh(a)", (0.05, 0), (1 / 255, 0)),
    "softmax": ("Softmax<axis=1>(a)", (0.05, 0), (0.7 / 255, -128)),
    "log softmax": ("LogSoftmax<axis=1>(a)", (0.05, 0), (0.02, 127)),
    "concatenation with itself": ("Concat<axis=1>(a, a)", (0.1, 0), (0.05, 3)),
}


@pytest.mark.parametrize("resolver", ["reference", "xnnpack"])
@pytest.mark.parametrize("name", list(_ONE))
def test_results_keep_their_own_parameters(tflite: Any, name: str, resolver: str) -> None:
    operator, before, behind = _ONE[name]
    model = _model(f"x -> a\n b = {operator}\n b -> y", {"a": before, "y": behind})
    # LOG_SOFTMAX writes steps of 1/16, here more than three of the output's
    assert _steps(tflite, model, resolver) <= (2 if name == "log softmax" else 1)


_JOINED = {
    "concatenation": "Concat<axis=1>(a, c)",
    "maximum": "Max(a, c)",
}


@pytest.mark.parametrize("resolver", ["reference", "xnnpack"])
@pytest.mark.parametrize("name", list(_JOINED))
@pytest.mark.parametrize("second", [(6 / 255, -128), (0.02, 0)])
def test_saturation_before_operators_of_equal_scales_stays(
    tflite: Any, name: str, second: Parameters, resolver: str
) -> None:
    body = f"x -> a\n b = LeakyRelu(a)\n b -> c\n d = {_JOINED[name]}\n d -> y"
    model = _model(body, {"a": (0.1, 0), "c": second, "y": (0.12, 5)})
    assert _steps(tflite, model, resolver) <= 1


_MERGED = {
    "relu": ("Add(a, a)", "Relu(c)"),
    "reshape": ("Flatten(a)", "Reshape(c, shape)"),
    "mean": ("GlobalAveragePool(a)", "Flatten(c)"),
    "scale and shift": ("Mul(a, factor)", "Add(c, factor)"),
    "fully connected": ("Flatten(a)", "MatMul(c, weight)"),
    "bias": ("MatMul(a, square)", "Add(c, bias)"),
}


@pytest.mark.parametrize("name", list(_MERGED))
def test_a_pair_between_two_operators_saturates_where_floats_would_be_merged(tflite: Any, name: str) -> None:
    first, second = _MERGED[name]
    model = _model(f"x -> a\n b = {first}\n b -> c\n d = {second}\n d -> y", _SATURATING)
    assert _steps(tflite, model, "reference") <= 1


def test_pairs_between_floats_saturate(tflite: Any) -> None:
    body = "x -> a\n b = Floor(a)\n b -> c\n d = Floor(c)\n d -> y"
    model = _model(body, {"a": (0.1, 0), "c": (1 / 32, -128), "y": (1 / 16, 0)})
    x = (np.random.default_rng(0).standard_normal(_IMAGE) * 6).astype(np.float32)
    emitted = tflite.to_tflite(model, metadata={})
    (actual,) = tflite.run(emitted, [x]).outputs
    np.testing.assert_allclose(actual, evaluate(model, {"x": x}, keep=["y"])["y"], atol=1e-5)
    assert [note.split()[0] for note in emitted.notes] == ["FLOOR", "FLOOR"]


def test_what_no_pair_rounds_is_not_rounded_before_floats(tflite: Any) -> None:
    body = "x -> a\n b = Sigmoid(a)\n c = Floor(b)\n d = Sub(b, c)\n d -> y"
    model = _model(body, {"a": (0.05, 0), "y": (1 / 512, 0)})
    x = np.random.default_rng(0).standard_normal(_IMAGE).astype(np.float32)
    emitted = tflite.to_tflite(model, metadata={}, io="int8")
    assert [note.split()[0] for note in emitted.notes] == ["LOGISTIC", "FLOOR", "SUB"]
    (actual,) = tflite.run(emitted, [x], "reference").outputs
    np.testing.assert_allclose(actual, evaluate(model, {"x": x}, keep=["y"])["y"], atol=1e-5)


@pytest.mark.parametrize("first", ["Relu(x)", "MaxPool<kernel_shape=[2, 2]>(x)", "Sigmoid(x)"])
def test_pairs_side_by_side_do_not_saturate_one_another(tflite: Any, first: str) -> None:
    body = f"v = {first}\n v -> a\n v -> c\n d = Concat<axis=1>(a, c)\n d -> y"
    model = _model(body, {"a": (1 / 256, 0), "c": (0.05, -128), "y": (0.05, -128)})
    x = (np.random.default_rng(0).standard_normal(_IMAGE) * 6).astype(np.float32)
    (actual,) = tflite.run(tflite.to_tflite(model, metadata={}, io="int8"), [x]).outputs
    assert np.abs(actual - evaluate(model, {"x": x}, keep=["y"])["y"]).max() <= 0.051


def test_a_value_that_is_read_beside_its_pair_is_not_rounded(tflite: Any) -> None:
    body = "v = Tanh(x)\n v -> a\n b = Neg(a)\n b -> c\n y = Add(v, c)"
    model = _model(body, {"a": (0.1, 0), "c": (0.1, 0)})
    x = np.random.default_rng(0).standard_normal(_IMAGE).astype(np.float32)
    (actual,) = tflite.run(tflite.to_tflite(model, metadata={}), [x]).outputs
    np.testing.assert_allclose(actual, evaluate(model, {"x": x}, keep=["y"])["y"], atol=1e-5)


def test_the_halves_of_a_pair_have_one_scale(tflite: Any) -> None:
    model = _model("x -> a\n b = Relu(a)\n b -> y", {"a": (0.1, 0), "y": (0.1, 0), "other": (0.05, 0)})
    halves = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    halves[-1].replace_input_with(1, model.graph.initializers["other_s"])
    with pytest.raises(EmitError, match="its QuantizeLinear has another scale or zero point"):
        tflite.to_tflite(model, metadata={})


def test_a_constant_that_is_an_output_may_be_quantized_again(tmp_path: Path) -> None:
    """As onnxruntime's own optimizer leaves shared constants behind: the real one is read, and rounded once more."""
    constants = {"w": np.arange(-3, 3, dtype=np.int8), "s": np.float32(0.1), "z": np.int8(0), "at": np.array([0])}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["real"]),
        helper.make_node("Unsqueeze", ["real", "at"], ["row"]),
        *(helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]) for name in ("row", "x")),
        *(helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"]) for name in ("row", "x")),
        helper.make_node("Add", ["x_d", "row_d"], ["y"]),
    ]
    x, y, row = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 6)) for name in ("x", "y", "row"))
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "again", [x], [y, row], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "a.onnx")
    (artifact,) = edgeconv.export_onnx(tmp_path / "a.onnx", tmp_path / "out", name="a", formats="tflite").artifacts
    fed = np.linspace(-1, 1, 6, dtype=np.float32)[None]
    expected = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"x": fed})
    results = Interpreter(str(artifact.path)).get_signature_runner()(x=fed)
    np.testing.assert_allclose(results["y"], expected[0], atol=1e-6)
    np.testing.assert_allclose(results["row"], expected[1], atol=1e-6)
