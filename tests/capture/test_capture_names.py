"""Every value that bears a module's name equals what that module returned."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.nn import DepthwiseSeparableConv


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += x
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), nn.MaxPool2d(2))
        self.blocks = nn.Sequential(Residual(8), Residual(8))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))))


class Reused(nn.Module):
    """One activation, one whole block and one pooling, each called several times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Hardswish())
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.block(x))
        y = self.act(self.block(y) + y)
        return self.act(self.block(y))


class Shuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class ShuffleUnit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(inplace=True), Shuffle())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True))
        self.shuffle = Shuffle()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).chunk(2, dim=1)
        return self.shuffle(torch.cat([a, self.second(b)], dim=1))


class Pair(nn.Module):
    """Returns two tensors, so that it has no one value of its own name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return y * 2, torch.sigmoid(y)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.left, self.right = nn.Conv2d(3, 2, 1), nn.Sequential(nn.PReLU(3), nn.GELU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a, b = self.pair(x)
        return {"left": self.left(a), "right": self.right(b) + a}


NETWORKS = [
    (lambda: DepthwiseSeparableConv(3, 6), (1, 3, 8, 8)),
    (ResNet, (2, 3, 16, 16)),
    (Reused, (1, 3, 6, 6)),
    (ShuffleUnit, (1, 4, 6, 6)),
    (TwoOutputs, (1, 3, 5, 5)),
]


def _module_names(model: ir.Model, module: nn.Module) -> list[str]:
    paths = {path for path, _ in module.named_modules()}
    names = [value.name or "" for node in model.graph for value in node.outputs]
    return [name for name in names if re.sub(r"@\d+$", "", name) in paths]


@pytest.mark.parametrize(("make", "shape"), NETWORKS, ids=["dsconv", "resnet", "reused", "shuffle", "two-outputs"])
def test_a_value_named_after_a_module_is_its_output(make, shape, evaluate, hooked) -> None:
    torch.manual_seed(0)
    module, x = make(), torch.randn(*shape)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    model = capture(module, (x,), input_names=["the input"], output_names=())
    values, expected = evaluate(model, (x,)), hooked(module, (x,))
    named = _module_names(model, module)
    assert len(named) >= 3
    for name in named:
        np.testing.assert_allclose(values[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    outputs = {
        value.name: value.metadata_props["edgeconv.module"]
        for value in model.graph.outputs
        if "edgeconv.module" in value.metadata_props
    }
    for name, call in outputs.items():
        np.testing.assert_allclose(values[name], expected[call], rtol=1e-5, atol=1e-5, err_msg=name)


def _names(module: nn.Module, *shape: int) -> list[str]:
    model = capture(module, (torch.randn(*shape),), input_names=["input"], output_names=["output"])
    return [value.name or "" for node in model.graph for value in node.outputs]


def test_the_innermost_module_names_the_value() -> None:
    model = capture(DepthwiseSeparableConv(3, 6), (torch.randn(1, 3, 8, 8),), input_names=["x"], output_names=["y"])
    names = [node.outputs[0].name for node in model.graph]
    assert names == [
        "depthwise.0", "depthwise.1", "depthwise.2", "pointwise.0", "pointwise.1", "y",
    ]  # fmt: skip
    assert model.graph.outputs[0].metadata_props["edgeconv.module"] == "pointwise.2"
    assert [node.metadata_props["edgeconv.module"] for node in model.graph][3:] == [
        "pointwise.0", "pointwise.1", "pointwise.2",
    ]  # fmt: skip


def test_calls_of_one_module_are_numbered() -> None:
    names = _names(Reused(), 1, 3, 6, 6)
    assert [name for name in names if name.startswith("block.0")] == ["block.0", "block.0@1", "block.0@2"]
    assert {"act", "act.sigmoid", "act@1", "act@1.sigmoid", "add"} <= set(names)


def test_functional_operations_have_their_scope() -> None:
    names = _names(nn.Sequential(Residual(4), Shuffle()), 1, 4, 4, 4)
    assert "0.add" in names
    assert {"1.view", "1.transpose"} <= set(names)


def test_a_view_of_a_tensor_changed_in_place_keeps_its_module() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 5))
    assert _names(module, 1, 3, 6, 6) == ["0", "1", "2", "output"]


def test_items_of_a_chunk_are_numbered() -> None:
    assert {"chunk.0", "chunk.1", "cat"} <= set(_names(ShuffleUnit(), 1, 4, 6, 6))


def test_constants_are_named_after_their_user() -> None:
    model = capture(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), (torch.randn(1, 3, 4, 4),),
                    input_names=["x"], output_names=["y"])  # fmt: skip
    assert set(model.graph.initializers) == {"0.shape", "1.weight", "1.bias"}


def test_names_given_by_the_caller_win_over_modules() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.output = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.output(self.input(x)) * 2

    model = capture(Net(), (torch.randn(1, 3, 4, 4),), input_names=["input"], output_names=["output"])
    assert [node.outputs[0].name for node in model.graph] == ["input_1", "output_1", "output"]
    modules = [node.outputs[0].metadata_props.get("edgeconv.module") for node in model.graph]
    assert modules == ["input", "output", None]


def test_a_functional_value_never_takes_the_name_of_a_module() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.add(x + 1) * 2

    assert _names(Net(), 1, 3) == ["add_1", "add", "output"]
