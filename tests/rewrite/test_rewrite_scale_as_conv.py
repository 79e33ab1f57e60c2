"""BatchNormalization as a Conv of kernel 1, for graphs that are quantized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.cli import run
from edgeconv.reference import evaluate
from edgeconv.rewrite.scale_as_conv import scale_as_conv

NORMS = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _norm(channels: int, rank: int, eps: float = 1e-5) -> nn.Module:
    norm: nn.Module = NORMS[rank](channels, eps=eps)
    with torch.no_grad():
        for name, values in norm.state_dict().items():
            if name == "running_var":
                values.uniform_(0.0, 3.0)
            elif values.is_floating_point():
                values.normal_()
    return norm


@given(st.integers(1, 5), st.integers(3, 4), st.sampled_from([0.1, 1e-5, 1e-3]), st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_it_is_exact_and_keeps_names(channels: int, rank: int, eps: float, seed: int) -> None:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Sigmoid(), _norm(channels, rank, eps), nn.ReLU()).eval()
    x = torch.randn(2, channels, *[3] * (rank - 2))
    model = capture(module, (x,), input_names=["x"], output_names=["y"])
    changed, count = scale_as_conv(model)
    assert count == 1
    assert [node.op_type for node in changed.graph] == ["Sigmoid", "Conv", "Relu"]
    assert [node.outputs[0].name for node in changed.graph] == [node.outputs[0].name for node in model.graph]
    assert len(changed.graph.initializers) == 2
    assert [node.op_type for node in model.graph] == ["Sigmoid", "BatchNormalization", "Relu"]
    inputs = {"x": x.numpy()}
    before, after = (evaluate(each, inputs, keep=["y"])["y"] for each in (model, changed))
    # The Conv's weights are stored in float32, as a file stores them.
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def test_one_of_volumes_stays() -> None:
    """A Conv of three spatial dimensions has no integer form."""
    module = nn.Sequential(nn.Sigmoid(), _norm(2, 5)).eval()
    model = capture(module, (torch.randn(1, 2, 3, 3, 3),), input_names=["x"], output_names=["y"])
    changed, count = scale_as_conv(model)
    assert count == 0
    assert [node.op_type for node in changed.graph] == ["Sigmoid", "BatchNormalization"]


class _Preactivated(nn.Module):
    """DenseNet's layers: normalizations that come before the convolutions, of what is concatenated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1, self.conv1 = _norm(8, 4), nn.Conv2d(8, 4, 3, padding=1)
        self.norm2, self.conv2 = _norm(12, 4), nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = torch.cat([y, self.conv1(self.norm1(y).relu())], 1)
        z: torch.Tensor = self.conv2(self.norm2(y).relu())
        return z.mean((2, 3))


def test_a_network_with_its_normalizations_in_front_is_integer_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = torch.randn(1, 3, 16, 16)
    data = [{"x": np.random.default_rng(at).standard_normal((1, 3, 16, 16)).astype(np.float32)} for at in range(8)]
    result = edgeconv.export(
        _Preactivated().eval(),
        (x,),
        tmp_path,
        name="dense",
        variants="int8",
        quantization=edgeconv.Quantization(batches=lambda: data),
        samples=[edgeconv.Sample("unseen", {"x": x.numpy()})],
        devices=("onnxruntime", "litert"),
    )
    assert result.report is not None
    assert all(row.metrics is not None and row.metrics.sqnr_db > 25.0 for row in result.report.comparisons)
    for artifact in result.artifacts:
        assert run(["inspect", "--integer-only", str(artifact.path)]) == 0
    capsys.readouterr()
