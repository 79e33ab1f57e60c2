"""How far a model that was quantized already is from itself, in steps: by float32's rounding, and by int32 biases.

A result a hair beside a tie is rounded the other way by either, and layers behind it make more of a step. What a
runtime is off by as many steps is no fault of its file's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeconv import quantize
from edgeconv.core import Array, Artifact, Comparison, Run, Sample, Verdict
from edgeconv.flow.variant import Variant
from edgeconv.parity import Integers

Outputs = Sequence[Mapping[str, Array]]
_FLOAT32 = "by float32's own rounding"
_BIASES = "by biases of 32 bits, as integer kernels have them,"


def own_steps(
    variants: Sequence[Variant],
    integers: Mapping[str, Integers],
    samples: Sequence[Sample],
    own: Run,
    reference: Run,
) -> tuple[str, ...]:
    """A note on each output of a variant that its source quantized, where either rounding moves it by a step.

    Args:
        variants: of which those with a plan have none: their graph's biases are of 32 bits already.
        integers: what their graphs compute exactly on the samples.
        samples: the parity inputs.
        own: the source in float32.
        reference: the source in float64.
    """
    notes = list[str]()
    for variant in variants:
        exact = integers.get(variant.name)
        if variant.plan is not None or exact is None:
            continue
        chosen = [index for index, sample in enumerate(samples) if sample.is_for(variant.name)]
        with_biases = replace(variant, model=quantize.with_integer_biases(variant.model)).computed(samples)
        pairs = {_BIASES: (with_biases, exact.run.outputs)}
        if own.verdict is Verdict.PASS:
            pairs = {_FLOAT32: (own.outputs, reference.outputs), **pairs}
        for name, scale in exact.scales.items():
            moved = {what: _apart(a, b, chosen, name, scale) for what, (a, b) in pairs.items()}
            told = [f"{what} up to {most} ({share:.2g} %)" for what, (most, share) in moved.items() if most]
            if told:
                notes.append(
                    f"{variant.name}: {name!r}: in steps of {scale:.3g}, the model itself is moved {', '.join(told)}; "
                    "no more is to be asked of a file"
                )
    return tuple(notes)


def told_steps(
    rows: Sequence[Comparison], artifacts: Sequence[Artifact], trained: Collection[str]
) -> tuple[Comparison, ...]:
    """The rows, with a remark where a file is more than a step from the integers of a model that has its own.

    Args:
        rows: judged.
        artifacts: of the rows.
        trained: the variants whose integers are the source's.
    """
    files = {artifact.path.name for artifact in artifacts if artifact.variant in trained}
    return tuple(_with_remark(row) if row.artifact in files else row for row in rows)


def _with_remark(row: Comparison) -> Comparison:
    most, count = max(row.lsb, default=0), sum(row.lsb.values())
    if most <= 1 or row.verdict is not Verdict.PASS:
        return row
    share = 100.0 * sum(number for steps, number in row.lsb.items() if steps > 1) / count
    remark = (
        f"up to {most} steps from the integers of the model, {share:.2g} % more than one: "
        'keep_float = ["*"] computes in floats between its roundings, and comes nearest'
    )
    return replace(row, reason=f"{row.reason}; {remark}" if row.reason else remark)


def _apart(a: Outputs, b: Outputs, chosen: Sequence[int], name: str, scale: float) -> tuple[int, float]:
    """The most steps between two computations of an output, and the percentage of its elements that differ by one."""
    pairs = [(a[index][name].astype(np.float64), b[index][name].astype(np.float64)) for index in chosen]
    counts = [np.abs(np.rint((x - y) / scale)) for x, y in pairs if x.shape == y.shape]
    steps = np.concatenate([count.ravel() for count in counts]) if counts else np.zeros(1)
    steps = steps[np.isfinite(steps)]
    return (int(steps.max()), 100.0 * float((steps > 0).mean())) if steps.size else (0, 0.0)
