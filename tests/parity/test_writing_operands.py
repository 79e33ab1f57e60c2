"""Link 3 passes the kinks that a sample does not reach: of layers that stay float among integers, and of inputs."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from crossed import diagonal
from test_writing import emitted, judged
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.core.verdicts import Verdict
from edgeconv.flow.variants import Quantization, Variant, variants_of
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize


class Clamped(nn.Module):
    """Three convolutions; what the first reads or gives is clamped far beyond the numbers of the sample, or is not."""

    def __init__(self, place: str, clamp: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.place, self.clamp = place, clamp

    def forward(self, x: Tensor) -> Tensor:
        x = self._clamped(x) if self.place == "input" else x
        x = nn.functional.softplus(self.first(x)) - 0.7
        x = self._clamped(x) if self.place == "layer" else x
        return self.third(nn.functional.leaky_relu(self.second(x), 0.1))

    def _clamped(self, x: Tensor) -> Tensor:
        if self.clamp == "from above":
            return x.clamp(max=40.0)
        if self.clamp == "from below":
            return x.clamp(min=-0.6 if self.place == "layer" else -40.0)
        return x


def _variant(place: str, clamp: str, variant: str, inputs: dict[str, np.ndarray]) -> Variant:
    data = torch.from_numpy(inputs["x"])
    model = optimize(capture(Clamped(place, clamp).eval(), (data,), input_names=["x"], output_names=["y"]))
    kinds = {node.op_type for node in model.graph} - {"Conv", "LeakyRelu"}
    quantization = Quantization(batches=lambda: [inputs], keep_float=("first*", "second*", *sorted(kinds)))
    (graph,) = variants_of(model, (variant,), quantization, Silent())
    return graph


@pytest.mark.parametrize(
    ("place", "clamp", "variant"),
    diagonal([*product(["input", "layer"], ["from above", "from below"])], ["fp32", "int8", "int16x8"]),
)
def test_a_clamp_that_the_sample_does_not_reach_is_found(place: str, clamp: str, variant: str, tmp_path: Path) -> None:
    inputs = {"x": np.random.default_rng(0).random((1, 3, 8, 8), np.float32)}
    plain, clamped = (_variant(place, kind, variant, inputs) for kind in ("", clamp))
    for format_ in ("tflite",) if variant == "int16x8" else ("onnx", "tflite"):
        path = tmp_path / f"net.{format_}"
        right, wrong = emitted(plain, format_), emitted(clamped, format_)
        assert judged(plain, inputs, right, right.data, path).verdict is Verdict.PASS
        assert judged(plain, inputs, right, wrong.data, path).verdict is Verdict.FAIL
