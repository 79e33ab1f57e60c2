"""Judges a variant that approximates: all samples together, against a `core.Fidelity`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeconv.core import Array, Comparison, Fidelity, Metrics, Parts, Run, Sample, SampleResult, Tolerance, Verdict
from edgeconv.core.affine import decibels
from edgeconv.parity._check import check
from edgeconv.parity._metrics import Measured, measure, worst_of
from edgeconv.parity._picture import picture

_MOST_STEPS = 255  # of 8 bits, from end to end
_LEAST_ELEMENTS = 16
_WIDER = 10.0  # the range of channels beside which others are parts of their own
_LEAST_SHARE = 1 / 20  # of the channels: one of a hundred is a feature that no input shows, and no part
_FURTHER_OFF = 4.0  # the power of a channel's error over that of the others', beyond which it is no common noise
_LEAST_RATIO = 10.0  # of the others' variation to their error, in power
_LEAST_VARIATION = 1e-7  # relative to the channel's RMS: below it, float32 shows no variation
_NOTHING_LEFT = 1e-12  # relative to the whole output: float64's rounding, such as the mean of what was normalized


@dataclass(frozen=True)
class Integers:
    """What a quantized graph computes exactly.

    Attributes:
        run: its outputs on the samples, as real numbers.
        scales: one step of each quantized output, by name.
    """

    run: Run
    scales: Mapping[str, float]


Pair = tuple[Array, Array]


def judge_together(
    row: Comparison,
    bound: Fidelity,
    samples: Sequence[Sample],
    pairs: Sequence[Pair],
    top1: Mapping[str, int],
    joints: Sequence[Parts] = (),
) -> Comparison:
    """Fills in a row: metrics, the used share of the bound, and the verdict.

    Args:
        row: what it is of.
        bound: the acceptance thresholds, on all samples together.
        samples: those that both ran on.
        pairs: for each, what the device and what the float64 reference computed.
        top1: counts of right and of agreeing classes; empty for outputs that are no classes.
        joints: of what parts the output is joined, by axis.
    """
    differences = [check(a, b) for a, b in pairs]
    measurements = [None if a.shape != b.shape else measure(a, b, Tolerance(), 1.0) for a, b in pairs]
    results = tuple(
        _sample(sample, measurement, difference, bound)
        for sample, measurement, difference in zip(samples, measurements, differences, strict=True)
    )
    whole = [measurement for measurement in measurements if measurement is not None]
    signal, noise = (sum(getattr(measurement, name) for measurement in whole) for name in ("signal", "noise"))
    sqnr = decibels(signal, noise)
    row = replace(row, samples=results, top1=top1, metrics=_overall(whole, sqnr))
    other_kind = next((result for result in results if result.verdict is Verdict.FAIL), None)
    if other_kind is not None:
        reason = f"{other_kind.sample}: {other_kind.reason}"
        return replace(row, verdict=Verdict.FAIL, reason=reason, excess=float("inf"))
    worst = max(range(len(results)), key=lambda index: results[index].excess)
    lost, count = lost_parts(pairs, joints)
    row = replace(row, parts={"all": count, "lost": lost} if count else {})
    shares = dict(_shares(row, bound, len(samples)))
    excess = used_share(row, bound)
    reason = "; ".join(text for text, share in shares.items() if not share <= 1.0)
    lost_of_all, channels = lost_channels(pairs)
    caution = f"{lost_of_all} of {channels} channels say nothing: their error is as large as all that they vary"
    return replace(
        row,
        verdict=Verdict.FAIL if reason else Verdict.PASS,
        reason="; ".join(filter(None, [reason, caution if lost_of_all else ""])),
        excess=excess,
        picture=picture(results[worst].sample, *pairs[worst]),
    )


def used_share(row: Comparison, bound: Fidelity) -> float:
    """The largest used share of the thresholds, by the row's own metrics and counts; above 1 fails, NaN is infinite."""
    try:
        shares = [share for _, share in _shares(row, bound, len(row.samples))]
    except (KeyError, ZeroDivisionError):  # counts of a report that do not belong together
        return math.inf
    return math.inf if any(math.isnan(share) for share in shares) else max(shares, default=0.0)


