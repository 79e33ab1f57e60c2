"""The file itself: names, layouts, versions, metadata, determinism, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from edgeconv.core import Emitted
from edgeconv.emit.tflite import to_tflite
from edgeconv.errors import EmitError


def _value(name: str, *shape: int) -> ir.Value:
    return ir.val(name, ir.DataType.FLOAT, shape)


def _model(inputs: list[ir.Value], nodes: list[ir.Node], weights: list[ir.Value] | None = None) -> ir.Model:
    outputs = nodes[-1].outputs
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=weights or [], opset_imports={"": 18}, name="g")
    return ir.Model(graph, ir_version=10)


def _convolution(seed: int = 0) -> ir.Model:
    generator = np.random.default_rng(seed)
    image, result = _value("picture", 1, 3, 8, 8), _value("scores", 1, 4, 8, 8)
    middle = _value("depthwise.1", 1, 4, 8, 8)
    kernel = generator.standard_normal((4, 3, 3, 3)).astype(np.float32)
    weight = ir.val("depthwise.0.weight", ir.DataType.FLOAT, kernel.shape, const_value=ir.tensor(kernel))
    nodes = [
        ir.node("Conv", [image, weight], {"pads": [1, 1, 1, 1]}, outputs=[middle]),
        ir.node("LeakyRelu", [middle], {"alpha": 0.1}, outputs=[result]),
    ]
    return _model([image], nodes, [weight])


def _read(emitted: Emitted) -> Any:
    return schema.ModelT.InitFromPackedBuf(emitted.data, 0)


def _metadata(emitted: Emitted) -> dict[str, bytes]:
    model = _read(emitted)
    return {entry.name.decode(): bytes(model.buffers[entry.buffer].data) for entry in model.metadata}


def test_identifier_names_and_specs() -> None:
    emitted = to_tflite(_convolution(), layout="nhwc", metadata={})
    assert emitted.data[4:8] == b"TFL3"
    assert [(spec.name, spec.shape, spec.dtype, spec.layout) for spec in emitted.inputs + emitted.outputs] == [
        ("picture", (1, 8, 8, 3), "float32", "nhwc"),
        ("scores", (1, 8, 8, 4), "float32", "nhwc"),
    ]
    names = [tensor.name.decode() for tensor in _read(emitted).subgraphs[0].tensors]
    assert {"picture", "scores", "depthwise.1", "depthwise.0.weight"} <= set(names)
    assert len(set(names)) == len(names)


def test_nchw_keeps_torch_shapes_and_names_at_the_border() -> None:
    emitted = to_tflite(_convolution(), layout="nchw", metadata={})
    assert [(spec.name, spec.shape, spec.layout) for spec in emitted.inputs + emitted.outputs] == [
        ("picture", (1, 3, 8, 8), "nchw"),
        ("scores", (1, 4, 8, 8), "nchw"),
    ]
    details = Interpreter(model_content=emitted.data).get_output_details()
    assert details[0]["name"] == "scores"
    assert tuple(details[0]["shape"]) == (1, 4, 8, 8)


def test_the_signature_names_inputs_and_outputs() -> None:
    interpreter = Interpreter(model_content=to_tflite(_convolution(), metadata={}).data)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["picture"], "outputs": ["scores"]}}
    outputs = interpreter.get_signature_runner()(picture=np.zeros((1, 8, 8, 3), np.float32))
    assert outputs["scores"].shape == (1, 8, 8, 4)


def test_metadata_is_sorted_json_and_the_runtime_is_the_oldest_that_will_do() -> None:
    metadata = _metadata(to_tflite(_convolution(), metadata={"b": "2", "a": "1"}))
    assert json.loads(metadata["edgeconv"]) == {"a": "1", "b": "2"}
    assert metadata["edgeconv"].index(b'"a"') < metadata["edgeconv"].index(b'"b"')
    assert metadata["min_runtime_version"] == b"1.13.1".ljust(16, b"\0")


def test_grouped_convolution_raises_the_oldest_runtime(tflite: Any) -> None:
    model = tflite.graph_of(nn.Conv2d(4, 6, 3, groups=2), torch.zeros(1, 4, 5, 5))
    emitted = to_tflite(model, metadata={})
    assert _metadata(emitted)["min_runtime_version"].rstrip(b"\0") == b"2.9.0"
    assert [(code.builtinCode, code.version) for code in _read(emitted).operatorCodes] == [
        (schema.BuiltinOperator.CONV_2D, 6)
    ]


def test_same_graph_same_bytes_and_other_weights_other_bytes() -> None:
    first, again = (to_tflite(_convolution(), metadata={"k": "v"}).data for _ in range(2))
    assert first == again
    assert first != to_tflite(_convolution(seed=1), metadata={"k": "v"}).data


def test_constants_are_aligned_and_equal_ones_shared() -> None:
    kernel = np.ones((4, 4, 1, 1), np.float32)
    image, middle, result = (_value(name, 1, 4, 8, 8) for name in ("in", "middle", "out"))
    weights = [
        ir.val(name, ir.DataType.FLOAT, kernel.shape, const_value=ir.tensor(kernel)) for name in ("w.first", "w.second")
    ]
    nodes = [
        ir.node("Conv", [image, weights[0]], outputs=[middle]),
        ir.node("Conv", [middle, weights[1]], outputs=[result]),
    ]
    data = to_tflite(_model([image], nodes, weights), metadata={}).data
    pattern = kernel.tobytes()
    assert data.count(pattern) == 1
    assert data.index(pattern) % 16 == 0


def test_the_graph_is_left_as_it_was() -> None:
    model = _convolution()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    to_tflite(model, layout="nchw", metadata={})
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_activation_is_fused_only_where_nobody_else_reads(tflite: Any) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return torch.relu(y) + y

    assert tflite.check(Shared(), (1, 3, 5, 5))["nhwc"].operators == ["CONV_2D", "RELU", "ADD"]


def test_several_inputs_and_outputs_keep_their_order(tflite: Any) -> None:
    def function(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return a * b.mean(), b + 1, a.flatten(1)

    tflite.check(tflite.Function(function), (1, 2, 3, 4), (2, 5))


def test_an_input_that_is_an_output_and_an_output_twice(tflite: Any) -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.relu(x)
        return x.view(x.shape), y, y.view(y.shape)

    tflite.check(tflite.Function(function), (1, 2, 3, 4))


def test_unknown_operators_are_one_error_that_names_module_and_hint() -> None:
    image, result = _value("in", 1, 3, 8, 8), _value("out", 1, 3, 8, 8)
    node = ir.node("Det", [image], outputs=[result])
    node.metadata_props["edgeconv.module"] = "head.determinant"
    with pytest.raises(EmitError) as caught:
        to_tflite(_model([image], [node]), metadata={})
    assert "Det" in caught.value.what
    assert "head.determinant" in caught.value.what
    assert "onnx" in caught.value.hint


def test_a_setting_that_tflite_lacks_is_refused_with_its_reason() -> None:
    line, result = _value("in", 1, 3, 8), _value("out", 1, 3, 4)
    node = ir.node("GridSample", [line, _value("grid", 1, 4, 1)], outputs=[result])
    with pytest.raises(EmitError, match="its input is no image and no volume"):
        to_tflite(_model(list(node.inputs), [node]), metadata={})


def test_two_open_dimensions_are_refused() -> None:
    image, result = (ir.val(name, ir.DataType.FLOAT, ["batch", "features"]) for name in ("in", "out"))
    with pytest.raises(EmitError, match="batch, features are open"):
        to_tflite(_model([image], [ir.node("Relu", [image], outputs=[result])]), metadata={})


def test_unknown_layout_is_refused() -> None:
    with pytest.raises(EmitError, match="nhwc"):
        to_tflite(_convolution(), layout="hwc", metadata={})
