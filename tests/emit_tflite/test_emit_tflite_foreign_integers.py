"""Integers of other quantizers that TFLite has no kernels for: refused in one line, or computed in floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser, shape_inference

from edgeconv.errors import EmitError
from edgeconv.reference import evaluate

_PARAMETERS = "float s = {0.03}, int16 z = {ZERO}, uint16 u = {32768}, int8 b = {0}"


def _model(body: str, output: str = "float[1, 3, 4, 4] y", zero: int = 0, constants: str = "") -> ir.Model:
    """A graph of ONNX's text format on x of (1, 3, 4, 4)."""
    parameters = _PARAMETERS.replace("ZERO", str(zero)) + (f", {constants}" if constants else "")
    head = '<ir_version: 10, opset_import: ["": 21]> one (float[1, 3, 4, 4] x)'
    text = f"{head} => ({output}) <{parameters}> {{ {body} }}"
    return ir.from_proto(shape_inference.infer_shapes(parser.parse_model(text)))


def _pair(x: str, y: str, zero: str = "z") -> str:
    return f"{y}_q = QuantizeLinear({x}, s, {zero}) {y} = DequantizeLinear({y}_q, s, {zero})"


def test_sixteen_bits_with_a_zero_point_are_refused(tflite: Any) -> None:
    with pytest.raises(EmitError, match="16-bit activations have zero point 0") as caught:
        tflite.to_tflite(_model(_pair("x", "a") + "b_ = Relu(a)" + _pair("b_", "y"), zero=5), metadata={})
    assert "ActivationSymmetric" in str(caught.value)


@pytest.mark.parametrize("resolver", ["reference", "xnnpack"])
def test_uint16_around_its_middle_is_int16(tflite: Any, resolver: str) -> None:
    model = _model(_pair("x", "a", "u") + "b_ = Relu(a)" + _pair("b_", "y", "u"))
    emitted = tflite.to_tflite(model, metadata={}, io="int16")
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    assert emitted.outputs[0].dtype == "int16"
    np.testing.assert_allclose(tflite.run(emitted, [x], resolver).outputs[0], evaluate(model, {"x": x})["y"], atol=1e-6)


@pytest.mark.parametrize("zero", [0, 7])
def test_weights_of_sixteen_bits_are_not_rounded_to_eight(tflite: Any, zero: int) -> None:
    rows = ", ".join(str(value) for value in np.random.default_rng(0).integers(-32767, 32767, 9))
    constants = f"int16[3, 3, 1, 1] w_q = {{{rows}}}, float ws = {{0.0001}}, int16 wz = {{{zero}}}"
    body = _pair("x", "a") + "w = DequantizeLinear(w_q, ws, wz) c = Conv(a, w)" + _pair("c", "y")
    model = _model(body, constants=constants)
    emitted = tflite.to_tflite(model, metadata={}, io="int16")
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    assert [note for note in emitted.notes if note.startswith("CONV_2D")]
    np.testing.assert_allclose(tflite.run(emitted, [x]).outputs[0], evaluate(model, {"x": x})["y"], atol=1e-6)
