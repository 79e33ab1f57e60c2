"""What an export's report keeps of its proof: what the inputs reach, and each layer; a repeated proof renews it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgeconv
from edgeconv.core import Array, Sample
from edgeconv.core.verdicts import LinkResult, PartKind
from edgeconv.flow.prove import repeat
from edgeconv.flow.variants import Quantization
from edgeconv.progress import Silent
from edgeconv.report import Report, from_json


def _sample(name: str, image: Array, *variants: str) -> Sample:
    return Sample(name, {"x": image.astype(np.float32)}, variants=variants)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A convolution and a ReLU6, whose output is the input itself; fp32 alone is judged on large inputs."""
    module = nn.Sequential(nn.Conv2d(1, 1, 3, 1, 1, bias=False), nn.ReLU6()).eval()
    with torch.no_grad():
        nn.init.dirac_(module[0].weight)
    image = np.linspace(0.1, 5.0, 64).reshape(1, 1, 8, 8)
    image[..., 0, :] = 0
    folder = tmp_path_factory.mktemp("proof")
    result = edgeconv.export(
        module,
        (torch.zeros(1, 1, 8, 8),),
        folder,
        name="net",
        input_names="x",
        variants=("fp32", "int8"),
        quantization=Quantization(lambda: [{"x": image.astype(np.float32)}]),
        devices=("onnxruntime", "litert"),
        samples=(_sample("image", image), _sample("large", 10 * image - 20, "fp32")),
    )
    assert result.report is not None
    return folder, result.report


def test_each_variant_is_told_by_its_own_samples(exported: tuple[Path, Report]) -> None:
    coverages = {artifact.path.name: artifact.coverage for artifact in exported[1].artifacts}
    for name in ("net.fp32.onnx", "net.fp32.tflite"):
        coverage = coverages[name]
        assert coverage is not None
        assert coverage.counts == {PartKind.PADDING: 4, PartKind.CLAMP: 3}
        assert coverage.unreached == ()
    for name in ("net.int8.onnx", "net.int8.tflite"):
        coverage = coverages[name]
        assert coverage is not None
        left = [(part.kind.value, part.part) for part in coverage.unreached]
        assert ("padding", "top") in left
        assert ("padding", "bottom") not in left
        assert coverage.counts[PartKind.SATURATION] >= 2


def _layers(report: Report) -> Mapping[tuple[str, str], LinkResult]:
    return {(row.artifact, row.device): link for row in report.comparisons for link in row.links}


def test_a_repeated_proof_renews_the_layers_and_keeps_what_was_reached(exported: tuple[Path, Report]) -> None:
    folder, report = exported
    before = _layers(report)
    assert [len(link.layers) > 0 for link in before.values()] == [True] * 4
    path = folder / "parity.json"
    plain = json.loads(path.read_text())
    for row in plain["comparisons"]:
        for link in row["links"]:
            link["layers"] = []
    path.write_text(json.dumps(plain))
    repeat(folder, devices=None, progress=Silent())
    again = from_json(path.read_text())
    assert {place: [layer.name for layer in link.layers] for place, link in _layers(again).items()} == {
        place: [layer.name for layer in link.layers] for place, link in before.items()
    }
    assert [artifact.coverage for artifact in again.artifacts] == [artifact.coverage for artifact in report.artifacts]
