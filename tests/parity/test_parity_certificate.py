"""The classes that no correct evaluation can change: by margins, and by what runtimes and other orders compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

import edgeconv
from edgeconv.core import Array
from edgeconv.core.verdicts import FlipCertificate
from edgeconv.errors import ParityError
from edgeconv.parity.bounds import Bound
from edgeconv.parity.certificate import certificate, open_carried


class _File:
    """A file of one output, that is off by as much as it is told."""

    def __init__(self, error: float) -> None:
        self.error, self.asked = error, 0

    def carried(self, inputs: Sequence[Array]) -> Sequence[Bound]:
        self.asked += 1
        if inputs[0].size == 1:
            raise ParityError("no error is carried")
        error = np.full(inputs[0].shape, self.error)
        return [Bound(inputs[0], error, error)]


def _certified(error: float, *scores: list[list[float]]) -> FlipCertificate | None:
    arrays = [np.array(rows) for rows in scores]
    return certificate(_File(error), [[array] for array in arrays], arrays, output=0)


def test_a_class_is_certain_where_its_margin_is_more_than_both_may_be_off() -> None:
    scores = [[0.0, 1.0, 0.5]]
    assert _certified(0.2, scores) == FlipCertificate(1, 1, 0.5, 0.2)
    assert _certified(0.25, scores) == FlipCertificate(1, 0, 0.5, 0.25)
    assert _certified(np.inf, scores) == FlipCertificate(1, 0, 0.5, np.inf)


def test_every_row_of_a_batch_has_to_be_certain() -> None:
    assert _certified(0.2, [[0.0, 1.0], [0.1, 0.0]], [[3.0, 1.0], [0.0, 1.0]]) == FlipCertificate(2, 1, 0.1, 0.2)


def test_a_class_that_is_not_the_references_is_not_certain() -> None:
    result = certificate(_File(0.1), [[np.array([[0.0, 1.0]])]], [np.array([[1.0, 0.0]])], output=0)
    assert result == FlipCertificate(1, 0, 1.0, 0.1)


def test_bounds_that_are_too_wide_for_any_sample_are_carried_once() -> None:
    scores = [np.array([[0.0, float(at)]]) for at in range(1, 40)]
    file = _File(100.0)
    assert certificate(file, [[array] for array in scores], scores, output=0) == FlipCertificate(39, 0, 1.0, 100.0)
    assert file.asked == 1


def test_without_bounds_there_is_no_certificate() -> None:
    assert certificate(_File(0.1), [[np.zeros(1)]], [np.array([[0.0, 1.0]])], output=0) is None
    assert certificate(_File(0.1), [], [], output=0) is None


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Three layers, a residual sum, a pool and a resize, whose values in between no runtime tells; by format."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, 2, 1)
            self.block = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.Hardswish())
            self.pool = nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"))
            self.head = nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x).relu()
            return self.head(torch.cat([x + self.block(x), self.pool(x)], 1).mean((2, 3)))

    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("certificate")
    edgeconv.export(Network().eval(), (torch.zeros(1, 3, 16, 16),), out, name="net", input_names="x")
    return {format_: out / f"net.fp32.{format_}" for format_ in ("onnx", "tflite")}


def _computed(path: Path, x: Array) -> Array:
    """By a runtime of the format."""
    if path.suffix == ".onnx":
        return np.asarray(onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0])
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_what_runtimes_compute_lies_within_what_is_carried(format_: str, classifier: Mapping[str, Path]) -> None:
    path = classifier[format_]
    file = open_carried(path, path.read_bytes())
    rng = np.random.default_rng(0)
    for scale in (1.0, 100.0):
        x = scale * rng.standard_normal((1, 3, 16, 16)).astype(np.float32)
        x = x if format_ == "onnx" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        (bound,) = file.carried([x])
        result = _computed(path, x)
        assert bound.worst.shape == result.shape
        assert float(bound.used(result).max()) <= 1
        assert 0 < float(bound.worst.max()) < 1e-3 * float(np.abs(bound.exact).max())


def test_both_formats_of_a_network_are_bounded_alike(classifier: Mapping[str, Path]) -> None:
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    widest = {}
    for format_, path in classifier.items():
        arrays = [x if format_ == "onnx" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))]
        widest[format_] = float(open_carried(path, path.read_bytes()).carried(arrays)[0].worst.max())
    assert 0.5 < widest["tflite"] / widest["onnx"] < 2
