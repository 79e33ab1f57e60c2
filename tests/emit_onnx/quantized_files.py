"""int8 `.onnx` files with a form of the table and without it, and what they compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from edgeconv.capture import capture
from edgeconv.emit.onnx import _forms, to_onnx
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.rewrite import optimize


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantized(module: nn.Module, shape: tuple[int, ...]) -> ir.Model:
    """A module's graph in the integers that noise calibrates."""
    graph = optimize(capture(module.eval(), (torch.zeros(shape),), input_names=["x"], output_names=["y"]))
    return apply(graph, make_plan(graph, calibrate(graph, [{"x": noise(shape, seed)} for seed in range(4)])))


def without(form: Callable[[ir.Graph], object], model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The file, of integers inside and out, that a graph gives without one of the forms."""
    with monkeypatch.context() as context:
        context.setattr(_forms, "FORMS", tuple(each for each in _forms.FORMS if each is not form))
        return to_onnx(model, metadata={}, io="int8").data


def groups(data: bytes) -> list[int]:
    """The numbers of groups of a file's convolutions, but for those of one."""
    nodes = onnx.load_from_string(data).graph.node
    return [item.i for node in nodes for item in node.attribute if item.name == "group" and item.i > 1]


def assert_same_integers(data: bytes, other: bytes, shape: tuple[int, ...]) -> None:
    """Asserts that onnxruntime computes the same of both files, of random integers."""
    for seed in range(3):
        x = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
        np.testing.assert_array_equal(_run(data, x), _run(other, x))


def _run(data: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])
