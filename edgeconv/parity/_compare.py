"""Compares what a device computed with the reference: one row per output, over all samples."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from types import MappingProxyType

import numpy as np

from edgeconv.core import Array, Comparison, Fidelity, Parts, Run, Sample, SampleResult, Tolerance, Verdict
from edgeconv.errors import ParityError
from edgeconv.parity._check import check
from edgeconv.parity._fidelity import Integers, judge_together, steps_apart
from edgeconv.parity._groups import FLOAT32_TIMES, OwnScale, own_scales, told_group
from edgeconv.parity._metrics import measure, worst_of
from edgeconv.parity._picture import picture

_TORCH = ("torch", "torch-float64")


def compare(
    run: Run,
    reference: Run,
    samples: Sequence[Sample],
    *,
    artifact: str,
    tolerance: Tolerance | Fidelity,
    output_names: Sequence[str],
    integers: Integers | None = None,
    joints: Mapping[str, Sequence[Parts]] = MappingProxyType({}),
    indices: Collection[str] = (),
    scales: Mapping[str, OwnScale] | None = None,
    variant: str = "",
) -> tuple[Comparison, ...]:
    """Compares a run with the float64 reference.

    Args:
        run: what a device made of the samples. A failed or skipped one gives failed or skipped rows with its reason.
        reference: the module in float64 on the same samples.
        samples: those that both ran on, in their order.
        artifact: the artifact's name in the report.
        tolerance: ``|a - b| <= max(1, scale) * atol + rtol * |b|``, and ``max_abs`` where it is set; or the
            acceptance thresholds of an approximation, over all samples.
        output_names: the outputs to compare; each becomes a row.
        integers: what the quantized graph computes exactly on the same samples; None where none is quantized.
        joints: of what parts outputs are joined, by name.
        indices: the outputs that hold indices: an approximation of these is judged by how many are equal.
        scales: the groups of channels of each output, by name; by default what the reference alone tells of them.
        variant: of the artifact, for advice that depends on it.

    Returns:
        One Comparison per output name.

    Raises:
        ParityError: there is nothing sound to compare with: no samples, no outputs, a failed or incomplete
            reference, an output without elements.
    """
    _require_sound(reference, samples, output_names)
    if scales is None and isinstance(tolerance, Tolerance) and run.verdict is Verdict.PASS:
        scales = own_scales(reference, samples, output_names, joints, {})
    rows = []
    for name in output_names:
        row = Comparison(
            artifact,
            run.device,
            name,
            None,
            tolerance,
            run.verdict,
            run.reason,
            latency_ms=median(run.latency_ms) if run.latency_ms else None,
            arena_bytes=run.arena_bytes,
        )
        if run.verdict is not Verdict.PASS:
            rows.append(row)
        elif (reason := _incomplete(run, samples, name)) != "":
            rows.append(replace(row, verdict=Verdict.FAIL, reason=reason))
        else:
            row = _with_steps(row, run, integers)
            scale = (scales or {}).get(name)
            parts, is_index = joints.get(name, ()), name in indices
            rows.append(_compared(row, run, reference, samples, parts, scale, indices=is_index, variant=variant))
    return tuple(rows)


def verdict(comparisons: Iterable[Comparison]) -> Verdict:
    """The verdict over all rows of a report.

    FAIL if any row fails. PASS if none fails and at least one of an artifact passes: the source (torch, or the file
    that was given) agreeing with itself says nothing of an artifact. Otherwise SKIPPED, which is no pass: nothing was
    proven, and a release must treat it as a failure.
    """
    rows = list(comparisons)
    if any(row.verdict is Verdict.FAIL for row in rows):
        return Verdict.FAIL
    proven = any(row.verdict is Verdict.PASS and row.artifact and row.device not in _TORCH for row in rows)
    return Verdict.PASS if proven else Verdict.SKIPPED


def _require_sound(reference: Run, samples: Sequence[Sample], output_names: Sequence[str]) -> None:
    if not samples or not output_names:
        raise ParityError(
            "there are no samples to compare" if output_names else "there are no outputs to compare",
            hint="give the recipe parity inputs" if output_names else "name the outputs",
        )
    if reference.verdict is not Verdict.PASS:
        raise ParityError(f"the reference could not be computed: {reference.reason}", where=reference.device)
    for name in output_names:
        problem = _incomplete(reference, samples, name)
        if problem:
            raise ParityError(f"the reference {problem}", where=reference.device)
        for sample, outputs in zip(samples, reference.outputs, strict=True):
            if outputs[name].size == 0:
                raise ParityError(f"output {name!r} of sample {sample.name!r} has no elements", where=reference.device)


def _incomplete(run: Run, samples: Sequence[Sample], name: str) -> str:
    if len(run.outputs) != len(samples):
        return f"returned {len(run.outputs)} of {len(samples)} samples"
    if any(name not in outputs for outputs in run.outputs):
        return f"returned no output named {name!r}"
    return ""


def _with_steps(row: Comparison, run: Run, integers: Integers | None) -> Comparison:
    """The row with counts of elements by their distance from the quantized graph in steps, for quantized outputs."""
    if integers is None or row.output not in integers.scales:
        return row
    pairs = [(a[row.output], b[row.output]) for a, b in zip(run.outputs, integers.run.outputs, strict=True)]
    if any(a.shape != b.shape for a, b in pairs):
        return row
    return replace(row, lsb=steps_apart(pairs, integers.scales[row.output]))


def _compared(
    row: Comparison,
    run: Run,
    reference: Run,
    samples: Sequence[Sample],
    joints: Sequence[Parts],
    scale: OwnScale | None,
    *,
    indices: bool,
    variant: str,
) -> Comparison:
    pairs = [(a[row.output], b[row.output]) for a, b in zip(run.outputs, reference.outputs, strict=True)]
    if isinstance(row.tolerance, Fidelity):
        top1 = {} if indices else _top1(samples, pairs, of_reference=True)
        judged = judge_together(row, row.tolerance, samples, pairs, top1, joints, indices=indices, variant=variant)
        return judged if indices or scale is None else _with_what_float32_is_off(judged, samples, pairs, scale)
    bound = row.tolerance
    results = [_result(sample, a, b, bound) for sample, (a, b) in zip(samples, pairs, strict=True)]
    remark = ""
    if scale is not None and bound == Tolerance() and any(_is_beyond(result) for result in results):
        results, remark = _given_way(results, samples, pairs, bound, scale)
    worst = max(range(len(results)), key=lambda index: results[index].excess)
    failed = [result for result in results if result.verdict is Verdict.FAIL]
    a, b = pairs[worst]
    row = replace(
        row,
        metrics=worst_of([result.metrics for result in results if result.metrics is not None]),
        verdict=Verdict.FAIL if failed else Verdict.PASS,
        reason=_summary(results[worst], len(failed), len(results)) if failed else remark,
        samples=tuple(results),
        picture=picture(results[worst].sample, a, b) if a.shape == b.shape else None,
        top1=_top1(samples, pairs),
    )
    return row if scale is None else _with_groups(row, samples, pairs, scale)


def _with_what_float32_is_off(
    row: Comparison, samples: Sequence[Sample], pairs: Sequence[tuple[Array, Array]], scale: OwnScale
) -> Comparison:
    """An approximation's failed row says so where float32 itself may be as far off: places of equal scores, say.

    It stays failed: which element float32 gets wrong is not known, so that its largest error excuses no other.
    """
    if row.verdict is not Verdict.FAIL or any(a.shape != b.shape for a, b in pairs):
        return row
    for sample, (a, b) in zip(samples, pairs, strict=True):
        if not (np.abs(a - b) <= scale.float32(b, sample) / FLOAT32_TIMES).all():
            return row
    remark = "no error is larger than float32's own of this network: more layers in float may not mend it"
    return replace(row, reason=f"{row.reason}; {remark}")


def _is_beyond(result: SampleResult) -> bool:
    """Whether a sample fails by its numbers alone."""
    return result.verdict is Verdict.FAIL and result.excess < float("inf")


def _given_way(
    results: Sequence[SampleResult],
    samples: Sequence[Sample],
    pairs: Sequence[tuple[Array, Array]],
    bound: Tolerance,
    scale: OwnScale,
) -> tuple[list[SampleResult], str]:
    """The results where nobody stated a tolerance: the default gives way to what float32 itself is off.

    Returns:
        The results, and what to know where the default alone would fail one.
    """
    judged = []
    for result, sample, (a, b) in zip(results, samples, pairs, strict=True):
        if not _is_beyond(result):
            judged.append(result)
            continue
        allowed = np.maximum(bound.atol * max(1.0, sample.scale) + bound.rtol * np.abs(b), scale.float32(b, sample))
        with np.errstate(invalid="ignore"):
            shares = np.nan_to_num(np.abs(a - b) / allowed, nan=0.0, posinf=0.0)
        at = int(np.argmax(shares))
        judged.append(_by_share(result, a, b, at, float(shares.ravel()[at])))
    beyond = max(result.excess for result in results)
    remark = (
        f"up to {beyond:.3g} times the default tolerance, and within {FLOAT32_TIMES:g} times what rounding to "
        "float32 makes of the source: float32 itself is this far off for this network"
    )
    return judged, remark


def _with_groups(
    row: Comparison, samples: Sequence[Sample], pairs: Sequence[tuple[Array, Array]], scale: OwnScale
) -> Comparison:
    """The row with how its groups of channels keep to their own scale; one that does not fails it."""
    largest = [result.metrics.max_abs for result in row.samples if result.metrics is not None]
    if len(largest) < len(samples) or not isinstance(row.tolerance, Tolerance):
        return row
    row = replace(row, groups=scale.uses(samples, pairs, largest, row.tolerance))
    worst = max(row.groups, key=lambda group: group.used)
    if row.verdict is Verdict.FAIL or worst.used <= 1.0:
        return row
    return replace(row, verdict=Verdict.FAIL, reason=told_group(worst))


def _result(sample: Sample, a: Array, b: Array, tolerance: Tolerance) -> SampleResult:
    result = partial(SampleResult, sample.name, scale=sample.scale)
    difference = check(a, b)
    if a.shape != b.shape:
        return result(None, float("inf"), Verdict.FAIL, difference)
    measured = measure(a, b, tolerance, sample.scale)
    if difference:
        return result(measured.metrics, float("inf"), Verdict.FAIL, difference)
    return _by_share(result(measured.metrics, measured.excess, Verdict.PASS), a, b, measured.at, measured.excess)


def _by_share(result: SampleResult, a: Array, b: Array, flat: int, share: float) -> SampleResult:
    """The result, where the element at a flat index uses this share of its bound, which is the most of all."""
    if share <= 1.0 or result.metrics is None:
        return replace(result, excess=share, verdict=Verdict.PASS, reason="")
    at = tuple(int(index) for index in np.unravel_index(flat, a.shape))
    mismatch = f"{a[at]:.9g} instead of {b[at]:.9g}" if a.dtype.kind == "f" else f"{a[at]} instead of {b[at]}"
    reason = f"{mismatch} at {at}: {share:.3g} times the bound (largest error {result.metrics.max_abs:.3g})"
    return replace(result, excess=share, verdict=Verdict.FAIL, reason=reason)


def _summary(worst: SampleResult, failed: int, total: int) -> str:
    return f"{failed} of {total} samples differ, worst {worst.sample}: {worst.reason}"


def _top1(
    samples: Sequence[Sample], pairs: Sequence[tuple[Array, Array]], *, of_reference: bool = False
) -> Mapping[str, int]:
    """Counts samples whose largest element is, in every row, where the reference has it (or the label is)."""
    if any(a.ndim != 2 or a.shape != b.shape for a, b in pairs):
        return {}
    rows = zip(samples, pairs, strict=True)
    classes = [(sample.label, a.argmax(axis=1), b.argmax(axis=1)) for sample, (a, b) in rows]
    counts = {"agree": sum(bool((ours == theirs).all()) for _, ours, theirs in classes)}
    labeled = [bool((ours == label).all()) for label, ours, _ in classes if label is not None]
    if not labeled:
        return counts
    counts |= {"labelled": len(labeled), "correct": sum(labeled)}
    if of_reference:
        counts["reference"] = sum(bool((theirs == label).all()) for label, _, theirs in classes if label is not None)
    return counts
