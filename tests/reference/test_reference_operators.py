"""Operators without windows, in float64, against onnx's ReferenceEvaluator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_graphs import assert_as_onnx, assert_same, compute

from edgeconv.emit.tflite.lower._operators import LOWERINGS
from edgeconv.errors import RewriteError
from edgeconv.reference import OPERATORS, ImpossibleError

QUICK = settings(deadline=None, max_examples=25)
RNG = np.random.default_rng(0)

FLOATS = np.concatenate(
    [RNG.normal(size=40) * 3, [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, 1e-9, -1e-9, 700.0, -700.0]]
)
# Functions of any real number. ReferenceEvaluator computes Erf with float32 steps: see below.
REAL = [
    *("Abs", "Atan", "Ceil", "Cos", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Neg"),
    *("Asinh", "Cosh", "Elu", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
    *("Celu", "Softsign", "Tan", "Tanh", "ThresholdedRelu", "IsNaN", "IsInf"),
]


def test_every_operator_that_tflite_takes_is_known() -> None:
    assert set(LOWERINGS) <= set(OPERATORS)


@pytest.mark.parametrize("operator", REAL)
def test_element_by_element(operator: str) -> None:
    opset = 22
    # onnx rounds the attributes' defaults (0.2, 0.01) to float32.
    rounded = operator in ("HardSigmoid", "HardSwish", "LeakyRelu")
    assert_as_onnx(operator, FLOATS, opset=opset, rtol=1e-7 if rounded else 1e-13)


@pytest.mark.parametrize("operator", ["Acos", "Asin", "Atanh", "Log", "Sqrt", "Acosh"])
def test_element_by_element_of_a_part_of_the_numbers(operator: str) -> None:
    x = np.linspace(0.01, 0.99, 30)
    assert_as_onnx(operator, 1 / x if operator == "Acosh" else x)


@pytest.mark.parametrize(
    ("operator", "exact"),
    [
        ("Erf", math.erf),
        ("Softplus", lambda x: math.log1p(math.exp(-abs(x))) + max(x, 0.0)),
        ("Mish", lambda x: x * math.tanh(math.log1p(math.exp(-abs(x))) + max(x, 0.0))),
        ("Gelu", lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
        ("Swish", lambda x: x / (1 + math.exp(-x)) if x > -700 else 0.0),
    ],
)
def test_smooth_functions_keep_their_digits(operator: str, exact: Any) -> None:
    x = np.concatenate([FLOATS, np.linspace(15, 30, 20)])  # torch's softplus is the identity above 20
    opset = {"Gelu": 20, "Swish": 24}.get(operator, 18)
    assert_same(compute(operator, x, opset=opset)[0], np.array([exact(item) for item in x]))


def test_attributes_of_activations() -> None:
    x = FLOATS[:40].reshape(5, 8)
    for operator, attributes in (
        ("Elu", {"alpha": 0.5}),
        ("Celu", {"alpha": 2.0}),
        ("LeakyRelu", {"alpha": 0.25}),
        ("Selu", {"alpha": 1.5, "gamma": 0.5}),
        ("HardSigmoid", {"alpha": 0.25, "beta": 0.5}),
        ("ThresholdedRelu", {"alpha": 0.5}),
        ("Softmax", {"axis": 0}),
        ("LogSoftmax", {"axis": -1}),
        ("Hardmax", {"axis": 0}),
    ):
        assert_as_onnx(operator, x, **attributes)
    assert_as_onnx("PRelu", x, RNG.normal(size=(5, 1)))
    assert_as_onnx("Clip", x, np.array(-0.5), None)
    assert_as_onnx("Clip", x, None, np.array(0.5))
    assert_as_onnx("Clip", x, np.array(1.0), np.array(-1.0))


@pytest.mark.parametrize("alpha", [0.01, 1.5, 0.0, -0.3, math.inf, math.nan])
def test_a_slope_is_for_numbers_below_zero_alone_and_keeps_the_sign_of_zeros(alpha: float) -> None:
    x = np.concatenate([FLOATS, [math.inf, -math.inf, math.nan, 5e-324, -5e-324]])
    with np.errstate(all="ignore"):
        due = np.where(x < 0, float(np.float32(alpha)) * x, x)
    result, number = compute("LeakyRelu", x, alpha=alpha)[0], ~np.isnan(due)
    assert result[number].tobytes() == due[number].tobytes()
    assert np.isnan(result[~number]).all()


def test_softmax_of_old_opsets_takes_all_axes_together() -> None:
    x = RNG.normal(size=(2, 3, 4))
    together = np.exp(x) / np.exp(x).sum((1, 2), keepdims=True)
    assert_same(compute("Softmax", x, opset=12)[0], together)
    assert_same(compute("Softmax", x, opset=13)[0], np.exp(x) / np.exp(x).sum(-1, keepdims=True))


BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]


@QUICK
@given(st.sampled_from(BINARY), st.data())
def test_binary_operators_broadcast_as_in_onnx(operator: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 3), max_size=4))
    other = [data.draw(st.sampled_from([1, size])) for size in shape[data.draw(st.integers(0, len(shape))) :]]
    integers = data.draw(st.booleans())
    a, b = (RNG.integers(-9, 9, size=size) if integers else RNG.normal(size=size) for size in (shape, other))
    b = np.where(b == 0, 1, b)
    assert_as_onnx(operator, np.asarray(a), np.asarray(b), opset=18)


def test_integers_divide_towards_zero_and_powers_keep_their_base() -> None:
    a, b = np.array([-7, 7, -7, 7]), np.array([2, 2, -2, -2])
    np.testing.assert_array_equal(compute("Div", a, b)[0], [-3, 3, 3, -3])
    np.testing.assert_array_equal(compute("Mod", a, b)[0], [1, 1, -1, -1])
    np.testing.assert_array_equal(compute("Mod", a, b, fmod=1)[0], [-1, 1, -1, 1])
    assert_as_onnx("Pow", a, np.array([3, 2, 1, 0]))
    assert_as_onnx("Pow", np.abs(FLOATS), np.array(0.5))
    assert_as_onnx("Pow", FLOATS[:40], np.array([2.0]))
    assert compute("Pow", np.array([2.0]), np.ones((1, 1)))[0].shape == (1, 1)


def test_casts_truncate_and_wrap_as_in_onnx() -> None:
    x = np.array([-2.7, -0.5, 0.0, 0.5, 2.7])
    assert_as_onnx("Cast", x, to=7)
    assert_as_onnx("Cast", x, to=9)
    assert compute("Cast", x, to=1)[0].tolist() == x.tolist()  # float32: no rounding here
    assert_as_onnx("Cast", np.array([True, False]), to=11)
    np.testing.assert_array_equal(compute("Cast", np.array([70000]), to=4)[0], [70000 - 65536])
    np.testing.assert_array_equal(compute("CastLike", x, np.array([1]))[0], [-2, 0, 0, 0, 2])


REDUCTIONS = [name for name in OPERATORS if name.startswith("Reduce")]


@QUICK
@given(st.sampled_from(REDUCTIONS), st.data())
def test_reductions_are_as_in_onnx_with_axes_of_either_form(operator: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    axes = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes]
    x = RNG.uniform(0.1, 2.0, size=shape)  # positive: ReduceLogSum has a logarithm
    keepdims = int(data.draw(st.booleans()))
    assert_as_onnx(operator, x, np.array(axes), keepdims=keepdims)
    assert_as_onnx(operator, x, keepdims=keepdims)
    old = 11 if operator == "ReduceSum" else 13
    by_attribute = compute(operator, x, opset=old, axes=axes, keepdims=keepdims)[0]
    assert_same(by_attribute, compute(operator, x, np.array(axes), keepdims=keepdims)[0])


def test_reductions_over_nothing() -> None:
    x = RNG.normal(size=(2, 3))
    for operator, expected in (("ReduceSum", x), ("ReduceL2", np.abs(x)), ("ReduceSumSquare", x * x), ("ReduceMax", x)):
        assert_same(compute(operator, x, np.array([], dtype=np.int64), noop_with_empty_axes=1)[0], expected)
    assert compute("ReduceMax", np.zeros((2, 0)), np.array([1]))[0].tolist() == [[-np.inf], [-np.inf]]


@QUICK
@given(st.data())
def test_arg_max_takes_the_first_or_last_of_equals(data: st.DataObject) -> None:
    x = RNG.integers(0, 3, size=(3, 4, 5)).astype(np.float64)
    attributes = {
        "axis": data.draw(st.integers(-3, 2)),
        "keepdims": data.draw(st.integers(0, 1)),
        "select_last_index": data.draw(st.integers(0, 1)),
    }
    for operator in ("ArgMax", "ArgMin"):
        assert_as_onnx(operator, x, **attributes)


def test_top_k_and_cumulative_sums() -> None:
    x = RNG.integers(0, 4, size=(3, 6)).astype(np.float64)
    for largest in (0, 1):
        values, indices = compute("TopK", x, np.array([3]), outputs=2, axis=1, largest=largest)
        order = np.argsort(-x if largest else x, axis=1, kind="stable")[:, :3]
        np.testing.assert_array_equal(indices, order)
        np.testing.assert_array_equal(values, np.take_along_axis(x, order, 1))
    for exclusive, reverse in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert_as_onnx("CumSum", x, np.array(1), exclusive=exclusive, reverse=reverse)


@QUICK
@given(st.data())
def test_slices_are_those_of_numpy(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    place = st.sampled_from([-(2**63), -7, -3, -1, 0, 1, 2, 4, 9, 2**63 - 1])
    starts, ends = ([data.draw(place) for _ in axes] for _ in range(2))
    steps = [data.draw(st.sampled_from([-3, -1, 1, 2])) for _ in axes]
    x = RNG.normal(size=shape)
    index = [slice(None)] * len(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    ours = compute("Slice", x, *(np.array(item) for item in (starts, ends, axes, steps)))[0]
    assert_same(ours, x[tuple(index)])


@QUICK
@given(st.sampled_from(["constant", "reflect", "edge", "wrap"]), st.data())
def test_pads_are_those_of_numpy(mode: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    pads = [data.draw(st.integers(0, size - 1)) for size in (*shape, *shape)]
    x = RNG.normal(size=shape)
    frame = list(zip(pads[: len(shape)], pads[len(shape) :], strict=True))
    keywords: dict[str, Any] = {"constant_values": 0.5} if mode == "constant" else {}
    filler = [np.array(0.5)] if mode == "constant" else []
    assert_same(compute("Pad", x, np.array(pads), *filler, mode=mode, opset=19)[0], np.pad(x, frame, mode, **keywords))


def test_pads_of_some_axes_and_negative_ones() -> None:
    x = np.arange(12.0).reshape(3, 4)
    assert_same(compute("Pad", x, np.array([-1, 1]), None, np.array([1]), mode="edge")[0], x[:, [1, 2, 3, 3]])
    assert_same(compute("Pad", x, np.array([-1, -1, 0, -1]))[0], x[1:, 1:3])
    assert_same(
        compute("Pad", x, np.array([-2, 3]), None, np.array([1]), mode="wrap", opset=19)[0], x[:, [2, 3, 2, 3, 2]]
    )
    assert_same(
        compute("Pad", x, opset=10, pads=[0, 1, 0, 0], value=2.0)[0], np.pad(x, ((0, 0), (1, 0)), constant_values=2)
    )


@pytest.mark.parametrize(
    ("operator", "operands", "error"),
    [
        ("Unsqueeze", [[0, 0]], RewriteError),
        ("Unsqueeze", [[7]], ImpossibleError),
        ("Squeeze", [[7]], ImpossibleError),
        ("Slice", [[0], [1], [5]], ImpossibleError),
        ("Slice", [[0, 0], [2, 1], [1, -1]], RewriteError),
    ],
)
def test_axes_that_there_are_not_are_refused(
    operator: str, operands: list[list[int]], error: type[RewriteError]
) -> None:
    """They once came round again, or ended the evaluation without a word."""
    with pytest.raises(error, match=f"{operator}.*axes"):
        compute(operator, np.zeros((1, 3)), *map(np.array, operands))


def test_shapes_and_moves() -> None:
    x = RNG.normal(size=(2, 8, 1, 6))
    assert_as_onnx("Reshape", x, np.array([0, -1, 3]))
    assert_as_onnx("Flatten", x, axis=2)
    assert_as_onnx("Flatten", x, axis=0)
    assert_as_onnx("Transpose", x, perm=[3, 0, 2, 1])
    assert_as_onnx("Transpose", x)
    assert_as_onnx("Squeeze", x, np.array([-2]))
    assert_same(compute("Squeeze", x, opset=11, axes=[2])[0], x[:, :, 0])
    assert_as_onnx("Unsqueeze", x, np.array([0, -1]))
    assert_as_onnx("Expand", x, np.array([3, 1, 1, 5, 1]))
    assert_as_onnx("Tile", x, np.array([1, 2, 3, 1]))
    assert_as_onnx("Concat", x, x[:, :3], axis=-3)
    assert_as_onnx("Split", x, np.array([1, 7]), outputs=2, axis=1)
    assert_as_onnx("Split", x, outputs=3, axis=1, num_outputs=3)
    assert_as_onnx("Shape", x, start=1, end=-1)
    assert_as_onnx("Size", x)
    assert_as_onnx("DepthToSpace", x[:, :, :, :4], blocksize=2, mode="CRD")
    assert_as_onnx("SpaceToDepth", RNG.normal(size=(1, 2, 4, 6)), blocksize=2)


def test_indices_count_from_both_ends() -> None:
    x = RNG.normal(size=(4, 5, 6))
    assert_as_onnx("Gather", x, np.array([[0, -1], [2, 1]]), axis=1)
    assert_as_onnx("Gather", x, np.array(-2), axis=-1)
    assert_as_onnx("GatherElements", x, RNG.integers(-6, 6, size=(4, 5, 2)), axis=2)
    assert_as_onnx("GatherND", x, np.array([[0, -1], [3, 2]]))
    assert_as_onnx("GatherND", x, RNG.integers(0, 5, size=(4, 3, 1)), batch_dims=1)
    assert_as_onnx("ScatterND", x, np.array([[0], [2]]), RNG.normal(size=(2, 5, 6)), reduction="add")
    assert_as_onnx("ScatterElements", x, np.array([[[1]], [[-2]]]), np.array([[[5.0]], [[6.0]]]), axis=1)
    scattered = compute("Scatter", x, np.array([[[1]]]), np.array([[[5.0]]]), axis=2, opset=9)[0]
    assert scattered[0, 0, 1] == 5.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(3,), (2, 3, 5)])
def test_gemm_takes_matrices_alone(shape: tuple[int, ...]) -> None:
    with pytest.raises(RewriteError, match="Gemm"):
        compute("Gemm", np.ones((2, 3)), np.ones(shape), transB=int(len(shape) == 1))


def test_matrix_products_are_as_in_onnx() -> None:
    a, b, c = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 5)), RNG.normal(size=(1, 5))
    assert_as_onnx("Gemm", a, b, c, transA=1, alpha=0.5, beta=2.0)
    assert_as_onnx("Gemm", a, b.T[:3].T.T.copy().T @ np.eye(3), transA=1)
    assert_as_onnx("MatMul", RNG.normal(size=(2, 1, 3, 4)), RNG.normal(size=(5, 4, 2)))
    assert_as_onnx("MatMul", RNG.normal(size=4), RNG.normal(size=(5, 4, 2)))
    assert_as_onnx("Einsum", RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 4, 5)), equation="bij, bjk -> bki")


def test_normalizations_are_as_in_onnx_and_torch() -> None:
    x, channel = RNG.normal(size=(2, 4, 3, 5)), RNG.normal(size=(4, 4))
    assert_as_onnx("BatchNormalization", x, *channel[:3], np.abs(channel[3]), epsilon=2.0**-10)
    assert_as_onnx("InstanceNormalization", x, channel[0], channel[1], epsilon=2.0**-10)
    response = torch.nn.functional.local_response_norm(torch.from_numpy(x), 3, 2.0**-4).numpy()
    assert_same(compute("LRN", x, size=3, alpha=2.0**-4)[0], response)
    assert_same(compute("LpNormalization", x, axis=1, p=1)[0], x / np.abs(x).sum(1, keepdims=True))
    assert_as_onnx("LpNormalization", x, axis=-1, p=2)
    normal = torch.nn.functional.layer_norm(torch.from_numpy(x), [3, 5], torch.ones(3, 5).double() * 2).numpy()
    assert_same(compute("LayerNormalization", x, np.full((3, 5), 2.0), axis=2, epsilon=1e-5)[0], normal, 1e-9)
    grouped = torch.nn.functional.group_norm(torch.from_numpy(x), 2, *torch.from_numpy(channel[:2]), 2.0**-10).numpy()
    per_channel = compute("GroupNormalization", x, *channel[:2], num_groups=2, epsilon=2.0**-10, opset=21)[0]
    assert_same(per_channel, grouped)
    per_group = compute("GroupNormalization", x, channel[0, :2], channel[1, :2], num_groups=2, opset=18)[0]
    spread = np.repeat(channel[:2, :2], 2, axis=1)
    assert_same(per_group, compute("GroupNormalization", x, *spread, num_groups=2, opset=21)[0])


def test_local_response_of_an_even_size() -> None:
    """One channel before and two behind: floor and ceil of (size - 1) / 2."""
    x = RNG.normal(size=(1, 5, 2))
    total = [sum(x[:, i] ** 2 for i in range(max(0, c - 1), min(5, c + 3))) for c in range(5)]
    expected = x / (2.0 + 0.25 / 4 * np.stack(total, 1)) ** 0.5
    assert_same(compute("LRN", x, size=4, alpha=0.25, beta=0.5, bias=2.0)[0], expected)


def test_batch_normalization_in_training() -> None:
    x, channel = RNG.normal(size=(2, 4, 3, 5)), RNG.normal(size=(4, 4))
    statistics = (*channel[:3], np.abs(channel[3]))
    assert_as_onnx("BatchNormalization", x, *statistics, outputs=3, training_mode=1, momentum=0.5, epsilon=2.0**-10)


QUANTIZED = [(np.uint8, 128), (np.int8, 0), (np.int8, -3), (np.int16, 7), (np.uint16, 40000)]


@pytest.mark.parametrize(("dtype", "zero_point"), QUANTIZED)
def test_quantization_rounds_half_to_even_and_saturates(dtype: type, zero_point: int) -> None:
    x, scale, zero = RNG.normal(size=(2, 3, 4)) * 50, np.array(0.25), np.array(zero_point, dtype=dtype)
    info = np.iinfo(dtype)
    steps = np.clip(np.rint(x / 0.25) + zero_point, info.min, info.max)
    ours = compute("QuantizeLinear", x, scale, zero, opset=21)[0]
    np.testing.assert_array_equal(ours, steps)
    back = compute("DequantizeLinear", steps.astype(dtype), scale, zero, opset=21)[0]
    assert_same(back, (steps - zero_point) * 0.25)


def test_quantization_per_axis_and_in_blocks() -> None:
    x, scale = RNG.normal(size=(4, 3, 2)) * 9, RNG.uniform(0.1, 1, size=3)
    zero = np.array([1, 0, -1], dtype=np.int8)
    quantized = compute("QuantizeLinear", x, scale, zero, axis=1)[0]
    np.testing.assert_array_equal(quantized, np.clip(np.rint(x / scale[:, None]) + zero[:, None], -128, 127))
    real = compute("DequantizeLinear", quantized, scale, zero, axis=-2)[0]
    assert_same(real, (quantized - zero[:, None].astype(float)) * scale[:, None])
    blocks = RNG.uniform(0.1, 1, size=(2, 3, 2))
    real = compute("DequantizeLinear", quantized, blocks, axis=0, block_size=2, opset=21)[0]
    assert_same(real, quantized * np.repeat(blocks, 2, axis=0))


def test_quantized_operators_compute_what_their_parts_do() -> None:
    x, weight = RNG.integers(0, 255, size=(1, 3, 6, 6), dtype=np.uint8), RNG.integers(-9, 9, size=(4, 3, 3, 3))
    weight = weight.astype(np.int8)
    scales, bias = RNG.uniform(0.01, 0.02, size=4), RNG.integers(-99, 99, size=4, dtype=np.int32)
    zero, nought = np.array(120, dtype=np.uint8), np.zeros(4, dtype=np.int8)
    args = (x, np.array(0.5), zero, weight, scales, nought, np.array(0.75), zero, bias)
    ours = compute("QLinearConv", *args, pads=[1, 1, 1, 1])[0]
    real = compute("Conv", (x - 120.0) * 0.5, weight * scales[:, None, None, None], bias * scales * 0.5, pads=[1] * 4)[
        0
    ]
    np.testing.assert_array_equal(ours, compute("QuantizeLinear", real, np.array(0.75), zero)[0])


ROUGH = 1e-5  # onnx computes the cubic kernel in float32; torch's agrees to the last digits, see below


@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", [(7, 10), (3, 2), (5, 1), (13, 4)])
def test_resize_to_a_size(mode: str, coordinates: str, sizes: tuple[int, int]) -> None:
    x = RNG.normal(size=(1, 2, 5, 4))
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if coordinates == "pytorch_half_pixel" and 1 in sizes:
        # The specification puts a single output element at 0; onnx's reference puts it at -0.5.
        np.testing.assert_array_equal(
            compute("Resize", x, None, None, np.array([1, 2, 1, 1]), **attributes)[0], x[..., :1, :1]
        )
        return
    rtol = ROUGH if mode == "cubic" else 1e-12
    assert_as_onnx("Resize", x, None, None, np.array([1, 2, *sizes]), opset=19, rtol=rtol, **attributes)


@QUICK
@given(st.data())
def test_resize_by_scales(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(["nearest", "linear", "cubic"]))
    attributes: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": data.draw(
            st.sampled_from(["half_pixel", "asymmetric", "half_pixel_symmetric"])
        ),
        "axes": [2, 3],
    }
    if mode == "nearest":
        choice = st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
        attributes["nearest_mode"] = data.draw(choice)
    else:
        attributes["exclude_outside"] = data.draw(st.integers(0, int(mode == "cubic")))
        attributes["antialias"] = data.draw(st.integers(0, 1))
    scales = np.array(
        [data.draw(st.sampled_from([0.5, 0.75, 1.0, 1.5, 2.0, 2.25])) for _ in range(2)], dtype=np.float32
    )
    assert_as_onnx(
        "Resize",
        RNG.normal(size=(1, 2, 6, 4)),
        None,
        scales,
        opset=19,
        rtol=ROUGH if mode == "cubic" else 1e-12,
        **attributes,
    )


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resize_as_torch_interpolates(mode: str, corners: bool) -> None:
    x = RNG.normal(size=(1, 2, 5, 4))
    expected = torch.nn.functional.interpolate(torch.from_numpy(x), (9, 3), mode=mode, align_corners=corners).numpy()
    transformation = "align_corners" if corners else "pytorch_half_pixel"
    attributes = {"mode": {"bilinear": "linear", "bicubic": "cubic"}[mode], "cubic_coeff_a": -0.75}
    sizes = np.array([1, 2, 9, 3])
    ours = compute("Resize", x, None, None, sizes, coordinate_transformation_mode=transformation, **attributes)[0]
    assert_same(ours, expected)


def test_resize_keeps_the_ratio() -> None:
    x = RNG.normal(size=(1, 1, 4, 8))
    for policy, shape in (("not_larger", (2, 4)), ("not_smaller", (3, 6))):
        ours = compute("Resize", x, None, None, np.array([3, 4]), axes=[2, 3], keep_aspect_ratio_policy=policy)[0]
        assert ours.shape[2:] == shape


def test_upsample_is_nearest_and_asymmetric() -> None:
    x = RNG.normal(size=(1, 1, 2, 3))
    ours = compute("Upsample", x, np.array([1, 1, 2, 3], dtype=np.float32), opset=9)[0]
    assert_same(ours, x.repeat(2, axis=2).repeat(3, axis=3))
