"""Elementwise operators, activations and softmax of a `.tflite` file, against LiteRT's reference kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tflite_files import Spec, both, constant, equal, file_of, quantized, within_steps, within_ulps

from edgeconv.errors import EmitError

RNG = np.random.default_rng()
SHAPES = (((2, 3, 4, 5), (2, 3, 4, 5)), ((2, 3, 4, 5), (5,)), ((1, 3, 1, 5), (2, 1, 4, 1)), ((4,), ()))
KINDS = ("int8", "uint8", "int16")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state


@pytest.mark.parametrize(("a", "b"), SHAPES)
@pytest.mark.parametrize("name", ["ADD", "SUB", "MUL"])
@pytest.mark.parametrize("kind", ["float32", "int32", "int64"])
def test_sums_differences_and_products_are_the_kernels(
    a: tuple[int, ...], b: tuple[int, ...], name: str, kind: str
) -> None:
    data = file_of(name, [Spec(a, kind), Spec(b, kind)], [Spec((1,), kind)], fusedActivationFunction=2)
    equal(both(data, RNG, whole=True))


@pytest.mark.parametrize("name", ["MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "FLOOR_DIV", "FLOOR_MOD", "DIV"])
@pytest.mark.parametrize("kind", ["float32", "int32"])
def test_extremes_and_divisions_are_the_kernels_within_rounding(name: str, kind: str) -> None:
    divisor = RNG.integers(1, 9, (2, 3, 4)) * RNG.choice([-1, 1], (2, 3, 4))
    table = "MaximumMinimumOptions" if name in ("MAXIMUM", "MINIMUM") else f"{name.title().replace('_', '')}Options"
    data = file_of(name, [Spec((2, 3, 4), kind), Spec((2, 3, 4), kind)], [Spec((2, 3, 4), kind)], table=table)
    within_ulps(both(data, RNG, whole=True, x1=divisor.astype(kind)), 0.5 if name == "DIV" else 0)


def test_power_and_sum_of_many() -> None:
    base = RNG.uniform(0.1, 3, (3, 4)).astype(np.float32)
    within_ulps(both(file_of("POW", [Spec((3, 4)), Spec((4,))], [Spec((3, 4))]), RNG, x0=base), 2)
    equal(both(file_of("ADD_N", [Spec((3, 4))] * 3, [Spec((3, 4))]), RNG, whole=True))


@pytest.mark.parametrize(("a", "b"), SHAPES)
@pytest.mark.parametrize("name", ["ADD", "SUB", "MUL"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scales", [(0.02, 0.03, 0.05), (0.5, 0.004, 0.3), (0.0625, 0.125, 0.125)])
def test_sums_differences_and_products_of_integers_are_the_kernels(
    a: tuple[int, ...], b: tuple[int, ...], name: str, kind: str, scales: tuple[float, float, float]
) -> None:
    x, z = quantized(Spec(a), kind, scales[0], 3), quantized(Spec(b), kind, scales[1], 12)
    y = quantized(Spec((1,)), kind, scales[2] * (60 if name == "MUL" and kind == "int16" else 1), 20)
    options = {} if name == "MUL" else {"potScaleInt16": False}
    equal(both(file_of(name, [x, z], [y], fusedActivationFunction=1, **options), RNG))


def test_sixteen_bits_whose_scales_are_powers_of_two() -> None:
    for name in ("ADD", "SUB"):
        specs = [Spec((4, 50), "int16", 2.0**-at) for at in (10, 12, 10)]
        equal(both(file_of(name, specs[:2], specs[2:], potScaleInt16=True), RNG))


@pytest.mark.parametrize("name", ["MAXIMUM", "MINIMUM"])
@pytest.mark.parametrize("kind", KINDS)
def test_extremes_in_integers(name: str, kind: str) -> None:
    x = quantized(Spec((3, 4, 5)), kind, 0.1, 4)
    equal(both(file_of(name, [x, replace(x, shape=(5,))], [x], table="MaximumMinimumOptions"), RNG))


def test_squared_differences_in_integers() -> None:
    x, z, y = (Spec((3, 40), "int8", scale, zero) for scale, zero in ((0.02, 3), (0.05, -7), (0.3, -100)))
    equal(both(file_of("SQUARED_DIFFERENCE", [x, z], [y]), RNG))


COMPARISONS = ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")
COMPARED = [(name, kind) for name in COMPARISONS for kind in ("float32", "int32", "int8", "uint8")]


@pytest.mark.parametrize(("name", "kind"), [*COMPARED, ("EQUAL", "int16"), ("GREATER_EQUAL", "int16")])
def test_comparisons_are_the_kernels_of_numbers_and_of_integers(name: str, kind: str) -> None:
    x, z = Spec((3, 40), kind), Spec((40,), kind)
    if kind in KINDS:
        x, z = quantized(x, kind, 0.1, 4), quantized(z, kind, 0.05, 9)
    equal(both(file_of(name, [x, z], [Spec((3, 40), "bool")]), RNG, whole=True))


def test_logic_and_choices() -> None:
    truth = Spec((3, 4), "bool")
    for name in ("LOGICAL_AND", "LOGICAL_OR"):
        equal(both(file_of(name, [truth, truth], [truth]), RNG))
    equal(both(file_of("LOGICAL_NOT", [truth], [truth]), RNG))
    equal(both(file_of("SELECT_V2", [Spec((4,), "bool"), Spec((3, 4)), Spec((3, 1))], [Spec((3, 4))]), RNG))
    equal(both(file_of("SELECT", [Spec((3,), "bool"), Spec((3, 4)), Spec((3, 4))], [Spec((3, 4))]), RNG))


@pytest.mark.parametrize(
    "name", ["ABS", "CEIL", "COS", "EXP", "FLOOR", "LOG", "NEG", "ROUND", "RSQRT", "SIGN", "SIN", "SQRT", "SQUARE"]
)
def test_functions_of_each_element(name: str) -> None:
    value = RNG.uniform(-9, 9, (3, 40)).astype(np.float32)
    value[0, :8] = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.0, -3.0]
    value = np.abs(value) if name in ("LOG", "RSQRT", "SQRT") else value
    # LiteRT has no reference kernel of these two.
    reference = name not in ("CEIL", "ROUND")
    within_ulps(both(file_of(name, [Spec((3, 40))], [Spec((3, 40))]), RNG, reference=reference, x0=value), 3)


@pytest.mark.parametrize("name", ["ABS", "NEG", "SIGN"])
def test_functions_of_plain_integers(name: str) -> None:
    equal(both(file_of(name, [Spec((3, 40), "int32")], [Spec((3, 40), "int32")]), RNG))


ACTIVATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("RELU", {}), ("RELU6", {}), ("RELU_N1_TO_1", {}), ("RELU_0_TO_1", {}), ("LOGISTIC", {}), ("TANH", {}), ("ELU", {}),
    ("HARD_SWISH", {}), ("LEAKY_RELU", {"alpha": 0.1}), ("LEAKY_RELU", {"alpha": 1.5}), ("LEAKY_RELU", {"alpha": -0.3}),
    ("GELU", {"approximate": False}), ("GELU", {"approximate": True}),
)  # fmt: skip


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS)
def test_activations_are_within_four_units_of_the_kernels(name: str, options: dict[str, Any]) -> None:
    value = np.linspace(-9, 9, 400, dtype=np.float32).reshape(4, 100)
    data = file_of(name, [Spec((4, 100))], [Spec((4, 100))], **options)
    for theirs, ours in both(data, RNG, reference=name != "ELU", x0=value):
        # Units of the operand, or of 1 near 0: where a formula cancels, what it is made of counts.
        assert (np.abs(theirs - ours) <= 4 * np.spacing(np.maximum(np.abs(value), 1))).all()


# Which kinds a reference kernel takes, and whether every integer must be the same: those that go through float32 may
# differ by 1 at a tie.
IN_INTEGERS: tuple[tuple[str, dict[str, Any], tuple[str, ...], bool], ...] = (
    ("RELU", {}, KINDS, True),
    ("RELU6", {}, KINDS, True),
    ("RELU_N1_TO_1", {}, KINDS[:2], True),
    ("RELU_0_TO_1", {}, KINDS[:2], True),
    ("LEAKY_RELU", {"alpha": 0.1}, KINDS, True),
    ("LEAKY_RELU", {"alpha": -0.3}, KINDS, True),
    ("HARD_SWISH", {}, KINDS[:2], True),
    ("LOGISTIC", {}, KINDS[:2], False),
    ("LOGISTIC", {}, KINDS[2:], True),
    ("TANH", {}, KINDS[:2], False),
    ("TANH", {}, KINDS[2:], True),
    ("ELU", {}, KINDS[:1], False),
    ("GELU", {"approximate": False}, KINDS, False),
    ("GELU", {"approximate": True}, KINDS, False),
    ("EXP", {}, ("int8", "int16"), False),
    ("LOG", {}, ("int8", "int16"), False),
    ("ABS", {}, ("int8", "int16"), True),
    ("SQRT", {}, ("int8", "int16"), False),
)


@pytest.mark.parametrize(
    ("name", "options", "kind", "exact"),
    [(name, options, kind, exact) for name, options, kinds, exact in IN_INTEGERS for kind in kinds],
)
@pytest.mark.parametrize("scale", [1.0, 0.37, 3.1])
def test_activations_in_integers(name: str, options: dict[str, Any], kind: str, exact: bool, scale: float) -> None:
    wide = kind == "int16"
    info = np.iinfo(kind)
    x = quantized(
        Spec((info.max - info.min + 1,)), kind, scale * (2.0**-12 if wide else 0.05), 3 if kind == "int8" else 120
    )
    y = replace(x, scale=float(x.scale or 0) * 0.9, zero=0 if wide else 5)  # type: ignore[arg-type]
    if name == "LOGISTIC":
        y = replace(y, scale=2.0**-15 if wide else 2.0**-8, zero=0 if wide else info.min)
    elif name == "TANH":
        y = replace(y, scale=2.0**-15 if wide else 2.0**-7, zero={"int8": 0, "uint8": 128}.get(kind, 0))
    elif name == "HARD_SWISH":
        y = replace(y, scale=float(x.scale or 0) * 0.6)  # type: ignore[arg-type]
    elif name == "SQRT":
        x = replace(x, zero=0 if wide else -128)
    every = np.arange(info.min, info.max + 1).astype(kind)
    every = np.maximum(every, 0) if name == "SQRT" and wide else every
    pairs = both(file_of(name, [x], [y], **options), RNG, reference=name != "ELU", x0=every)
    equal(pairs) if exact else within_steps(pairs, share=0.01)


@pytest.mark.parametrize("kind", ["float32", *KINDS])
def test_prelu_is_the_kernels_with_a_slope_per_channel(kind: str) -> None:
    x, alpha = Spec((2, 3, 4, 5)), constant(RNG.uniform(-1, 1, (1, 1, 5)))
    if kind == "float32":
        within_ulps(both(file_of("PRELU", [x, alpha], [x]), RNG), 0.5)
        return
    bytes_of = "int8" if kind == "int16" else kind
    whole = constant(RNG.integers(0, 100, (1, 1, 5)), bytes_of, scale=0.01, zero=40)
    x = quantized(x, kind, 0.05, 7)
    equal(both(file_of("PRELU", [x, whole], [quantized(x, kind, 0.04, 9)]), RNG))


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["float32", *KINDS])
@pytest.mark.parametrize("shape", [(3, 10), (2, 3, 2, 7), (1, 1), (2, 1000)])
def test_softmax_is_the_kernels_and_of_integers_exactly(beta: float, kind: str, shape: tuple[int, ...]) -> None:
    x = Spec(shape)
    if kind == "float32":
        # exp to 2 units, a sum of n of them, a quotient
        within_ulps(both(file_of("SOFTMAX", [x], [x], beta=beta), RNG), 8 + shape[-1])
        return
    wide = kind == "int16"
    low = {"int8": -128, "uint8": 0, "int16": 0}[kind]
    y = Spec(shape, kind, 2.0**-15 if wide else 2.0**-8, low)
    equal(both(file_of("SOFTMAX", [quantized(x, kind, 2.0**-11 if wide else 0.1, 5)], [y], beta=beta), RNG))


def test_others_that_divide_by_a_sum() -> None:
    x = Spec((2, 3, 4, 16))
    for theirs, ours in both(file_of("LOG_SOFTMAX", [x], [x]), RNG):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=20 * 2.0**-24 * np.abs(ours).max())
    within_ulps(both(file_of("L2_NORMALIZATION", [x], [x], table="L2NormOptions"), RNG), 12)
    options = {"radius": 2, "bias": 1.0, "alpha": 0.3, "beta": 0.75}
    within_ulps(both(file_of("LOCAL_RESPONSE_NORMALIZATION", [x], [x], **options), RNG, reference=False), 12)


@pytest.mark.parametrize("kind", KINDS)
def test_quantize_and_dequantize(kind: str) -> None:
    x, y = Spec((4, 100)), quantized(Spec((4, 100)), kind, 0.0123, 7)
    equal(both(file_of("QUANTIZE", [x], [y]), RNG, x0=RNG.uniform(-3, 3, x.shape).astype(np.float32)))
    within_ulps(both(file_of("DEQUANTIZE", [y], [x]), RNG), 0.5)


@pytest.mark.parametrize(
    ("source", "target"), [("int8", "int8"), ("int8", "uint8"), ("uint8", "int8"), ("int16", "int8"), ("int8", "int16")]
)
@pytest.mark.parametrize("scale", [0.1, 0.037, 0.31])
def test_from_integers_to_integers(source: str, target: str, scale: float) -> None:
    x, y = quantized(Spec((4, 100)), source, 0.1, 7), quantized(Spec((4, 100)), target, scale, 9)
    equal(both(file_of("QUANTIZE", [x], [y]), RNG))


def test_weights_of_half_precision_and_by_channel() -> None:
    half = constant(RNG.standard_normal((4, 5)), "float16")
    equal(both(file_of("DEQUANTIZE", [half], [Spec((4, 5))]), RNG))
    weights = constant(RNG.integers(-127, 128, (4, 5)), "int8", scale=RNG.uniform(0.01, 0.1, 5), zero=0, axis=1)
    within_ulps(both(file_of("DEQUANTIZE", [weights], [Spec((4, 5))]), RNG), 0.5)
    nibbles = constant(RNG.integers(-8, 8, (3, 5)), "int4", scale=0.1)
    within_ulps(both(file_of("DEQUANTIZE", [nibbles], [Spec((3, 5))]), RNG), 0.5)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("float32", "int32"),
        ("int32", "float32"),
        ("bool", "float32"),
        ("int32", "int64"),
        ("float32", "bool"),
        ("int64", "int32"),
    ],
)
def test_casts_are_the_kernels_between_all_types(source: str, target: str) -> None:
    equal(both(file_of("CAST", [Spec((4, 9), source)], [Spec((4, 9), target)]), RNG))


def test_casts_to_integers_saturate_as_the_kernels_do() -> None:
    value = np.array([1e20, -1e20, 2.9, -2.9, 3e9], np.float32)
    equal(both(file_of("CAST", [Spec((5,))], [Spec((5,), "int32")]), RNG, x0=value))


def test_angles_are_the_kernels_in_every_quadrant() -> None:
    x = Spec((4, 50))
    within_ulps(both(file_of("ATAN2", [x, x], [x]), RNG))
    ends = constant([0.0, 1.0, -1.0, 0.0, 0.0]), constant([0.0, 0.0, 0.0, 2.0, -2.0])
    within_ulps(both(file_of("ATAN2", ends, [Spec((5,))]), RNG), 1)


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scales", [(0.05, 0.05, 0.06), (0.05, 0.03, 0.6), (0.01, 0.3, 0.001), (0.2, 0.01, 3.0)])
def test_quotients_of_integers_are_the_kernels_where_these_are_defined(
    scales: tuple[float, float, float], kind: str, reference: bool
) -> None:
    """Where a quotient is far below a step, kernels shift by more bits than there are; the reader says 0."""
    zeros = {"int8": (3, -7, 9), "uint8": (130, 120, 7), "int16": (0, 0, 0)}[kind]
    a, b, y = (Spec((40, 50), kind, scale, zero) for scale, zero in zip(scales, zeros, strict=True))
    info = np.iinfo(kind)
    divisor = RNG.integers(info.min, info.max, b.shape, endpoint=True)
    divisor = np.where(divisor == zeros[1], divisor + 1, divisor).astype(kind)
    dividend = RNG.integers(info.min, info.max, a.shape, endpoint=True).astype(kind)
    data = file_of("DIV", [a, b], [y], fusedActivationFunction=1 if scales[2] == 0.6 else 0)
    ((theirs, ours),) = both(data, RNG, reference=reference, x0=dividend, x1=divisor)
    quotient = (dividend.astype(float) - zeros[0]) / (divisor.astype(float) - zeros[1])
    exact = np.maximum(quotient, 0) if scales[2] == 0.6 else quotient
    steps = scales[0] / (scales[1] * scales[2])
    nearest = np.clip(exact * steps + zeros[2], info.min, info.max)
    assert np.abs(ours - nearest).max() <= 0.5 + 1e-4 * abs(info.max)
    differs = theirs != ours
    assert np.abs(quotient * steps)[differs].max(initial=0) < 0.5  # all of them are quotients that are 0
    assert differs.mean() < 0.04


@pytest.mark.parametrize("scale", [0.05, 1e-3, 3.0])
@pytest.mark.parametrize("result", [0.02, 0.1, 1e-3])
def test_inverse_roots_of_eight_bits_are_the_kernels(scale: float, result: float) -> None:
    x, y = Spec((256,), "int8", scale, -128), Spec((256,), "int8", result, -20)
    equal(both(file_of("RSQRT", [x], [y]), RNG, x0=np.arange(-128, 128).astype(np.int8)))


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize(("kind", "zeros"), [("int8", (3, 0)), ("uint8", (120, 128))])
@pytest.mark.parametrize("depth", [1, 5, 64, 700])
def test_vectors_of_unit_length_in_integers(depth: int, kind: str, zeros: tuple[int, int], reference: bool) -> None:
    x, y = Spec((30, depth), kind, 0.05, zeros[0]), Spec((30, depth), kind, 2.0**-7, zeros[1])
    equal(both(file_of("L2_NORMALIZATION", [x], [y], table="L2NormOptions"), RNG, reference=reference))


def test_signs_of_integers_are_changed_where_the_kernel_is_right() -> None:
    x = Spec((256,), "int8", 0.05, 0)
    equal(both(file_of("NEG", [x], [x]), RNG, x0=np.arange(-128, 128).astype(np.int8)))
    moved = file_of("NEG", [replace(x, zero=3)], [replace(x, zero=3)])
    with pytest.raises(EmitError, match="which kernels ignore"):
        both(moved, RNG)
