"""A trained detector in int8: its boxes and its scores each, on both runtimes; and what the gate says of one scale."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from detector import Detector, scenes, trained

import edgeconv
from edgeconv.core import Array

_CALIBRATION, _UNSEEN = 64, 6


@pytest.fixture(scope="module")
def detector() -> Detector:
    return trained()


def _images(count: int, seed: int) -> list[dict[str, Array]]:
    return [{"x": image.numpy()[None]} for image, _ in scenes(count, seed)]


def _export(module: Detector, folder: Path, plan: str = "") -> edgeconv.ExportResult:
    data = _images(_CALIBRATION, seed=1000)
    return edgeconv.export(
        module,
        (torch.from_numpy(data[0]["x"]),),
        folder,
        name="detector",
        variants="int8",
        input_names=["x"],
        devices=("onnxruntime", "litert") if plan else (),
        samples=[edgeconv.Sample(f"unseen-{index}", image) for index, image in enumerate(_images(_UNSEEN, seed=2000))],
        quantization=edgeconv.Quantization(batches=lambda: data, plan=plan),
    )


def _computed(artifact: edgeconv.Artifact, image: Array) -> Array:
    feed = {"x": artifact.inputs[0].to_file(image)}
    if artifact.format == "onnx":
        return onnxruntime.InferenceSession(artifact.path).run(None, feed)[0]
    return next(iter(Interpreter(str(artifact.path)).get_signature_runner()(**feed).values()))


@pytest.mark.slow  # the training, 20 s of one core in all
def test_boxes_and_scores_of_a_detector_each_hold_and_one_scale_fails(detector: Detector, tmp_path: Path) -> None:
    images = [image["x"] for image in _images(_UNSEEN, seed=2000)]
    with torch.no_grad():
        expected = np.stack([detector(torch.from_numpy(image)).numpy() for image in images]).astype(np.float64)
    assert expected[:, :, 4:].max() > 0.5, "it finds something"
    for artifact in _export(detector, tmp_path).artifacts:
        error = np.stack([_computed(artifact, image) for image in images]) - expected
        for part, channels in (("boxes", slice(0, 4)), ("scores", slice(4, None))):
            power, noise = (np.square(array[:, :, channels]).sum() for array in (expected, error))
            assert 10 * np.log10(power / noise) > 25, f"{artifact.format}, {part}"

    plan = json.loads((tmp_path / "detector.int8.plan.json").read_text())
    # Most scores are below a step of the 1/256 that integers of a sigmoid have: they stay float with the Concat.
    assert list(plan["kept_float"]) == ["sigmoid", "output"]
    boxes = plan["tensors"]["mul_1"]
    assert boxes["scale"] > 1, "pixels"
    tensors = {**plan["tensors"], "sigmoid": {**boxes, "scale": 1 / 256, "zero_point": -128}, "output": boxes}
    joint = {**plan, "kept_float": {}, "tensors": tensors}
    report = _export(detector, tmp_path, json.dumps(joint)).report
    assert report is not None
    for row in (row for row in report.comparisons if row.artifact):
        assert row.metrics is not None
        assert row.metrics.sqnr_db > 20, "the boxes alone"
        assert row.verdict.value == "fail"
        assert "1 of the operands that are joined" in row.reason
