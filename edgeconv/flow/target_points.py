"""What each step of a search for a target costs: size and latency of its files, for the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeconv.bench import BenchRow, Effort, bench, read_file
from edgeconv.core.search_target import Target
from edgeconv.devices import Device, find
from edgeconv.flow.job import Job
from edgeconv.flow.output import temporary
from edgeconv.flow.target import Emit
from edgeconv.flow.variant import Variant
from edgeconv.progress import Progress
from edgeconv.quantize import Search, Step
from edgeconv.report import TargetPoint, TargetSearch

_PREFERRED = ("onnxruntime", "litert")  # devices that latency is measured on: one per format, what people deploy to
_EFFORT = Effort(rounds=6, runs=5, turn_ms=400.0)  # enough to order variants; `edgeconv bench` takes more


def measured(
    target_search: TargetSearch, variant: Variant, search: Search, job: Job, emit: Emit, progress: Progress
) -> TargetSearch:
    """The search with a point per step: size of the step's files, and latency on one device per format.

    Args:
        target_search: of `with_target`.
        variant: that was chosen.
        search: what was tried for it.
        job: says what is made, and on which devices it is proven.
        emit: makes a file of a variant: (variant, format, layout).
        progress: notified of the stages.
    """
    files_of_steps: list[dict[str, Path]] = []
    with temporary() as folder:
        for number, step in enumerate(search.steps):
            step_variant = dataclasses.replace(variant, model=step.model, plan=step.plan)
            files: dict[str, Path] = {}
            # The first layout of each format: of a dict the last entry stays.
            for format_, layout in dict(job.files(step_variant)[::-1]).items():
                with progress.stage(f"target search: {len(step.kept)} layers in float, {format_}"):
                    files[format_] = folder / f"{number}.{format_}"
                    files[format_].write_bytes(emit(step_variant, format_, layout).data)
            files_of_steps.append(files)
        paths = [path for files in files_of_steps for path in files.values()]
        formats = {format_ for files in files_of_steps for format_ in files}
        rows = bench([read_file(path) for path in paths], _devices(job, formats), effort=_EFFORT, progress=progress)
        points = tuple(
            _point(step, files, rows, chosen=step is search.best)
            for step, files in zip(search.steps, files_of_steps, strict=True)
        )
    words = f"{target_search.judged_on}{margin_words(job.quantization.target, search.best.measured.sqnr_bound_db)}"
    return dataclasses.replace(target_search, judged_on=words, layers=len(search.layers), points=points)


def margin_words(target: Target | None, least_db: float | None) -> str:
    """Whether a search's result holds on other inputs than the judged ones, too, where that was asked for.

    Args:
        target: of the search.
        least_db: the SQNR that the result is sure of on them, decibels; None where it is not known.
    """
    if target is None or target.sqnr_db is None or target.confidence is None or least_db is None:
        return ""
    sure = f"{target.confidence:.0%} sure of other inputs like them"
    if least_db >= target.sqnr_db:
        return f", with a margin: {sure}"
    return f", without a margin: not even everything in float is {sure}"


def _point(step: Step, files: Mapping[str, Path], rows: Sequence[BenchRow], *, chosen: bool) -> TargetPoint:
    own_rows = [row for row in rows if row.file.artifact.path in files.values()]
    return TargetPoint(
        kept=len(step.kept),
        layers=step.kept,
        sqnr_db=step.measured.sqnr_db,
        agreement=step.measured.agreement,
        chosen=chosen,
        size_bytes={format_: path.stat().st_size for format_, path in files.items()},
        latency_ms={row.device: row.latency.median_ms for row in own_rows if row.latency is not None},
        sqnr_bound_db=step.measured.sqnr_bound_db,
        index_agreement=step.measured.index_agreement,
    )


def _devices(job: Job, formats: set[str]) -> list[Device]:
    """For each format one of the job's devices: onnxruntime or litert if named, else the first that takes it."""
    named = [find(name) for name in (job.proof.device_names if job.proof is not None else ())]
    chosen = {}
    for format_ in sorted(formats):
        fit = [device for device in named if format_ in device.formats]
        fit.sort(key=lambda device: device.name not in _PREFERRED)
        chosen.update({device.name: device for device in fit[:1]})
    return list(chosen.values())
