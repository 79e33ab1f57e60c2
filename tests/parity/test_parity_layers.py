"""Layers are judged by themselves: on the runtime's own operands, so that no error adds to another's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeconv.core import Array, Comparison, Fidelity, IntegerTensor, LayerSteps, Verdict
from edgeconv.errors import ParityError
from edgeconv.parity import judge_layers, layer_steps, unjudged_layers

GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
two_layers (float[1, 2, 3, 4] x) => (float[1, 3, 3, 4] y)
<
  float x_scale = {0.25}, uint8 x_zero = {128}, float a_scale = {0.5}, uint8 a_zero = {3},
  float y_scale = {1.0}, uint8 y_zero = {100}, float w_scale = {0.125}, int8 w_zero = {0},
  int8[3, 2, 1, 1] a_weight = {1, -2, 3, 4, -5, 6}, int8[3, 3, 1, 1] y_weight = {9, -8, 7, 6, -5, 4, 3, 2, -1}
>
{
  x_quantized = QuantizeLinear(x, x_scale, x_zero)
  x_dequantized = DequantizeLinear(x_quantized, x_scale, x_zero)
  a_w = DequantizeLinear(a_weight, w_scale, w_zero)
  a_conv = Conv(x_dequantized, a_w)
  a_float = Relu(a_conv)
  a_quantized = QuantizeLinear(a_float, a_scale, a_zero)
  a = DequantizeLinear(a_quantized, a_scale, a_zero)
  y_w = DequantizeLinear(y_weight, w_scale, w_zero)
  y_float = Conv(a, y_w)
  y_quantized = QuantizeLinear(y_float, y_scale, y_zero)
  y = DequantizeLinear(y_quantized, y_scale, y_zero)
}
"""
# The file is of int8, so its zero points are moved by 128; one of its tensors lies channels-last.
TENSORS = (
    IntegerTensor("y/quantized", (1, 3, 3, 4), "int8", (0, 1, 2, 3), 1.0, -28, ("y_quantized",)),
    IntegerTensor("x/quantized", (1, 3, 4, 2), "int8", (0, 2, 3, 1), 0.25, 0, ("x_quantized",)),
    IntegerTensor("a", (1, 3, 4, 3), "int8", (0, 2, 3, 1), 0.5, -125, ("a_quantized",)),
)
MODEL = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(GRAPH)))
X = np.random.default_rng(0).uniform(-30, 30, (1, 2, 3, 4)).astype(np.float32)


def _layer(numbers: Array, weight: str) -> Array:
    """A convolution by the graph's weights; exact, as all numbers are multiples of 2^-8."""
    stored = MODEL.graph.initializers[weight].const_value
    assert stored is not None
    weights = stored.numpy().astype(np.int64)[:, :, 0, 0]
    made: Array = np.einsum("oc,nchw->nohw", weights, numbers.astype(np.float64))
    return made * 0.125


def _runtime(a_is_off: int = 0, y_is_off: int = 0) -> dict[str, Array]:
    """What a runtime's tensors hold whose layers are off at one element each."""
    x = np.clip(np.rint(X / 0.25), -128, 127).astype(np.int8)
    a = np.clip(np.rint((_layer(x, "a_weight") * 0.25).clip(0) / 0.5) - 125, -128, 127).astype(np.int8)
    a.reshape(-1)[np.abs(a.astype(int)).argmin()] += a_is_off
    y = np.clip(np.rint(_layer(a.astype(np.int64) + 125, "y_weight") * 0.5) - 28, -128, 127).astype(np.int8)
    y.reshape(-1)[np.abs(y.astype(int)).argmin()] += y_is_off
    last = (0, 2, 3, 1)
    return {"x/quantized": x.transpose(last), "a": a.transpose(last), "y/quantized": y}


def test_layers_come_in_the_graphs_order_under_the_modules_names() -> None:
    found = layer_steps(MODEL, TENSORS, [{"x": X}], [_runtime()])
    assert [(layer.name, layer.operators) for layer in found] == [("x", ()), ("a", ("Conv", "Relu")), ("y", ("Conv",))]
    assert [dict(layer.lsb) for layer in found] == [{0: 24}, {0: 36}, {0: 36}]


