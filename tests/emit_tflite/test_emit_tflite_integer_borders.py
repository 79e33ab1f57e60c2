"""Graphs whose inputs and outputs are quantized integers: the file takes and gives these very integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser, shape_inference

from edgeconv.core.affine import limits_of
from edgeconv.errors import EmitError
from edgeconv.reference import evaluate

_ZEROS = {"int8": -3, "uint8": 131, "int16": 0, "uint16": 32768}


def _model(body: str, kind: str, outputs: str, constants: str = "") -> ir.Model:
    """A graph of ONNX's text format on integers x of (1, 3, 4, 4), with the scales s and t and a zero point of each."""
    zero = _ZEROS[kind]
    own = f"float s = {{0.03}}, float t = {{0.05}}, {kind} z = {{{zero}}}, {kind} m = {{{zero}}}{constants}"
    head = f'<ir_version: 10, opset_import: ["": 21]> one ({kind}[1, 3, 4, 4] x)'
    text = f"{head} => ({outputs}) <{own}> {{ {body} }}"
    return ir.from_proto(shape_inference.infer_shapes(parser.parse_model(text)))


def _drawn(kind: str) -> np.ndarray[Any, Any]:
    least, greatest = limits_of(kind)
    return np.random.default_rng(0).integers(least, greatest, (1, 3, 4, 4), endpoint=True).astype(kind)


_RELU = "a = DequantizeLinear(x, s, z) b = Relu(a) y = QuantizeLinear(b, t, m)"


@pytest.mark.parametrize("resolver", ["reference", "xnnpack"])
@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("kind", ["int8", "uint8", "int16"])
def test_integers_of_the_graph_are_those_of_the_file_whatever_is_asked_for(
    tflite: Any, kind: str, io: str, resolver: str
) -> None:
    model = _model(_RELU, kind, f"{kind}[1, 3, 4, 4] y")
    emitted = tflite.to_tflite(model, metadata={}, io=io)
    assert [(spec.dtype, spec.scale) for spec in (*emitted.inputs, *emitted.outputs)] == [(kind, None)] * 2
    x = _drawn(kind)
    (actual,) = tflite.run(emitted, [x], resolver).outputs
    expected = evaluate(model, {"x": x})["y"]
    assert actual.dtype == expected.dtype
    assert np.abs(actual.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_an_output_may_be_read_as_integers_and_as_real_numbers(tflite: Any, kind: str) -> None:
    body = _RELU + "c = DequantizeLinear(y, t, m) d = Neg(c) e = QuantizeLinear(d, t, m)"
    model = _model(body, kind, f"{kind}[1, 3, 4, 4] y, {kind}[1, 3, 4, 4] e, float[1, 3, 4, 4] c")
    emitted = tflite.to_tflite(model, metadata={})
    x = _drawn(kind)
    expected = evaluate(model, {"x": x})
    for spec, actual in zip(emitted.outputs, tflite.run(emitted, [x]).outputs, strict=True):
        due = expected[spec.name]
        atol = 0.051 if spec.name == "c" else 1
        np.testing.assert_allclose(actual.astype(np.float64), due.astype(np.float64), atol=atol, err_msg=spec.name)


def test_an_input_is_an_output_in_other_integers(tflite: Any) -> None:
    model = _model("a = DequantizeLinear(x, s, z) y = QuantizeLinear(a, t, m)", "int8", "int8[1, 3, 4, 4] y")
    x = _drawn("int8")
    (actual,) = tflite.run(tflite.to_tflite(model, metadata={}, exact=True), [x]).outputs
    np.testing.assert_array_equal(actual, evaluate(model, {"x": x})["y"])


@pytest.mark.parametrize(
    "body",
    [
        "a = DequantizeLinear(x, s, z) b = DequantizeLinear(x, t, z) y = Add(a, b)",  # two scales of one input
        "a = DequantizeLinear <axis = 1> (x, v, o) y = Relu(a)",  # a scale per channel
        "c = Cast <to = 1> (x) a = DequantizeLinear(x, s, z) y = Add(a, c)",  # read otherwise, too
    ],
)
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_integers_without_one_scale_become_real_numbers_in_the_file(tflite: Any, kind: str, body: str) -> None:
    constants = f", float[3] v = {{0.01, 0.02, 0.04}}, {kind}[3] o = {{1, 2, 3}}"
    model = _model(body, kind, "float[1, 3, 4, 4] y", constants)
    emitted = tflite.to_tflite(model, metadata={})
    assert emitted.inputs[0].dtype == kind
    x = _drawn(kind)
    expected = evaluate(model, {"x": x})["y"]
    np.testing.assert_allclose(tflite.run(emitted, [x]).outputs[0], expected, rtol=1e-5, atol=1e-5)


def test_an_output_of_a_type_that_tflite_does_not_quantize_to_is_refused(tflite: Any) -> None:
    with pytest.raises(EmitError, match="QUANTIZE makes no uint16; quantize outputs to int8, uint8"):
        tflite.to_tflite(_model(_RELU, "uint16", "uint16[1, 3, 4, 4] y"), metadata={})


def test_an_output_with_a_scale_per_channel_is_refused(tflite: Any) -> None:
    constants = ", float[3] v = {0.01, 0.02, 0.04}, int8[3] o = {1, 2, 3}"
    body = "a = DequantizeLinear(x, s, z) b = Relu(a) y = QuantizeLinear <axis = 1> (b, v, o)"
    with pytest.raises(EmitError, match=r"tflite, y: QuantizeLinear cannot .*: an activation has one scale"):
        tflite.to_tflite(_model(body, "int8", "int8[1, 3, 4, 4] y", constants), metadata={})


def test_an_output_of_sixteen_bits_with_a_zero_point_is_refused_by_the_operator_that_the_file_has(tflite: Any) -> None:
    body = "a = DequantizeLinear(x, s, z) b = Relu(a) y = QuantizeLinear(b, t, p)"
    with pytest.raises(EmitError, match=r"tflite, y: QuantizeLinear cannot .*16-bit activations have zero point 0"):
        tflite.to_tflite(_model(body, "int16", "int16[1, 3, 4, 4] y", ", int16 p = {5}"), metadata={})
