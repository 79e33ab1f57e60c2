"""LiteRT, operator by operator, within the bounds of its operators: XNNPACK, built-in and reference kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from reference.tflite_files import Spec, constant, file_of, ints, noise, on_litert, quantized, windows

from edgeconv.errors import ParityError
from edgeconv.parity.bounds import TFLITE, Arithmetic, Bound, of_tflite
from edgeconv.parity.bounds._bounded import Bounded
from edgeconv.parity.bounds._formulas import angle
from edgeconv.reference import tflite

Array = npt.NDArray[Any]
RNG = np.random.default_rng(5)
KERNELS = {
    "xnnpack": OpResolverType.AUTO,
    "tflite": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


def _weights(*shape: int) -> Spec:
    return constant(RNG.standard_normal(shape).astype(np.float32))


X, ROW = Spec((3, 40)), Spec((40,))
IMAGE, STEPS = Spec((1, 9, 9, 8)), {"strideW": 1, "strideH": 1}
CONV = {**STEPS, "table": "Conv2DOptions"}
POOL = {**STEPS, "filterWidth": 3, "filterHeight": 3, "table": "Pool2DOptions"}
# Operator, operands, result, options, whether operands are positive.
CASES: list[tuple[str, list[Any], Spec, dict[str, Any], bool]] = [
    *((name, [X], X, {}, False) for name in ("COS", "ELU", "EXP", "HARD_SWISH", "LOGISTIC", "LOG_SOFTMAX", "SIN")),
    *((name, [X], X, {}, False) for name in ("RELU6", "SQUARE", "TANH")),
    *((name, [X], X, {}, True) for name in ("LOG", "RSQRT", "SQRT")),
    *((name, [X, ROW], X, {"fusedActivationFunction": 3}, False) for name in ("ADD", "DIV", "MUL", "SUB")),
    ("ADD_N", [X, X, X], X, {}, False),
    *((f"STABLEHLO_{name}", [X, X], X, {}, False) for name in ("ADD", "MULTIPLY")),
    *(
        ("CUMSUM", [X, constant(axis, "int32")], X, {"exclusive": exclusive, "reverse": not exclusive}, False)
        for axis in (0, 1)
        for exclusive in (False, True)
    ),
    ("ATAN2", [X, X], X, {}, False),
    ("SQUARED_DIFFERENCE", [X, X], X, {}, False),
    *((name, [X, ROW], X, {}, False) for name in ("FLOOR_DIV", "FLOOR_MOD")),
    ("POW", [X, ROW], X, {}, True),
    *(("POW", [X, constant([n], "float32")], X, {}, n < 0) for n in (3.0, 12.0, 31.0, -12.0)),
    ("POW", [X, constant([2.5], "float32")], X, {}, True),
    ("CAST", [Spec((3, 40), "int32")], X, {}, False),
    ("DEQUANTIZE", [quantized(X, "int8")], X, {}, False),
    *(("GELU", [X], X, {"approximate": flag}, False) for flag in (False, True)),
    ("LEAKY_RELU", [X], X, {"alpha": 0.1}, False),
    ("PRELU", [X, _weights(40)], X, {}, False),
    *(("SOFTMAX", [X], X, {"beta": beta}, False) for beta in (1.0, 0.5)),
    ("AVERAGE_POOL_2D", [IMAGE], IMAGE, POOL, False),
    *(("L2_POOL_2D", [IMAGE], IMAGE, {**POOL, "fusedActivationFunction": flag}, False) for flag in (0, 3)),
    ("MAX_POOL_2D", [IMAGE], IMAGE, POOL, False),
    ("BATCH_MATMUL", [Spec((2, 5, 30)), Spec((2, 30, 6))], Spec((2, 5, 6)), {}, False),
    ("CONV_2D", [IMAGE, _weights(6, 3, 3, 8), _weights(6)], Spec((1, 9, 9, 6)), CONV, False),
    ("CONV_2D", [Spec((1, 5, 5, 64)), _weights(32, 1, 1, 64), _weights(32)], Spec((1, 5, 5, 32)), CONV, False),
    (
        "DEPTHWISE_CONV_2D",
        [IMAGE, _weights(1, 3, 3, 8), _weights(8)],
        IMAGE,
        {**STEPS, "depthMultiplier": 1, "table": "DepthwiseConv2DOptions", "fusedActivationFunction": 1},
        False,
    ),
    (
        *("TRANSPOSE_CONV", [ints(1, 18, 18, 4), _weights(4, 2, 2, 8), IMAGE], Spec((1, 18, 18, 4))),
        *({"strideW": 2, "strideH": 2}, False),
    ),
    ("FULLY_CONNECTED", [Spec((4, 100)), _weights(7, 100), _weights(7)], Spec((4, 7)), {}, False),
    ("MEAN", [IMAGE, ints(1, 2)], Spec((1, 8)), {"table": "ReducerOptions"}, False),
    ("SUM", [IMAGE, ints(1, 2)], Spec((1, 8)), {"table": "ReducerOptions"}, False),
    ("REDUCE_PROD", [X, ints(1)], Spec((3,)), {"table": "ReducerOptions"}, False),
    (
        *("LOCAL_RESPONSE_NORMALIZATION", [Spec((1, 2, 2, 16))], Spec((1, 2, 2, 16))),
        *({"radius": 2, "bias": 1.0, "alpha": 0.3, "beta": 0.75}, False),
    ),
    (
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        [
            *(Spec((2, 5, 4)), *(_weights(6, 4) for _ in range(4)), *(_weights(6, 6) for _ in range(4))),
            *(*[None] * 3, *(_weights(6) for _ in range(4)), None, None),
            *(Spec((2, 6), variable=True), Spec((2, 6), variable=True)),
        ],
        Spec((2, 5, 6)),
        {"fusedActivationFunction": 4, "table": "UnidirectionalSequenceLSTMOptions"},
        False,
    ),
    *(
        (
            "SVDF",
            [Spec((3, 20)), _weights(8, 20), _weights(8, 4), bias, Spec((3, 32), variable=True, name="memory")],
            Spec((3, 4)),
            {"table": "SVDFOptions", "rank": 2, "fusedActivationFunction": activation},
            False,
        )
        for bias, activation in ((None, 0), (_weights(4), 1))
    ),
    *(
        (
            "UNIDIRECTIONAL_SEQUENCE_RNN",
            [Spec((2, 5, 4)), _weights(6, 4), _weights(6, 6), _weights(6), Spec((2, 6), variable=True)],
            Spec((2, 5, 6)),
            {"fusedActivationFunction": activation, "table": "SequenceRNNOptions"},
            False,
        )
        for activation in (1, 4)
    ),
    (
        *("SCATTER_ND", [constant(RNG.integers(0, 6, (30, 1)), "int32"), Spec((30, 4)), ints(6, 4)], Spec((6, 4))),
        *({}, False),
    ),
    (
        "RANGE",
        [constant(number, "float32") for number in (-3.3, 16.7, 0.37)],
        *(Spec((55,)), {}, False),
    ),
    ("L2_NORMALIZATION", [X], X, {"table": "L2NormOptions"}, False),
    *(
        (
            *(name, [IMAGE, ints(*size)], Spec((1, *size, 8))),
            *({"alignCorners": corners, "halfPixelCenters": halves}, False),
        )
        for name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
        for size in ((18, 18), (13, 7))
        for corners, halves in ((False, False), (True, False), (False, True))
    ),
]  # fmt: skip


def bounds(
    case: tuple[str, list[Any], Spec, dict[str, Any], bool], kernels: str, rng: np.random.Generator, spread: float = 0.0
) -> tuple[Bound, Array]:
    """The bound of a file's result on random operands, and what kernels make of these."""
    name, sources, result, options, positive = case
    data = file_of(name, sources, [result], **options)
    graph = tflite.read(data)
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=KERNELS[kernels], num_threads=1)
    interpreter.allocate_tensors()
    values = {at: np.zeros(tensor.shape) for at, tensor in enumerate(graph.tensors) if tensor.variable}
    values |= {at: tensor.data for at, tensor in enumerate(graph.tensors) if tensor.data is not None}
    places = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
    for at in graph.inputs:
        tensor = graph.tensors[at]
        drawn = noise(Spec(tensor.shape, tensor.dtype, tensor.quantization and 1.0), rng)  # type: ignore[arg-type]
        if tensor.floating:
            drawn = (drawn * np.exp(rng.uniform(-spread, spread, tensor.shape))).astype(np.float32)
        drawn = np.abs(drawn) if positive else drawn
        interpreter.set_tensor(places[tensor.name], drawn)
        values[at] = drawn.astype(tensor.held_as)
    interpreter.invoke()
    arithmetic = Arithmetic(runtime="tflite" if kernels == "reference" else kernels)
    (bound,) = of_tflite(graph, graph.operators[0], values, arithmetic=arithmetic)
    return bound, interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


