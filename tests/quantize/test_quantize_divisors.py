"""int8 of networks that divide by norms: finite for rows of zeros, in both formats.

Members thought of: normalize of order 1 and 2, guards by sum, maximum, clamp and where, roots of mean squares, cosine
similarity, standardisation, powers of computed exponents, a divisor that is moved, shared, or an output as well;
softmax spelled out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import edgeconv
from edgeconv.core import Artifact

Tensor = torch.Tensor
DIVISIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "normalize": lambda x: functional.normalize(x, dim=1),
    "normalize, order 1": lambda x: functional.normalize(x, p=1.0, dim=-1),
    "sum": lambda x: x / (x.abs().sum(1, keepdim=True) + 1e-9),
    "maximum": lambda x: x / torch.maximum(x.norm(dim=1, keepdim=True), torch.tensor(1e-10)),
    "clamp": lambda x: x / x.square().mean((2, 3), keepdim=True).sqrt().clamp_min(1e-12),
    "root of a mean square": lambda x: x / torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8),
    "standardised": lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6),
    "cosine": lambda x: functional.cosine_similarity(x[:, :4], x[:, 4:], dim=1),
    "power": lambda x: torch.pow(x[:, :4].abs() + 1e-6, x[:, 4:].clamp(0, 1) - 1) * 1e-5,
    "power of a root": lambda x: (x.square().mean(1, keepdim=True) + 1e-6).sqrt() ** (x.clamp(0, 1) - 1) * 0.01,
    "moved": lambda x: (x.flatten(2).transpose(1, 2) / (x.abs().amax(1).flatten(1).unsqueeze(2) + 1e-12)).transpose(
        1, 2
    ),
}


class _Divided(nn.Module):
    def __init__(self, division: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.division = nn.Conv2d(3, 8, 1, bias=False), division

    def forward(self, x: Tensor) -> Tensor:
        return self.division(torch.relu(self.conv(x)))


def _inputs(count: int) -> list[np.ndarray]:
    """With pixels that are zero, or next to it, in every channel."""
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((1, 3, 6, 6)).astype(np.float32) for _ in range(count)]
    for image in images:
        image[..., :2, :] = 0
        image[..., 2, :] *= 1e-4
    return images


def _run(artifact: Artifact, image: np.ndarray) -> np.ndarray:
    (spec,), (result,) = artifact.inputs, artifact.outputs
    if artifact.format == "onnx":
        import onnxruntime

        (made,) = onnxruntime.InferenceSession(artifact.path).run(None, {spec.name: spec.to_file(image)})
    else:
        from ai_edge_litert.interpreter import Interpreter

        made = Interpreter(str(artifact.path)).get_signature_runner()(**{spec.name: spec.to_file(image)})[result.name]
    return result.from_file(made)


def _in_integers(module: nn.Module, images: list[np.ndarray], folder: Path) -> edgeconv.ExportResult:
    return edgeconv.export(
        module,
        (torch.zeros(1, 3, 6, 6),),
        folder,
        name="net",
        variants="int8",
        input_names=["x"],
        quantization=edgeconv.Quantization(batches=lambda: [{"x": image} for image in images]),
    )


@pytest.mark.parametrize("name", DIVISIONS)
def test_rows_of_zeros_are_divided_by_their_guard(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = _Divided(DIVISIONS[name]).eval()
    result = _in_integers(module, _inputs(6), tmp_path)
    image = _inputs(1)[0]
    for artifact in result.artifacts:
        made = _run(artifact, image)
        assert np.isfinite(made).all(), artifact.path.name
        assert np.abs(made).max() < 50, artifact.path.name
    assert any("stays float: it makes a divisor" in note for note in result.notes)


@pytest.mark.parametrize("average", [lambda x: functional.avg_pool2d(x, 3, 1, 1), lambda x: x.mean((2, 3), True)])
def test_averages_of_small_channels_are_no_zeros_to_divide_by(
    average: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = _Divided(lambda x: x / (average(x.abs()) + 1e-9)).eval()
    module.conv.weight.data *= torch.logspace(0, -4, 8).reshape(8, 1, 1, 1)
    images = [np.random.default_rng(seed).standard_normal((1, 3, 6, 6)).astype(np.float32) for seed in range(6)]
    result = _in_integers(module, images, tmp_path)
    for artifact in result.artifacts:
        assert np.abs(_run(artifact, images[0])).max() < 50, artifact.path.name
