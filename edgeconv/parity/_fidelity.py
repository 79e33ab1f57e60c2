"""Judges a variant that approximates: all samples together, against a `core.Fidelity`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeconv.core import Array, Comparison, Fidelity, Metrics, Parts, Run, Sample, SampleResult, Tolerance, Verdict
from edgeconv.core.affine import decibels
from edgeconv.core.confidence import sqnr_bound
from edgeconv.core.defaults import SAYS_LITTLE_DB, SQNR_CONFIDENCE
from edgeconv.core.values import listed
from edgeconv.core.variation import LEAST_NUMBERS, SaysNothing, says_nothing
from edgeconv.parity._check import check
from edgeconv.parity._indices import index_counts, index_shares
from edgeconv.parity._metrics import Measured, measure, used_of, worst_of
from edgeconv.parity._picture import picture

_MOST_STEPS = 255  # of 8 bits, from end to end
_NAMED = 4  # channels
_KEEPS_MORE = {
    "int8": "--variant int8-mixed gives more",
    "int8-mixed": "a higher sqnr_db in [parity.fidelity.int8-mixed] keeps more layers in float",
}
_HOLDS_BOUND = {"int8": ", or export int8-mixed, whose bound is held to it"}
"""What brings a variant nearer, where another one does."""


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
    *,
    indices: bool = False,
    variant: str = "",
) -> Comparison:
    """Fills in a row: metrics, the used share of the bound, and the verdict.

    Args:
        row: what it is of.
        bound: the acceptance thresholds, on all samples together.
        samples: those that both ran on.
        pairs: for each, what the device and what the float64 reference computed.
        top1: counts of right and of agreeing classes; empty for outputs that are no classes.
        joints: of what parts the output is joined, by axis.
        indices: whether the output holds indices, between which there is no distance.
        variant: of the artifact, for advice; empty where it is not known.
    """
    differences = [check(a, b) for a, b in pairs]
    measurements = [None if a.shape != b.shape else measure(a, b, Tolerance(), 1.0) for a, b in pairs]
    results = tuple(
        _sample(sample, measurement, difference, replace(bound, sqnr_db=None) if indices else bound)
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
    if indices:
        row, remark, weak = replace(row, indices=index_counts(pairs)), "", ""
    else:
        found = says_nothing(pairs, joints) if pairs[0][1].dtype.kind == "f" else SaysNothing()
        row = replace(row, parts=_counts(found), sqnr_bound_db=_bound_of(whole, bound))
        remark, weak = _told(found), _weak(found, variant)
    shares = dict(_shares(row, bound, len(samples)))
    excess = used_share(row, bound)
    reason = "; ".join(text for text, share in shares.items() if not share <= 1.0)
    if not reason:
        remark = "; ".join(filter(None, [remark, weak, _doubt(row, bound, len(whole), variant)]))
    return replace(
        row,
        verdict=Verdict.FAIL if reason else Verdict.PASS,
        reason="; ".join(filter(None, [reason, remark])),
        excess=excess,
        picture=picture(results[worst].sample, *pairs[worst]),
    )


def _bound_of(measurements: Sequence[Measured], bound: Fidelity) -> float | None:
    if bound.sqnr_db is None:
        return None
    signals, noises = ([getattr(item, name) for item in measurements] for name in ("signal", "noise"))
    return sqnr_bound(signals, noises, SQNR_CONFIDENCE)


def _doubt(row: Comparison, bound: Fidelity, count: int, variant: str) -> str:
    """What few inputs leave open of a threshold that they meet."""
    least, due = row.sqnr_bound_db, bound.sqnr_db
    if least is None or due is None or least >= due:
        return ""
    rounded = math.floor(100 * least) / 100
    return (
        f"with {count} judged inputs, the 95 % bound of the SQNR is {rounded:.2f} dB: below {due:g}; judge more inputs"
        f"{_HOLDS_BOUND.get(variant, '')}"
    )


def _counts(found: SaysNothing) -> dict[str, int]:
    counts = {"all": found.parts, "lost": found.lost} if found.parts else {}
    few = found.channels > 1 and found.count < LEAST_NUMBERS
    return counts | ({"unjudged": found.channels} if few else {})


def _told(found: SaysNothing) -> str:
    """Which channels say nothing, and what is left of them."""
    if found.silent:
        return (
            "the error has more than half of the energy of what all channels vary together; more inputs would tell "
            "whether they say anything"
        )
    why = "the error has more than half of the energy of what they vary"
    if not found.lost:  # none counts: a class that no input shows
        return f"{found.drowned} of {found.channels} channels say nothing: {why}" if found.drowned else ""
    # How many count is told once, by the threshold's own sentence; here is which these are.
    joined, names = found.lost - len(found.worst), [f"{channel} ({left:.1f} dB)" for channel, left in found.worst]
    of = f" of {found.channels}"
    which = [f"{'channel' if len(names) == 1 else 'channels'} {listed(names, _NAMED)}{of}"] if names else []
    which += [f"{joined} of the operands that are joined"] if joined else []
    return f"what says nothing is {' and '.join(which)}: {why}"


def _weak(found: SaysNothing, variant: str) -> str:
    """Channels that pass, and that a user would look at."""
    if not found.weak:
        return ""
    names = [f"{channel} ({left:.1f} dB)" for channel, left in found.weak]
    which = f"{'channel' if len(names) == 1 else 'channels'} {listed(names, _NAMED)} of {found.channels}"
    advice = f"; {_KEEPS_MORE[variant]}" if variant in _KEEPS_MORE else ""
    return f"of what {which} vary less than {SAYS_LITTLE_DB:g} dB are left{advice}"


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
    if row.indices:
        yield from index_shares(row.indices, bound)
        metrics = None
    if metrics is not None and bound.sqnr_db is not None:
        used = _amplitude_ratio(metrics.sqnr_db, bound.sqnr_db)
        yield f"SQNR is {metrics.sqnr_db:.2f} dB, at least {bound.sqnr_db:g} is asked for", used
    if metrics is not None and bound.cosine is not None:
        text = f"the cosine is {metrics.cosine:.6f}, at least {bound.cosine:g} is asked for"
        yield text, used_of(1.0 - metrics.cosine, 1.0 - bound.cosine)
    if bound.agreement is not None and "agree" in row.top1:
        agree = row.top1["agree"]
        text = (
            f"the class is the reference's in {agree} of {count} samples, at least {bound.agreement:.4g} is asked for"
        )
        yield text, used_of(1.0 - agree / count, 1.0 - bound.agreement)
    if bound.accuracy_drop is not None and row.top1.get("labelled"):
        labeled = row.top1["labelled"]
        drop = 100.0 * (row.top1["reference"] - row.top1["correct"]) / labeled
        text = f"top-1 lost {drop:.2f} points, at most {bound.accuracy_drop:g} are allowed"
        yield text, used_of(max(0.0, drop), bound.accuracy_drop)
    if bound.lost_parts is not None and row.parts.get("lost"):
        lost = row.parts["lost"]
        part = "part of the output says" if lost == 1 else "parts of the output say"
        yield f"{lost} {part} nothing, at most {bound.lost_parts} may", used_of(lost, bound.lost_parts)
    if bound.lsb is not None and row.lsb:
        most = max(abs(steps) for steps in row.lsb)
        yield f"it is {most} steps from the graph's integers, at most {bound.lsb} are allowed", used_of(most, bound.lsb)


def _amplitude_ratio(sqnr_db: float, least_db: float) -> float:
    """The error's amplitude over the largest allowed one."""
    return float(10.0 ** ((least_db - sqnr_db) / 20.0))
