"""Arithmetic of integers without a scale is what onnxruntime makes of it, on every runtime.

Members: sums, differences, products, quotients, comparisons, remainders, negatives and sums along an axis of int8,
uint8, int16, int32 and int64, in pairs and with constants, over the border of the type; powers with an exponent of
another type; parts of int64; broadcast booleans; resized integers; scalars.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgeconv import export_onnx
from edgeconv.capture import open_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.errors import EdgeconvError, EmitError
from edgeconv.rewrite import optimize

_BINARY = ("Add", "Sub", "Mul", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "Max", "Min")
_KINDS = (np.int8, np.uint8, np.int16, np.int32, np.int64)


def _written(path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, Any], constants: dict[str, Any]) -> Path:
    """A file of these nodes, whose last results (``y…``) are outputs."""
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    names = [name for node in nodes for name in node.output if name.startswith("y")]
    results = [onnx.ValueInfoProto(name=name) for name in names]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", values, results, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    path.write_bytes(inferred.SerializeToString())
    return path


def _check(tflite: Any, old_runtime: Any, path: Path, inputs: dict[str, Any]) -> None:
    expected = onnxruntime.InferenceSession(path.read_bytes()).run(None, inputs)
    model = optimize(open_onnx(path).graph({name: array.shape for name, array in inputs.items()}))
    emitted = to_tflite(model, layout="nchw", metadata={})
    arrays = list(inputs.values())
    runs = {
        "xnnpack": tflite.run(emitted, arrays).outputs,
        "reference": tflite.run(emitted, arrays, "reference").outputs,
        "2.14": old_runtime(emitted, arrays),
    }
    for runtime, outputs in runs.items():
        for spec, actual, array in zip(emitted.outputs, outputs, expected, strict=True):
            np.testing.assert_array_equal(actual, array, err_msg=f"{spec.name} on {runtime}")


def _numbers(kind: Any, seed: int) -> Any:
    """Up to the border of the narrow types, without zeros."""
    info = np.iinfo(kind)
    low, high = max(int(info.min), -100), min(int(info.max), 250)
    array = np.random.default_rng(seed).integers(low, high, (2, 3, 4, 5))
    return np.where(array == 0, 1, array).astype(kind)


def _takes(operator: str, kind: Any) -> bool:
    """Whether onnxruntime has a kernel."""
    value = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    a, b = (helper.make_tensor_value_info(name, value, [2]) for name in "ab")
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["y"])], "g", [a, b], [onnx.ValueInfoProto(name="y")]
    )
    try:
        onnxruntime.InferenceSession(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
        )
    except Exception:  # noqa: BLE001  # the classes of onnxruntime's errors are its own
        return False
    return True


@pytest.mark.parametrize("kind", _KINDS)
def test_binary_operators_take_every_number_type(tflite: Any, old_runtime: Any, tmp_path: Path, kind: Any) -> None:
    operators = [operator for operator in _BINARY if _takes(operator, kind)]
    nodes = []
    for operator in operators:
        nodes += [
            helper.make_node(operator, ["a", "b"], [f"y{operator}"]),
            helper.make_node(operator, ["a", "c"], [f"y{operator}c"]),
            helper.make_node(operator, ["c", "b"], [f"y{operator}r"]),
        ]
    inputs = {"a": _numbers(kind, 0), "b": _numbers(kind, 1)}
    path = _written(tmp_path / "m.onnx", nodes, inputs, {"c": np.array([1, 3, 7, 5, 2], kind)})
    assert {"Add", "Sub", "Mul"} <= {*operators} or kind in (np.int16,)
    _check(tflite, old_runtime, path, inputs)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_other_operators_of_integers(tflite: Any, old_runtime: Any, tmp_path: Path, kind: Any) -> None:
    make = helper.make_node
    nodes = [
        make("Neg", ["a"], ["yneg"]),
        make("Abs", ["a"], ["yabs"]),
        make("ReduceSum", ["a", "axes"], ["ysum"]),
        make("ReduceMax", ["a", "axes"], ["ymax"]),
        make("Split", ["a", "parts"], ["yone", "ytwo"], axis=3),
        make("ArgMax", ["a"], ["yarg"], axis=1),
        make("Relu", ["a"], ["yrelu"]) if kind is np.int32 else make("Identity", ["a"], ["yrelu"]),
        make("Concat", ["a", "a"], ["yjoin"], axis=1),
        make("Expand", ["flag", "wide"], ["yflag"]),
        make("Where", ["flag", "a", "zero"], ["ywhere"]),
        make("Add", ["a", "zero"], ["yadd"]),
        make("Transpose", ["a"], ["ymove"], perm=[3, 1, 0, 2]),
        make("Pow", ["a", "halves"], ["ypow"]),
    ]
    inputs = {"a": np.abs(_numbers(kind, 0)), "flag": np.random.default_rng(3).random((2, 1, 4, 1)) > 0.5}
    constants = {
        "axes": np.array([1, 2]),
        "parts": np.array([2, 3]),
        "wide": np.array([2, 3, 4, 5]),
        "zero": np.array(0, kind),
        "halves": np.array(2.0, np.float32),
    }
    path = _written(tmp_path / "m.onnx", nodes, inputs, constants)
    _check(tflite, old_runtime, path, inputs)


@pytest.mark.parametrize("exponent", [np.int32, np.int64])
def test_powers_by_an_exponent_of_another_type(tflite: Any, old_runtime: Any, tmp_path: Path, exponent: Any) -> None:
    inputs = {"a": np.array([[1.0, 2.0, 3.0, 4.0]], np.float32), "b": np.array([[3, 2, 1, 0]], exponent)}
    path = _written(tmp_path / "m.onnx", [helper.make_node("Pow", ["a", "b"], ["y"])], inputs, {})
    _check(tflite, old_runtime, path, inputs)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32])
def test_integers_are_resized_to_the_nearest(tflite: Any, old_runtime: Any, tmp_path: Path, kind: Any) -> None:
    make = helper.make_node(
        "Resize", ["a", "", "scales"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric"
    )
    inputs = {"a": _numbers(kind, 0)}
    path = _written(tmp_path / "m.onnx", [make], inputs, {"scales": np.array([1, 1, 2, 1.7], np.float32)})
    _check(tflite, old_runtime, path, inputs)


def test_weighted_integers_are_refused(tmp_path: Path) -> None:
    make = helper.make_node("Resize", ["a", "", "scales"], ["y"], mode="linear")
    inputs = {"a": _numbers(np.uint8, 0)}
    path = _written(tmp_path / "m.onnx", [make], inputs, {"scales": np.array([1, 1, 2, 1.7], np.float32)})
    with pytest.raises(EdgeconvError, match="it weighs integers"):
        to_tflite(open_onnx(path).graph({"a": (2, 3, 4, 5)}), layout="nchw", metadata={})


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8"])
def test_integers_that_are_shrunk_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    """Its bounds and bias are floats, which no kernel compares with integers."""
    text = f'<ir_version: 8, opset_import: ["": 18]> g ({kind}[2, 6] x) => ({kind}[2, 6] y) {{ y = Shrink(x) }}'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(EmitError, match="it shrinks integers; cast them to float32"):
        export_onnx(tmp_path / "m.onnx", tmp_path / "out", name="m")
