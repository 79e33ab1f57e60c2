"""Link 3 of values that the graph computes and the file stores: attention over a single token is always 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from test_writing import emitted, judged
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.core.verdicts import Verdict
from edgeconv.flow.variants import Quantization, Variant, variants_of
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize


class OneToken(nn.Module):
    """Attention in windows of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(3, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1).reshape(-1, 1, 3)
        query, key, value = self.qkv(tokens).reshape(-1, 1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (query @ key.transpose(-2, -1)).softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(-1, 1, 8))


def _made(variant: str) -> tuple[Variant, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    module, data = OneToken().eval(), torch.randn(1, 3, 4, 4)
    inputs = {"x": data.numpy()}
    model = optimize(capture(module, (data,), input_names=["x"], output_names=["y"]))
    (made,) = variants_of(model, (variant,), Quantization(batches=lambda: [inputs]), Silent())
    return made, inputs


def _times(data: bytes, constant: str, factor: float) -> bytes:
    model = onnx.load_model_from_string(data)
    (tensor,) = [item for item in model.graph.initializer if item.name == constant]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), constant))
    return model.SerializeToString()


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
def test_a_value_that_is_stored_is_compared_as_the_one_that_is_computed(
    variant: str, format_: str, tmp_path: Path
) -> None:
    made, inputs = _made(variant)
    contents = emitted(made, format_)
    right = judged(made, inputs, contents, contents.data, tmp_path / f"net.{format_}")
    assert right.verdict is Verdict.PASS, right.reason


@pytest.mark.parametrize(("constant", "factor"), [("softmax.float", 0.99), ("softmax.scale", 0.999)])
def test_a_value_that_is_stored_wrongly_is_named(constant: str, factor: float, tmp_path: Path) -> None:
    made, inputs = _made("int8")
    contents = emitted(made, "onnx")
    wrong = judged(made, inputs, contents, _times(contents.data, constant, factor), tmp_path / "net.onnx")
    assert wrong.verdict is Verdict.FAIL
    assert "softmax" in wrong.reason
