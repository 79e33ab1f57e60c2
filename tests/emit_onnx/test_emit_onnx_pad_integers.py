"""int8 depthwise convolutions padded to 16 channels: the same integers, and a proof that sees through the padding.

Members thought of: squeeze and excitation, a residual of as many channels, two depthwise layers in a row, pools, PReLU
of one slope, channels that fill a vector already or less than half of one; those that stay: what is concatenated, an
output, grouped neighbors, slopes of each channel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from quantized_files import assert_same_integers, groups, noise, quantized, without
from torch import nn

import edgeconv
from edgeconv.core import Sample, Verdict
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.onnx._pad_integers import pad_integers
from edgeconv.parity.writing import Graph, OnnxFile, writing

_SHAPE = (1, 3, 12, 10)


class Excited(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 6, 1), nn.Conv2d(6, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(gate)


class Residual(nn.Module):
    """x + f(x), of as many channels."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Joined(nn.Module):
    """x beside f(x), as GhostNet has it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.inner(x)], 1)


def _depthwise(channels: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, size, stride, size // 2, groups=channels)


def _row(channels: int, *between: nn.Module, results: int = 5) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 1), nn.ReLU(), *between, nn.Conv2d(channels, results, 1))


PADDED: dict[str, nn.Module] = {
    "24 channels": _row(24, _depthwise(24), nn.ReLU()),
    "12 channels, 5x5, stride 2": _row(12, _depthwise(12, 5, 2), nn.Hardswish()),
    "squeeze and excitation": _row(20, _depthwise(20), nn.ReLU(), Excited(20)),
    "a residual": _row(24, Residual(_depthwise(24)), nn.ReLU6()),
    "an odd number": _row(15, _depthwise(15)),
    "two in a row": _row(40, _depthwise(40), nn.LeakyReLU(0.1), _depthwise(40, 5)),
    "pools": _row(10, nn.MaxPool2d(2), _depthwise(10), nn.AvgPool2d(2)),
    "two rows": nn.Sequential(
        _row(24, _depthwise(24), results=9), nn.Conv2d(9, 36, 1), _depthwise(36), nn.Conv2d(36, 4, 1)
    ),
}
STAYING: dict[str, nn.Module] = {
    "16 channels": _row(16, _depthwise(16)),
    "fewer than half": _row(7, _depthwise(7)),
    "concatenated": nn.Sequential(nn.Conv2d(3, 24, 1), Joined(_depthwise(24)), nn.Conv2d(48, 5, 1)),
    "an output": nn.Sequential(nn.Conv2d(3, 24, 1), nn.ReLU(), _depthwise(24)),
    "a grouped neighbor": nn.Sequential(nn.Conv2d(3, 24, 1), _depthwise(24), nn.Conv2d(24, 24, 1, groups=4)),
    "an odd number, read by 3x3": nn.Sequential(nn.Conv2d(3, 15, 1), _depthwise(15), nn.Conv2d(15, 4, 3)),
    "slopes of channels": _row(24, _depthwise(24), nn.PReLU(24)),
}


def _quantized(module: nn.Module) -> ir.Model:
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return quantized(module, _SHAPE)


@pytest.mark.parametrize("name", PADDED)
def test_padded_channels_change_no_integer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _quantized(PADDED[name])
    padded = to_onnx(model, metadata={}, io="int8").data
    plain = without(pad_integers, model, monkeypatch)
    assert all(group % 16 == 0 for group in groups(padded))
    assert any(group % 16 for group in groups(plain))
    assert_same_integers(padded, plain, _SHAPE)
    onnx.checker.check_model(padded, full_check=True)


@pytest.mark.parametrize("name", STAYING)
def test_what_gains_nothing_or_is_read_elsewhere_keeps_its_channels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _quantized(STAYING[name])
    assert to_onnx(model, metadata={}, io="int8").data == without(pad_integers, model, monkeypatch)


@pytest.mark.parametrize("name", ["squeeze and excitation", "two rows"])
def test_the_proof_holds_of_padded_channels(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = edgeconv.export(
        PADDED[name].eval(),
        (torch.zeros(_SHAPE),),
        tmp_path,
        name="padded",
        input_names=("x",),
        formats="onnx",
        variants="int8",
        quantization=edgeconv.Quantization(batches=lambda: [{"x": noise(_SHAPE, seed)} for seed in range(6)]),
        samples=[Sample("unseen", {"x": noise(_SHAPE, 9)})],
        devices=("onnxruntime",),
    )
    assert result.report is not None
    assert [row.reason for row in result.report.comparisons] == [""]


def _weights(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Integer weights, by the name of the convolution's result."""
    makers = {value: node for node in proto.graph.node for value in node.output}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    return {conv.output[0]: tensors[makers[conv.input[1]].input[0]] for conv in convs}


def _read_by_the_last(proto: onnx.ModelProto) -> None:
    *_, last = _weights(proto).values()
    array = numpy_helper.to_array(last).copy()
    array[:, -1] = 5  # of a channel that was added
    last.CopyFrom(numpy_helper.from_array(array, last.name))


def _another_weight(proto: onnx.ModelProto) -> None:
    first, *_ = _weights(proto).values()
    array = numpy_helper.to_array(first).copy()
    array[3, 0] += 9
    first.CopyFrom(numpy_helper.from_array(array, first.name))


def _mixed(proto: onnx.ModelProto) -> None:
    """The added channels take part in a Softmax, which the graph has not."""
    leaky = next(node for node in proto.graph.node if node.op_type == "LeakyRelu")
    leaky.op_type = "Softmax"
    leaky.attribute[0].CopyFrom(onnx.helper.make_attribute("axis", 1))


@pytest.mark.parametrize("plant", [None, _read_by_the_last, _another_weight, _mixed])
def test_link_3_sees_through_the_padding(plant: Any, tmp_path: Path) -> None:
    leaky = nn.LeakyReLU(0.1)
    model = _quantized(nn.Sequential(nn.Conv2d(3, 24, 1), leaky, _depthwise(24), leaky, nn.Conv2d(24, 5, 1)))
    proto = onnx.load_from_string(to_onnx(model, metadata={}).data)
    if plant is not None:
        plant(proto)
    path = tmp_path / "padded.onnx"
    onnx.save(proto, path)
    graph = Graph(model)
    verdict = writing(graph, OnnxFile(path, graph), {"x": noise(_SHAPE, 1)}).verdict
    assert verdict is (Verdict.PASS if plant is None else Verdict.FAIL)