def held_to_all(rows: Sequence[Comparison], bound: Fidelity, *, of: Collection[str]) -> list[Comparison]:
    """Fails the rows of a variant if one of its thresholds could not be judged on any of them.

    Args:
        rows: judged.
        bound: the acceptance thresholds.
        of: the names of the variant's artifacts; rows of others stay.
    """

    def counts(row: Comparison) -> bool:
        return row.artifact in of and row.metrics is not None

    ran = [row for row in rows if counts(row)]
    thresholds = (
        ("agreement", bound.agreement, "agree", "no output is of classes, shape (N, C)"),
        ("accuracy_drop", bound.accuracy_drop, "labelled", "no input has a label, or no output is of classes"),
    )
    missing = [
        f"{part} is asked for, and {why}"
        for part, threshold, count, why in thresholds
        if threshold is not None and not any(row.top1.get(count) is not None for row in ran)
    ]
    if bound.lsb is not None and not any(row.lsb for row in ran):
        missing.append("lsb is asked for, and no output comes out of integers")
    if not missing:
        return list(rows)
    return [replace(failed(row, "; ".join(missing)), excess=math.inf) if counts(row) else row for row in rows]


def failed(row: Comparison, reason: str) -> Comparison:
    """The row, failed for a further reason."""
    return replace(row, verdict=Verdict.FAIL, reason=f"{row.reason}; {reason}" if row.reason else reason)


def lost_channels(pairs: Sequence[Pair]) -> tuple[int, int]:
    """Counts the channels (axis 1) whose error is as large as their own variation, and all channels.

    A signal-to-noise ratio over a whole output hides them behind an offset, or behind larger channels. That alone is no
    fault: a class that no sample shows has scores below any step. Channels that do not vary are not lost, and with
    fewer than 16 elements of each there is nothing to say.

    Args:
        pairs: what the device, and what the reference computed, for each sample; of equal shapes.

    Returns:
        The lost ones, and all.
    """
    shapes = {b.shape[1:2] for _, b in pairs if b.ndim >= 2 and b.dtype.kind == "f"}
    if len(shapes) != 1 or not all(b.ndim >= 2 for _, b in pairs):
        return 0, 0
    computed, expected = (
        np.concatenate([np.moveaxis(pair[at], 1, 0).reshape(pair[at].shape[1], -1) for pair in pairs], axis=1)
        for at in (0, 1)
    )
    return int(np.count_nonzero(_lost_rows(computed, expected, _largest(pairs)))), len(expected)


def _lost_rows(computed: Array, expected: Array, largest: float) -> npt.NDArray[np.bool_]:
    """Which rows have an error as large as all that they vary; none where they are short, or not all finite.

    Args:
        computed: by the device, shape (rows, elements).
        expected: by the reference, likewise.
        largest: the largest magnitude of the whole output that they are of.
    """
    if expected.shape[1] < _LEAST_ELEMENTS or not (np.isfinite(expected).all() and np.isfinite(computed).all()):
        return np.zeros(len(expected), np.bool_)
    variation = np.var(expected, axis=1, dtype=np.float64)
    error = _mean_square_errors(computed, expected)
    energy = np.mean(np.square(expected, dtype=np.float64), axis=1)
    varies = variation > np.maximum(np.square(_LEAST_VARIATION) * energy, np.square(_NOTHING_LEFT * largest))
    return np.asarray(varies & (error >= variation))


def _mean_square_errors(computed: Array, expected: Array) -> npt.NDArray[np.float64]:
    """The mean square error of each row, shape (rows,)."""
    return np.asarray(np.mean(np.square(computed.astype(np.float64) - expected), axis=1))


