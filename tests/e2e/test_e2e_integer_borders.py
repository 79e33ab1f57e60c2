"""Files whose inputs and outputs are quantized integers: in both formats they stay what they are, and are proved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from calibration_noise import Noise
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.core import Emitted
from edgeconv.emit.onnx import to_onnx
from edgeconv.rewrite import optimize

SHAPE = (1, 3, 12, 12)
KINDS = {
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int16): TensorProto.INT16,
}
FORMS = {
    "qdq-u8-per-channel": (QuantFormat.QDQ, QuantType.QUInt8, QuantType.QInt8, True, False),
    "qdq-s8": (QuantFormat.QDQ, QuantType.QInt8, QuantType.QInt8, False, False),
    "qdq-s16": (QuantFormat.QDQ, QuantType.QInt16, QuantType.QInt8, True, True),
    "qoperator-s8-per-channel": (QuantFormat.QOperator, QuantType.QInt8, QuantType.QInt8, True, False),
}


class Network(nn.Module):
    """Its second output is a maximum of integers, which QOperator picks from them as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x).relu()
        x = nn.functional.max_pool2d(self.body(x) + x, 2)
        return self.head(x.mean((2, 3))), x


def _with_integer_borders(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the QuantizeLinear of the input and the DequantizeLinear of the outputs."""
    graph = model.graph
    numbers = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = [node for node in graph.node if node.input[0] == "x"]
    for node in readers:
        assert node.op_type == "QuantizeLinear"
        graph.input[0].type.tensor_type.elem_type = KINDS[numbers[node.input[2]].dtype]
        _renamed(graph, node.output[0], "x")
        graph.node.remove(node)
    for output in graph.output:
        (node,) = (node for node in graph.node if output.name in node.output)
        assert node.op_type == "DequantizeLinear"
        output.type.tensor_type.elem_type = KINDS[numbers[node.input[2]].dtype]
        integers, node.output[0] = node.input[0], f"{output.name}/real"
        _renamed(graph, output.name, f"{output.name}/real")
        _renamed(graph, integers, output.name)
        if not any(f"{output.name}/real" in other.input for other in graph.node):
            graph.node.remove(node)
    return model


def _renamed(graph: onnx.GraphProto, before: str, after: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == before:
                    names[index] = after


@pytest.fixture(scope="module")
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("borders")
    torch.manual_seed(0)
    names = {"input_names": ["x"], "output_names": ["y", "map"]}
    model = optimize(capture(Network().eval(), (torch.zeros(SHAPE),), **names))
    (folder / "float.onnx").write_bytes(to_onnx(model, metadata={}).data)
    form, activations, weights, per_channel, symmetric = FORMS[request.param]
    quantize_static(
        *(str(folder / "float.onnx"), str(folder / "quantized.onnx"), Noise("x", SHAPE, seed=1)),
        quant_format=form,
        activation_type=activations,
        weight_type=weights,
        per_channel=per_channel,
        extra_options={"ActivationSymmetric": symmetric},
    )
    onnx.save(_with_integer_borders(onnx.load(folder / "quantized.onnx")), folder / "integers.onnx")
    return folder / "integers.onnx"


@pytest.mark.parametrize("file", FORMS, indirect=True)
def test_both_formats_carry_the_integers_and_the_proof_passes(file: Path, tmp_path: Path) -> None:
    result = edgeconv.export_onnx(
        file, tmp_path / "out", name="net", variants="int8", devices=("onnxruntime", "litert")
    )
    assert result.report.verdict.value == "pass", [row.reason for row in result.report.comparisons if row.reason]
    session = onnxruntime.InferenceSession(file)
    declared = [*session.get_inputs(), *session.get_outputs()]
    kinds = [(value.name, value.type.removeprefix("tensor(").removesuffix(")")) for value in declared]
    for artifact in result.artifacts:
        assert [(spec.name, spec.dtype) for spec in (*artifact.inputs, *artifact.outputs)] == kinds
    rows = [row for row in result.report.comparisons if row.artifact.endswith(".tflite")]
    assert len(rows) == 2
    assert {link.verdict.value for row in result.report.comparisons for link in row.links} == {"pass"}
    assert all(row.metrics is not None and row.metrics.max_abs <= 1 for row in rows)


@pytest.mark.parametrize("file", ["qdq-s8"], indirect=True)
def test_another_scale_of_the_input_breaks_the_writing_link(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It moves no integer of a file that computes nothing in floats: who quantizes what goes in reads it."""
    from edgeconv.flow import writing

    right = writing.to_tflite
    monkeypatch.setattr(writing, "to_tflite", lambda *args, **options: _with_other_scale(right(*args, **options)))
    options = {"name": "net", "variants": "int8", "formats": "tflite", "devices": ("litert",)}
    rows = edgeconv.export_onnx(file, tmp_path / "out", **options).report.comparisons
    assert rows
    assert all("link 3 (writing) breaks: the input x of the file has the scale" in row.reason for row in rows), rows


def _with_other_scale(emitted: Emitted) -> Emitted:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(emitted.data))
    (graph,) = model.subgraphs
    quantization = graph.tensors[graph.inputs[0]].quantization
    quantization.scale = [1.01 * number for number in quantization.scale]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return replace(emitted, data=bytes(builder.Output()))
