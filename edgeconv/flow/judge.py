"""Runs artifacts on devices and judges the results by the bounds of a proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgeconv.core import Artifact, Comparison, Run, Sample, Tolerance, Verdict
from edgeconv.core.verdicts import LinkResult
from edgeconv.devices import INTEGER_KERNELS, SATURATING, Sessions, find
from edgeconv.errors import NO_SAMPLE, ParityError
from edgeconv.flow.precision import Explanation, explained_by_rounding
from edgeconv.flow.proof import Proof
from edgeconv.flow.running import judged_running
from edgeconv.flow.source import OnnxSource, Source
from edgeconv.parity import (
    Golden,
    OwnScale,
    asks_of_all,
    compare,
    explained_by_fusion,
    float32_errors,
    held_to_all,
    shaken,
)
from edgeconv.parity.chain import held_to_links, relieved
from edgeconv.parity.running import LayerCache, told_as_precision, told_as_runtimes_own
from edgeconv.progress import Progress

_MakeRun = Callable[[tuple[Sample, ...]], Run]
_JudgeRunning = Callable[[Sequence[Sample], Run, Sequence[Comparison], Sequence[Sample], Run | None], LinkResult]


@dataclass(frozen=True)
class _Planned:
    """A run on one device, and how it is judged.

    Attributes:
        title: of its stage.
        variant: what its rows are judged as.
        make: runs samples.
        unfused: the same with graph optimization off, which may tell why a file fails; None where there is no such.
        judge_running: judges the runtime by what it tells of its layers; None for what is no file.
        moved: runs the graph of an ``.onnx`` source with rounded values: how far float32's rounding moves it. Its own
            float32 shows whether the file was read rightly, so that error may not widen its own bound; None for files.
    """

    title: str
    variant: str
    make: _MakeRun
    unfused: _MakeRun | None = None
    judge_running: _JudgeRunning | None = None
    moved: _MakeRun | None = None


def judge(
    artifacts: Sequence[Artifact],
    golden: Golden,
    proof: Proof,
    source: Source | None,
    progress: Progress,
    *,
    running: bool = True,
    own: Sequence[Comparison] = (),
    own_run: Run | None = None,
    sessions: Sessions | None = None,
) -> tuple[tuple[Comparison, ...], dict[str, Mapping[str, str]]]:
    """Runs every artifact on every device that takes its format, and compares with the float64 reference.

    Args:
        artifacts: their files exist.
        golden: the source in float64, and what quantized graphs say exactly.
        proof: samples, devices and bounds.
        source: its own float32 is a row of the report; None where the source is not at hand.
        progress: notified of each run.
        own: rows of the source's own float32 from an earlier run; else it is run where a failing row needs them.
        own_run: its run on these samples, where there was one already.
        sessions: where devices may be running already; the caller ends them.
        running: whether each runtime's layers are judged, too (link 4); a search for a target needs the outputs alone.

    Returns:
        One comparison per output of every artifact and device, the source first; and what each device said of itself,
        by ``"device <name>"``.
    """
    outputs = tuple(golden.reference.outputs[0])
    comparisons: list[Comparison] = []
    environments: dict[str, Mapping[str, str]] = {}
    scales: dict[str, Mapping[str, OwnScale]] = {}
    with Sessions() if sessions is None else nullcontext(sessions) as running_devices:
        for planned in _runs(artifacts, proof, source, outputs, running_devices, own_run):
            # 1. The outputs, against the source in float64.
            of_variant = golden.of(planned.variant)
            if not of_variant.samples:
                raise ParityError(f"no parity input is for the variant {planned.variant}", hint=NO_SAMPLE)
            if planned.variant not in scales:
                scales[planned.variant] = of_variant.scales()
            own_scales = {} if planned.moved else scales[planned.variant]
            rows_of = partial(
                _rows, golden=of_variant, variant=planned.variant, proof=proof, outputs=outputs, scales=own_scales
            )
            with progress.stage(planned.title):
                run = planned.make(of_variant.samples)
                rows = rows_of(run)
                # An ill-conditioned network is further off in float32 than the default tolerance allows.
                if planned.moved and any(_is_beyond_default(row) for row in rows):
                    rows = rows_of(run, scales=_scales_of_rounding(of_variant, planned.moved(of_variant.samples)))
            # 2. Where they fail, the same file without onnxruntime's fusions: is it the file or the fusion?
            if planned.unfused is not None and any(map(asks_of_all, rows)):
                with progress.stage(f"{planned.title}, nothing fused"):
                    saturating = run.environment.get(INTEGER_KERNELS) == SATURATING
                    rows = explained_by_fusion(
                        rows, rows_of(planned.unfused(of_variant.samples)), saturating=saturating
                    )
            # 3. Layer by layer, on what the runtime itself computed before each.
            if running and planned.judge_running is not None and run.verdict is Verdict.PASS:
                with progress.stage(f"{planned.title}, layer by layer on its own operands"):
                    probes = golden.probes(planned.variant)
                    probed = planned.make(probes) if probes else None
                    link = planned.judge_running(of_variant.samples, run, rows, probes, probed)
                rows = (replace(rows[0], links=(link,)), *rows[1:])
            comparisons += rows
            if run.environment:
                key = f"device {run.device}"
                environments[key] = {**environments.get(key, {}), **run.environment}
    # 4. Over all rows: thresholds of a whole variant, and what one link's verdict means for another.
    for variant, bound in proof.bounds.items():
        files = {artifact.path.name for artifact in artifacts if artifact.variant == variant}
        comparisons = held_to_all(comparisons, bound, of=files)
    judged = held_to_links(told_as_runtimes_own(comparisons, artifacts), artifacts)

    def run_source() -> Sequence[Comparison]:
        """The source's own float32, for a figure beside failing rows; it is no row of its own."""
        if own or source is None:
            return own
        golden_of = golden.of(source.variant)
        run = own_run or source_float32(source, golden, proof)
        scales = {} if source.is_read else golden_of.scales()
        return _rows(run, golden=golden_of, variant=source.variant, proof=proof, outputs=outputs, scales=scales)

    explanation = Explanation(source, golden.of("fp32"))
    judged = tuple(relieved(judged, artifacts))
    return told_as_precision(judged, artifacts, run_source, explanation.beyond_rounding), environments