def _largest(pairs: Sequence[Pair]) -> float:
    """The largest magnitude that the reference computed."""
    return max((float(np.abs(b).max(initial=0.0)) for _, b in pairs), default=0.0)


def lost_parts(pairs: Sequence[Pair], joints: Sequence[Parts]) -> tuple[int, int]:
    """Counts the parts of an output whose error is as large as their own variation, and all parts.

    What was joined of parts has no unit in common: the boxes of a detector, in pixels, hide from a ratio over the whole
    output that scores of 0 to 1 became all zero. A part is judged as a whole, since its channels do have one. Of the
    channels of one layer those are parts of their own whose range is less than a tenth of the widest, and those that
    are far further off than the others.

    Args:
        pairs: what the device, and what the reference computed, for each sample; of equal shapes.
        joints: along which axes the output is joined, and of what.

    Returns:
        The lost ones, and all; parts that do not vary are not lost.
    """
    lost = count = 0
    largest = _largest(pairs) if joints else 0.0
    for joint in joints:
        ends = np.cumsum(joint.sizes)
        if len(ends) == 1:
            of_channels = _lost_channels_of_a_layer(pairs, joint, largest)
            lost, count = lost + of_channels[0], count + of_channels[1]
        elif all(b.ndim > joint.axis and b.shape[joint.axis] == ends[-1] for _, b in pairs):
            for end, size in zip(ends, joint.sizes, strict=True):
                count += 1
                computed, expected = (
                    np.concatenate([_part(pair[at], joint.axis, end, size).ravel() for pair in pairs]) for at in (0, 1)
                )
                lost += int(_lost_rows(computed[None], expected[None], largest).sum())
    return lost, count


def _lost_channels_of_a_layer(pairs: Sequence[Pair], joint: Parts, largest: float) -> tuple[int, int]:
    """Of the channels that are narrow, and vary little, beside the widest: the lost ones, and all.

    A few among many do not count. Nor do lost ones that are not narrow, unless something was done to them alone: the
    others are well represented, and their errors far less. What was joined before the layer may be lost so.
    """
    if not all(b.ndim > joint.axis and b.shape[joint.axis] == joint.sizes[0] for _, b in pairs):
        return 0, 0
    computed, expected = (
        np.concatenate([np.moveaxis(pair[at], joint.axis, 0).reshape(joint.sizes[0], -1) for pair in pairs], axis=1)
        for at in (0, 1)
    )
    widths = expected.max(axis=1, initial=0.0) - expected.min(axis=1, initial=0.0)
    deviations = np.std(expected, axis=1, dtype=np.float64)
    narrow = (widths < widths.max() / _WIDER) & (deviations < deviations.max() / _WIDER)
    lost = _lost_rows(computed, expected, largest)
    alone = lost & _further_off_than_others(computed, expected, lost)
    judged = np.zeros(len(widths), np.bool_)
    for channels in (narrow, alone):
        if channels.sum() >= _LEAST_SHARE * len(widths):
            judged |= channels
    return int(lost[judged].sum()), int(judged.sum())


