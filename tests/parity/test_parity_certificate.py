"""The classes that no correct evaluation can change: by margins, and by what runtimes and other orders compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
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
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers and a residual sum, whose values in between no runtime tells."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, 2, 1)
            self.block = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.Hardswish())
            self.head = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x).relu()
            return self.head((x + self.block(x)).mean((2, 3)))

    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("certificate")
    edgeconv.export(Network().eval(), (torch.zeros(1, 3, 16, 16),), out, name="net", formats="onnx", input_names="x")
    return out / "net.fp32.onnx"


def test_what_runtimes_compute_lies_within_what_is_carried(classifier: Path) -> None:
    file = open_carried(classifier, classifier.read_bytes())
    session = onnxruntime.InferenceSession(str(classifier))
    rng = np.random.default_rng(0)
    for scale in (1.0, 100.0):
        x = scale * rng.standard_normal((1, 3, 16, 16)).astype(np.float32)
        (bound,) = file.carried([x])
        (result,) = session.run(None, {"x": x})
        assert bound.worst.shape == result.shape
        assert float(bound.used(result).max()) <= 1
        assert 0 < float(bound.worst.max()) < 1e-3 * float(np.abs(bound.exact).max())
