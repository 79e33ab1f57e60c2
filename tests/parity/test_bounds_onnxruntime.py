"""ONNX Runtime, operator by operator, within the bounds of its nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bounds_models import Array, NodeCase, judged, node_of, on_onnxruntime

from edgeconv.errors import ParityError
from edgeconv.parity.bounds import NODES, Arithmetic, of_node

RUNTIME = Arithmetic(runtime="onnxruntime")
RNG = np.random.default_rng(3)
FUNCTIONS = (
    *("Abs", "Asinh", "Atan", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "LeakyRelu", "LogSoftmax", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu"),
    *("Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu"),
)
PAIRS = ("Add", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "PRelu", "Sub")
REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"),
    "ReduceSumSquare",
)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def wide(*shape: int) -> Array:
    """Magnitudes of 1e-5 to 1e5 side by side."""
    return (RNG.standard_normal(shape) * np.exp(RNG.uniform(-12, 12, shape))).astype(np.float32)


def ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def _layers(f: Any) -> list[NodeCase]:
    square = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    cells = (("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 2))
    return [
        NodeCase("Conv", [f(1, 8, 9, 9), normal(6, 8, 3, 3), f(6)], {"pads": [1, 1, 1, 1]}),
        NodeCase("Conv", [f(1, 16, 9, 9), normal(16, 1, 3, 3)], {"group": 16, "strides": [2, 2]}),
        NodeCase("Conv", [f(1, 64, 7, 7), f(32, 64, 1, 1)]),
        NodeCase("Conv", [f(1, 128, 5, 5), normal(32, 128, 3, 3)]),
        NodeCase("Conv", [f(2, 4, 20), f(6, 2, 3)], {"group": 2}),
        NodeCase("ConvTranspose", [f(1, 8, 5, 5), f(8, 4, 3, 3), f(4)], {"strides": [2, 2]}),
        NodeCase("MatMul", [f(2, 5, 100), f(100, 7)]),
        NodeCase("Gemm", [f(5, 100), f(7, 100), f(7)], {"transB": 1}),
        NodeCase("Gemm", [f(5, 10), f(10, 7), f(5, 7)], {"alpha": -0.3, "beta": 1.7}),
        NodeCase("Einsum", [f(2, 5, 9), f(2, 9, 4)], {"equation": "bij,bjk->bik"}),
        NodeCase("AveragePool", [f(1, 3, 9, 9)], {**square, "strides": [2, 2]}),
        NodeCase("AveragePool", [f(1, 3, 9, 9)], {**square, "count_include_pad": 1}),
        NodeCase("MaxPool", [f(1, 3, 9, 9)], square),
        NodeCase("LpPool", [f(1, 3, 9, 9)], square),
        NodeCase("GlobalAveragePool", [f(2, 3, 17, 17)]),
        NodeCase("CumSum", [f(3, 60), np.array(1, np.int64)]),
        NodeCase("BatchNormalization", [f(2, 5, 6, 6), normal(5), normal(5), f(5), np.abs(f(5))]),
        NodeCase("InstanceNormalization", [f(2, 5, 6, 6), normal(5), normal(5)]),
        NodeCase("GroupNormalization", [f(2, 6, 5, 5), normal(6), normal(6)], {"num_groups": 2}),
        NodeCase("LayerNormalization", [f(2, 5, 64), normal(64), normal(64)], results=3),
        NodeCase("LayerNormalization", [f(2, 5, 64) + np.float32(100), normal(64), normal(64)]),
        NodeCase("LpNormalization", [f(3, 40)]),
        NodeCase("MeanVarianceNormalization", [f(2, 5, 6, 6)]),
        NodeCase("LRN", [f(2, 8, 4, 4)], {"size": 5, "alpha": 0.3}),
        *(
            NodeCase(
                name,
                [f(4, 2, 5), normal(2, gates * 6, 5), normal(2, gates * 6, 6), normal(2, 2 * gates * 6)],
                {"hidden_size": 6, "direction": "bidirectional"},
                results,
            )
            for name, gates, results in cells
        ),
    ]


def _resizes(f: Any) -> list[NodeCase]:
    places = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    return [
        NodeCase("Resize", [f(1, 2, 5, 7), None, *sizes], {"mode": mode, "coordinate_transformation_mode": place})
        for mode in ("linear", "nearest", "cubic")
        for place in places
        for sizes in ([np.array([1, 1, 2, 2], np.float32)], [None, ints(1, 2, 13, 11)])
    ]


def _elementwise(f: Any) -> list[NodeCase]:
    return [
        *(NodeCase(name, [f(3, 50)]) for name in FUNCTIONS),
        *(NodeCase(name, [f(3, 50), f(50)]) for name in PAIRS),
        *(NodeCase(name, [f(3, 4, 50), ints(1, 2)]) for name in REDUCTIONS),
        *(NodeCase(name, [np.abs(f(3, 50))]) for name in ("Log", "Sqrt")),
        *(NodeCase(name, [np.clip(f(3, 50), -0.999, 0.999)]) for name in ("Acos", "Asin", "Atanh")),
        *(NodeCase("Pow", [np.abs(f(3, 50)), np.array(power, np.float32)]) for power in (0.5, 2.0, 3.0, 1.7)),
        NodeCase("Acosh", [1 + np.abs(f(3, 50))]),
        NodeCase("Gelu", [f(3, 50)], {"approximate": "tanh"}),
        NodeCase("Mod", [f(3, 50), normal(50)], {"fmod": 1}),
        NodeCase("Sum", [f(3, 5), f(3, 5), f(5)]),
        NodeCase("Mean", [f(3, 5), f(3, 5), f(5)]),
        NodeCase("ReduceLogSum", [np.abs(f(3, 40)), ints(1)]),
        NodeCase("ReduceProd", [normal(3, 8), ints(1)]),
        NodeCase("Cast", [normal(5, 5)], {"to": 10}),
    ]


def _integers(kind: Any, zero: int) -> list[NodeCase]:
    limits = np.iinfo(kind)
    data = RNG.integers(limits.min, limits.max, (1, 4, 6, 6), endpoint=True).astype(kind)
    weights, point = RNG.integers(-60, 60, (5, 4, 3, 3)).astype(np.int8), np.array(zero, kind)
    scale, coarse = np.array(0.05, np.float32), np.array(0.5, np.float32)
    terms = RNG.integers(-999, 999, 5).astype(np.int32)
    channels = (np.abs(normal(5)) * 0.01 + 0.001).astype(np.float32)
    return [
        NodeCase("QuantizeLinear", [wide(3, 50), scale, point]),
        NodeCase("DequantizeLinear", [data, scale, point]),
        NodeCase("QLinearConv", [data, scale, point, weights, channels, np.zeros(5, np.int8), coarse, point, terms]),
        NodeCase("QLinearMatMul", [data[0, 0], scale, point, data[0, 1] // 2, scale, point, coarse, point]),
    ]


CASES = [
    *(case for f in (normal, wide) for case in (*_elementwise(f), *_layers(f), *_resizes(f))),
    *_integers(np.uint8, 3),
    *_integers(np.int8, -4),
    NodeCase("DynamicQuantizeLinear", [normal(4, 9)], results=3),
    NodeCase("TopK", [normal(5, 9), ints(3)], results=2),
    NodeCase("Concat", [normal(2, 3), normal(2, 3)], {"axis": 1}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operators_are_within_their_bounds(case: NodeCase) -> None:
    for bound, result in judged(case, RUNTIME):
        assert bound.worst.shape == bound.likely.shape == result.shape
        assert (bound.likely <= bound.worst).all()
        assert bound.used(result).max() <= 1
        assert np.isinf(bound.worst).mean() < 0.6


def test_every_rule_is_tried() -> None:
    # Not on this runtime: GlobalLpPool, RMSNormalization, Swish; Upsample, of older opsets.
    assert set(NODES) - {case.name for case in CASES} == {"GlobalLpPool", "RMSNormalization", "Swish", "Upsample"}


def test_the_bound_of_a_convolution_is_used() -> None:
    """A depthwise layer, the first of a network, and a pointwise one of 32 channels."""
    f = normal
    for case, least in (
        (NodeCase("Conv", [f(1, 32, 28, 28), f(32, 1, 3, 3)], {"group": 32}), 0.1),
        (NodeCase("Conv", [f(1, 3, 64, 64), f(32, 3, 3, 3)], {"strides": [2, 2]}), 0.05),
        (NodeCase("Conv", [f(1, 32, 28, 28), f(64, 32, 1, 1)]), 0.05),
    ):
        ((bound, result),) = judged(case, RUNTIME)
        assert least < bound.used(result).max() <= bound.used(result, likely=True).max() <= 1


@pytest.mark.parametrize("at", [(0, 0), (7, 8), (10, 11)])
@pytest.mark.parametrize("channels", [16, 64])
def test_a_huge_pixel_leaves_no_trace_under_weights_of_zero(at: tuple[int, int], channels: int) -> None:
    """As it would in the tiles of a fast convolution, where all taps are mixed."""
    x, weight = np.ones((1, channels, 16, 16), np.float32), np.ones((channels, channels, 3, 3), np.float32)
    weight[:, :, 2], weight[..., 2] = 0, 0
    x[:, :, at[0], at[1]] = 1e30
    case = NodeCase("Conv", [x, weight], {"pads": [1, 1, 1, 1]})
    (result,) = on_onnxruntime(node_of(case)[0], case.operands)
    row, column = np.indices((16, 16))
    outside = ((row - at[0]) // 2 != 0) | ((column - at[1]) // 2 != 0)
    assert 0 < np.abs(result[0, 0][outside]).max() <= 4 * channels


def test_an_operator_without_a_rule_is_named() -> None:
    case = NodeCase("GridSample", [normal(1, 1, 4, 4), normal(1, 2, 2, 2)])
    with pytest.raises(ParityError, match="no error bound is known for GridSample"):
        of_node(node_of(case)[1], case.operands, opset=22)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"Celu"}))  # Celu is of float32 alone
def test_functions_of_every_half(name: str) -> None:
    """Kernels of float32 between two roundings, and function bodies, in which every value is rounded."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    operand = every[np.isfinite(every)].reshape(1, -1)
    arithmetic = Arithmetic(runtime="onnxruntime", storage="float16")
    ((bound, result),) = judged(NodeCase(name, [operand]), arithmetic)
    error = np.abs(result.astype(np.float64) - bound.exact)
    is_finite = np.isfinite(result) & np.isfinite(bound.exact)
    assert (error <= bound.worst)[is_finite].all()


@pytest.mark.parametrize("name", ["HardSwish", "Mish"])
def test_a_function_body_rounds_inside_where_its_result_is_handed_on_unrounded(name: str) -> None:
    """onnxruntime casts the body's inner values to halves and back, and leaves the last cast to whoever reads it."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    operand = every[np.isfinite(every)].reshape(1, -1)
    told = Arithmetic(runtime="onnxruntime", inner_storage="float16")
    stored = Arithmetic(runtime="onnxruntime", storage="float16")
    node, opset = node_of(NodeCase(name, [operand]))[1], 22
    (inner,), (both,), (neither,) = (
        of_node(node, [operand], opset=opset, arithmetic=arithmetic)
        for arithmetic in (told, stored, Arithmetic(runtime="onnxruntime"))
    )
    assert (inner.worst <= both.worst).all()
    assert (inner.worst < both.worst)[np.abs(inner.exact) > 1].any()
    assert (inner.worst > 100 * neither.worst)[np.abs(inner.exact) > 1].any()
