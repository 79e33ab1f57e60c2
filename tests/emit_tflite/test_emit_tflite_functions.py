"""Functions, norms and moves of files that TFLite has no operator for, against onnx's own evaluator in float64.

Members thought of: hyperbolic functions, their inverses, arcs, the error function: of ordinary, small and large
numbers, and at the ends of their domains; norms of order 1, 2 and 3, of zeros too; neighbors of a channel; sums of
logarithms; thresholds; the last of equal elements; pads round about, wider than the axis; places by batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeconv.emit.tflite import to_tflite
from edgeconv.errors import EmitError

_draw = np.random.default_rng(0)


def _normal(*shape: int) -> np.ndarray:
    return _draw.standard_normal(shape).astype(np.float32)


def _check(
    operator: str,
    x: np.ndarray,
    *constants: np.ndarray,
    opset: int = 18,
    expected: np.ndarray | None = None,
    **attributes: Any,
) -> None:
    """Of one node whose other operands are constants: within a few steps of float32 of onnx's evaluator, or of that."""
    names = [f"c{number}" for number in range(len(constants))]
    node = helper.make_node(operator, ["x", *names], ["y"], **attributes)
    stored = [numpy_helper.from_array(array, name) for array, name in zip(constants, names, strict=True)]
    kinds = (TensorProto.INT64,) * 2 if operator.startswith("Arg") else (TensorProto.FLOAT, TensorProto.DOUBLE)
    if expected is None:
        with np.errstate(all="ignore"):
            wide = _model([node], TensorProto.DOUBLE, x.shape, kinds[1], opset, stored)
            expected = np.asarray(ReferenceEvaluator(wide).run(None, {"x": x.astype(np.float64)})[0])
    model = ir.from_proto(_model([node], TensorProto.FLOAT, x.shape, kinds[0], opset, stored, expected.shape))
    actual = _on_litert(model, x)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-30)


def _model(
    nodes: list[Any], kind: int, shape: Any, result: int, opset: int, stored: list[Any], output_shape: Any = None
) -> Any:
    output = helper.make_tensor_value_info("y", result, output_shape)
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", kind, shape)], [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _on_litert(model: ir.Model, x: np.ndarray, weights: str = "float32") -> np.ndarray:
    data = to_tflite(model, layout="nchw", metadata={}, weights=weights).data
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


_ANY = _normal(4, 64)
FUNCTIONS: dict[str, np.ndarray] = {
    "Sinh": np.concatenate([_ANY, _ANY * 1e-3, _ANY * 10]).astype(np.float32),
    "Cosh": np.concatenate([_ANY, _ANY * 1e-3, _ANY * 10]).astype(np.float32),
    "Tan": np.tanh(_ANY) * np.float32(1.5),
    "Asinh": np.concatenate([_ANY, _ANY * 1e-3, _ANY * 1e4]).astype(np.float32),
    "Acosh": np.concatenate([np.abs(_ANY), np.abs(_ANY) * 1e4]).astype(np.float32) + np.float32(1),
    "Atanh": np.concatenate([np.tanh(_ANY), np.tanh(_ANY) * 1e-3]).astype(np.float32) * np.float32(0.9),
    "Asin": np.append(np.tanh(_ANY) * np.float32(0.99), np.float32([0, 1, -1, 1e-4])),
    "Acos": np.append(np.tanh(_ANY) * np.float32(0.99), np.float32([0, 1, -1, 1e-4])),
    "Atan": np.append(np.concatenate([_ANY, _ANY * 1e-3, _ANY * 1e4]), [0, 1, -1, 1e30]).astype(np.float32),
    "Erf": np.append(np.concatenate([_ANY, _ANY * 1e-3]), [0, 9, -9, 3.92, 3.9]).astype(np.float32),
}


@pytest.mark.parametrize("operator", FUNCTIONS)
def test_functions_compute_what_onnx_says(operator: str) -> None:
    _check(operator, FUNCTIONS[operator])


def test_a_hyperbolic_cosine_is_nowhere_below_1_in_halves_either() -> None:
    """acosh has no number there; a constant ln(2) of float16 made it 0.9998 at 0."""
    x = np.concatenate([_ANY * 1e-3, _ANY]).astype(np.float32)
    nodes = [helper.make_node("Cosh", ["x"], ["c"]), helper.make_node("Acosh", ["c"], ["y"])]
    model = ir.from_proto(_model(nodes, TensorProto.FLOAT, x.shape, TensorProto.FLOAT, 18, [], x.shape))
    model.graph[0].outputs[0].shape = ir.Shape(x.shape)
    np.testing.assert_allclose(_on_litert(model, x, "float16"), np.abs(x), rtol=1e-3, atol=1e-3)


def _norm(x: np.ndarray, axes: tuple[int, ...], p: int) -> np.ndarray:
    return np.asarray((np.abs(x.astype(np.float64)) ** p).sum(axes, keepdims=True) ** (1 / p))