UNLIKE = ("ELU", "LOCAL_RESPONSE_NORMALIZATION")


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_operators_are_within_their_bounds(case: Any, kernels: str) -> None:
    if kernels == "reference" and case[0] in UNLIKE:
        pytest.skip(f"LiteRT has no reference kernel of {case[0]}, or one that leaves a channel out")
    for seed in range(6):
        spread = 12.0 * (seed % 2)  # magnitudes of 1e-5 to 1e5 side by side
        bound, result = bounds(case, kernels, np.random.default_rng(seed), spread)
        assert bound.worst.shape == result.shape
        assert bound.used(result).max() <= 1
        assert spread or np.isfinite(bound.worst).all()


FAULTS = {
    **dict.fromkeys(("FLOOR_MOD", "L2_POOL_2D", "SCATTER_ND"), 1e-5),
    **dict.fromkeys(("RANGE", "UNIDIRECTIONAL_SEQUENCE_RNN"), 1e-4),
    "FLOOR_DIV": 1.0,
}
"""A change of the largest number, relative to it, that no kernel makes."""


@pytest.mark.parametrize("case", [case for case in CASES if case[0] in FAULTS], ids=lambda case: case[0])
def test_a_small_fault_is_beyond_the_bound(case: Any) -> None:
    bound, result = bounds(case, "tflite", np.random.default_rng(1))
    at = np.unravel_index(np.argmax(np.abs(result)), result.shape)
    for sign in (-1, 1):
        wrong = result.astype(np.float64)
        wrong[at] += sign * FAULTS[case[0]] * max(np.abs(wrong[at]), 1.0)
        assert bound.used(wrong).max() > 1


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ["FLOOR_DIV", "FLOOR_MOD"])
def test_quotients_near_integers_and_of_denormals_are_within_their_bounds(name: str, kernels: str) -> None:
    rng = np.random.default_rng(3)
    b = rng.standard_normal(4000).astype(np.float32)
    a = (b * rng.integers(-9, 10, 4000)).astype(np.float32)
    beside = np.nextafter(a, np.float32([-99, 99])[rng.integers(0, 2, 4000)])
    a = np.where(rng.random(4000) < 0.5, beside, a)
    a[:200] *= np.float32(1e-38)
    a[200:300], b[300:400] = 0, b[300:400] * np.float32(1e-39)
    a[400:500] *= np.float32(1e12)
    spec = Spec((4000,))
    data = file_of(name, [spec, spec], [spec])
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=KERNELS[kernels], num_threads=1)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), (a, b), strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    graph = tflite.read(data)
    arithmetic = Arithmetic(runtime="tflite" if kernels == "reference" else kernels)
    (bound,) = of_tflite(graph, graph.operators[0], dict(zip(graph.inputs, (a, b), strict=True)), arithmetic=arithmetic)
    result = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert bound.used(result).max() <= 1
    if name == "FLOOR_DIV":
        with np.errstate(over="ignore"):
            rounded = np.floor(a / b)  # the quotient in float32, which reaches the next integer
        assert bound.used(rounded.astype(np.float32)).max() > 1
        (any_bound,) = of_tflite(graph, graph.operators[0], dict(zip(graph.inputs, (a, b), strict=True)))
        assert 0.999 < any_bound.used(rounded).max() <= 1


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ["ADD", "MUL", "CONV_2D", "LOGISTIC"])
def test_quantized_results_are_within_their_steps(name: str, kernels: str) -> None:
    x, y = quantized(IMAGE, "int8", 0.05, 3), quantized(IMAGE, "int8", 0.1, -4)
    cases: dict[str, tuple[list[Any], Spec, dict[str, Any]]] = {
        "ADD": ([x, x], y, {}),
        "MUL": ([x, x], y, {}),
        "LOGISTIC": ([x], replace(y, scale=2.0**-8, zero=-128), {}),
        "CONV_2D": (
            [
                x,
                constant(RNG.integers(-127, 128, (8, 3, 3, 8)), "int8", scale=0.01),
                constant(RNG.integers(-999, 999, 8), "int32", scale=0.0005),
            ],
            y,
            CONV,
        ),
    }
    sources, result, options = cases[name]
    bound, actual = bounds((name, sources, result, options, False), kernels, RNG)
    assert bound.worst.max() <= 1
    assert bound.used(actual).max() <= 1


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("name", ["SVDF", "FULLY_CONNECTED"])
def test_data_that_kernels_quantize_as_they_run_are_within_their_bounds(
    name: str, asymmetric: bool, kernels: str
) -> None:
    """Integer weights beside real data: rows of very different sizes, and all of one sign."""
    weight = constant(RNG.integers(-127, 128, (8, 20)), "int8", scale=0.02)
    time = constant(RNG.integers(-127, 128, (8, 4)), "int8", scale=0.01)
    memory = Spec((3, 32), variable=True, name="memory")
    options: dict[str, Any] = {"asymmetricQuantizeInputs": asymmetric}
    if name == "SVDF":
        sources, result = [Spec((3, 20)), weight, time, _weights(4), memory], Spec((3, 4))
        options |= {"table": "SVDFOptions", "rank": 2, "fusedActivationFunction": 1}
    else:
        sources, result = [Spec((3, 20)), weight, _weights(8)], Spec((3, 8))
    used = []
    for seed in range(8):
        case = (name, sources, result, options, bool(seed % 2))
        bound, actual = bounds(case, kernels, np.random.default_rng(seed), 3.0 * (seed % 3))
        used.append(bound.used(actual).max())
    assert max(used) <= 1
    assert max(used) > 0.02  # it says something


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("size", "count"), [(7, 14), (9, 20), (67, 159)])
def test_places_in_1024ths_of_an_element_are_within_their_steps(size: int, count: int, kernels: str) -> None:
    """TFLite's own kernels are 2 steps from XNNPACK's for 7 to 14, corners aligned, where neighbors differ much."""
    images = (quantized(Spec((1, at, at, 8)), "int8", 1 / 127, 0) for at in (size, count))
    options = {"alignCorners": True, "table": "ResizeBilinearOptions"}
    source, result = images
    case = ("RESIZE_BILINEAR", [source, ints(count, count)], result, options, False)
    bound, actual = bounds(case, kernels, np.random.default_rng(9))
    assert bound.used(actual).max() <= 1


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ["ADD", "DIV", "MUL"])
def test_kernels_without_a_clamp_may_clamp_infinity_to_the_largest_number(name: str, kernels: str) -> None:
    """All but XNNPACK's do."""
    data = file_of(name, [X, ROW], [X])
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=KERNELS[kernels], num_threads=1)
    interpreter.allocate_tensors()
    operands = [np.full((3, 40), -3e38, np.float32), np.full(40, 0.0 if name == "DIV" else 3e38, np.float32)]
    operands[1] = -operands[1] if name == "ADD" else operands[1]
    for detail, array in zip(interpreter.get_input_details(), operands, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    graph = tflite.read(data)
    values = dict(zip(graph.inputs, operands, strict=True))
    (bound,) = of_tflite(graph, graph.operators[0], values, arithmetic=Arithmetic(runtime="tflite"))
    result = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert bound.used(result).max() == 0
    assert np.isinf(bound.used(np.nextafter(np.where(np.isinf(result), np.float32(-3.4e38), result), 0))).all()
    assert np.isinf(bound.used(-result)).all()


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("largest", [1, 4, 16])
def test_exponentials_may_vanish_a_little_above_the_smallest_normal_number(largest: int, kernels: str) -> None:
    """XNNPACK's lack the product that it flushes on the way: 0 for 1.5e-38, of four elements of one size."""
    x = np.zeros((512, largest + 17), np.float32)
    x[:, -1] = -6  # the reciprocal of a sum just above a power of two takes a product below the smallest
    lowest = 126 * np.log(2.0) - np.log(largest)
    x[:, largest:-1] = -np.linspace(lowest - 1, lowest + 1, 512 * 16, dtype=np.float32).reshape(512, 16)
    data = file_of("SOFTMAX", [Spec(x.shape)], [Spec(x.shape)], beta=1.0)
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=KERNELS[kernels], num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    graph = tflite.read(data)
    arithmetic = Arithmetic(runtime="tflite" if kernels == "reference" else kernels)
    (bound,) = of_tflite(graph, graph.operators[0], {graph.inputs[0]: x}, arithmetic=arithmetic)
    assert bound.used(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])).max() <= 1
    assert bound.worst[:, largest:-1].max() < 6e-38


