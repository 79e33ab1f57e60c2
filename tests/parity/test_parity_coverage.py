"""Which clamps, branches, borders and ends of ranges no input reached, by graphs whose values are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.core import Array
from edgeconv.core.verdicts import Coverage, PartKind
from edgeconv.parity.coverage import Reach
from edgeconv.reference import evaluate_each


def _model(text: str) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 18]>\n{text}')


def _seen(model: ir.Model, *samples: Array) -> Reach:
    reach = Reach(model)
    outputs = [value.name or "" for value in model.graph.outputs]
    feeds: list[Mapping[str, Array]] = [{"x": sample} for sample in samples]
    assert len(list(evaluate_each(model, feeds, keep=outputs, observe=reach.observer()))) == len(samples)
    return reach


def _left(coverage: Coverage) -> list[str]:
    return [f"{part.name}: {part.part}" for part in coverage.unreached]


_RELU6 = """net (float[1,4] x) => (float[1,4] y) <float low = {0.0}, float high = {6.0}> { y = Clip(x, low, high) }"""


def _row(*numbers: float) -> Array:
    return np.array([numbers], np.float32)


def test_a_clamp_is_reached_beyond_its_limits_and_not_at_them() -> None:
    model = _model(_RELU6)
    assert _left(_seen(model, _row(0, 1, 2, 6)).coverage()) == ["y: below 0", "y: above 6"]
    assert _left(_seen(model, _row(-1, 0, 0, 0)).coverage()) == ["y: between 0 and 6", "y: above 6"]
    reach = _seen(model, _row(-1, 1, 2, 3), _row(7, 1, 1, 1))
    assert reach.is_complete
    assert reach.coverage() == Coverage({PartKind.CLAMP: 3})


def test_only_samples_of_the_variant_count() -> None:
    model = _model(_RELU6)
    reach = Reach(model)
    feeds = [{"x": _row(-1, 1, 2, 7)}, {"x": _row(1, 1, 1, 1)}]
    list(evaluate_each(model, feeds, keep=["y"], observe=reach.observer([False, True])))
    assert _left(reach.coverage()) == ["y: below 0", "y: above 6"]


@pytest.mark.parametrize(
    ("operator", "low", "left"),
    [
        ("LeakyRelu <alpha = 0.1> (x)", 0.5, ["y: below 0"]),
        ("Relu (x)", 0.5, ["y: below 0"]),
        ("HardSwish (x)", -1.0, ["y: below -3", "y: above 3"]),
        ("HardSigmoid <alpha = 0.25, beta = 0.5> (x)", -1.0, ["y: below -2", "y: above 2"]),
        ("Elu (x)", -1.0, []),
        ("Sigmoid (x)", -1.0, []),
    ],
)
def test_pieces_of_activations_are_told_by_their_limits(operator: str, low: float, left: list[str]) -> None:
    model = _model(f"net (float[1,4] x) => (float[1,4] y) {{ y = {operator} }}")
    assert _left(_seen(model, _row(low, 1, 1, 1)).coverage()) == left


def test_each_slope_of_a_prelu_needs_a_negative_number() -> None:
    model = _model(
        """net (float[1,4,1,2] x) => (float[1,4,1,2] y) <float[4,1,1] slope = {0.1, 0.2, 0.3, 0.4}>
        { y = PRelu(x, slope) }"""
    )
    x = np.ones((1, 4, 1, 2), np.float32)
    x[0, 2] = -1
    assert _left(_seen(model, x).coverage()) == ["y: below 0, in 3 of 4 channels"]
    assert _left(_seen(model, x, -x).coverage()) == []


def test_a_padded_border_is_reached_where_it_is_not_zero_throughout() -> None:
    model = _model(
        """net (float[1,1,4,4] x) => (float[1,1,2,2] y) <float[1,1,3,3] w = {1,1,1,1,1,1,1,1,1}>
        { y = Conv <pads = [1,1,1,1], strides = [2,2], kernel_shape = [3,3]> (x, w) }"""
    )
    x = np.zeros((1, 1, 4, 4), np.float32)
    x[..., 1:, 1] = 1
    coverage = _seen(model, x).coverage()
    assert coverage.counts == {PartKind.PADDING: 2}, "no window reaches the last row and column of the padding"
    assert _left(coverage) == ["y: top", "y: left"]


def test_a_pad_of_its_own_has_borders_too() -> None:
    model = _model(
        """net (float[1,1,2,2] x) => (float[1,1,3,3] y) <int64[8] pads = {0,0,1,0,0,0,0,1}> { y = Pad(x, pads) }"""
    )
    assert _left(_seen(model, np.array([[[[0, 1], [0, 0]]]], np.float32)).coverage()) == []
    assert _left(_seen(model, np.array([[[[0, 0], [1, 0]]]], np.float32)).coverage()) == ["y: top", "y: right"]


def test_a_quantizer_is_reached_where_its_integers_end() -> None:
    model = _model(
        """net (float[1,4] x) => (int8[1,4] y) <float scale = {0.5}, int8 zero = {-128}>
        { y = QuantizeLinear(x, scale, zero) }"""
    )
    assert _left(_seen(model, _row(0, 1, 127.5, 127.7)).coverage()) == ["y: lower end", "y: upper end"]
    assert _left(_seen(model, _row(-0.3, 1, 1, 127.8)).coverage()) == []


def test_constants_are_no_part_of_what_inputs_reach() -> None:
    model = _model("""net (float[1,4] x) => (float[1,4] y) <float[1,4] c = {1,2,3,4}> { r = Relu(c) y = Add(x, r) }""")
    assert _seen(model, _row(1, 1, 1, 1)).coverage() == Coverage({})
