"""Bounds in an output's own scale: by groups of channels whose numbers are of one magnitude.

A tolerance of 1e-5 says nothing of an output whose numbers are 1e-3 (a softmax over a thousand classes). A group's
bound is the larger of

1. the tolerance (the larger of its two parts) times the group's largest number in the reference, never less than 2^-22
   times it: the tolerance in the group's own unit; and
2. `FLOAT32_TIMES` times the largest error that the source's own float32 makes in the group, where that is known: what
   rounding makes of this network. Runtimes lose up to 12 dB (4 times) more than torch, and an error that is seldom met
   lies some 5 standard deviations out, where the largest of 64 numbers lies 2 to 3.

Both count over all samples, at input scale 1, and times the scale of a sample where it is larger. Channels are one
group where their largest numbers are within a tenth of the group's: boxes in pixels and scores of 0 to 1 are two. A
group has at least 64 numbers that are not zero, as fewer say little of what rounding makes of them. Where the source's
own float32 is not known, the output is one group, as channels that are small by cancellation have errors of large ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeconv.core import Array, Parts, Run, Sample, Tolerance
from edgeconv.core.verdicts import GroupUse, Verdict

FLOAT32_TIMES = 64.0
"""How many times further off than the source's own float32 a runtime may be."""
_LEAST = 2.0**-22  # relative to a group's largest number: two units in the last place
_TINY = 2.0**-120  # what runtimes flush to zero, or clamp the operand of an exponential at
_WIDER = 10.0  # channels whose largest numbers are further apart are groups of their own
_LEAST_NUMBERS = 64
_MOST_GROUPS = 6
_MOST_SHAKEN = 16

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Channels of an output whose numbers are of one magnitude.

    Attributes:
        channels: their indices, ascending.
        largest: the largest magnitude of the reference in them, over all samples at input scale 1.
        float32_error: the largest error of the source's own float32, likewise; None where it is not known.
    """

    channels: npt.NDArray[np.intp]
    largest: float
    float32_error: float | None

    def bound(self, tolerance: Tolerance) -> float:
        """What an element of it may be off, at input scale 1."""
        own = self.largest * max(tolerance.atol, tolerance.rtol, _LEAST)
        return max(own, FLOAT32_TIMES * (self.float32_error or 0.0), _TINY)


def told_group(use: GroupUse) -> str:
    """One line on a group that does not keep to its own scale."""
    last = use.first + use.channels - 1
    which = "the output" if use.axis is None else f"channel {use.first}"
    which = f"the group of {use.channels} channels from {use.first} on" if last > use.first else which
    float32 = "" if use.float32_error is None else f", and the source's own float32 is {use.float32_error:.3g} off"
    return (
        f"{which}, sample {use.sample}: {use.error:.3g} off, {use.used:.3g} times what its own scale allows: "
        f"its largest number is {use.largest:.3g}{float32}"
    )


@dataclass(frozen=True)
class OwnScale:
    """The groups of an output; `axis` is that of its channels in torch's layout, None where it has none."""

    axis: int | None
    groups: tuple[Group, ...]

    def errors(self, a: Array, b: Array, largest: float) -> list[float]:
        """The largest error of each group.

        Args:
            a: what a device computed.
            b: the reference, of the same shape.
            largest: the largest error of all elements that are finite on both sides.
        """
        if len(self.groups) == 1:
            return [largest]
        by_channel = _errors(a, b, self.axis)
        return [float(by_channel[group.channels].max(initial=0.0)) for group in self.groups]

    def float32(self, b: Array, sample: Sample) -> Array:
        """What the source's own float32 explains: of shape (C, 1, …), to be held against a sample's elements."""
        by_channel = np.zeros(sum(len(group.channels) for group in self.groups))
        for group in self.groups:
            by_channel[group.channels] = FLOAT32_TIMES * (group.float32_error or 0.0) * max(1.0, sample.scale)
        return by_channel.reshape(()) if self.axis is None else by_channel.reshape(-1, *[1] * (b.ndim - 1 - self.axis))

    def uses(
        self, samples: Sequence[Sample], pairs: Sequence[tuple[Array, Array]], largest: Sequence[float], of: Tolerance
    ) -> tuple[GroupUse, ...]:
        """How much of its bound each group uses: the worst sample.

        Args:
            samples: those that both ran on.
            pairs: for each, what the device and what the reference computed; of equal shapes.
            largest: for each, the largest error of all elements.
            of: the tolerance.
        """
        errors = [self.errors(a, b, worst) for (a, b), worst in zip(pairs, largest, strict=True)]
        return tuple(
            self._use(group, samples, [of_sample[at] for of_sample in errors], group.bound(of))
            for at, group in enumerate(self.groups)
        )

    def _use(self, group: Group, samples: Sequence[Sample], errors: Sequence[float], bound: float) -> GroupUse:
        shares = [error / (bound * max(1.0, sample.scale)) for error, sample in zip(errors, samples, strict=True)]
        worst = int(np.argmax(shares))
        return GroupUse(
            axis=self.axis,
            first=int(group.channels[0]),
            channels=len(group.channels),
            largest=group.largest,
            float32_error=group.float32_error,
            error=errors[worst],
            bound=bound * max(1.0, samples[worst].scale),
            used=shares[worst],
            sample=samples[worst].name,
        )