def _further_off_than_others(computed: Array, expected: Array, lost: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which rows have an error beyond the noise that they share with those that are not lost."""
    fine = ~lost & (np.ptp(expected, axis=1) > 0) if expected.shape[1] else ~lost
    if not lost.any() or fine.sum() < lost.sum():
        return np.zeros(len(lost), np.bool_)
    errors = _mean_square_errors(computed, expected)
    common = np.median(errors[fine])
    if np.median(np.var(expected[fine], axis=1, dtype=np.float64)) < _LEAST_RATIO * common:
        return np.zeros(len(lost), np.bool_)
    return np.asarray(errors > _FURTHER_OFF * common)


def _part(array: Array, axis: int, end: int, size: int) -> Array:
    return array[(slice(None),) * axis + (slice(end - size, end),)]


def steps_apart(pairs: Sequence[Pair], scale: float) -> Mapping[int, int]:
    """Counts elements by their distance, in steps of ``scale``, from what the graph's integers say.

    Args:
        pairs: what the device, and what the quantized graph computes in float64, both as real numbers.
        scale: one step of the output.

    Returns:
        Steps (negative: the device is below) to counts, ascending; distances beyond 255 count as 255.
    """
    counts = np.zeros(2 * _MOST_STEPS + 1, np.int64)
    for a, b in pairs:
        steps = np.rint((a.astype(np.float64) - b) / scale)
        steps = np.nan_to_num(steps, nan=_MOST_STEPS).clip(-_MOST_STEPS, _MOST_STEPS).astype(np.int64)
        counts += np.bincount(steps.ravel() + _MOST_STEPS, minlength=counts.size)
    return {int(index) - _MOST_STEPS: int(counts[index]) for index in np.flatnonzero(counts)}


def _sample(sample: Sample, measurement: Measured | None, difference: str, bound: Fidelity) -> SampleResult:
    if measurement is None or difference:
        metrics = None if measurement is None else measurement.metrics
        return SampleResult(sample.name, metrics, float("inf"), Verdict.FAIL, difference, sample.scale)
    excess = 0.0 if bound.sqnr_db is None else _amplitude_ratio(measurement.metrics.sqnr_db, bound.sqnr_db)
    return SampleResult(sample.name, measurement.metrics, excess, Verdict.PASS, "", sample.scale)


def _overall(measurements: Sequence[Measured], sqnr_db: float) -> Metrics | None:
    worst = worst_of([measurement.metrics for measurement in measurements])
    return None if worst is None else replace(worst, sqnr_db=sqnr_db)


def _shares(row: Comparison, bound: Fidelity, count: int) -> Iterator[tuple[str, float]]:
    """For each threshold a sentence on how far it is met, and its used share; above 1 it is missed."""
    metrics = row.metrics
    if metrics is not None and bound.sqnr_db is not None:
        used = _amplitude_ratio(metrics.sqnr_db, bound.sqnr_db)
        yield f"SQNR is {metrics.sqnr_db:.2f} dB, at least {bound.sqnr_db:g} is asked for", used
    if metrics is not None and bound.cosine is not None:
        text = f"the cosine is {metrics.cosine:.6f}, at least {bound.cosine:g} is asked for"
        yield text, _ratio(1.0 - metrics.cosine, 1.0 - bound.cosine)
    if bound.agreement is not None and "agree" in row.top1:
        agree = row.top1["agree"]
        text = (
            f"the class is the reference's in {agree} of {count} samples, at least {bound.agreement:.4g} is asked for"
        )
        yield text, _ratio(1.0 - agree / count, 1.0 - bound.agreement)
    if bound.accuracy_drop is not None and row.top1.get("labelled"):
        labelled = row.top1["labelled"]
        drop = 100.0 * (row.top1["reference"] - row.top1["correct"]) / labelled
        text = f"top-1 lost {drop:.2f} points, at most {bound.accuracy_drop:g} are allowed"
        yield text, _ratio(max(0.0, drop), bound.accuracy_drop)
    if bound.lost_parts is not None and row.parts.get("lost"):
        lost = "{lost} of {all} parts of the output say nothing".format(**row.parts)
        yield f"{lost}, at most {bound.lost_parts} may", _ratio(row.parts["lost"], bound.lost_parts)
    if bound.lsb is not None and row.lsb:
        most = max(abs(steps) for steps in row.lsb)
        yield f"it is {most} steps from the graph's integers, at most {bound.lsb} are allowed", _ratio(most, bound.lsb)


def _amplitude_ratio(sqnr_db: float, least_db: float) -> float:
    """The error's amplitude over the largest allowed one."""
    return float(10.0 ** ((least_db - sqnr_db) / 20.0))


def _ratio(value: float, most: float) -> float:
    if most > 0.0:
        return value / most
    return 0.0 if value <= 0.0 else float("inf")
