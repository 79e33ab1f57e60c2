"""A `.tflite` file, written as ONNX, computes the same: by the reference in float64, and on onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from test_reference_tflite_shapes import MOVES
from tflite_files import Spec, constant, file_of, ints, noise, quantized

from edgeconv.errors import EmitError
from edgeconv.reference import evaluate, tflite
from edgeconv.reference.tflite import Operator, Tensor, TfliteGraph
from edgeconv.reference.tflite.as_onnx import to_onnx

Case = tuple[str, Sequence[Spec | None], int, dict[str, Any]]
X = Spec((2, 9, 7, 4))
RNG, OTHER = np.random.default_rng(0), np.random.default_rng(3)
ANY = Spec((1,))
_ALL = "ABS CEIL COS ELU EXP FLOOR HARD_SWISH LOGISTIC NEG RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 ROUND SIGN SIN SQUARE"
_RESULTS = {"TOPK_V2": ("float32", "int32"), "LESS": ("bool",), "GREATER_EQUAL": ("bool",), "NOT_EQUAL": ("bool",)}
_RESULTS |= {"REDUCE_ANY": ("bool",), "REDUCE_ALL": ("bool",), "ARG_MAX": ("int32",), "SHAPE": ("int32",)}
_RESULTS |= {"RANK": ("int32",)}
_WEIGHTS = constant(RNG.standard_normal((6, 3, 2, 4)))
_BIAS = constant(RNG.standard_normal(6))
_WEIGHTS_3D = constant(OTHER.standard_normal((2, 3, 2, 2, 6)))
_WHOLE = Spec((5, 3), "int32")
_FILTERS = {"table": "SVDFOptions", "rank": 2, "fusedActivationFunction": 1}
_MEMORY = Spec((3, 32), variable=True, name="memory")
_DEPTHWISE = constant(RNG.standard_normal((1, 3, 2, 8)))


_ADJOINT = {"adjX": True, "adjY": True, "table": "BatchMatMulOptions"}
_TABLES = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CONV_3D": "Conv3DOptions",
    "L2_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
}


def _pairs(name: str, *ends: Spec, **options: Any) -> list[Case]:
    return [(name, ends, 1, options | {"padding": padding, "table": _TABLES[name]}) for padding in (0, 1)]


def _drawn(*shape: int) -> Spec:
    return constant(OTHER.standard_normal(shape) * 0.5)


def _recurrent(*, time_major: bool) -> list[Case]:
    """Layers of 4 units on 3 numbers: with an input gate, without one, each with peepholes and without them."""
    x = Spec((5, 2, 3) if time_major else (2, 5, 3))
    states = [Spec((2, 4), variable=True, name="h"), Spec((2, 4), variable=True, name="c")]
    options = {"fusedActivationFunction": 4, "timeMajor": time_major}
    cases: list[Case] = []
    for gates in (4, 3):
        data, recurrent, biases = (
            [*[None] * (4 - gates), *(_drawn(*shape) for _ in range(gates))] for shape in ((4, 3), (4, 4), (4,))
        )
        for middle in ([None] * 3, [_drawn(4) if gates == 4 else None, _drawn(4), _drawn(4)]):
            sources = [x, *data, *recurrent, *middle, *biases, None, None, *states]
            table = {"table": "UnidirectionalSequenceLSTMOptions"}
            cases.append(("UNIDIRECTIONAL_SEQUENCE_LSTM", sources, 1, options | table))
    simple = [x, _drawn(4, 3), _drawn(4, 4), _drawn(4), states[0]]
    for activation in (1, 4):
        table = {"table": "SequenceRNNOptions", "fusedActivationFunction": activation}
        cases.append(("UNIDIRECTIONAL_SEQUENCE_RNN", simple, 1, options | table))
    return cases


COMPUTED: list[Case] = [
    *((name, [X], 1, {}) for name in f"{_ALL} TANH".split()),
    *((name, [constant(RNG.uniform(0.1, 3, (3, 4))), Spec((3, 4))], 1, {}) for name in ("POW",)),
    *((name, [X, X], 1, {"fusedActivationFunction": 1}) for name in ("ADD", "SUB", "MUL")),
    *((name, [X, constant(RNG.uniform(1, 2, 4))], 1, {"fusedActivationFunction": 3}) for name in ("ADD", "DIV")),
    *((name, [X, X], 1, {"table": "MaximumMinimumOptions"}) for name in ("MAXIMUM", "MINIMUM")),
    *((name, [X, X], 1, {}) for name in ("SQUARED_DIFFERENCE", "LESS", "GREATER_EQUAL", "NOT_EQUAL")),
    ("PRELU", [X, constant(RNG.standard_normal((1, 1, 4)))], 1, {}),
    ("LEAKY_RELU", [X], 1, {"alpha": 0.3}),
    ("GELU", [X], 1, {"approximate": True}),
    ("SOFTMAX", [X], 1, {"beta": 0.5}),
    ("LOG_SOFTMAX", [X], 1, {}),
    ("SELECT_V2", [Spec((4,), "bool"), X, X], 1, {}),
    ("CAST", [Spec((3,), "int32")], 1, {"inDataType": 2}),
    *_pairs("CONV_2D", X, _WEIGHTS, _BIAS, strideH=2, strideW=3, fusedActivationFunction=1),
    *_pairs("CONV_2D", X, _WEIGHTS, strideH=1, strideW=1, dilationHFactor=2, dilationWFactor=3),
    *_pairs("CONV_2D", X, constant(RNG.standard_normal((6, 3, 3, 2))), _BIAS, strideH=1, strideW=1),
    *_pairs("DEPTHWISE_CONV_2D", X, _DEPTHWISE, strideH=2, strideW=2, depthMultiplier=2),
    *_pairs("AVERAGE_POOL_2D", X, filterHeight=3, filterWidth=2, strideH=2, strideW=2),
    *_pairs("MAX_POOL_2D", X, filterHeight=2, filterWidth=3, strideH=1, strideW=2),
    ("FULLY_CONNECTED", [Spec((2, 3, 5)), constant(RNG.standard_normal((4, 5)))], 1, {"keepNumDims": True}),
    ("FULLY_CONNECTED", [Spec((2, 3, 5)), constant(RNG.standard_normal((4, 5))), constant(np.arange(4.0))], 1, {}),
    ("BATCH_MATMUL", [Spec((2, 5, 3)), Spec((2, 4, 5))], 1, _ADJOINT),
    *(
        (name, [X, ints(13, 5)], 1, {"alignCorners": corners, "halfPixelCenters": centers})
        for name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
        for corners, centers in ((False, False), (True, False), (False, True))
    ),
    ("MEAN", [X, ints(1, 2)], 1, {"table": "ReducerOptions"}),
    ("ARG_MAX", [X, ints(-1)], 1, {"outputType": 2}),
    *((name, [X, X], 1, {}) for name in ("FLOOR_DIV", "FLOOR_MOD")),
    *((name, [X, constant(OTHER.choice([-2.5, 1.5], 4))], 1, {}) for name in ("FLOOR_DIV", "FLOOR_MOD")),
    *((name, [_WHOLE, constant([[-4, 4, 3]], "int32")], 1, {}) for name in ("FLOOR_DIV", "FLOOR_MOD")),
    ("SELECT", [Spec((2,), "bool"), X, X], 1, {}),
    ("SELECT", [Spec((2, 9, 7, 4), "bool"), X, X], 1, {}),
    ("L2_NORMALIZATION", [X], 1, {"table": "L2NormOptions", "fusedActivationFunction": 1}),
    ("L2_NORMALIZATION", [constant([[1e-8, 0.0], [3.0, 4.0]]), ], 1, {"table": "L2NormOptions"}),
    *_pairs("L2_POOL_2D", X, filterHeight=3, filterWidth=2, strideH=2, strideW=2),
    ("LOCAL_RESPONSE_NORMALIZATION", [X], 1, {"radius": 1, "bias": 1.5, "alpha": 0.25, "beta": 0.75}),
    *_pairs("CONV_3D", Spec((1, 4, 5, 6, 2)), _WEIGHTS_3D, _BIAS, strideD=1, strideH=2, strideW=1, dilationWFactor=2),
    *((name, [Spec((9, 3), "bool"), ints(1)], 1, {"table": "ReducerOptions"}) for name in ("REDUCE_ANY", "REDUCE_ALL")),
    ("REDUCE_ANY", [Spec((3, 2, 4), "bool"), ints(0, -1)], 1, {"table": "ReducerOptions", "keepDims": True}),
    ("TOPK_V2", [Spec((3, 50)), ints(5)], 2, {}),
    ("ONE_HOT", [Spec((2, 9), "int32"), constant(4, "int32"), constant(2.0), constant(-1.0)], 1, {"axis": -1}),
    ("ONE_HOT", [Spec((2, 9), "int32"), constant(4, "int32"), constant(2.0), constant(-1.0)], 1, {"axis": 1}),
    ("RANGE", [constant(9.0), constant(-4.0), constant(-2.5)], 1, {}),
    ("SHAPE", [X], 1, {"outType": 2}),
    ("RANK", [X], 1, {}),
    ("MIRROR_PAD", [Spec((1, 3, 5, 4)), constant([[0, 0], [3, 1], [0, 5], [2, 2]], "int32")], 1, {"mode": 1}),
    ("GATHER", [Spec((2, 3, 5, 4)), constant([[[1, 0, 2]], [[4, 2, 3]]], "int32")], 1, {"axis": 2, "batchDims": 1}),
    ("DYNAMIC_UPDATE_SLICE", [X, Spec((1, 2, 3, 4)), Spec((4,), "int32")], 1, {}),
    ("ATAN2", [X, X], 1, {}),
    ("ATAN2", [constant([0.0, 1.0, -1.0, 0.0, 0.0]), constant([0.0, 0.0, 0.0, 2.0, -2.0])], 1, {}),
    ("SVDF", [Spec((3, 5)), _drawn(8, 5), _drawn(8, 4), _drawn(4), _MEMORY], 1, _FILTERS),
    ("SVDF", [Spec((3, 5)), _drawn(8, 5), _drawn(8, 4), None, _MEMORY], 1, _FILTERS | {"fusedActivationFunction": 0}),
    *_recurrent(time_major=True),
    *_recurrent(time_major=False),
]  # fmt: skip


def _title(case: Case) -> str:
    return "-".join(map(str, (case[0], *case[3].values())))


def _graph(case: Case) -> TfliteGraph:
    """The file's graph, whose results have the shapes and types that the operator gives."""
    name, sources, outputs, options = case
    whole = next((source.dtype for source in sources if source and source.data is None), "float32") == "int32"
    kinds = _RESULTS.get(name, ("int32" if whole and name in ("FLOOR_DIV", "FLOOR_MOD") else "float32",) * outputs)
    graph = tflite.read(file_of(name, sources, [Spec((1,), kind) for kind in kinds], **options))
    tensors = list(graph.tensors)
    values = tflite.evaluate(graph, _inputs(graph))
    for index in graph.outputs:
        tensors[index] = replace(tensors[index], shape=values[tensors[index].name].shape)
    return replace(graph, tensors=tuple(tensors))