def own_scales(
    reference: Run,
    samples: Sequence[Sample],
    output_names: Sequence[str],
    joints: Mapping[str, Sequence[Parts]],
    float32_errors: Mapping[str, Array],
) -> dict[str, OwnScale]:
    """The groups of each output of real numbers, by name.

    Args:
        reference: the source in float64, which passed.
        samples: those that it ran on.
        output_names: which outputs.
        joints: of what parts outputs are joined, by name.
        float32_errors: see there; those that are of other channels than the reference's count as not known.
    """
    scales = {}
    for name in output_names:
        arrays = [outputs[name] for outputs in reference.outputs]
        if all(array.dtype.kind == "f" and array.size for array in arrays):
            scales[name] = _own_scale(arrays, samples, joints.get(name, ()), float32_errors.get(name))
    return scales


def float32_errors(
    run: Run, reference: Run, samples: Sequence[Sample], joints: Mapping[str, Sequence[Parts]]
) -> dict[str, Array]:
    """The largest error of the source's own float32 in each channel, over all samples at input scale 1, by output.

    Args:
        run: the source in float32; one that failed knows of none.
        reference: the source in float64.
        samples: those that both ran on.
        joints: of what parts outputs are joined, by name.

    Returns:
        An array of shape (C,), float64, of each output of real numbers whose channels are the same in all samples.
    """
    if run.verdict is not Verdict.PASS or len(run.outputs) != len(reference.outputs):
        return {}
    told = {}
    for name, first in reference.outputs[0].items():
        axis = _axis(first.ndim, joints.get(name, ()))
        pairs = [(a.get(name), b[name]) for a, b in zip(run.outputs, reference.outputs, strict=True)]
        if first.dtype.kind != "f" or not _is_alike([b for _, b in pairs], axis):
            continue
        errors = [_errors(a, b, axis) for a, b in pairs if a is not None and a.shape == b.shape]
        if len(errors) == len(pairs):
            told[name] = np.max([_at_scale_1(array, sample) for array, sample in zip(errors, samples, strict=True)], 0)
    return told


