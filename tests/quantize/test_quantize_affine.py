"""The arithmetic of quantization, which all stages share: against exact fractions, ONNX's own, and itself.

Members thought of: ties, both signs, the ends of every integer type, scales at the ends of float32, infinite quotients,
intervals of one side, of one number and of nothing, one scale and scales along every axis, numpy and torch.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgeconv.core import affine

DTYPES = ["int8", "uint8", "int16", "uint16", "int32"]
_SCALES = st.floats(2.0**-20, 2.0**20, width=32)
_REALS = st.floats(-1e9, 1e9)


def _points(dtype: str) -> st.SearchStrategy[int]:
    return st.integers(*affine.limits_of(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), real=_REALS, scale=_SCALES)
def test_integers_are_the_nearest_of_all(dtype: str, data: st.DataObject, real: float, scale: float) -> None:
    point = data.draw(_points(dtype))
    (integer,) = affine.quantized(np.array([real]), scale, point, dtype).tolist()
    exact = Fraction(real) / Fraction(scale) + point
    low, high = affine.limits_of(dtype)
    error = abs(integer - min(max(exact, Fraction(low)), Fraction(high)))
    assert error <= Fraction(1, 2) + abs(Fraction(real) / Fraction(scale)) / 2**52
    assert low <= integer <= high


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), scale=_SCALES)
def test_every_integer_comes_back(dtype: str, data: st.DataObject, scale: float) -> None:
    integers = np.array(data.draw(st.lists(_points(dtype), min_size=1)), dtype)
    point = data.draw(_points(dtype))
    real = affine.dequantized(integers, scale, point)
    assert real.dtype == np.float64
    np.testing.assert_array_equal(affine.quantized(real, scale, point, dtype), integers)


def test_halves_go_to_the_even_integer_before_the_zero_point_moves_it() -> None:
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert affine.quantized(halves, 1.0, 0, "int8").tolist() == [-2, -2, 0, 0, 2, 2]
    assert affine.quantized(halves, 1.0, 1, "int8").tolist() == [-1, -1, 1, 1, 3, 3]


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", [*DTYPES, "int64"])
def test_what_is_beyond_saturates_in_every_type(dtype: str, precision: type) -> None:
    low, high = affine.limits_of(dtype)
    ends = affine.quantized(np.array([-math.inf, -1e300, 1e300, math.inf]), 1e-30, 0, dtype, np.float64)
    assert ends[:2].tolist() == [low, low]
    assert (ends[2:] > high - 2**11).all()  # float64 has no greater one of 64 bits
    single = affine.quantized(np.array([-3e38, 3e38], np.float32), 1e-30, 0, dtype, precision)
    assert single[0] == low
    assert single[1] > high - 2**40


@given(real=st.lists(st.floats(-300, 300, width=32), min_size=1), scale=st.floats(2.0**-7, 8, width=32))
def test_in_float32_it_is_what_onnx_says(real: list[float], scale: float) -> None:
    x = np.array(real, np.float32)
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"])]
    nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]))
    inputs = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (("x", TensorProto.FLOAT, [None]), ("scale", TensorProto.FLOAT, []))
    ]
    outputs = [helper.make_tensor_value_info(name, 0, None) for name in ("q", "y")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [helper.make_tensor("zero", TensorProto.INT8, [], [-7])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    q, y = ReferenceEvaluator(model).run(None, {"x": x, "scale": np.float32(scale)})
    integers = affine.quantized(x, scale, -7, "int8", np.float32)
    np.testing.assert_array_equal(integers, q)
    back = affine.dequantized(integers, scale, -7, np.float32)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, y)


def test_float32_and_float64_round_a_quotient_beside_a_tie_apart() -> None:
    x, scale = np.float32([39.84712600708008]), 1.1894664764404297  # 33.49999996: a tie in float32
    assert affine.quantized(x, scale, 0, "int8", np.float32).tolist() == [34]
    assert affine.quantized(x, scale, 0, "int8").tolist() == [33]


def test_the_negative_of_every_weight_is_a_weight() -> None:
    least, greatest = affine.WEIGHT_LIMITS
    assert (least, greatest) == (-affine.limits_of("int8")[1], affine.limits_of("int8")[1])


@given(steps=st.lists(st.floats(-200, 200), min_size=1), point=st.integers(-128, 127))
def test_numpy_and_torch_agree(steps: list[float], point: int) -> None:
    by_numpy = affine.saturated(np.array(steps), affine.WEIGHT_LIMITS, point)
    by_torch = affine.saturated(torch.tensor(steps, dtype=torch.float64), affine.WEIGHT_LIMITS, point)
    np.testing.assert_array_equal(by_numpy, by_torch.numpy())
    real = affine.scaled(by_numpy, 0.1, point)
    np.testing.assert_array_equal(real, affine.scaled(by_torch, 0.1, point).numpy())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scales_along_an_axis_are_those_of_its_elements(axis: int) -> None:
    real = np.random.default_rng(axis).normal(size=(2, 3, 4))
    scales, points = np.float32([0.1, 0.2, 0.05, 0.4])[: real.shape[axis]], [3, -3, 0, 7][: real.shape[axis]]
    together = affine.quantized(real, affine.spread(scales, axis, 3), affine.spread(points, axis, 3), "int8")
    for index, (scale, point) in enumerate(zip(scales, points, strict=True)):
        alone = affine.quantized(real.take(index, axis), scale, point, "int8")
        np.testing.assert_array_equal(together.take(index, axis), alone)
    assert affine.spread([0.5], axis, 3).shape == ()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@given(ends=st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32)))
def test_an_asymmetric_interval_is_held_but_for_half_a_step(dtype: str, ends: tuple[float, float]) -> None:
    low, high = min(ends), max(ends)
    scale, point = affine.asymmetric(low, high, dtype)
    assert np.float32(scale) == scale >= 2.0**-126
    first, last = affine.interval_of(scale, point, dtype)
    assert first <= 0.0 <= last  # with an integer that stands for zero itself
    slack = scale * 0.501
    assert first - slack <= low
    assert high <= last + slack
    assert last - first <= max(high, 0.0) - min(low, 0.0) + slack or scale in (1.0, 2.0**-126)


@pytest.mark.parametrize(("dtype", "greatest"), [("int8", 127), ("int16", 32767)])
@given(largest=st.floats(2.0**-100, 2.0**127, width=32))
def test_a_symmetric_scale_gives_the_largest_the_greatest_integer(dtype: str, greatest: int, largest: float) -> None:
    scales = affine.symmetric(np.array([largest, 0.0]), greatest)
    assert scales.dtype == np.float32
    assert scales[1] == 1.0
    ends = affine.quantized(np.array([-largest, largest]), scales[0], 0, dtype)
    assert ends.tolist() == [-greatest, greatest]


@pytest.mark.parametrize("scale", [0.0, 1e-300, 2.0**-149, 1.0, 1e300, math.inf])
def test_scales_are_normal_numbers_of_float32(scale: float) -> None:
    rounded = affine.normal(scale)
    assert rounded.dtype == np.float32
    assert np.isfinite(rounded)
    assert rounded >= np.finfo(np.float32).tiny


@given(source=_SCALES, weights=st.lists(_SCALES, min_size=1))
def test_scales_of_a_bias_are_products_of_float32(source: float, weights: list[float]) -> None:
    scales = affine.bias_scales(source, weights)
    assert scales.dtype == np.float32
    assert scales.tolist() == [float(np.float32(source * weight)) for weight in weights]  # float64 holds each product
