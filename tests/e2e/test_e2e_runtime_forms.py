"""Forms that onnxruntime refuses in its own optimised graph, or has no kernel for: written so that it takes them.

Thought of: Pad with a list of axes behind a Transpose, cubic Resize by sizes and by scales among integers,
Celu and ScatterElements with a reduction in float16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from random_graphs import Array, declared, run_plain
from random_judge import decibels, run_file

import edgeconv

X = np.random.default_rng(0).standard_normal((1, 3, 8, 6)).astype(np.float32)
_WEIGHT = np.random.default_rng(1).standard_normal((3, 3, 1, 1)).astype(np.float32)


def _model(nodes: list[onnx.NodeProto], **constants: Array) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [declared("x", np.float32, X.shape)], [onnx.ValueInfoProto(name="y")], stored)
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _checked(model: onnx.ModelProto, folder: Path, variant: str, least_db: float) -> onnx.ModelProto:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    data = edgeconv.Quantization(batches=lambda: [{"x": X}])
    result = edgeconv.export_onnx(
        path, folder / "out", name="m", formats="onnx", variants=variant, quantization=data
    )  # fmt: skip
    (artifact,) = result.artifacts
    assert decibels(run_plain(model, {"x": X})[0], run_file(artifact, {"x": X})[0]) > least_db
    return onnx.load(artifact.path)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad_states_all_axes(mode: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("Pad", ["t", "pads", "", "axes"], ["p"], mode=mode),
        helper.make_node("Sigmoid", ["p"], ["y"]),
    ]
    model = _model(nodes, pads=np.array([1, 2], np.int64), axes=np.array([-1], np.int64))
    written = _checked(model, tmp_path, "fp32", 90)
    (pad,) = (node for node in written.graph.node if node.op_type == "Pad")
    assert len([name for name in pad.input if name]) <= 3
    amounts = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in written.graph.initializer}
    assert sorted(amounts[pad.input[1]]) == [0, 0, 0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize("inputs", [["t", "", "scales"], ["t", "", "", "sizes"]])
def test_cubic_resize_among_integers_runs(inputs: list[str], tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("Resize", inputs, ["r"], mode="cubic"),
        helper.make_node("Conv", ["r", "w"], ["y"]),
    ]
    constants: dict[str, Any] = {"w": _WEIGHT}
    if "sizes" in inputs:
        constants["sizes"] = np.array([1, 3, 4, 3], np.int64)
    else:
        constants["scales"] = np.array([1, 1, 0.5, 0.5], np.float32)
    _checked(_model(nodes, **constants), tmp_path, "int8", 20)


@pytest.mark.parametrize("op_type", ["Celu", "ScatterElements"])
def test_what_has_no_half_stays_float32(op_type: str, tmp_path: Path) -> None:
    more = ["i", "u"] if op_type == "ScatterElements" else []
    attributes: dict[str, Any] = {"reduction": "add"} if more else {"alpha": 0.5}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node(op_type, ["c", *more], ["y"], **attributes),
    ]
    constants = {"i": np.zeros((1, 3, 1, 1), np.int64), "u": np.ones((1, 3, 1, 1), np.float32)} if more else {}
    _checked(_model(nodes, w=_WEIGHT, **constants), tmp_path, "fp16", 40)
