"""Whole files of our own export, read back: every tensor against LiteRT's reference kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn

import edgeconv
from edgeconv.nn import DepthwiseSeparableConv, MobileNetDSC
from edgeconv.reference import tflite

VARIANTS = ("fp32", "fp16", "int8", "int8-weights", "int16x8")


class Block(nn.Module):
    """Residual, squeeze-and-excite, pooling, resizing, concatenation, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = DepthwiseSeparableConv(3, 8)
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.leave = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        x = x + self.inner(x)
        x = x * torch.sigmoid(self.squeeze(x))
        wide = torch.cat([nn.functional.max_pool2d(self.up(x), 2), nn.functional.leaky_relu(x, 0.1)], dim=1)
        return torch.softmax(self.leave(wide.mean(dim=(2, 3))), dim=1)


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    data = [{"x": np.random.default_rng(at).standard_normal((1, 3, 18, 14)).astype(np.float32)} for at in range(4)]
    out = tmp_path_factory.mktemp("block")
    quantization = edgeconv.Quantization(batches=lambda: data)
    x = torch.from_numpy(data[0]["x"])
    edgeconv.export(
        Block().eval(), (x,), out, name="block", formats=("tflite",), variants=VARIANTS, quantization=quantization
    )
    return out


def _compared(data: bytes) -> tuple[list[str], float]:
    """The quantized tensors that differ at all, and the largest difference of the others as a part of their scale."""
    graph = tflite.read(data)
    rng = np.random.default_rng(5)
    inputs = {graph.tensors[at].name: rng.standard_normal(graph.tensors[at].shape) for at in graph.inputs}
    inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
    resolver = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(
        model_content=data, experimental_op_resolver_type=resolver, experimental_preserve_all_tensors=True
    )
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], inputs[detail["name"]])
    interpreter.invoke()
    ours = tflite.evaluate(graph, inputs)
    differing, worst = [], 0.0
    for index, tensor in enumerate(graph.tensors):
        if tensor.data is not None or index in graph.inputs:
            continue
        theirs, value = interpreter.get_tensor(index), ours[tensor.name]
        assert theirs.shape == value.shape == tensor.shape
        if tensor.floating:
            worst = max(worst, float(np.abs(theirs - value).max() / np.abs(value).max()))
        elif (theirs != value).any():
            differing.append(tensor.name)
    return differing, worst


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_a_block_in_float(block: Path, variant: str) -> None:
    """Sums are of at most 72 products, over ten layers: 2^-24 for each."""
    _, worst = _compared((block / f"block.{variant}.tflite").read_bytes())
    assert 0 < worst < 10 * 72 * 2.0**-24


@pytest.mark.parametrize("variant", ["int8", "int16x8"])
def test_a_block_in_integers(block: Path, variant: str) -> None:
    differing, worst = _compared((block / f"block.{variant}.tflite").read_bytes())
    assert not differing
    assert worst < 2.0**-23


def test_a_network_of_large_images_is_evaluated_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 224, 224)
    edgeconv.export(MobileNetDSC(10).eval(), (x,), tmp_path, name="net", formats=("tflite",))
    data = (tmp_path / "net.fp32.tflite").read_bytes()
    graph = tflite.read(data)
    values = tflite.evaluate(graph, {"x": x.numpy().transpose(0, 2, 3, 1)})
    assert values[graph.tensors[graph.outputs[0]].name].shape == (1, 10)


def test_the_operators_of_our_files_are_all_computed(block: Path) -> None:
    names = {operator.name for path in block.glob("*.tflite") for operator in tflite.read(path).operators}
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "SOFTMAX", "FULLY_CONNECTED"} < names <= set(tflite.OPERATORS)
