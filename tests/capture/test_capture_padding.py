"""Circular padding is slices behind each other: the mode of Pad that says it is missing in opset 18."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite


class Circular(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (1, 2, 3, 0), mode="circular")


@pytest.mark.parametrize("opset", [18, 19])
@pytest.mark.parametrize("path", ["fast", "official"])
@pytest.mark.parametrize("module", [Circular(), nn.Conv2d(4, 3, 5, padding=(2, 1), padding_mode="circular")], ids=str)
def test_circular_padding_is_slices_and_a_concat(module: nn.Module, path: str, opset: int) -> None:
    x = torch.randn(2, 4, 6, 7)
    model = capture(module, (x,), input_names=["input"], output_names=["output"], opset=opset, path=path)  # type: ignore[arg-type]
    assert {node.op_type for node in model.graph} <= {"Slice", "Concat", "Conv"}
    session = onnxruntime.InferenceSession(to_onnx(model, metadata={}).data, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], expected, rtol=1e-5, atol=1e-5)
    to_tflite(model, metadata={})
