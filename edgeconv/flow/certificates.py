"""Certifies the classes that classifiers give, file by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeconv.core import Artifact
from edgeconv.core.named_files import read_named
from edgeconv.core.verdicts import FlipCertificate
from edgeconv.devices import file_inputs
from edgeconv.errors import DeviceError, EdgeconvError
from edgeconv.parity import Golden
from edgeconv.parity.certificate import certificate, open_carried
from edgeconv.progress import Progress


def with_certificates(artifacts: Sequence[Artifact], golden: Golden, progress: Progress) -> tuple[Artifact, ...]:
    """The artifacts; float32 ``.onnx`` files of classifiers with the certificate of their samples' classes.

    Args:
        artifacts: their files exist.
        golden: the samples, and the reference of their outputs.
        progress: hears of each file.
    """
    outputs = golden.reference.outputs[0]
    at = next((at for at, scores in enumerate(outputs.values()) if _tells_classes(scores.shape)), None)
    if at is None:
        return tuple(artifacts)
    certified = []
    for artifact in artifacts:
        if artifact.format == "onnx" and artifact.variant == "fp32":
            with progress.stage(f"{artifact.path.name}, classes that rounding cannot change"):
                artifact = replace(artifact, certificate=_certified(artifact, golden.of(artifact.variant), at))
        certified.append(artifact)
    return tuple(certified)


def _tells_classes(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] > 0 and shape[1] > 1


def _certified(artifact: Artifact, golden: Golden, at: int) -> FlipCertificate | None:
    try:
        data = read_named(artifact.path, kind=artifact.path.suffix, error=DeviceError)
        file = open_carried(artifact.path, data)
    except EdgeconvError:
        return None
    inputs = [[array for _, array in file_inputs(artifact, sample)] for sample in golden.samples]
    scores = [list(outputs.values())[at] for outputs in golden.reference.outputs]
    return certificate(file, inputs, scores, output=at)
