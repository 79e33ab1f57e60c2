"""Graphs as the capture stage makes them, through the whole table, value by value in float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from rewrite_graphs import assert_rewritten_exactly, cast, evaluate, operators
from torch import nn

from edgeconv.capture import capture
from edgeconv.rewrite import optimize


class Everything(nn.Module):
    """Each operator that has a rewrite, once, in a plausible network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8))
        self.depthwise = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.BatchNorm2d(16), nn.Hardswish())
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), nn.ReLU6())
        self.preact = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1))
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.stem(x / 2.0))
        left, right = x.chunk(2, dim=1)
        x = self.preact(self.up(left + right))
        return self.head(self.norm(torch.relu(x)).mean((2, 3), keepdim=True)) * 0.5


def randomise(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_(0, 3)
            layer.running_var.uniform_(1e-4, 4)
    return module.eval()


@pytest.fixture(scope="module")
def captured():
    module = randomise(Everything())
    return module, capture(module, (torch.randn(2, 3, 12, 12),), input_names=["image"], output_names=["logits"])


def test_every_value_that_is_left_is_what_it_was(captured):
    model = cast(captured[1], onnx.TensorProto.DOUBLE)
    assert_rewritten_exactly(model)
    assert not {"BatchNormalization", "Pad", "Dropout", "Identity", "SplitToSequence"} & set(operators(model))
    names = [value.name for node in model.graph for value in node.outputs]
    assert {"stem.2", "depthwise.1", "depthwise.2", "up.1", "preact.1", "logits"} <= set(names)


def test_the_output_is_that_of_float64_torch(captured):
    module, model = captured
    model = optimize(cast(model, onnx.TensorProto.DOUBLE))
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = module.double()(x).numpy()
    module.float()  # torch has eps=1e-5 in float64, the graph in float32: hence the tolerance
    logits = evaluate(model, {"image": x.numpy()})["logits"]
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