def source_float32(source: Source, golden: Golden, proof: Proof, sessions: Sessions | None = None) -> Run:
    """Runs the source itself in float32, on the samples of its variant."""
    outputs, samples = tuple(golden.reference.outputs[0]), golden.of(source.variant).samples
    return source.run(samples, outputs, "float32", timeout_s=proof.timeout_s, sessions=sessions)


def with_float32(
    golden: Golden, source: Source, proof: Proof, progress: Progress, sessions: Sessions
) -> tuple[Golden, Run]:
    """The golden values with how far the source's own float32 is off, and that run.

    Rounding depends on the numbers that happen to be there, so it is measured on neighbors of the samples, too.
    """
    with progress.stage(f"{source.title} float32"):
        run = source_float32(source, golden, proof, sessions)
        own = golden.of(source.variant)
        errors = float32_errors(run, own.reference, own.samples, golden.joints)
        samples, reference = shaken(own.samples, own.reference)
        if samples and errors:
            outputs = tuple(golden.reference.outputs[0])
            again = source.run(samples, outputs, "float32", timeout_s=proof.timeout_s, sessions=sessions)
            more = float32_errors(again, reference, samples, golden.joints)
            errors = {name: np.maximum(array, more.get(name, array)) for name, array in errors.items()}
        errors = explained_by_rounding(errors, source, own)
    return replace(golden, float32=errors), run


def _rows(
    run: Run,
    *,
    golden: Golden,
    variant: str,
    proof: Proof,
    outputs: tuple[str, ...],
    scales: Mapping[str, OwnScale],
) -> tuple[Comparison, ...]:
    return compare(
        run,
        golden.reference,
        golden.samples,
        artifact=run.artifact,
        tolerance=proof.bounds.get(variant, proof.tolerance),
        output_names=outputs,
        integers=golden.integers.get(variant),
        joints=golden.joints,
        indices=golden.indices,
        scales=scales,
        variant=variant,
    )


def _runs(
    artifacts: Sequence[Artifact],
    proof: Proof,
    source: Source | None,
    outputs: tuple[str, ...],
    sessions: Sessions,
    own_run: Run | None,
) -> Iterator[_Planned]:
    """Yields the runs, one at a time, since outputs may be large."""
    if source is not None and source.device in proof.device_names:
        run: _MakeRun = partial(source.run, outputs=outputs, precision="float32", timeout_s=proof.timeout_s)
        if own_run is not None:
            run = partial(_again, own_run)
        yield _Planned(
            f"{source.title} float32 beside float64",
            source.variant,
            run,
            moved=source.moved if isinstance(source, OnnxSource) else None,
        )
    devices = [find(name) for name in proof.device_names]
    takers = [device for device in devices if "tflite" in device.formats]
    runs = len(takers) * sum(artifact.format == "tflite" for artifact in artifacts)
    cache = LayerCache() if runs > 1 else None  # of a single run, no layer is met twice
    for artifact in artifacts:
        for device in devices:
            if artifact.format in device.formats:
                title = f"{artifact.path.name} on {device.name}"
                make_run = partial(sessions.run, device, artifact, timeout_s=proof.timeout_s)
                unfused = partial(make_run, optimized=False) if artifact.format == "onnx" else None
                judge_running = partial(
                    judged_running, sessions, device, artifact, cache=cache, timeout_s=proof.timeout_s
                )
                yield _Planned(title, artifact.variant, make_run, unfused, judge_running)


def _is_beyond_default(row: Comparison) -> bool:
    """Whether a row fails by its numbers, and by a tolerance that nobody stated."""
    return row.verdict is Verdict.FAIL and row.tolerance == Tolerance() and row.metrics is not None


def _scales_of_rounding(golden: Golden, moved: Run) -> Mapping[str, OwnScale]:
    """The scales of outputs by what rounding makes of the network, in place of what its own float32 is off."""
    errors = float32_errors(moved, golden.reference, golden.samples, golden.joints)
    return replace(golden, float32=errors).scales()


def _again(run: Run, samples: Sequence[Sample]) -> Run:
    """A run that was made before, of these samples."""
    return run
