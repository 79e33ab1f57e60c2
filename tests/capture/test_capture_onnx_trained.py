"""Files of models trained for int8, as torch.onnx and brevitas write them: their scales are those of both files.

Weights that the file still rounds (QuantizeLinear of a constant), one scale or one per channel, with zero points per
channel; BatchNorm behind a rounded weight; Gemm with a transposed weight; a pool that nobody rounds; weights of 4 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from trained import computed

import edgeconv
from edgeconv.capture import NOTE

_RANDOM = np.random.default_rng(0)
_X = torch.from_numpy(_RANDOM.standard_normal((1, 3, 8, 8)).astype(np.float32))


class _File:
    """An `.onnx` file that grows node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def rounded(self, value: str, scale: Any, zero: Any, dtype: type, axis: int = 0) -> str:
        """Both nodes, as fake quantization is written."""
        along = {} if np.ndim(scale) == 0 else {"axis": axis}
        parameters = [
            self.constant(f"{value}.scale", np.array(scale, np.float32)),
            self.constant(f"{value}.zero", np.array(zero, dtype)),
        ]
        integers = self.add("QuantizeLinear", [value, *parameters], f"{value}.integers", **along)
        return self.add("DequantizeLinear", [integers, *parameters], f"{value}.rounded", **along)

    def save(self, path: Path, shape: tuple[int, ...], opset: int = 17) -> Path:
        self.nodes[-1].output[0] = "y"
        x, y = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
            for name, sizes in (("x", tuple(_X.shape)), ("y", shape))
        )
        graph = helper.make_graph(self.nodes, "trained", [x], [y], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def _classifier(zeros: Any, scales: Any, *, rounds_pool: bool) -> _File:
    file = _File()
    x = file.rounded("x", 0.03, 120, np.uint8)
    weight = file.constant("a.weight", _RANDOM.uniform(-0.3, 0.3, (4, 3, 3, 3)).astype(np.float32))
    y = file.add("Conv", [x, file.rounded(weight, scales, zeros, np.int8)], "a", pads=[1, 1, 1, 1])
    statistics = [
        file.constant(f"bn.{name}", _RANDOM.uniform(0.5, 1.5, 4).astype(np.float32)) for name in ("g", "b", "m", "v")
    ]
    y = file.rounded(
        file.add("Relu", [file.add("BatchNormalization", [y, *statistics], "bn")], "relu"), 0.02, 0, np.uint8
    )
    y = file.add("GlobalAveragePool", [y], "pool")
    if rounds_pool:
        y = file.rounded(y, 0.02, 0, np.uint8)
    y = file.add("Flatten", [y], "flat")
    weight = file.constant("fc.weight", _RANDOM.uniform(-0.5, 0.5, (5, 4)).astype(np.float32))
    bias = file.constant("fc.bias", _RANDOM.uniform(-0.5, 0.5, 5).astype(np.float32))
    y = file.add("Gemm", [y, file.rounded(weight, 0.004, 0, np.int8), bias], "fc", transB=1)
    file.rounded(y, 0.015, 128, np.uint8)
    return file


@pytest.mark.parametrize("rounds_pool", [True, False], ids=["all", "pool"])
@pytest.mark.parametrize(
    ("scales", "zeros"),
    [(0.003, 0), ([0.003, 0.002, 0.004, 0.005], [0] * 4), ([0.003, 0.004, 0.004, 0.005], [3, 0, -5, 1])],
    ids=["tensor", "channel", "zeros"],
)
def test_files_of_trained_models_keep_their_integers(
    scales: Any, zeros: Any, rounds_pool: bool, tmp_path: Path
) -> None:
    path = _classifier(zeros, scales, rounds_pool=rounds_pool).save(tmp_path / "net.onnx", (1, 5))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (expected,) = onnxruntime.InferenceSession(path, options).run(None, {"x": _X.numpy()})
    result = edgeconv.export_onnx(path, tmp_path / "out", name="net", variants="int8")
    assert len(result.artifacts) == 2
    in_float = [note for note in result.notes if "stays float" in note]
    assert any("pool: stays float, with the layer" in note for note in in_float) is not rounds_pool
    assert not (in_float and rounds_pool)
    for artifact in result.artifacts:
        assert (np.abs(computed(artifact, _X) - expected) / 0.015).max() < 1.01, artifact.path


def test_weights_of_4_bits_are_kept(tmp_path: Path) -> None:
    file = _File()
    x = file.rounded("x", 0.03, 120, np.uint8)
    file.constants.append(helper.make_tensor("w", TensorProto.INT4, [4, 3, 1, 1], list(range(-6, 6))))
    weight = file.add("DequantizeLinear", ["w", file.constant("w.scale", np.float32(0.05))], "w.real")
    file.rounded(file.add("Conv", [x, weight], "a"), 0.02, 128, np.uint8)
    path = file.save(tmp_path / "net.onnx", (1, 4, 8, 8), 21)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": _X.numpy()})
    result = edgeconv.export_onnx(path, tmp_path / "out", name="net", variants="int8")
    assert not [note for note in result.notes if "stays float" in note]
    for artifact in result.artifacts:
        assert (np.abs(computed(artifact, _X) - expected) / 0.02).max() < 1.01, artifact.path


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("behind", ["", "Transpose"])
def test_weights_that_alone_are_integers_are_floats(tmp_path: Path, is_stored: bool, behind: str) -> None:
    """Of a model that computes with floats: TFLite's kernels would round what they read beside integers of weights."""
    file = _File()
    weight = _RANDOM.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    scales = np.linspace(0.002, 0.01, 4).astype(np.float32)
    floats = (weight * scales[:, None, None, None]).astype(np.float32)
    if is_stored:
        read = [file.constant("w", weight), file.constant("s", scales), file.constant("z", np.zeros(4, np.int8))]
        value = file.add("DequantizeLinear", read, "w.real", axis=0)
    else:
        stored = floats.transpose(3, 2, 1, 0).copy() if behind else floats
        value = file.constant("w", stored)
        if behind:
            value = file.add(behind, [value], "w.moved", perm=[3, 2, 1, 0])
        value = file.rounded(value, scales, [0] * 4, np.int8)
    file.add("Conv", ["x", value], "y")
    path = file.save(tmp_path / "stored.onnx", (1, 4, 6, 6))
    source = edgeconv.capture.open_onnx(path)
    assert not source.is_quantized
    graph = source.graph({"x": tuple(_X.shape)})
    assert [node.op_type for node in graph.graph] == ["Conv"]
    held = graph.graph.node(0).inputs[1].const_value.numpy()  # type: ignore[union-attr]
    np.testing.assert_array_equal(held, floats)
    assert (
        "constants that are stored as integers (1) become floats" in graph.metadata_props.get(NOTE, "")
    ) is is_stored
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": _X.numpy()})
    result = edgeconv.export_onnx(path, tmp_path / "out", name="net", variants="fp32")
    assert len(result.artifacts) == 2
    for artifact in result.artifacts:
        np.testing.assert_allclose(computed(artifact, _X), expected, rtol=1e-5, atol=1e-5)
