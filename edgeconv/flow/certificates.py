"""Certifies the classes that classifiers give, file by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeconv.core import Artifact
from edgeconv.core.named_files import read_named
from edgeconv.core.verdicts import FlipCertificate
from edgeconv.devices import file_inputs
from edgeconv.errors import DeviceError, EdgeconvError
from edgeconv.flow.borders import takes
from edgeconv.parity import Golden
from edgeconv.parity.certificate import certificate, open_carried
from edgeconv.progress import Progress


def with_certificates(artifacts: Sequence[Artifact], golden: Golden, progress: Progress) -> tuple[Artifact, ...]:
    """The artifacts; float32 files of classifiers with the certificate of their samples' classes.

    Args:
        artifacts: their files exist.
        golden: the samples, and the reference of their outputs.
        progress: notified of each file.
    """
    outputs = golden.reference.outputs[0]
    name = next((name for name, scores in outputs.items() if _tells_classes(scores.shape)), None)
    if name is None:
        return tuple(artifacts)
    certified = []
    for artifact in artifacts:
        if artifact.variant == "fp32":
            with progress.stage(f"{artifact.path.name}, classes that rounding cannot change"):
                artifact = replace(artifact, certificate=_certified(artifact, golden.of(artifact.variant), name))
        certified.append(artifact)
    return tuple(certified)


def _tells_classes(shape: tuple[int, ...]) -> bool:
    """Whether an output is scores of classes: (batch, classes)."""
    return len(shape) == 2 and shape[0] > 0 and shape[1] > 1


def _certified(artifact: Artifact, golden: Golden, name: str) -> FlipCertificate | None:
    """The certificate of the output of that name; None where the file cannot be read, or lacks that output."""
    try:
        data = read_named(artifact.path, kind=artifact.path.suffix, error=DeviceError)
        file = open_carried(artifact.path, data)
        at = [spec.name for spec in artifact.outputs].index(name)
    except (EdgeconvError, ValueError):  # ValueError: no output of that name
        return None
    # A file may state its batch: samples of another one are not for it.
    pairs = [
        (sample, outputs[name])
        for sample, outputs in zip(golden.samples, golden.reference.outputs, strict=True)
        if takes(artifact, sample)
    ]
    inputs = [[array for _, array in file_inputs(artifact, sample)] for sample, _ in pairs]
    return certificate(file, inputs, [scores for _, scores in pairs], output=at)
