"""What onnxruntime fused when it saved a model is read as the operators that it fused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.capture import open_onnx
from edgeconv.errors import CaptureError
from edgeconv.reference import evaluate

_RANDOM = np.random.default_rng(0)
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "LeakyRelu": lambda x: functional.leaky_relu(x, 0.3),
    "Clip": lambda x: x.clamp(-0.5, 0.75),
    "HardSigmoid": functional.hardsigmoid,
}


class _Activated(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.other, self.activation = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), activation
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.conv(x))
        y = torch.relu(self.other(y) + y)
        z: Tensor = self.activation(self.head(y.mean((2, 3))))
        return z


class _Tokens(nn.Module):
    def __init__(self, gelu: nn.Module) -> None:
        super().__init__()
        self.norm, self.wide, self.back, self.gelu = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8), gelu
        self.last = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x + 1)
        y = self.last(self.back(self.gelu(self.wide(y))) + y)
        z: Tensor = torch.matmul(y, y.transpose(1, 2)) * 0.25
        return z


def _saved_by_onnxruntime(module: nn.Module, shape: tuple[int, ...], folder: Path, opset: int) -> Path:
    """The file that onnxruntime saves of a module that torch's older exporter wrote."""
    path, optimized = folder / "plain.onnx", folder / "optimized.onnx"
    torch.onnx.export(module.eval(), (torch.zeros(shape),), str(path), dynamo=False, opset_version=opset)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(optimized)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return optimized


def _check_same(path: Path, shape: tuple[int, ...]) -> list[str]:
    """Holds what is read of a file to onnxruntime's results; returns the operators that it has beyond the standard."""
    x = _RANDOM.standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    expected = session.run(None, {name: x})
    file = open_onnx(path)
    graph = file.graph({name: shape})
    names = [value.name or "" for value in graph.graph.outputs]
    computed = evaluate(graph, {name: x}, keep=names)
    for output, array in zip(names, expected, strict=True):
        np.testing.assert_allclose(computed[output], array, rtol=1e-4, atol=1e-5)
    return [node.op_type for node in onnx.load(path).graph.node if node.domain == "com.microsoft"]


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("name", list(_ACTIVATIONS))
def test_activations_behind_convolutions_and_products(tmp_path: Path, name: str, opset: int) -> None:
    torch.manual_seed(0)
    path = _saved_by_onnxruntime(_Activated(_ACTIVATIONS[name]), (1, 3, 6, 6), tmp_path, opset)
    assert "FusedConv" in _check_same(path, (1, 3, 6, 6))


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("gelu", [nn.GELU(), nn.GELU("tanh")])
def test_layers_of_tokens(tmp_path: Path, gelu: nn.Module, opset: int) -> None:
    torch.manual_seed(0)
    path = _saved_by_onnxruntime(_Tokens(gelu), (1, 4, 8), tmp_path, opset)
    assert {"FusedMatMul", "SkipLayerNormalization"} & set(_check_same(path, (1, 4, 8)))


_ROWS = (2, 3, 8)
_SCALE = _RANDOM.uniform(0.5, 2, 8).astype(np.float32)
_SHIFT = _RANDOM.standard_normal(8).astype(np.float32)
_OTHER = _RANDOM.standard_normal(_ROWS).astype(np.float32)
_CASES = {
    "BiasGelu": ([_SHIFT], 1, {}),
    "FastGelu": ([_SHIFT], 1, {}),
    "FusedMatMul": ([_RANDOM.standard_normal((2, 5, 8)).astype(np.float32)], 1, {"transB": 1, "alpha": 0.5}),
    "FusedMatMul of nothing else": ([_RANDOM.standard_normal((8, 5)).astype(np.float32)], 1, {}),
    "Gelu": ([], 1, {}),
    "QuickGelu": ([], 1, {"alpha": 1.3}),
    "SkipLayerNormalization": ([_OTHER, _SCALE, _SHIFT, _SHIFT[::-1].copy()], 4, {"epsilon": 1e-3}),
    "SkipSimplifiedLayerNormalization": ([_OTHER, _SCALE], 4, {"epsilon": 1e-3}),
}


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("case", list(_CASES))
def test_operators_by_themselves(tmp_path: Path, case: str, opset: int) -> None:
    operator, (constants, results, attributes) = case.split()[0], _CASES[case]
    names = [f"c{at}" for at in range(len(constants))]
    outputs = ["y"] if results == 1 else ["y", "", "", "total"]
    node = helper.make_node(operator, ["x", *names], outputs, domain="com.microsoft", **attributes)
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, _ROWS)],
        shown,
        [numpy_helper.from_array(array, name) for name, array in zip(names, constants, strict=True)],
    )
    versions = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=versions, ir_version=8), path)
    assert _check_same(path, _ROWS) == [operator]


def test_a_form_without_an_equal_is_refused_with_a_way_out(tmp_path: Path) -> None:
    node = helper.make_node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft", transBatchA=1)
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 2, 2)) for name in "xy"]
    graph = helper.make_graph([node], "one", shown[:1], shown[1:])
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=versions, ir_version=8), path)
    with pytest.raises(CaptureError, match=r"com\.microsoft::FusedMatMul is no operator.*ORT_ENABLE_BASIC"):
        open_onnx(path)


def test_operators_of_classical_machine_learning_get_a_hint_of_their_own(tmp_path: Path) -> None:
    """As scikit-learn's converters write them: no level of onnxruntime would take them out."""
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", scale=[2.0])
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 2)) for name in "xy"]
    graph = helper.make_graph([node], "one", shown[:1], shown[1:])
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=versions, ir_version=8), path)
    with pytest.raises(CaptureError, match=r"ai\.onnx\.ml::Scaler is no operator") as caught:
        open_onnx(path)
    assert "around the file" in caught.value.hint
    assert "onnxruntime" not in caught.value.hint
