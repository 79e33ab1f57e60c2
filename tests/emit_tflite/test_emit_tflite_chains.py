"""int8 functions that are sums of chains, gates or operators on floats: the integers of a look-up, for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

Numbers = np.ndarray[Any, Any]
_EXPONENTIALS = ["DEQUANTIZE", "RELU", "QUANTIZE", "DEQUANTIZE", "MINIMUM", "EXP", "ADD", "QUANTIZE", "ADD"]
_GATE = ["DEQUANTIZE", "ADD", "MUL", "RELU", "MINIMUM", "QUANTIZE", "MUL"]
_REQUANTIZED = ["DEQUANTIZE", "QUANTIZE"]
_SHRINK = ["DEQUANTIZE", "ADD", "RELU", "QUANTIZE", "DEQUANTIZE", "ADD", "MINIMUM", "QUANTIZE", "ADD"]
FUNCTIONS: Mapping[str, tuple[Callable[[Tensor], Tensor], str, list[str]]] = {
    "elu": (functional.elu, "a = Elu(r)", _EXPONENTIALS),
    "elu, alpha": (lambda x: functional.elu(x, 0.3), "a = Elu<alpha=0.3>(r)", []),
    "selu": (functional.selu, "a = Selu(r)", []),
    "celu": (lambda x: functional.celu(x, 1.7), "a = Celu<alpha=1.7>(r)", []),
    "steep celu": (lambda x: functional.celu(x, 0.2), "a = Celu<alpha=0.2>(r)", []),
    "softshrink": (lambda x: functional.softshrink(x, 0.25), "a = Shrink<lambd=0.25, bias=0.25>(r)", _SHRINK),
    "hardshrink": (
        lambda x: functional.hardshrink(x, 0.25),
        "a = Shrink<lambd=0.25, bias=0.0>(r)",
        ["DEQUANTIZE", "ABS", *_GATE[1:], *_REQUANTIZED],
    ),
    "another bias": (
        lambda x: torch.where(x.abs() > 0.25, x - 0.125 * x.sign(), 0.0),
        "a = Shrink<lambd=0.25, bias=0.125>(r)",
        ["CAST", "ADD", "GATHER"],
    ),
    "thresholded": (
        lambda x: functional.threshold(x, 0.5, 0.0),
        "a = ThresholdedRelu<alpha=0.5>(r)",
        [*_GATE, *_REQUANTIZED],
    ),
    "below zero": (lambda x: functional.threshold(x, -0.25, 0.0), "a = ThresholdedRelu<alpha=-0.25>(r)", []),
    "threshold": (
        lambda x: functional.threshold(x, 0.5, -0.75),
        "c = LessOrEqual(r, limit) a = Where(c, other, r)",
        [*_GATE, *_REQUANTIZED, *_GATE[:5], "MUL", "ADD", "QUANTIZE", "ADD"],
    ),
    "greater": (lambda x: functional.threshold(x, 0.5, -0.75), "c = Greater(r, limit) a = Where(c, r, other)", []),
    "magnitude": (
        lambda x: torch.where(x.abs() > 0.5, x, -0.75),
        "b = Abs(r) c = LessOrEqual(b, limit) a = Where(c, other, r)",
        [],
    ),
    "reciprocal": (torch.reciprocal, "a = Reciprocal(r)", []),
    "mish": (functional.mish, "a = Mish(r)", ["DEQUANTIZE", "LOGISTIC", "SUB", "MUL", "SUB", "DIV", "MUL", "QUANTIZE"]),
    "erf": (torch.erf, "a = Erf(r)", []),
    "sinh": (torch.sinh, "a = Sinh(r)", []),
    "softsign": (functional.softsign, "a = Softsign(r)", ["DEQUANTIZE", "ABS", "ADD", "DIV", "QUANTIZE"]),
}
_OUTSIDE = ("sinh", "another bias")  # which compare on LiteRT's own kernels, or are looked up
_TIE = 2.0**-6  # of a step


def _graph(body: str, steps: tuple[float, int], of_result: tuple[float, int]) -> ir.Model:
    """A quantized function of 256 numbers."""
    (scale, zero), (result_scale, result_zero) = steps, of_result
    text = f"""<ir_version: 9, opset_import: ["": 20]> g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y)
        <float s = {{{scale!r}}}, int8 z = {{{zero}}}, float t = {{{result_scale!r}}}, int8 n = {{{result_zero}}},
        float limit = {{0.5}}, float other = {{-0.75}}>
        {{ q = QuantizeLinear(x, s, z) r = DequantizeLinear(q, s, z) {body}
        p = QuantizeLinear(a, t, n) y = DequantizeLinear(p, t, n) }}"""
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def _off(
    tflite: Any, name: str, steps: tuple[float, int], of_result: tuple[float, int], resolver: str, io: str = "float32"
) -> tuple[Numbers, Numbers, list[str]]:
    """By how much each integer's image is off, how near a tie it is, and the operators."""
    function, body, _ = FUNCTIONS[name]
    (scale, zero), (result_scale, result_zero) = steps, of_result
    x = (np.arange(-128, 128) - zero).astype(np.float32) * np.float32(scale)
    emitted = tflite.to_tflite(_graph(body, steps, of_result), metadata={}, io=io)
    ran = tflite.run(emitted, [x.reshape(1, 4, 8, 8)], resolver)
    integers = np.rint(ran.outputs[0].reshape(-1).astype(np.float64) / np.float32(result_scale)) + result_zero
    ends = (np.array([-128, 127]) - result_zero) * float(np.float32(result_scale))
    # The comparisons are of float32 numbers, and all other arithmetic is of float64.
    images = np.clip(function(torch.from_numpy(x).double()).numpy(), *ends) / float(np.float32(result_scale))
    return integers - (np.rint(images) + result_zero), np.abs(np.abs(images % 1) - 0.5), ran.operators[1:-1]


