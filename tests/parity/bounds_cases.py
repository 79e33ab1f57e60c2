"""Operators of ONNX with operands, for the bounds of their results on a runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from bounds_models import Array, NodeCase

RNG = np.random.default_rng(3)
FUNCTIONS = (
    *("Abs", "Asinh", "Atan", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "LeakyRelu", "LogSoftmax", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu"),
    *("Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu"),
)
PAIRS = ("Add", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "PRelu", "Sub")
REPLACING = ("none", "add", "mul", "max", "min")
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
        NodeCase("Einsum", [f(2, 5, 9), f(2, 9, 4)], {"equation": "...ij, ...jk -> ...ik"}),
        NodeCase("Einsum", [f(5, 9), f(9, 4)], {"equation": "ij,jk"}),
        NodeCase("Einsum", [f(5, 9)], {"equation": "ij->i"}),
        NodeCase("Einsum", [f(5, 9), normal(9, 4), f(4, 3)], {"equation": "ij,jk,kl->il"}),
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


def _sampled(f: Any) -> list[NodeCase]:
    """Images at places inside, at the edges, and far outside."""
    places = RNG.uniform(-1.7, 1.7, (2, 9, 8, 2)).astype(np.float32)
    deep = RNG.uniform(-1.3, 1.3, (2, 4, 3, 3, 3)).astype(np.float32)
    forms = [
        (mode, padding) for mode in ("linear", "nearest", "cubic") for padding in ("zeros", "border", "reflection")
    ]
    return [
        *(
            NodeCase(
                "GridSample",
                [f(2, 3, 6, 7), places],
                {"mode": mode, "padding_mode": padding, "align_corners": corners},
            )
            for mode, padding in forms
            for corners in (0, 1)
        ),
        *(
            NodeCase("GridSample", [f(2, 3, 4, 6, 7), deep], {"mode": mode, "padding_mode": padding})
            for mode, padding in forms
            if mode != "cubic"
        ),
        NodeCase("GridSample", [f(2, 3, 6, 7), places], {"mode": "bicubic"}, opset=16),
        *(
            NodeCase("AffineGrid", [f(2, rank, rank + 1), ints(2, 3, *sizes)], {"align_corners": corners})
            for rank, sizes in ((2, (5, 6)), (3, (5, 6, 4)))
            for corners in (0, 1)
        ),
    ]


def _at_places(f: Any) -> list[NodeCase]:
    """Elements that are added up, multiplied or replaced where they are told to be."""
    many = RNG.integers(0, 6, 40)
    scattered = [(many if reduction != "none" else np.arange(6), reduction) for reduction in REPLACING]
    return [
        NodeCase("Col2Im", [f(1, 12, 6), ints(4, 4), ints(2, 2)], {"strides": [1, 2]}),
        NodeCase("Col2Im", [f(1, 36, 36), ints(6, 6), ints(3, 3)], {"pads": [1, 1, 1, 1]}),
        *(
            NodeCase(
                "ScatterElements",
                [f(6, 4), np.repeat(index[:, None], 4, 1), normal(len(index), 4)],
                {"axis": 0, "reduction": reduction},
            )
            for index, reduction in scattered
        ),
        *(
            NodeCase("ScatterND", [f(6, 4), index[:, None], normal(len(index), 4)], {"reduction": reduction})
            for index, reduction in scattered
        ),
        *(
            NodeCase("CumProd", [normal(3, 20), np.array(1, np.int64)], {"exclusive": flag, "reverse": flag}, opset=26)
            for flag in (0, 1)
        ),
        NodeCase("Range", [np.array(number, np.float32) for number in (-3.3, 50, 0.37)]),
        NodeCase("Range", [np.array(number, np.float32) for number in (3.3, -5, -0.0137)]),
        NodeCase("CastLike", [normal(5, 5), np.zeros(1, np.float16)]),
        *(NodeCase("Det", [f(9, size, size)]) for size in (1, 2, 3, 4, 6)),
    ]


def _attentions(f: Any) -> list[NodeCase]:
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    places = RNG.integers(0, 10, (2, 5))
    closed = np.where(RNG.random((5, 5)) < 0.4, -np.inf, 0.5).astype(np.float32)

    def case(attributes: dict[str, Any], *further: Array | None, **options: Any) -> NodeCase:
        operands = [f(1, 5, 8), normal(1, 5, 8), normal(1, 5, 8), *further]
        return NodeCase("Attention", operands, {**heads, **attributes}, **{"opset": 23, **options})

    return [
        *(
            NodeCase("RotaryEmbedding", [f(2, 3, 5, 8), f(10, 4), f(10, 4), places], {"interleaved": flag}, opset=23)
            for flag in (0, 1)
        ),
        NodeCase(
            "RotaryEmbedding",
            [f(2, 5, 24), f(10, 2), f(10, 2), places],
            {"num_heads": 3, "rotary_embedding_dim": 4},
            opset=23,
        ),
        case({}),
        case({"is_causal": 1}),
        case({"softcap": 0.5}),
        case({"scale": 0.3}, normal(5, 5)),
        case({}, RNG.random((5, 5)) < 0.6),
        case({}, np.zeros((5, 5), np.bool_)),
        case({}, None, normal(1, 2, 4, 4), normal(1, 2, 4, 4), results=3),
        *(case({"qk_matmul_output_mode": mode}, closed, results=4, opset=24) for mode in range(4)),
        NodeCase(
            "Attention",
            [f(1, 3, 16), normal(1, 5, 8), normal(1, 5, 8)],
            {"q_num_heads": 4, "kv_num_heads": 2},
            opset=23,
        ),
        NodeCase(
            "Attention",
            [f(2, 2, 5, 4), normal(2, 2, 7, 4), normal(2, 2, 7, 4), *[None] * 3, ints(5, 7)],
            opset=24,
        ),
    ]


def placed(f: Any) -> list[NodeCase]:
    """Sampling, attention, determinants, and sums and products at places."""
    return [*_sampled(f), *_at_places(f), *_attentions(f)]


CASES = [
    *(case for f in (normal, wide) for case in (*_elementwise(f), *_layers(f), *_resizes(f), *placed(f))),
    *_integers(np.uint8, 3),
    *_integers(np.int8, -4),
    NodeCase("DynamicQuantizeLinear", [normal(4, 9)], results=3),
    NodeCase("TopK", [normal(5, 9), ints(3)], results=2),
    NodeCase("GlobalLpPool", [normal(2, 3, 5, 5)], opset=18),
    *(
        NodeCase("Upsample", [normal(1, 2, 3, 4), np.array([1, 1, 2, 2.5], np.float32)], {"mode": mode}, opset=9)
        for mode in ("linear", "nearest")
    ),
    NodeCase("RMSNormalization", [normal(3, 40), normal(40)], opset=23),
    NodeCase("Swish", [normal(3, 40)], opset=24),
    NodeCase("Concat", [normal(2, 3), normal(2, 3)], {"axis": 1}),
]