@pytest.mark.parametrize("p", [1, 2])
def test_norm_along_an_axis(p: int) -> None:
    x = _normal(2, 3, 4, 5)
    _check("LpNormalization", x, p=p, axis=1, expected=x / _norm(x, (1,), p))


def test_a_norm_of_zeros_divides_nothing() -> None:
    _check("LpNormalization", np.zeros((2, 3), np.float32), expected=np.zeros((2, 3)))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norm_of_an_image(p: int) -> None:
    x = _normal(2, 3, 4, 5)
    _check("GlobalLpPool", x, p=p, expected=_norm(x, (2, 3), p))


@pytest.mark.parametrize(("size", "beta"), [(3, 0.75), (5, 0.6), (1, 0.75), (2, 0.75)])
@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (1, 3, 4)])
def test_normalization_over_neighboring_channels_is_exact(size: int, beta: float, shape: tuple[int, ...]) -> None:
    x = _normal(*shape)
    squares = x.astype(np.float64) ** 2
    reach = [(max(0, c - (size - 1) // 2), c + size // 2 + 1) for c in range(shape[1])]
    total = np.stack([squares[:, low:high].sum(1) for low, high in reach], 1)
    _check("LRN", x, size=size, alpha=0.5, bias=2.0, beta=beta, expected=x / (2 + 0.5 / size * total) ** beta)


@pytest.mark.parametrize("keep", [0, 1])
def test_logarithm_of_a_sum(keep: int) -> None:
    _check("ReduceLogSum", np.abs(_normal(2, 3, 4)) + np.float32(1), np.array([1]), keepdims=keep)


def test_thresholded_relu_computes_what_onnx_says() -> None:
    _check("ThresholdedRelu", _normal(2, 3, 4), alpha=0.25)


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("keep", [0, 1])
def test_last_of_equal_elements(operator: str, keep: int) -> None:
    _check(operator, np.round(_normal(2, 5, 4)), axis=1, keepdims=keep, select_last_index=1)


def test_last_of_equal_elements_of_one_axis() -> None:
    _check("ArgMax", np.array([1, 2, 2, 0, 2], np.float32), axis=0, keepdims=0, select_last_index=1)


def test_pad_round_about() -> None:
    _check("Pad", _normal(2, 3, 4, 5), np.array([0, 1, 2, 3, 0, 2, 0, 12]), opset=19, mode="wrap")


@pytest.mark.parametrize(
    ("batch", "index"),
    [(1, [[[0], [2]], [[1], [-1]]]), (1, [[0, 1], [2, -1]]), (2, [[[0], [2], [1]], [[1], [-1], [3]]])],
)
def test_places_by_batch(batch: int, index: list[Any]) -> None:
    _check("GatherND", _normal(2, 3, 4), np.array(index), batch_dims=batch)


@pytest.mark.parametrize("index", [np.array(-1, np.int32), np.array([2, -3], np.int32), np.array([[0, 1]])])
def test_an_index_that_is_an_input_keeps_its_axes(index: np.ndarray) -> None:
    """A number has none: beside a list of one number FLOOR_MOD would give it one."""
    data = _normal(2, 3, 4)
    kind = helper.np_dtype_to_tensor_dtype(index.dtype)
    node = helper.make_node("Gather", ["data", "x"], ["y"], axis=1)
    stored = [numpy_helper.from_array(data, "data")]
    expected = np.take(data, index, axis=1)
    model = _model([node], kind, index.shape, TensorProto.FLOAT, 18, stored, expected.shape)
    np.testing.assert_array_equal(_on_litert(ir.from_proto(model), index), expected)


@pytest.mark.parametrize(("operator", "expected"), [("ReduceL1", [6, 15]), ("ReduceSumSquare", [14, 77])])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_sums_of_integers(operator: str, expected: list[int], kind: type) -> None:
    x = np.array([[1, -2, 3], [-4, 5, -6]], kind)
    stored = [numpy_helper.from_array(np.array([1], np.int64), "axes")]
    node = helper.make_node(operator, ["x", "axes"], ["y"], keepdims=0)
    onnx_kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    model = _model([node], onnx_kind, x.shape, onnx_kind, 18, stored, (2,))
    np.testing.assert_array_equal(_on_litert(ir.from_proto(model), x), expected)


@pytest.mark.parametrize("operator", ["ReduceL2", "ReduceLogSum", "ReduceLogSumExp"])
@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.INT64])
def test_roots_and_logarithms_of_integers_are_refused(operator: str, kind: int) -> None:
    """LiteRT refuses to load such a file."""
    model = _model([helper.make_node(operator, ["x"], ["y"])], kind, (2, 3), kind, 18, [], (1, 1))
    with pytest.raises(EmitError, match="TFLite computes that of real numbers only"):
        to_tflite(ir.from_proto(model), layout="nchw", metadata={})