def _single(number: float) -> float:
    return float(np.float32(number))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(FUNCTIONS)),
    scale=st.floats(0.001, 0.15),
    zero=st.integers(-128, 127),
    ratio=st.floats(0.2, 3.0),
    result_zero=st.integers(-128, 127),
    resolver=st.sampled_from(["xnnpack", "reference"]),
)
def test_all_integers_are_those_of_a_look_up(
    tflite: Any, name: str, scale: float, zero: int, ratio: float, result_zero: int, resolver: str
) -> None:
    steps, of_result = (_single(scale), zero), (_single(scale * ratio), result_zero)
    off, from_tie, _ = _off(tflite, name, steps, of_result, resolver)
    assert np.abs(off[from_tie > _TIE]).max(initial=0) == 0
    assert np.abs(off).max() <= 1


@pytest.mark.parametrize("resolver", ["xnnpack", "reference"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_number_at_the_limit_is_not_above_it(tflite: Any, name: str, resolver: str) -> None:
    """The steps hold all limits exactly, and the results' are other steps."""
    off, from_tie, _ = _off(tflite, name, (1 / 64, -3), (1 / 48, 5), resolver)
    assert np.abs(off[from_tie > _TIE]).max(initial=0) == 0


@pytest.mark.parametrize("name", [name for name, (*_, operators) in FUNCTIONS.items() if operators])
def test_the_form_of_each_function(tflite: Any, name: str) -> None:
    _, _, operators = _off(tflite, name, (0.02, -7), (0.018, 3), "xnnpack")
    assert operators == FUNCTIONS[name][2]


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in _OUTSIDE])
def test_the_delegate_takes_the_whole_file(tflite: Any, name: str) -> None:
    emitted = tflite.to_tflite(_graph(FUNCTIONS[name][1], (0.02, -7), (0.018, 3)), metadata={})
    assert tflite.run(emitted, [np.zeros((1, 4, 8, 8), np.float32)]).partitions == 1


@pytest.mark.parametrize("name", ["elu", "softshrink", "hardshrink", "threshold", "magnitude", "mish", "erf", "sinh"])
def test_a_file_of_integers_looks_them_up(tflite: Any, name: str) -> None:
    emitted = tflite.in_integers(_graph(FUNCTIONS[name][1], (0.02, -7), (0.018, 3)))
    operators = tflite.run(emitted, [np.zeros((1, 4, 8, 8), np.float32)], "reference").operators
    assert operators == ["CAST", "ADD", "GATHER"]


def test_steps_that_floats_do_not_reach_are_looked_up(tflite: Any) -> None:
    """exp(x) - 1 of numbers of 1e-6 has an error of steps."""
    off, from_tie, operators = _off(tflite, "elu", (_single(1e-6), 3), (_single(1e-6), 4), "xnnpack")
    assert operators == ["CAST", "ADD", "GATHER"]
    assert np.abs(off[from_tie > _TIE]).max(initial=0) == 0


def test_a_gate_that_is_never_open_is_looked_up(tflite: Any) -> None:
    off, _, operators = _off(tflite, "threshold", (1 / 512, 0), (1 / 128, 5), "xnnpack")
    assert operators == ["CAST", "ADD", "GATHER"]
    assert not off.any()


def test_alike_steps_need_no_second_rounding(tflite: Any) -> None:
    _, _, operators = _off(tflite, "thresholded", (0.02, -7), (0.02, -7), "xnnpack")
    assert operators == _GATE


def test_a_magnitude_that_the_graph_rounds_is_compared_as_it_is(tflite: Any) -> None:
    body = """b = Abs(r) e = QuantizeLinear(b, t, n) f = DequantizeLinear(e, t, n)
        c = LessOrEqual(f, limit) a = Where(c, other, r)"""
    emitted = tflite.to_tflite(_graph(body, (0.02, -7), (0.03, -128)), metadata={})
    assert "LESS_EQUAL" in tflite.run(emitted, [np.zeros((1, 4, 8, 8), np.float32)], "reference").operators


@pytest.mark.parametrize(
    ("function", "operators"),
    [
        (nn.Hardshrink(0.4), ["DEQUANTIZE", "ABS", *_GATE[1:]]),  # of one range
        (nn.Threshold(0.3, 0.0), [*_GATE, *_REQUANTIZED]),
        (nn.Softshrink(0.4), _SHRINK),
        (nn.ELU(), _EXPONENTIALS),
    ],
)
def test_between_layers_they_are_in_the_delegate(tflite: Any, function: nn.Module, operators: list[str]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 8, 1), function, nn.Conv2d(8, 8, 1))
    x = np.random.default_rng(0).standard_normal((1, 8, 6, 6)).astype(np.float32)
    ran = tflite.run(tflite.to_tflite(tflite.quantized(module, 3 * x), metadata={}), [3 * x])
    assert ran.operators == ["QUANTIZE", "CONV_2D", *operators, "CONV_2D", "DEQUANTIZE"]
    assert ran.partitions == 1