def _inputs(graph: TfliteGraph) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    tensors = [graph.tensors[index] for index in graph.inputs]
    scales = [tensor.quantization.scales if tensor.quantization else None for tensor in tensors]
    return {t.name: noise(Spec(t.shape, t.dtype, scale), generator) for t, scale in zip(tensors, scales, strict=True)}


def _check(graph: TfliteGraph) -> None:
    """Holds the ONNX graph against the file's in float64, and what onnxruntime makes of it against that."""
    model, inputs = to_onnx(graph), _inputs(graph)
    names = [graph.tensors[index].name for index in graph.outputs]
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    due, exact = tflite.evaluate(graph, inputs), evaluate(model, inputs, keep=names)
    results = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, inputs)
    for name, result in zip(names, results, strict=True):
        np.testing.assert_allclose(exact[name], due[name], rtol=1e-6, atol=1e-7)  # constants of float32 among them
        np.testing.assert_allclose(result, due[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", MOVES, ids=_title)
def test_elements_are_moved_alike(case: Case) -> None:
    _check(_graph(case))


@pytest.mark.parametrize("case", COMPUTED, ids=_title)
def test_numbers_are_computed_alike(case: Case) -> None:
    _check(_graph(case))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("bias", [(), (6,), (1, 1, 1, 6)])
def test_a_transposed_convolution(padding: int, bias: tuple[int, ...]) -> None:
    size = (1, 8, 9, 6) if padding == 0 else (1, 10, 12, 6)
    sources = [ints(*size), constant(RNG.standard_normal((6, 3, 3, 4))), Spec((1, 4, 5, 4))]
    sources += [constant(RNG.standard_normal(bias))] if bias else []
    options = {"padding": padding, "strideH": 2, "strideW": 2}
    _check(_graph(("TRANSPOSE_CONV", sources, 1, options)))


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("gates", [3, 4])
def test_an_lstm_that_clips_projects_and_normalizes_is_written_step_by_step(time_major: bool, gates: int) -> None:
    x = Spec((5, 2, 3) if time_major else (2, 5, 3))
    data, recurrent, biases, norms = (
        [*[None] * (4 - gates), *(_drawn(*shape) for _ in range(gates))] for shape in ((6, 3), (6, 4), (6,), (6,))
    )
    peepholes = [_drawn(6) if gates == 4 else None, _drawn(6), _drawn(6)]
    states = [Spec((2, size), variable=True, name=name) for name, size in (("h", 4), ("c", 6))]
    sources = [x, *data, *recurrent, *peepholes, *biases, _drawn(4, 6), _drawn(4), *states]
    options = {"table": "UnidirectionalSequenceLSTMOptions", "fusedActivationFunction": 4, "timeMajor": time_major}
    for clips, scales in (({"cellClip": 0.25, "projClip": 0.4}, []), ({}, norms), ({"cellClip": 0.5}, norms)):
        _check(_graph(("UNIDIRECTIONAL_SEQUENCE_LSTM", [*sources, *scales], 1, options | clips)))


def test_a_cell_that_stays_below_its_clip_is_onnx_s_own_layer() -> None:
    """Keras writes 10 everywhere; a cell grows by 1 with each step at most."""
    case = next(case for case in _recurrent(time_major=True) if case[0] == "UNIDIRECTIONAL_SEQUENCE_LSTM")
    for clip, kind in ((5.0, "LSTM"), (4.9, "Clip")):
        graph = _graph((case[0], case[1], 1, case[3] | {"cellClip": clip}))
        assert kind in {node.op_type for node in to_onnx(graph).graph}
        _check(graph)


def test_what_has_no_form_is_refused_with_the_reason() -> None:
    lstm = next(case for case in _recurrent(time_major=True) if case[0] == "UNIDIRECTIONAL_SEQUENCE_LSTM")
    whole = Spec((3,), "int8", 0.1, 5)
    for (name, sources, _, options), result, told in (
        (("BITCAST", [X], 1, {}), Spec((1,), "int32"), "BITCAST cannot be written in ONNX: nothing in ONNX reads bits"),
        (("RFFT2D", [X, ints(2, 2)], 1, {}), X, "RFFT2D cannot be written in ONNX"),
        (("SCATTER_ND", [ints(1), whole, ints(4)], 1, {}), replace(whole, shape=(4,)), "not the number 0"),
        (("FLOOR_DIV", [whole, whole], 1, {}), whole, "divides quantized integers without their scales"),
        ((lstm[0], lstm[1], 1, lstm[3] | {"fusedActivationFunction": 1}), ANY, "another activation than tanh"),
        (("TOPK_V2", [X, Spec((), "int32")], 1, {}), X, "computes its input 1, which has to be a constant"),
    ):
        with pytest.raises(EmitError, match=told):
            to_onnx(tflite.read(file_of(name, sources, [result], **options)))


def test_what_nothing_computes_is_refused_by_its_name() -> None:
    graph = _graph(("ABS", [X], 1, {}))
    with pytest.raises(EmitError, match="x0: nothing computes this tensor"):
        to_onnx(replace(graph, inputs=()))
    with pytest.raises(EmitError, match="x0: nothing computes this tensor"):
        to_onnx(replace(graph, inputs=(), operators=(), outputs=(0,)))


def test_integers_that_shapes_tell_are_constants() -> None:
    """SHAPE, a part of it, and RESHAPE to that: converters write dimensions so, and ONNX needs the first alone."""
    graph = _graph(("SHAPE", [X], 1, {"outType": 2}))
    first, shape = graph.tensors[0], graph.tensors[graph.outputs[0]]
    begin, size = (
        Tensor(name, (1,), "int32", data=np.array([at], np.int32)) for name, at in (("begin", 1), ("size", 3))
    )
    part, filled = Tensor("part", (3,), "int32"), Tensor("filled", (9, 7, 4), "float32")
    value = Tensor("v", (), "float32", data=np.array(2.5, np.float32))
    operators = (
        *graph.operators,
        Operator("SLICE", (1, 2, 3), (4,), {}),
        Operator("FILL", (4, 6), (5,), {}),
    )
    whole = TfliteGraph((first, shape, begin, size, part, filled, value), operators, (0,), (5, 4))
    _check(whole)
    assert [node.op_type for node in to_onnx(whole).graph] == ["Expand", "Identity"]


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_integers_go_through_quantize_and_dequantize(kind: str) -> None:
    x, y = quantized(X, kind, 0.03, 5), quantized(ANY, kind, 0.11, -3)
    weights = constant(
        RNG.integers(-127, 128, (6, 3, 2, 4)), "int8", scale=[0.01 * k for k in range(1, 7)], zero=[0] * 6
    )
    wide = "int64" if kind == "int16" else "int32"
    scales = [0.03 * 0.01 * k for k in range(1, 7)]
    bias = constant(RNG.integers(-99, 99, 6), wide, scale=scales, zero=[0] * 6)
    graph = _graph_of_integers(
        file_of("CONV_2D", [x, weights, bias], [y], padding=0, strideH=2, strideW=2, table="Conv2DOptions")
    )
    model, inputs = to_onnx(graph), _inputs(graph)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    (name,) = [graph.tensors[index].name for index in graph.outputs]
    due = tflite.evaluate(graph, inputs)[name]
    (onnxs,) = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, inputs)
    for result in (evaluate(model, inputs, keep=[name])[name], onnxs):
        assert result.dtype == due.dtype == np.dtype(kind)
        apart = np.abs(result.astype(np.int64) - due)
        assert apart.max() <= 1
        assert (apart > 0).mean() < (0.01 if kind == "int8" else 0.1)  # multipliers of 16 bits round, too


def _graph_of_integers(data: bytes) -> TfliteGraph:
    graph = tflite.read(data)
    tensors = list(graph.tensors)
    for index in graph.outputs:
        shape = tflite.evaluate(graph, _inputs(graph))[tensors[index].name].shape
        tensors[index] = replace(tensors[index], shape=shape)
    return replace(graph, tensors=tuple(tensors))
