"""Example inputs may be one tensor, share memory, or be a weight: a file's inputs are apart all the same.

Members: one tensor twice, by position, keyword, in a dict, among ``*args``; a view, an overlapping part, an expanded
one; the module's parameter, its buffer, a view of either, a tensor in a plain attribute; a forward that writes to an
input; scripts. Each on both paths.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
import torch
from crossed import diagonal
from torch import Tensor, nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.reference import evaluate

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
SHARED = {
    "one": (X, X),
    "a view": (X, X[:]),
    "overlapping": (X[:2], X[1:]),
    "expanded": (X[:1], X[:1].expand(3, 4)),
    "turned twice": (X, X.T.T),
}


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x - 2 * y


class Writing(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.mul_(2) - 2 * y


class Many(nn.Module):
    def forward(self, *tensors: Tensor, **more: Tensor) -> Tensor:
        return sum((place + 1) * tensor for place, tensor in enumerate((*tensors, *more.values())))  # type: ignore[return-value]


class Mapped(nn.Module):
    def forward(self, tensors: dict[str, Any]) -> Tensor:
        return tensors["a"] - 2 * tensors["b"][0] + 3 * tensors["b"][1]


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))
        self.register_buffer("buffer", torch.full((3, 4), 2.0))
        self.plain = torch.full((3, 4), 3.0)

    def forward(self, x: Tensor) -> Tensor:
        return x - 2 * self.weight + 3 * self.buffer - 4 * self.plain


def _exported(module: Any, args: tuple[Any, ...], folder: Path, **options: Any) -> list[np.ndarray]:
    """Inputs of the exported file that differ from each other, and what it computes of them."""
    (artifact,) = edgeconv.export(module, args, folder, name="m", formats="onnx", **options).artifacts
    generator = np.random.default_rng(0)
    feeds = {spec.name: generator.standard_normal(spec.shape, np.float32) for spec in artifact.inputs}
    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    return [*feeds.values(), session.run(None, feeds)[0]]


@pytest.mark.parametrize(
    ("network", "shared", "path"), diagonal([*product([Two, Writing], SHARED)], ["fast", "official"])
)
def test_inputs_that_share_memory(network: type[nn.Module], shared: str, path: Literal["fast", "official"]) -> None:
    args, before = SHARED[shared], X.clone()
    model = capture(network(), args, input_names=["x", "y"], output_names=["z"], path=path)
    a, b = np.ones(args[0].shape, np.float32), np.full(args[1].shape, 5, np.float32)
    expected = network()(torch.from_numpy(a.copy()), torch.from_numpy(b.copy())).numpy()
    np.testing.assert_array_equal(evaluate(model, {"x": a, "y": b})["z"], expected)
    assert torch.equal(X, before)


@pytest.mark.parametrize(
    ("name", "path"),
    diagonal(["weight", "buffer", "plain", "weight.data", "weight[:]", "buffer[:]"], ["fast", "official"]),
)
def test_an_input_that_is_a_tensor_of_the_module(name: str, path: Literal["fast", "official"]) -> None:
    module = Weighted().eval()
    tensor = getattr(module, name.removesuffix("[:]").removesuffix(".data"))
    tensor = tensor[:] if name.endswith("[:]") else tensor.data if name.endswith(".data") else tensor
    model = capture(module, (tensor,), input_names=["x"], output_names=["y"], path=path)
    x = X.numpy()
    np.testing.assert_allclose(evaluate(model, {"x": x})["y"], module(X).detach().numpy(), rtol=1e-6)


def test_one_tensor_in_calls_of_other_forms(tmp_path: Path) -> None:
    *x, y = _exported(Many(), (X, X), tmp_path / "many", kwargs={"u": X, "v": X})
    np.testing.assert_allclose(y, sum((place + 1) * array for place, array in enumerate(x)), rtol=1e-5, atol=1e-6)
    *x, y = _exported(Mapped(), ({"a": X, "b": [X, X]},), tmp_path / "mapped")
    np.testing.assert_allclose(y, x[0] - 2 * x[1] + 3 * x[2], rtol=1e-5, atol=1e-6)
    *x, y = _exported(Two(), (X,), tmp_path / "keyword", kwargs={"y": X})
    np.testing.assert_allclose(y, x[0] - 2 * x[1], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("make", [torch.jit.script, lambda module: torch.jit.trace(module, (X, X + 1))])
def test_one_tensor_in_the_call_of_a_script(make: Any, tmp_path: Path) -> None:
    *x, y = _exported(make(Two()), (X, X), tmp_path)
    np.testing.assert_allclose(y, x[0] - 2 * x[1], rtol=1e-5, atol=1e-6)