def test_an_angle_carries_the_errors_of_its_point() -> None:
    """Near the origin and at the cut of the angle they may turn it by a whole turn."""
    arithmetic = Arithmetic(runtime="tflite")
    rng, error = np.random.default_rng(3), 1e-3
    points = [Bounded.of(rng.standard_normal(2000), arithmetic).widened(error) for _ in range(2)]
    bound = angle(points[0], points[1])
    for _ in range(20):
        moved = [point.value + error * rng.uniform(-1, 1, 2000) for point in points]
        assert (np.abs(np.arctan2(*moved) - bound.value) <= bound.worst).all()
    cut, apart = (Bounded.of(np.array([number]), arithmetic).widened(error) for number in (5e-4, -1.0))
    assert angle(cut, apart).worst > 2 * np.pi - 1e-9
    assert np.median(bound.worst) < 5 * error


def test_every_rule_is_tried() -> None:
    # LiteRT's CONV_3D is only among its optimized kernels; windows have a test of their own.
    assert set(TFLITE) - {case[0] for case in CASES} == {"CONV_3D", "STABLEHLO_REDUCE_WINDOW"}


@pytest.mark.parametrize(("body", "share"), [("ADD", 0.02), ("MAXIMUM", 0.0)])
def test_windows_are_within_the_bound_of_their_sums(body: str, share: float) -> None:
    options = {"windowDimensions": [1, 3, 3, 1], "padding": [0, 0, 1, 1, 1, 1, 0, 0]}
    data = windows(IMAGE, constant(0.0), IMAGE.shape, body, **options)
    x = np.random.default_rng(2).standard_normal(IMAGE.shape).astype(np.float32) * np.float32(100)
    graph = tflite.read(data)
    values = {**graph.stored, graph.inputs[0]: x.astype(np.float64)}
    (bound,) = of_tflite(graph, graph.operators[0], values, arithmetic=Arithmetic(runtime="tflite"))
    result = on_litert(data, {"x0": x})["y0"]
    assert share <= bound.used(result).max() <= 1
    wrong = np.nextafter(result, np.float32(np.inf)) if body == "MAXIMUM" else result * np.float32(1 + 1e-5)
    assert bound.used(wrong).max() > 1


