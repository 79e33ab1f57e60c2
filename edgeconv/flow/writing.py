"""Writes the files of a variant: ``.onnx`` and ``.tflite``, the plan, C source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from edgeconv.core import Artifact, Emitted, IntegerTensor
from edgeconv.core.package import VERSION
from edgeconv.emit.c_array import C_SUFFIXES
from edgeconv.emit.tflite import to_tflite
from edgeconv.flow.file_names import artifact_name, data_name, plan_name
from edgeconv.flow.job import Job
from edgeconv.flow.output import Staging
from edgeconv.flow.variant import Variant
from edgeconv.progress import Progress


def write_file(
    staging: Staging, variant: Variant, job: Job, format_: str, layout: str, progress: Progress
) -> tuple[Artifact, Emitted]:
    """Emits one file into the staging folder: what it is, and what the emitter says of it (its bytes for C alone)."""
    file_name = artifact_name(job.name, variant.name, format_, layout)
    metadata = {"edgeconv_version": VERSION, "layout": layout, "variant": variant.name, **job.metadata}
    with progress.stage(f"emit {file_name}"):
        emitted = emit_file(job, metadata, variant, format_, layout)
        path = staging.write(file_name, emitted.data)
        data_sha256 = staging.write_parts(data_name(file_name), emitted.external) if emitted.external else None
    artifact = Artifact(
        path,
        format_,
        variant.name,
        layout,
        sha256=staging.checksum(file_name),
        inputs=emitted.inputs,
        outputs=emitted.outputs,
        size_bytes=len(emitted.data) + sum(map(len, emitted.external)),
        data_sha256=data_sha256,
        intermediates=emitted.intermediates,
    )
    # What is on disk now may be gigabytes, and is not held any longer; a .tflite file may yet be written as C.
    is_to_be_c = job.c_samples is not None and format_ == "tflite"
    return artifact, dataclasses.replace(emitted, external=(), data=emitted.data if is_to_be_c else b"")


def emit_file(job: Job, metadata: Mapping[str, str], variant: Variant, format_: str, layout: str) -> Emitted:
    """The bytes of one file of a variant, in memory."""
    model, encoding = variant.model, {"weights": variant.weights, "io": variant.io}
    if format_ == "onnx":
        from edgeconv.emit.onnx import to_onnx

        beside = data_name(artifact_name(job.name, variant.name, format_, layout))
        keep = variant.keep_roundings
        return to_onnx(model, metadata=metadata, opset=job.opset, data_name=beside, keep_roundings=keep, **encoding)
    return to_tflite(model, layout=layout, metadata=metadata, exact=variant.exact, **encoding)


def intermediates_of(job: Job, variant: Variant) -> dict[str, tuple[IntegerTensor, ...]]:
    """The intermediates of each file that is written of a variant, by the file's name."""
    intermediates = {}
    for format_, layout in job.files(variant):
        emitted = emit_file(job, {}, variant, format_, layout)  # they do not depend on the metadata
        intermediates[artifact_name(job.name, variant.name, format_, layout)] = emitted.intermediates
    return intermediates


def write_plans(staging: Staging, job: Job, variants: Sequence[Variant]) -> None:
    """Writes each quantization plan beside its files, to be read, edited and used again."""
    for variant in variants:
        if variant.plan is not None:
            staging.write(plan_name(job.name, variant.name), variant.plan.to_json().encode())


def write_c(
    staging: Staging, job: Job, variants: Sequence[Variant], written: Sequence[tuple[Artifact, Emitted]]
) -> None:
    """Writes C source beside each TFLite file, where it is asked for."""
    by_name = {variant.name: variant for variant in variants}
    for artifact, emitted in written:
        if job.c_samples is not None and artifact.format == "tflite":
            stem = artifact.path.name.removesuffix(".tflite")
            texts = by_name[artifact.variant].as_c(artifact.path.name, emitted, job.c_samples)
            for suffix, text in zip(C_SUFFIXES, texts, strict=True):
                staging.write(stem + suffix, text.encode())
