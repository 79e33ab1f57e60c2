"""Nearest resizes pick torch's elements, in the files too."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
import torch
from crossed import diagonal
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.capture import capture
from edgeconv.emit.onnx import to_onnx

_FEW = settings(deadline=None, max_examples=15)


class Resize(nn.Module):
    def __init__(self, mode: str, **options: object) -> None:
        super().__init__()
        self.mode, self.options = mode, options

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, mode=self.mode, **self.options)  # type: ignore[arg-type]


def _check(module: nn.Module, size: tuple[int, ...], path: str = "auto", atol: float = 0) -> list[str]:
    x = torch.arange(float(math.prod(size))).reshape(1, 1, *size).contiguous()
    model = capture(module, (x,), input_names=["input"], output_names=["output"], path=path)  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(to_onnx(model, metadata={}).data, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], module(x).numpy(), rtol=0, atol=atol)
    return [node.op_type for node in model.graph]


@_FEW
@example(mode="nearest", size=(14, 20), output_size=(2, 12))
@example(mode="nearest-exact", size=(2, 14), output_size=(41, 23))
@given(
    mode=st.sampled_from(["nearest", "nearest-exact"]),
    size=st.tuples(st.integers(1, 32), st.integers(1, 32)),
    output_size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
)
def test_to_a_size(mode: str, size: tuple[int, int], output_size: tuple[int, int]) -> None:
    _check(Resize(mode, size=output_size), size)


@_FEW
@example(mode="nearest", size=(4, 7), factor=2.1)
@example(mode="nearest", size=(4, 5), factor=2.6)
@example(mode="nearest-exact", size=(4, 4), factor=1.2)
@given(
    mode=st.sampled_from(["nearest", "nearest-exact"]),
    size=st.tuples(st.integers(4, 32), st.integers(4, 32)),
    factor=st.integers(3, 45).map(lambda tenths: tenths / 10),
)
def test_by_a_factor(mode: str, size: tuple[int, int], factor: float) -> None:
    _check(Resize(mode, scale_factor=factor), size)


@pytest.mark.parametrize(
    ("size", "factor", "path"),
    diagonal(
        [((8,),), ((40,),), ((8, 9),), ((8, 130),), ((60, 61),), ((8, 3, 5),)],
        [1.0, 2.06, 2.0, 1.02],
        ["official", "fast"],
    ),
    ids=str,
)
def test_sizes_that_stay_or_double_by_another_factor(size: tuple[int, ...], factor: float, path: str) -> None:
    """torch repeats elements in its kernel for small images alone; all others go by the factor."""
    _check(Resize("nearest", scale_factor=factor), size, path)


@_FEW
@example(size=(1, 1, 11), factor=1.35, mode="nearest-exact")
@given(
    size=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    factor=st.integers(100, 250).map(lambda hundredths: hundredths / 100),
    mode=st.sampled_from(["nearest", "nearest-exact"]),
)
def test_lines_images_and_volumes(size: tuple[int, ...], factor: float, mode: str) -> None:
    _check(Resize(mode, scale_factor=factor), size)


@pytest.mark.parametrize("path", ["fast", "official"])
def test_what_runtimes_compute_alike_stays_one_operator(path: str) -> None:
    assert _check(Resize("nearest", scale_factor=2.0), (5, 6), path) == ["Resize"]
    assert _check(Resize("nearest", scale_factor=0.5), (8, 6), path) == ["Resize"]
    assert _check(Resize("nearest", size=(2, 3)), (14, 6), path) == ["Gather", "Gather"]


@pytest.mark.parametrize("path", ["fast", "official"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_size_that_the_rounded_factor_does_not_say(path: str, mode: str) -> None:
    assert _check(Resize(mode, scale_factor=2.6), (4, 5), path, atol=1e-4) == ["Resize"]


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (1, 40), (7, 31)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialiasing_between_corners(mode: str, size: tuple[int, int]) -> None:
    """A single row is the first one of the input, and no average; of a single column torch 2.13 repeats one element."""
    _check(Resize(mode, size=size, antialias=True, align_corners=True), (11, 13), atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "bilinear", "scale_factor": 2},
        {"mode": "bilinear", "size": (7, 1)},
        {"mode": "bilinear", "size": (40, 31), "align_corners": True},
        {"mode": "bilinear", "size": (5, 4), "antialias": True},
        {"mode": "bicubic", "scale_factor": 1.7},
        {"mode": "bicubic", "size": (11, 17)},
        {"mode": "bicubic", "size": (50, 40), "antialias": True},
        {"mode": "bilinear", "size": (1, 5), "antialias": True, "align_corners": True},
        {"mode": "bicubic", "size": (1, 5), "antialias": True, "align_corners": True},
    ],
)
def test_bytes_are_resized_to_the_same_bytes(options: dict[str, object]) -> None:
    x = torch.randint(0, 256, (2, 3, 23, 17), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    module = Resize(**options)  # type: ignore[arg-type]
    model = capture(module, (x,), input_names=["input"], output_names=["output"])
    session = onnxruntime.InferenceSession(to_onnx(model, metadata={}).data, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"input": x.numpy()})[0], module(x).numpy())
