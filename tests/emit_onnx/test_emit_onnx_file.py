"""The ``.onnx`` file: what it holds, and that it holds nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import onnxsim
import pytest
import torch
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.core import Emitted, TensorSpec
from edgeconv.emit.onnx import to_onnx
from edgeconv.errors import EmitError
from edgeconv.nn import DepthwiseSeparableConv
from edgeconv.rewrite import optimize


class Mobile(nn.Module):
    """Squeeze and excitation, channel split and shuffle, residual, resize: what mobile networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(inplace=True))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.block = nn.Sequential(DepthwiseSeparableConv(4, 4), nn.SiLU())
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.Softmax(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        x = x * self.gate(x)
        a, b = x.chunk(2, dim=1)
        y = torch.cat([a, self.block(b) + b], dim=1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(y.mean((2, 3))), self.up(y)


def _randomised(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return module.eval()


@pytest.fixture(scope="module")
def mobile() -> tuple[nn.Module, Tensor, ir.Model]:
    torch.manual_seed(0)
    module, x = _randomised(Mobile()), torch.randn(1, 3, 16, 16)
    model = capture(module, (x,), input_names=["image"], output_names=["scores", "features"])
    return module, x, optimize(model)


@pytest.fixture(scope="module")
def emitted(mobile: tuple[nn.Module, Tensor, ir.Model]) -> Emitted:
    return to_onnx(mobile[2], metadata={"edgeconv.version": "1", "layout": "nchw"})


def _assert_runs_like(data: bytes, module: nn.Module, x: Tensor) -> None:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(x)
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for a, b in zip(got, expected if isinstance(expected, tuple) else (expected,), strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-5)


def test_the_reference_module_is_four_nodes() -> None:
    module, x = _randomised(DepthwiseSeparableConv(3, 64)), torch.randn(1, 3, 32, 32)
    model = optimize(capture(module, (x,), input_names=["input"], output_names=["output"]))
    data = to_onnx(model, metadata={}).data
    nodes = onnx.load_from_string(data).graph.node
    assert [(node.op_type, node.name) for node in nodes] == [
        ("Conv", "depthwise.1"),
        ("LeakyRelu", "depthwise.2"),
        ("Conv", "pointwise.1"),
        ("LeakyRelu", "output"),
    ]
    _assert_runs_like(data, module, x)


def test_it_computes_what_the_module_computes(mobile: tuple[nn.Module, Tensor, ir.Model], emitted: Emitted) -> None:
    _assert_runs_like(emitted.data, mobile[0], mobile[1])


def test_what_it_declares(emitted: Emitted) -> None:
    assert emitted.inputs == (TensorSpec("image", (1, 3, 16, 16), "float32"),)
    assert emitted.outputs == (
        TensorSpec("scores", (1, 5), "float32"),
        TensorSpec("features", (1, 8, 16, 16), "float32"),
    )
    proto = onnx.load_from_string(emitted.data)
    assert [(entry.key, entry.value) for entry in proto.metadata_props] == [
        ("edgeconv.version", "1"),
        ("layout", "nchw"),
    ]
    assert proto.producer_name == "edgeconv"
    assert proto.producer_version
    assert (proto.ir_version, proto.opset_import[0].version, len(proto.opset_import)) == (8, 18, 1)


def test_values_are_named_after_torch_modules(mobile: tuple[nn.Module, Tensor, ir.Model], emitted: Emitted) -> None:
    graph = onnx.load_from_string(emitted.data).graph
    captured = {value.name for node in mobile[2].graph for value in node.outputs}
    values = [name for node in graph.node for name in node.output]
    assert set(values) <= captured
    assert [node.name for node in graph.node] == [node.output[0] for node in graph.node]
    assert {"stem.1", "stem.2", "gate.2", "block.0.depthwise.1", "block.1", "chunk.0", "head.1"} <= set(values)


def test_every_value_has_a_shape_and_nothing_else_is_left(emitted: Emitted) -> None:
    proto = onnx.load_from_string(emitted.data)
    graph = proto.graph
    shaped = {value.name for value in (*graph.value_info, *graph.output)}
    assert {name for node in graph.node for name in node.output} <= shaped
    for item in (proto, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        assert not item.doc_string
        assert item is proto or not item.metadata_props
    assert b"onnxsim" not in emitted.data
    assert str(Path.home()).encode() not in emitted.data


def test_initializers_are_in_the_order_of_their_use(emitted: Emitted) -> None:
    graph = onnx.load_from_string(emitted.data).graph
    weights = [tensor.name for tensor in graph.initializer]
    used = [name for node in graph.node for name in node.input if name in set(weights)]
    assert weights == list(dict.fromkeys(used))


def test_simplifying_again_changes_nothing(emitted: Emitted) -> None:
    proto = onnx.load_from_string(emitted.data)
    again, equal = onnxsim.simplify(proto, check_n=1)
    assert equal
    assert [node.SerializeToString() for node in again.graph.node] == [
        node.SerializeToString() for node in proto.graph.node
    ]
    assert {tensor.name for tensor in again.graph.initializer} == {tensor.name for tensor in proto.graph.initializer}


def test_the_graph_is_not_changed(mobile: tuple[nn.Module, Tensor, ir.Model]) -> None:
    before = ir.to_proto(mobile[2]).SerializeToString(deterministic=True)
    to_onnx(mobile[2], metadata={"a": "b"}, opset=13)
    assert ir.to_proto(mobile[2]).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(("opset", "ir_version"), [(13, 7), (15, 8), (17, 8), (19, 9), (22, 10), (23, 11), (24, 12)])
def test_a_file_of_another_opset_is_valid_and_runs_alike(
    mobile: tuple[nn.Module, Tensor, ir.Model], opset: int, ir_version: int
) -> None:
    emitted = to_onnx(mobile[2], metadata={}, opset=opset)
    proto = onnx.load_from_string(emitted.data)
    assert (proto.opset_import[0].version, proto.ir_version) == (opset, ir_version)
    onnx.checker.check_model(proto, full_check=True)
    assert ("HardSwish" in {node.op_type for node in proto.graph.node}) == (opset >= 14)
    _assert_runs_like(emitted.data, mobile[0], mobile[1])


@pytest.mark.parametrize("opset", [16, 20, 24])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_the_modes_of_grid_sample_are_called_as_the_opset_calls_them(mode: str, opset: int) -> None:
    class Sampled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            grid = torch.linspace(-1, 1, 50).reshape(1, 5, 5, 2)
            return nn.functional.grid_sample(x, grid, mode=mode, align_corners=False)

    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = optimize(capture(Sampled(), (x,), input_names=["x"], output_names=["y"]))
    data = to_onnx(graph, metadata={}, opset=opset).data
    (actual,) = onnxruntime.InferenceSession(data).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(actual, Sampled()(x).numpy(), atol=1e-5)


def test_an_operator_that_an_opset_lacks() -> None:
    model = capture(nn.LayerNorm(4), (torch.randn(2, 4),), input_names=["x"], output_names=["y"])
    with pytest.raises(EmitError, match=r"y: LayerNormalization does not exist in ONNX opset 13; ask for a newer"):
        to_onnx(model, metadata={}, opset=13)


@pytest.mark.parametrize("opset", [7, 12, 99])
def test_an_opset_that_is_not_written(mobile: tuple[nn.Module, Tensor, ir.Model], opset: int) -> None:
    with pytest.raises(EmitError, match=f"opset: it is {opset}; give an integer from 13 to 24"):
        to_onnx(mobile[2], metadata={}, opset=opset)


def test_a_graph_that_onnx_refuses() -> None:
    x = ir.val("x", ir.DataType.FLOAT, (1, 3))
    node = ir.node("Relu", [x, x])
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 18}, name="bad")
    with pytest.raises(EmitError, match="onnx"):
        to_onnx(ir.Model(graph, ir_version=8), metadata={})


def test_more_than_two_gibibytes() -> None:
    class Huge(ir.Tensor):  # type: ignore[type-arg]
        @property
        def nbytes(self) -> int:
            return 3 * 2**30

    x = ir.val("x", ir.DataType.FLOAT, (1,))
    weight = ir.val("w", const_value=Huge(np.zeros(1, np.float32), name="w"))
    node = ir.node("Add", [x, weight])
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 18}, name="huge")
    with pytest.raises(EmitError, match=r"3\.00 GiB"):
        to_onnx(ir.Model(graph, ir_version=8), metadata={})


class _Outer(nn.Module):
    def __init__(self, operation: str, parts: str) -> None:
        super().__init__()
        self.operation, self.parts = getattr(torch, operation), parts

    def forward(self, x: Tensor) -> Tensor:
        if self.parts == "sliced":
            column, row = x[:3], x[1:5]
        elif self.parts == "gathered":
            column, row = x[torch.tensor([2, 0, 1])], x[torch.tensor([0, 3, 3, 4])]
        else:
            column, row = x[:3], torch.cat([x[:2], x])
        return self.operation(column.unsqueeze(1), row).relu()


@pytest.mark.parametrize("parts", ["sliced", "gathered", "joined"])
@pytest.mark.parametrize("operation", ["add", "sub", "mul", "div", "maximum"])
def test_a_column_and_a_row_of_numbers_are_no_shapes(operation: str, parts: str) -> None:
    """onnx takes vectors for shapes that it propagates, and has a column of 3 and a row of 4 not be broadcast."""
    module, x = _Outer(operation, parts), torch.arange(1.0, 8.0)
    data = to_onnx(optimize(capture(module, (x,), input_names=["x"], output_names=["y"])), metadata={}).data
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], module(x).numpy(), rtol=1e-6)
