"""Resizes between convolutions of integers, which onnxruntime gives another layout: they load, and are right.

Members: nearest, linear and cubic; a size and a scale; one channel and several; a closed batch and an open one, of one
image and of three; ``axes`` of a file's own, for sizes and for scales.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from crossed import diagonal
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

import edgeconv

_LEAST_DB = 20.0


class _Resized(nn.Module):
    def __init__(self, channels: int, **resize: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.resize = nn.Conv2d(4, channels, 3), nn.Conv2d(channels, 4, 3), resize

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        resized: torch.Tensor = self.last(functional.interpolate(self.first(x), **self.resize))
        return resized


def _images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 4, 9, 9)).astype(np.float32)


def _quantization() -> edgeconv.Quantization:
    return edgeconv.Quantization(batches=lambda: [{"x": _images(1, seed)} for seed in range(4)])


def _least_db(path: Path, expected: Callable[[np.ndarray], np.ndarray], counts: tuple[int, ...]) -> float:
    session = onnxruntime.InferenceSession(path)
    decibels = []
    for count in counts:
        x = _images(count, 9)
        reference = expected(x)
        error = session.run(None, {session.get_inputs()[0].name: x})[0] - reference
        decibels.append(10 * np.log10(np.square(reference).sum() / np.square(error).sum()))
    return float(min(decibels))


@pytest.mark.parametrize(
    ("mode", "size", "channels", "open_batch"),
    diagonal(
        [*product(["nearest", "bilinear", "bicubic"], [{"size": (15, 12)}, {"scale_factor": 2}])],
        [*product([1, 6], [False, True])],
    ),
)
def test_a_resize_between_layers_of_integers(
    tmp_path: Path, open_batch: bool, mode: str, size: dict[str, Any], channels: int
) -> None:
    module = _Resized(channels, mode=mode, **size).eval()
    result = edgeconv.export(
        module, (torch.zeros(1, 4, 9, 9),), tmp_path, name="n", formats="onnx", variants="int8",
        dynamic_batch=open_batch, quantization=_quantization(),
    )  # fmt: skip
    counts = (1, 3) if open_batch else (1,)
    assert _least_db(result.artifacts[0].path, lambda x: module(torch.tensor(x)).detach().numpy(), counts) > _LEAST_DB


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("stated", ["sizes", "scales"])
@pytest.mark.parametrize("open_batch", [False, True], ids=["one", "open"])
def test_a_resize_along_axes_of_a_file(tmp_path: Path, open_batch: bool, stated: str, mode: str) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((6, 4, 3, 3), (4, 6, 3, 3))]
    resized = np.array([14], np.int64) if stated == "sizes" else np.array([2.0], np.float32)
    initializers = [
        numpy_helper.from_array(array, name) for name, array in zip("abr", (*weights, resized), strict=True)
    ]
    inputs = ["first", "", "", "r"] if stated == "sizes" else ["first", "", "r"]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["first"]),
        helper.make_node("Resize", inputs, ["resized"], mode=mode, axes=[3]),
        helper.make_node("Conv", ["resized", "b"], ["y"]),
    ]
    batch = "N" if open_batch else 1
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4, 9, 9])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "n", [x], [y], initializers), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    onnx.save(model, tmp_path / "n.onnx")
    plain = onnxruntime.InferenceSession(tmp_path / "n.onnx")
    result = edgeconv.export_onnx(
        tmp_path / "n.onnx", tmp_path / "out", name="n", formats="onnx", variants="int8", quantization=_quantization()
    )
    counts = (1, 3) if open_batch else (1,)
    assert _least_db(result.artifacts[0].path, lambda x: plain.run(None, {"x": x})[0], counts) > _LEAST_DB