@pytest.mark.parametrize("off", [-5, 2])
def test_an_error_is_its_own_layers_alone(off: int) -> None:
    runs = [_runtime(), _runtime(a_is_off=off)]
    assert not np.array_equal(runs[0]["y/quantized"], runs[1]["y/quantized"])  # it reaches the output
    x, a, y = layer_steps(MODEL, TENSORS, [{"x": X}] * 2, runs)
    assert dict(a.lsb) == {min(off, 0): 71 if off > 0 else 1, max(off, 0): 1 if off > 0 else 71}
    assert (x.largest, a.largest, y.largest) == (0, abs(off), 0)
    _, a, y = layer_steps(MODEL, TENSORS, [{"x": X}], [_runtime(y_is_off=off)])
    assert (a.largest, y.largest) == (0, abs(off))


def test_what_a_runtime_does_not_round_is_inside_of_a_layer() -> None:
    run = _runtime()
    x = run["x/quantized"].transpose(0, 3, 1, 2)
    exact = (_layer(x, "a_weight") * 0.25).clip(0)  # float all the way, as in a fused operator
    run["y/quantized"] = np.clip(np.rint(_layer(exact, "y_weight")) - 28, -128, 127).astype(np.int8)
    _, y = layer_steps(MODEL, [each for each in TENSORS if each.name != "a"], [{"x": X}], [run])
    assert y.operators == ("Conv", "Relu", "Conv")
    assert dict(y.lsb) == {0: 36}


def test_a_tensor_of_another_graph_is_refused() -> None:
    other = IntegerTensor("b", (1,), "int8", (0,), 1.0, 0, ("b_quantized",))
    with pytest.raises(ParityError, match=r"the graph quantizes no 'b_quantized'"):
        layer_steps(MODEL, [other], [{"x": X}], [{"b": np.zeros(1, np.int8)}])


ROW = Comparison("m.tflite", "litert-reference", "y", None, Fidelity(), Verdict.PASS)
EXACT = LayerSteps("a", ("Conv", "Relu"), {-1: 2, 0: 30, 1: 4})
OFF = LayerSteps("b", ("Conv",), {-2: 1, 0: 35})
WORSE = LayerSteps("c", (), {0: 35, 3: 1})


def test_a_row_fails_by_its_worst_layer_and_names_it() -> None:
    passed = judge_layers(ROW, [EXACT])
    assert (passed.verdict, passed.reason, passed.layers) == (Verdict.PASS, "", (EXACT,))
    failed = judge_layers(ROW, [EXACT, OFF])
    assert failed.verdict is Verdict.FAIL
    assert failed.reason == (
        "layer b (Conv) is 2 steps from what the graph makes of its operands, at most 1 are allowed"
    )
    assert judge_layers(ROW, [OFF, WORSE]).reason.startswith("layer c is 3 steps ")
    assert judge_layers(ROW, [OFF, WORSE]).reason.endswith(" allowed, and 1 more of 2")


def test_a_rows_own_failure_stays_beside_that_of_its_layers() -> None:
    broken = replace(ROW, verdict=Verdict.FAIL, reason="SQNR is 3 dB")
    assert judge_layers(broken, [EXACT]).verdict is Verdict.FAIL
    assert judge_layers(broken, [OFF]).reason.startswith("SQNR is 3 dB; layer b ")
    assert unjudged_layers(ROW, "it crashed").reason == "its layers cannot be judged: it crashed"
    assert unjudged_layers(ROW, "it crashed").verdict is Verdict.FAIL


def test_the_recipe_or_the_kernel_may_allow_more() -> None:
    assert judge_layers(ROW, [replace(OFF, most=2, reason="a table")]).verdict is Verdict.PASS
    assert judge_layers(ROW, [replace(WORSE, most=2, reason="a table")]).verdict is Verdict.FAIL
    assert judge_layers(replace(ROW, tolerance=Fidelity(layer_lsb=3)), [OFF, WORSE]).verdict is Verdict.PASS
    assert judge_layers(replace(ROW, tolerance=Fidelity(layer_lsb=None)), [OFF]).verdict is Verdict.PASS
    strict = judge_layers(replace(ROW, tolerance=Fidelity(layer_lsb=0)), [EXACT])
    assert "is 1 steps" not in strict.reason
    assert strict.verdict is Verdict.FAIL
