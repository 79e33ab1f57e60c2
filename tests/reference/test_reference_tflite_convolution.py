"""Convolutions, poolings and matrix products of a `.tflite` file, against LiteRT's reference kernels.

Real numbers are drawn as small integers: all products and sums are exact in float32, so that nothing may differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tflite_files import Spec, both, constant, equal, file_of, ints, quantized, within_ulps

from edgeconv.reference import tflite

RNG = np.random.default_rng()
CONV, DEPTHWISE, DENSE, POOL = "Conv2DOptions", "DepthwiseConv2DOptions", "FullyConnectedOptions", "Pool2DOptions"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state


def _whole(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.integers(-8, 9, shape)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (1, 3)])
def test_convolutions_take_the_windows_that_the_kernels_take(
    padding: int, stride: tuple[int, int], dilation: tuple[int, int]
) -> None:
    data = file_of(
        "CONV_2D",
        [Spec((2, 9, 8, 4)), constant(_whole(5, 3, 2, 4)), constant(_whole(5))],
        [Spec((1, 1, 1, 1))],
        table=CONV,
        padding=padding,
        strideH=stride[0],
        strideW=stride[1],
        dilationHFactor=dilation[0],
        dilationWFactor=dilation[1],
    )
    equal(both(data, RNG, whole=True))


@pytest.mark.parametrize("activation", [0, 1, 2, 3])
def test_fused_activations_and_groups(activation: int) -> None:
    weights = constant(_whole(6, 3, 3, 2))
    data = file_of(
        "CONV_2D",
        [Spec((1, 6, 5, 4)), weights, constant(_whole(6))],
        [Spec((1, 1, 1, 1))],
        table=CONV,
        strideH=1,
        strideW=1,
        fusedActivationFunction=activation,
    )
    equal(both(data, RNG, whole=True))


@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_depthwise_convolutions_are_the_kernels(multiplier: int, padding: int) -> None:
    channels = 4 * multiplier
    data = file_of(
        "DEPTHWISE_CONV_2D",
        [Spec((2, 9, 8, 4)), constant(_whole(1, 3, 4, channels)), constant(_whole(channels))],
        [Spec((1, 1, 1, 1))],
        table=DEPTHWISE,
        padding=padding,
        strideH=2,
        strideW=2,
        depthMultiplier=multiplier,
        dilationHFactor=1 + padding,
        dilationWFactor=1,
    )
    equal(both(data, RNG, whole=True))


@pytest.mark.parametrize(
    ("padding", "stride", "size"),
    [(0, 2, (10, 12)), (0, 2, (9, 11)), (0, 3, (14, 17)), (1, 2, (11, 13)), (1, 1, (7, 7)), (1, 3, (15, 19))],
)
def test_transposed_convolutions_are_the_kernels(padding: int, stride: int, size: tuple[int, int]) -> None:
    shape = (1, *size, 5)
    data = file_of(
        "TRANSPOSE_CONV",
        [ints(*shape), constant(_whole(5, 3, 2, 4)), Spec((1, 5, 6, 4)), constant(_whole(5))],
        [Spec(shape)],
        table="TransposeConvOptions",
        padding=padding,
        strideH=stride,
        strideW=stride,
        fusedActivationFunction=1,
        version=4,
    )
    equal(both(data, RNG, whole=True))


@pytest.mark.parametrize("padding", [0, 1])
def test_convolutions_over_three_axes_are_the_kernels(padding: int) -> None:
    data = file_of(
        "CONV_3D",
        [Spec((1, 5, 6, 7, 3)), constant(_whole(2, 3, 2, 3, 4)), constant(_whole(4))],
        [Spec((1, 1, 1, 1, 1))],
        table="Conv3DOptions",
        padding=padding,
        strideD=2,
        strideH=1,
        strideW=2,
    )
    equal(both(data, RNG, whole=True))


# Data, weights, bias, whether each channel has a scale, further options.
INTEGERS = (
    ("int8", "int8", "int32", True, {}),
    ("int8", "int8", "int32", False, {}),
    ("int8", "int8", None, False, {}),
    ("int8", "int4", "int32", True, {}),
    ("int16", "int8", "int64", True, {}),
    ("int16", "int8", "int64", False, {}),
    ("int16", "int8", "int32", True, {"quantizedBiasType": 2}),
    ("int16", "int8", None, True, {}),
    ("uint8", "uint8", "int32", False, {}),
)

BIASED = [case for case in INTEGERS if case[2] is not None]  # CONV_2D has one in the reference kernels
OF_BYTES = [case for case in INTEGERS if case[1] != "int4"]
PLAIN = [case for case in OF_BYTES if not case[4]]  # DEPTHWISE_CONV_2D has no such option


def _weights(kind: str, shape: tuple[int, ...], axis: int, per_channel: bool) -> Spec:
    low, high = {"uint8": (0, 255), "int4": (-8, 7), "int8": (-127, 127)}[kind]
    scale = RNG.uniform(0.01, 0.02, shape[axis]) if per_channel else 0.015
    numbers = RNG.integers(low, high, shape, endpoint=True)
    return constant(numbers, kind, scale=scale, zero=120 if kind == "uint8" else 0, axis=axis)


def _bias(kind: str | None, weights: Spec, axis: int) -> list[Spec]:
    if kind is None:
        return []
    numbers = RNG.integers(-3000, 3000, weights.shape[axis])
    return [constant(numbers, kind, scale=np.asarray(weights.scale) * 0.04)]


@pytest.mark.parametrize(("kind", "weight_kind", "bias_kind", "per_channel", "options"), BIASED)
@pytest.mark.parametrize("activation", [0, 1, 3])
def test_conv_in_integers(
    kind: str, weight_kind: str, bias_kind: str | None, per_channel: bool, options: dict[str, Any], activation: int
) -> None:
    weights = _weights(weight_kind, (6, 3, 3, 4), 0, per_channel)
    x, y = (quantized(Spec((2, 7, 6, 4)), kind, scale, zero) for scale, zero in ((0.04, 7), (0.2, 20)))
    rest = {"strideH": 2, "strideW": 1, "fusedActivationFunction": activation, **options}
    data = file_of("CONV_2D", [x, weights, *_bias(bias_kind, weights, 0)], [y], table=CONV, **rest)
    equal(both(data, RNG))


@pytest.mark.parametrize(("kind", "weight_kind", "bias_kind", "per_channel", "options"), PLAIN)
def test_depthwise_in_integers(
    kind: str, weight_kind: str, bias_kind: str | None, per_channel: bool, options: dict[str, Any]
) -> None:
    weights = _weights(weight_kind, (1, 3, 3, 8), 3, per_channel)
    x, y = (quantized(Spec((2, 7, 6, 4)), kind, scale, zero) for scale, zero in ((0.04, 7), (0.1, 20)))
    sources = [x, weights, *_bias(bias_kind, weights, 3)]
    rest = {"strideH": 2, "strideW": 2, "depthMultiplier": 2, "fusedActivationFunction": 3}
    equal(both(file_of("DEPTHWISE_CONV_2D", sources, [y], table=DEPTHWISE, **rest), RNG))


@pytest.mark.parametrize(("kind", "weight_kind", "bias_kind", "per_channel", "options"), OF_BYTES)
def test_transposed_in_integers(
    kind: str, weight_kind: str, bias_kind: str | None, per_channel: bool, options: dict[str, Any]
) -> None:
    shape = (1, 10, 12, 5)
    weights = _weights(weight_kind, (5, 3, 2, 4), 0, per_channel)
    x, y = (quantized(Spec(at), kind, scale, zero) for at, scale, zero in (((1, 5, 6, 4), 0.04, 7), (shape, 0.1, 20)))
    sources = [ints(*shape), weights, x, *_bias(bias_kind, weights, 0)]
    rest = {"strideH": 2, "strideW": 2, **options}
    equal(both(file_of("TRANSPOSE_CONV", sources, [y], table="TransposeConvOptions", version=4, **rest), RNG))


@pytest.mark.parametrize(("kind", "weight_kind", "bias_kind", "per_channel", "options"), INTEGERS)
@pytest.mark.parametrize("keep", [False, True])
def test_dense_in_integers(
    kind: str, weight_kind: str, bias_kind: str | None, per_channel: bool, options: dict[str, Any], keep: bool
) -> None:
    weights = _weights(weight_kind, (6, 10), 0, per_channel)
    x, y = (quantized(Spec((2, 3, 10)), kind, scale, zero) for scale, zero in ((0.04, 7), (0.1, 20)))
    rest = {"keepNumDims": keep, "fusedActivationFunction": 1, **options}
    data = file_of("FULLY_CONNECTED", [x, weights, *_bias(bias_kind, weights, 0)], [y], table=DENSE, **rest)
    equal(both(data, RNG))


def test_weights_of_eight_bits_with_a_zero_point_in_a_dense_layer() -> None:
    weights = constant(RNG.integers(-127, 128, (6, 10)), "int8", scale=0.01, zero=9)
    x, y = Spec((3, 10), "int8", 0.04, 7), Spec((3, 6), "int8", 0.1, -4)
    equal(both(file_of("FULLY_CONNECTED", [x, weights], [y], table=DENSE), RNG))


@pytest.mark.parametrize("keep", [False, True])
def test_dense_layers_are_the_kernels(keep: bool) -> None:
    sources = [Spec((2, 3, 10)), constant(_whole(6, 10)), constant(_whole(6))]
    equal(both(file_of("FULLY_CONNECTED", sources, [Spec((1, 1))], table=DENSE, keepNumDims=keep), RNG, whole=True))


@pytest.mark.parametrize(("adj_x", "adj_y"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("kind", ["float32", "int8", "int16"])
def test_products_of_batched_matrices_are_the_kernels(adj_x: bool, adj_y: bool, kind: str) -> None:
    a, b = Spec((2, 3, 5, 4) if adj_x else (2, 3, 4, 5)), Spec((1, 3, 6, 5) if adj_y else (1, 3, 5, 6))
    y = Spec((2, 3, 4, 6))
    if kind != "float32":
        a, b, y = quantized(a, kind, 0.02, 5), quantized(b, kind, 0.03, -7), quantized(y, kind, 0.1, 9)
    data = file_of("BATCH_MATMUL", [a, b], [y], table="BatchMatMulOptions", adjX=adj_x, adjY=adj_y)
    equal(both(data, RNG, whole=True))


@pytest.mark.parametrize("name", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
@pytest.mark.parametrize("kind", ["float32", "int8", "uint8", "int16"])
@pytest.mark.parametrize("padding", [0, 1])
def test_pools_of_numbers_and_integers_are_the_kernels(name: str, kind: str, padding: int) -> None:
    x = Spec((2, 7, 9, 3)) if kind == "float32" else quantized(Spec((2, 7, 9, 3)), kind, 0.1, 7)
    rest = {"padding": padding, "strideH": 3, "strideW": 2, "filterHeight": 3, "filterWidth": 4}
    pairs = both(file_of(name, [x], [x], table=POOL, fusedActivationFunction=3 * padding, **rest), RNG, whole=True)
    (within_ulps if kind == "float32" else equal)(pairs)


def test_root_mean_square_pooling() -> None:
    rest = {"padding": 0, "strideH": 3, "strideW": 2, "filterHeight": 3, "filterWidth": 4}
    within_ulps(both(file_of("L2_POOL_2D", [Spec((2, 7, 9, 3))], [Spec((1, 1, 1, 1))], table=POOL, **rest), RNG))


@pytest.mark.parametrize("name", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_quantized_weights_of_a_float_layer_are_the_numbers_that_they_stand_for(name: str) -> None:
    """The reference kernels quantize the data too, 1/254 of its range off at worst."""
    shape, axis, table = {
        "CONV_2D": ((6, 3, 3, 4), 0, CONV),
        "DEPTHWISE_CONV_2D": ((1, 3, 3, 4), 3, DEPTHWISE),
        "FULLY_CONNECTED": ((6, 4), 0, DENSE),
    }[name]
    weights = _weights("int8", shape, axis, name != "FULLY_CONNECTED")
    rest = {} if name == "FULLY_CONNECTED" else {"strideH": 1, "strideW": 1, "padding": 1}
    x = Spec((3, 4) if name == "FULLY_CONNECTED" else (1, 7, 6, 4))
    sources = [x, weights, constant(RNG.standard_normal(shape[axis]))]
    value = RNG.uniform(-1, 1, x.shape).astype(np.float32)
    assert weights.data is not None
    real = np.abs(weights.data * np.reshape(weights.scale, [-1 if at == axis else 1 for at in range(len(shape))]))
    bound = real.sum(axis=tuple(at for at in range(len(shape)) if at != axis)) / 254
    for theirs, ours in both(file_of(name, sources, [Spec((1, 1, 1, 1))], table=table, **rest), RNG, x0=value):
        assert (np.abs(theirs - ours) <= 1.001 * bound + 1e-5).all()
        assert (np.abs(theirs - ours) > 0).any()


def test_a_kernel_that_reaches_far_beyond_the_input_costs_nothing() -> None:
    rest = {"padding": 0, "strideH": 1, "strideW": 1, "filterHeight": 2**31 - 1, "filterWidth": 3}
    graph = tflite.read(file_of("MAX_POOL_2D", [Spec((1, 4, 4, 1))], [Spec((1, 4, 4, 1))], table=POOL, **rest))
    value = np.arange(16, dtype=np.float64).reshape(1, 4, 4, 1)
    y = tflite.evaluate(graph, {"x0": value})["y0"]
    np.testing.assert_array_equal(y[0, :, 0, 0], [13, 13, 13, 13])


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("name", ["CONV_2D", "FULLY_CONNECTED"])
def test_a_bias_has_as_many_numbers_as_channels_in_any_shape(name: str, kind: str) -> None:
    """As litert-torch writes that of a linear layer on an image: kernels count its elements (not the depthwise one)."""
    shape, table = {"CONV_2D": ((4, 3, 3, 4), CONV), "FULLY_CONNECTED": ((4, 4), DENSE)}[name]
    rest = {"keepNumDims": True} if name == "FULLY_CONNECTED" else {"strideH": 1, "strideW": 1, "padding": 0}
    size = (1, 5, 6, 4)
    if kind == "float32":
        operands = [Spec(size), constant(_whole(*shape)), constant(_whole(1, 1, 1, 4))]
        equal(both(file_of(name, operands, [Spec(size)], table=table, **rest), RNG, whole=True))
        return
    weights = constant(RNG.integers(-127, 128, shape), "int8", scale=0.01)
    bias = constant(RNG.integers(-3000, 3000, (1, 1, 1, 4)), "int32", scale=0.0004)
    operands = [Spec(size, "int8", 0.04, 7), weights, bias]
    equal(both(file_of(name, operands, [Spec(size, "int8", 0.1, 20)], table=table, **rest), RNG))