def test_a_form_without_a_rule_is_named() -> None:
    data = windows(IMAGE, constant(1.0), IMAGE.shape, "MUL", windowDimensions=[1, 1, 1, 1])
    graph = tflite.read(data)
    with pytest.raises(ParityError, match="no error bound is known for these windows"):
        of_tflite(graph, graph.operators[0], {**graph.stored, graph.inputs[0]: np.ones(IMAGE.shape)})


def test_of_what_is_no_number_a_kernel_may_make_any_integer() -> None:
    file = tflite.read(file_of("QUANTIZE", [X], [quantized(X, "int16")]))
    x = RNG.standard_normal((3, 40))
    x[1, 7] = np.nan
    (bound,) = of_tflite(file, file.operators[0], {file.operators[0].inputs[0]: x}, arithmetic=Arithmetic())
    assert np.array_equal(np.isinf(bound.worst), np.isnan(x))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("name", "exponent"), [("TANH", -12), ("TANH", -11), ("TANH", -10), ("LOGISTIC", -12)])
def test_tables_of_16_bits_and_fixed_point_arithmetic_are_within_their_steps(
    name: str, exponent: int, kernels: str
) -> None:
    """Over every number that there is."""
    every = np.arange(-32768, 32768)
    x = quantized(Spec((65536,)), "int16", 2.0**exponent, 0)
    data = file_of(name, [x], [replace(x, scale=2.0**-15)])
    graph = tflite.read(data)
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=KERNELS[kernels], num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], every.astype(np.int16))
    interpreter.invoke()
    arithmetic = Arithmetic(runtime="tflite" if kernels == "reference" else kernels)
    (bound,) = of_tflite(graph, graph.operators[0], {graph.inputs[0]: every}, arithmetic=arithmetic)
    used = bound.used(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])).max()
    assert used <= 1
    assert used == 1 or kernels == "reference" or exponent == -10


@pytest.mark.parametrize(("zero", "wrong"), [(5, -128), (-100, 127)])
def test_a_product_beyond_16_bits_is_the_kernels_own_fault(zero: int, wrong: int) -> None:
    """LiteRT's optimized MUL of int8 adds the zero point to what it held to 16 bits, and wraps."""
    x, y = quantized(IMAGE, "int8", 1.0, 0), quantized(IMAGE, "int8", 0.1, zero)
    for kernels in KERNELS:
        bound, result = bounds(("MUL", [x, x], y, {}, False), kernels, np.random.default_rng(2))
        beyond = result[bound.used(result) > 1]
        assert set(beyond) == ({wrong} if kernels == "tflite" else set())
