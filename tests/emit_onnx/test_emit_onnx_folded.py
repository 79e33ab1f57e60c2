"""Weights stored as int8 for operators of floats: onnxruntime makes floats of them when it loads the file.

Members thought of: convolutions, products of matrices with scales along the last axis, one scale for all, transposed
convolutions in a file of integers, recurrent weights; what computes with integers keeps its DequantizeLinear.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import edgeconv
from edgeconv.core import Sample
from edgeconv.emit.onnx._folded import fold_at_load
from edgeconv.graph.stored_integers import dequantize_stored
from edgeconv.reference import evaluate

_X = np.random.default_rng(0).standard_normal((1, 8, 9, 10)).astype(np.float32)
_MODULES: dict[str, nn.Module] = {
    "convolutions": nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 32, 3)),
    "matrices": nn.Sequential(nn.Linear(10, 96), nn.ReLU(), nn.Linear(96, 64)),
    "transposed": nn.Sequential(nn.Conv2d(8, 24, 3), nn.ReLU(), nn.ConvTranspose2d(24, 16, 4, 2, 1)),
}


def _exported(name: str, variant: str, folder: Path) -> edgeconv.ExportResult:
    torch.manual_seed(0)
    return edgeconv.export(
        _MODULES[name].eval(),
        (torch.from_numpy(_X),),
        folder,
        name="stored",
        input_names=("x",),
        formats="onnx",
        variants=variant,
        quantization=edgeconv.Quantization(batches=lambda: [{"x": _X}]),
        samples=[Sample("same", {"x": _X})],
        devices=("onnxruntime",),
    )


def _loaded(data: bytes, folder: Path) -> tuple[list[str], np.ndarray]:
    """The operators that are left when the file is loaded, and its output."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": _X})
    return [node.op_type for node in onnx.load(folder / "loaded.onnx").graph.node], np.asarray(output)


@pytest.mark.parametrize("module", _MODULES)
def test_stored_weights_are_floats_once_the_file_is_loaded(module: str, tmp_path: Path) -> None:
    result = _exported(module, "int8-weights", tmp_path)
    assert result.report is not None
    assert [row.reason for row in result.report.comparisons] == [""]
    data = (tmp_path / "stored.int8-weights.onnx").read_bytes()
    operators, output = _loaded(data, tmp_path)
    assert not {"Cast", "DequantizeLinear"} & set(operators)
    model = ir.serde.deserialize_model(onnx.load_from_string(data))
    dequantize_stored(model.graph)
    backed = ir.serde.serialize_model(model).SerializeToString()
    assert "Cast" not in {node.op_type for node in onnx.load_from_string(backed).graph.node}
    # Of a MatMul that reads a DequantizeLinear, onnxruntime makes one that rounds its other operand, too.
    operators, _ = _loaded(backed, tmp_path)
    assert {"DequantizeLinear", "MatMulNBits"} & set(operators)
    name = model.graph.outputs[0].name or ""
    expected = evaluate(model, {"x": _X}, keep=[name])[name]
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


def test_transposed_convolutions_of_a_file_of_integers_are_folded(tmp_path: Path) -> None:
    result = _exported("transposed", "int8", tmp_path)
    assert result.report is not None
    assert [row.reason for row in result.report.comparisons] == [""]
    nodes = onnx.load(tmp_path / "stored.int8.onnx").graph.node
    readers = {name: node.op_type for node in nodes for name in node.input}
    assert [readers[node.output[0]] for node in nodes if node.op_type == "Mul"] == ["ConvTranspose"]
    assert "Conv" in {readers.get(node.output[0]) for node in nodes if node.op_type == "DequantizeLinear"}


@pytest.mark.parametrize("scales", [np.float32([0.1, 3e-5, 7.7]), np.float32(0.013)])
def test_both_forms_are_the_same_bit_for_bit(scales: np.ndarray) -> None:
    integers = np.arange(-127, 128, dtype=np.int8)[:, None].repeat(3, 1)
    constants = {"w": integers, "scale": scales, "zero": np.zeros(scales.shape, np.int8)}
    back = helper.make_node("DequantizeLinear", [*constants], ["real"], axis=1)
    copied = helper.make_node("Add", ["real", "x"], ["y"])
    shapes = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [255, 3]) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([back, copied], "stored", shapes[:1], shapes[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    before = model.SerializeToString()
    fold_at_load(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Mul", "Add"]
    assert {tensor.name for tensor in model.graph.initializer} == {"w", "real.factor"}
    feeds = {"x": np.zeros((255, 3), np.float32)}
    outputs = [
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for data in (before, model.SerializeToString())
    ]
    np.testing.assert_array_equal(*outputs)
    np.testing.assert_array_equal(outputs[1], integers.astype(np.float32) * scales)