def shaken(samples: Sequence[Sample], reference: Run) -> tuple[tuple[Sample, ...], Run]:
    """Samples again, each number of their inputs moved by a unit in its last place, for outputs of few numbers.

    What the source's float32 makes of one number may be right by luck. What it makes of the same inputs but for their
    last place has other errors of the same size: rounding the first layer moves as much (Higham, Accuracy and Stability
    of Numerical Algorithms, ch. 1: backward errors).

    Returns:
        As many samples as give each output 64 numbers, 16 at the most, none where each has these; and what the
        reference makes of those that they were before.
    """
    least = min(sum(outputs[name].size for outputs in reference.outputs) for name in reference.outputs[0])
    count = min(_MOST_SHAKEN, -(-_LEAST_NUMBERS // max(1, least)) * len(samples)) if least < _LEAST_NUMBERS else 0
    generator = np.random.default_rng(0)
    picked = [index % len(samples) for index in range(count)]
    moved = tuple(
        replace(samples[at], inputs={name: _moved(array, generator) for name, array in samples[at].inputs.items()})
        for at in picked
    )
    return moved, replace(reference, outputs=tuple(reference.outputs[at] for at in picked))


def _moved(array: Array, generator: np.random.Generator) -> Array:
    if array.dtype != np.float32:
        return array
    towards = np.where(generator.integers(0, 2, array.shape) == 1, np.float32(np.inf), np.float32(-np.inf))
    return np.where(np.isfinite(array), np.nextafter(array, towards), array)


def _at_scale_1(array: Array, sample: Sample) -> Array:
    return np.asarray(array / max(1.0, sample.scale))


def _own_scale(
    arrays: Sequence[Array], samples: Sequence[Sample], joints: Sequence[Parts], errors: Array | None
) -> OwnScale:
    axis = _axis(arrays[0].ndim, joints)
    axis = axis if _is_alike(arrays, axis) else None
    by_sample = [_at_scale_1(_magnitudes(array, axis), sample) for array, sample in zip(arrays, samples, strict=True)]
    largest = np.max(by_sample, axis=0)
    if errors is None or errors.shape != largest.shape:
        return OwnScale(axis, (Group(np.arange(len(largest)), float(largest.max()), None),))
    groups = _divided(largest, lambda: np.sum([_numbers(array, axis) for array in arrays], axis=0))
    return OwnScale(
        axis,
        tuple(Group(group, float(largest[group].max()), float(errors[group].max())) for group in groups),
    )


def _axis(rank: int, joints: Sequence[Parts]) -> int | None:
    """That of the channels: what is joined of parts, and not the positions, which are more; else what a layer makes."""
    known = sorted((len(joint.sizes) == 1, sum(joint.sizes), joint.axis) for joint in joints if joint.axis < rank)
    return known[0][2] if known else 1 if rank > 1 else None


def _is_alike(arrays: Sequence[Array], axis: int | None) -> bool:
    """Whether all have as many channels."""
    return axis is None or len({array.shape[axis] for array in arrays}) == 1


def _divided(largest: Floats, count: Callable[[], Array]) -> list[npt.NDArray[np.intp]]:
    """Channels by their largest numbers, the largest first; `count` gives how many numbers of each are not zero."""
    order = np.argsort(-largest, kind="stable")
    if largest.min() >= largest.max() / _WIDER:
        return [np.sort(order)]
    numbers = count()
    groups: list[list[int]] = [[]]
    for channel in order:
        group = groups[-1]
        is_wider = bool(group) and 0.0 < largest[channel] < largest[group[0]] / _WIDER
        if is_wider and numbers[group].sum() >= _LEAST_NUMBERS and len(groups) < _MOST_GROUPS:
            groups.append([])
        groups[-1].append(int(channel))
    if len(groups) > 1 and numbers[groups[-1]].sum() < _LEAST_NUMBERS:
        groups[-2:] = [groups[-2] + groups[-1]]
    return [np.sort(np.array(group, np.intp)) for group in groups]


def _others(array: Array, axis: int | None) -> tuple[int, ...]:
    return tuple(other for other in range(array.ndim) if other != axis)


def _magnitudes(array: Array, axis: int | None) -> Floats:
    """The largest finite magnitude in each channel."""
    others = _others(array, axis)
    if not np.isfinite(array.sum()):
        array = np.where(np.isfinite(array), array, 0.0)
    return np.atleast_1d(np.maximum(array.max(axis=others), -array.min(axis=others))).astype(np.float64)


def _numbers(array: Array, axis: int | None) -> Array:
    return np.atleast_1d(np.count_nonzero(array, axis=_others(array, axis)))


def _errors(a: Array, b: Array, axis: int | None) -> Floats:
    """The largest error in each channel, where both sides are finite."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.subtract(a, b, dtype=np.float64))
    if not np.isfinite(difference.sum()):
        difference = np.where(np.isfinite(difference), difference, 0.0)
    return np.atleast_1d(difference.max(axis=_others(b, axis)))
