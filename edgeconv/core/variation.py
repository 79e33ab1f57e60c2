"""Which channels and parts of an output say nothing any more: what an approximation leaves of what they vary.

A ratio of the whole output's energies hides a channel behind larger ones, and what a channel varies behind its mean. A
channel says nothing where its error has more than half of the energy of its own variation (3 dB, `SAYS_NOTHING_DB`): a
constant has all of it, and what is left of a number explains less than half of it. It is no stricter, as a channel of a
fifth of the others' deviation has 6 dB where the noise of all is the 20 dB that are accepted. What of kind 1 keeps less
than 10 dB (`SAYS_LITTLE_DB`) is told of a row that passes: of the 42 heads of a bank of 50 whose int8 passed, one has
such a channel (a mixture of densities, 7.9 dB). Channels that vary less than a hundredth of their size are not judged,
but for kind 4.

Of channels of one unit, class scores say, one that hardly varies beside the others may drown in the noise that is
accepted of all, and is no fault: a class that no input shows. Three kinds of channels are therefore judged:

1. Those that vary about as much as the others of their part (`_COMPARABLE`).
2. Of one layer's channels those that are narrow beside the widest, if they are many: scores beside boxes.
3. Of one layer's channels those that are far further off than the others, to which something was done alone.
4. Of all channels those that lie far from zero, where they vary little (down to a thousandth of their size), beside one
   that varies ten times as much and is not lost: a logarithm of -3 ± 0.02 beside a mean of 2 ± 1.5.

Each kind counts where it is at least one channel in twenty. A part of a join is judged as a whole besides. Channels of
fewer than 16 numbers are not judged one by one, as their variation is then a matter of chance. What is left of all of
them together is told, and is no fault: networks of random weights make much the same of all of a few inputs (three of
the bench's, of 23 to 47 dB, say nothing so).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeconv.core.defaults import SAYS_LITTLE_DB, SAYS_NOTHING_DB
from edgeconv.core.exchanged import Parts
from edgeconv.core.precision import Array

LEAST_NUMBERS = 16
"""Of a channel, before anything is said of it."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_LEAST_RATIO = 10.0 ** (SAYS_NOTHING_DB / 10)
_LITTLE_RATIO = 10.0 ** (SAYS_LITTLE_DB / 10)
_COMPARABLE = 1 / 5  # of the others' deviation (root mean square): 6 dB are left where the noise of all is at 20 dB
_WIDER = 10.0  # the range of channels beside which others are parts of their own
_LEAST_SHARE = 1 / 20  # of the channels: one of a hundred is a feature that no input shows, and no part
_FURTHER_OFF = 4.0  # the power of a channel's error over that of the others', beyond which it is no common noise
_LEAST_TO_COMPARE = 10.0  # of the others' variation to their error, in power
_LEAST_VARIATION = 1 / 100  # of the size: what hardly varies beside its mean, as heat maps of random weights (0.3 %)
_LEAST_OF_NARROW = 1 / 1000  # the same beside channels that vary well: half precision leaves 17 dB of it
_NOTHING_LEFT = 1e-12  # relative to the whole output: float64's rounding, such as the mean of what was normalized


@dataclass
class ChannelErrors:
    """Sums over the numbers of each channel, of which moments about any mean follow.

    Attributes:
        axis: along which the channels lie; None where the whole output is one.
        count: of the numbers of one channel.
        shift: a number near the mean of each channel, about which the sums are: shape (C,).
        sums: of the reference's numbers less `shift`, of their squares, and of the squared errors: shape (3, C).
        low: the smallest number of each: shape (C,).
        high: the largest.
        finite: whether all of them are.
    """

    axis: int | None
    count: int
    shift: Floats
    sums: Floats
    low: Floats
    high: Floats
    finite: bool = True

    @staticmethod
    def like(expected: Array, axis: int | None) -> ChannelErrors:
        """Of channels like those of an array, of which nothing was seen yet."""
        rows = _rows(expected, axis)
        shift = rows.mean(axis=1) if rows.size and np.isfinite(rows).all() else np.zeros(len(rows))
        ends = np.full(len(rows), np.inf)
        return ChannelErrors(axis, 0, shift, np.zeros((3, len(rows))), ends, -ends)

    def add(self, computed: Array, expected: Array) -> None:
        """Looks at two further arrays of equal shapes; channels of another number cannot be told apart."""
        actual, exact = _rows(computed, self.axis), _rows(expected, self.axis)
        self.finite = self.finite and len(exact) == len(self.shift)
        self.finite = self.finite and bool(np.isfinite(actual).all() and np.isfinite(exact).all())
        if not self.finite or not exact.size:
            return
        moved = exact - self.shift[:, None]
        self.sums += np.stack([moved.sum(1), np.square(moved).sum(1), np.square(actual - exact).sum(1)])
        self.low, self.high = np.minimum(self.low, exact.min(1)), np.maximum(self.high, exact.max(1))
        self.count += exact.shape[1]

    def parts(self, sizes: Sequence[int]) -> Iterator[ChannelErrors]:
        """Those of so many channels each, in their order."""
        for end, size in zip(np.cumsum(sizes), sizes, strict=True):
            at = slice(end - size, end)
            of_part = (self.shift[at], self.sums[:, at], self.low[at], self.high[at])
            yield ChannelErrors(self.axis, self.count, *of_part, finite=self.finite)

    @property
    def means(self) -> Floats:
        """Of each channel's reference."""
        return np.asarray(self.shift + self.sums[0] / self.count)

    @property
    def variations(self) -> Floats:
        """The variance of each channel's reference."""
        return np.asarray(np.maximum(self.sums[1] / self.count - np.square(self.sums[0] / self.count), 0.0))

    @property
    def errors(self) -> Floats:
        """The mean square error of each channel."""
        return np.asarray(self.sums[2] / self.count)

    @property
    def decibels(self) -> Floats:
        """Of each channel's variation over its error."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(10 * np.log10(self.variations / self.errors))

    def lost(self, largest: float, *, least: float = _LEAST_VARIATION, ratio: float = _LEAST_RATIO) -> Flags:
        """Which channels say nothing; none where they are short, or not all finite.

        Args:
            largest: the largest magnitude of the whole output.
            least: the share of its size that a channel has to vary to be judged.
            ratio: of its variation to its error, in power, below which it is lost.
        """
        if self.count < LEAST_NUMBERS or not self.finite:
            return np.zeros(len(self.shift), np.bool_)
        return _is_lost(self.variations, self.errors, np.square(self.means), largest, least, ratio)

    def is_lost_as_one(self, largest: float) -> bool:
        """Whether all channels together, as numbers of one unit, say nothing."""
        if self.count * len(self.shift) < LEAST_NUMBERS or not self.finite:
            return False
        mean = self.means.mean()
        variation = np.mean(self.variations + np.square(self.means - mean))
        return bool(_is_lost(variation, self.errors.mean(), mean**2, largest))


@dataclass(frozen=True)
class SaysNothing:
    """What was judged of an output, and what of it says nothing.

    Attributes:
        parts: that were judged: operands of a join, and channels that count for themselves.
        lost: how many of these say nothing.
        worst: of the channels that say nothing and count, number and decibels of what they vary, the worst first.
        drowned: how many channels say nothing, whether they count or not.
        channels: how many the output has; 0 where it was not looked at.
        count: of the numbers of one channel: below `LEAST_NUMBERS` none was judged for itself.
        silent: whether channels of too few numbers say nothing, all of them together.
        weak: of channels that vary about as much as others, and say something, those that are told: like `worst`.
    """

    parts: int = 0
    lost: int = 0
    worst: tuple[tuple[int, float], ...] = ()
    drowned: int = 0
    channels: int = 0
    count: int = 0
    silent: bool = False
    weak: tuple[tuple[int, float], ...] = ()


def channel_axis(shape: Sequence[int], joints: Sequence[Parts]) -> int | None:
    """The axis of an output's channels: of what one layer makes, else the shorter of a joined one and torch's own.

    Positions are more than channels: of (1, 8400, 85) the last axis is meant, of (1, 85, 8400) the first but the batch.
    """
    known = [joint for joint in joints if _fits(joint, shape)]
    layer = [joint.axis for joint in known if len(joint.sizes) == 1]
    if layer:
        return layer[0]
    usual = range(1, len(shape)) if len(shape) == 3 else range(1, len(shape))[:1]
    candidates = {joint.axis for joint in known} | set(usual)
    return min(candidates, key=lambda axis: (shape[axis], axis), default=None)


class OutputErrors:
    """What an approximation leaves of an output of real numbers, over as many samples as come.

    Args:
        joints: along which axes the output is joined, and of what.
    """

    def __init__(self, joints: Sequence[Parts]) -> None:
        self._joints = joints
        self._largest = 0.0
        self._axis: int | None = None
        self._by_axis: dict[int | None, ChannelErrors] = {}

    def add(self, computed: Array, expected: Array) -> None:
        """Looks at a sample: two arrays of equal shapes."""
        if not self._by_axis:
            self._axis = channel_axis(expected.shape, self._joints)
            joined = [joint.axis for joint in self._joints if len(joint.sizes) > 1 and _fits(joint, expected.shape)]
            self._by_axis = {axis: ChannelErrors.like(expected, axis) for axis in {self._axis, *joined}}
        self._largest = max(self._largest, float(np.abs(expected).max(initial=0.0)))
        for errors in self._by_axis.values():
            errors.add(computed, expected)

    def judged(self) -> SaysNothing:
        """What says nothing of all that was seen."""
        whole = self._by_axis.get(self._axis)
        if whole is None or not whole.count or not whole.finite:
            return SaysNothing()
        # 1. Operands of joins, each as a whole.
        pieces = [piece for joint in self._joints for piece in self._pieces(joint)]
        parts, lost = len(pieces), sum(piece.is_lost_as_one(self._largest) for piece in pieces)
        # 2. Channels, within the part that they belong to.
        sizes = next((joint.sizes for joint in self._joints if joint.axis == self._axis), ())
        fitting = sizes if sum(sizes) == len(whole.shift) else ()
        counts = _counting(whole, fitting, self._largest)
        offset = _lost_far_from_zero(whole, self._largest)
        counts, is_lost = counts | offset, whole.lost(self._largest) | offset
        at = np.flatnonzero(counts & is_lost)
        weak = np.flatnonzero(_weak(whole, fitting, self._largest) & ~is_lost)
        return SaysNothing(
            parts=parts + int(counts.sum()),
            lost=lost + len(at),
            worst=_by_decibels(whole, at),
            drowned=int(is_lost.sum()),
            channels=len(counts),
            count=whole.count,
            silent=_is_lost_together(whole, self._largest),
            weak=_by_decibels(whole, weak),
        )

    def _pieces(self, joint: Parts) -> list[ChannelErrors]:
        """The operands of a join; none of a layer's channels."""
        errors = self._by_axis.get(joint.axis) if len(joint.sizes) > 1 else None
        fits = errors is not None and errors.finite and len(errors.shift) == sum(joint.sizes)
        return list(errors.parts(joint.sizes)) if errors is not None and fits else []


def says_nothing(pairs: Iterable[tuple[Array, Array]], joints: Sequence[Parts]) -> SaysNothing:
    """Judges an output of real numbers.

    Args:
        pairs: what was computed, and what is right, for each sample; of equal shapes.
        joints: along which axes the output is joined, and of what.
    """
    errors = OutputErrors(joints)
    for computed, expected in pairs:
        errors.add(computed, expected)
    return errors.judged()


def _fits(joint: Parts, shape: Sequence[int]) -> bool:
    return joint.axis < len(shape) and sum(joint.sizes) == shape[joint.axis]


def _counting(whole: ChannelErrors, sizes: Sequence[int], largest: float) -> Flags:
    """Which channels are judged for themselves, part by part: see the module."""
    pieces = list(whole.parts(sizes or [len(whole.shift)]))
    return np.concatenate([_counting_of_part(piece, largest, is_layer=len(sizes) == 1) for piece in pieces])


def _weak(whole: ChannelErrors, sizes: Sequence[int], largest: float) -> Flags:
    """Which channels vary about as much as the others of their part, and are left with little of it."""
    pieces = whole.parts(sizes or [len(whole.shift)])
    return np.concatenate([_is_comparable(piece) & piece.lost(largest, ratio=_LITTLE_RATIO) for piece in pieces])


def _is_comparable(errors: ChannelErrors) -> Flags:
    return np.asarray(errors.variations >= _COMPARABLE**2 * errors.variations.mean())


def _by_decibels(errors: ChannelErrors, channels: Iterable[int]) -> tuple[tuple[int, float], ...]:
    """These channels with what is left of each, the worst first."""
    return tuple(sorted(((int(at), float(errors.decibels[at])) for at in channels), key=lambda item: item[1]))


def _counting_of_part(errors: ChannelErrors, largest: float, *, is_layer: bool) -> Flags:
    lost, variations = errors.lost(largest), errors.variations
    kinds = [_is_comparable(errors) & lost]
    if is_layer:
        widths, deviations = errors.high - errors.low, np.sqrt(variations)
        narrow = (widths < widths.max() / _WIDER) & (deviations < deviations.max() / _WIDER)
        kinds += [narrow, lost & _further_off_than_others(errors, lost)]
    counting = np.zeros(len(lost), np.bool_)
    for kind in kinds:
        if kind.sum() >= _LEAST_SHARE * len(lost):
            counting |= kind
    return counting


def _further_off_than_others(errors: ChannelErrors, lost: Flags) -> Flags:
    """Which channels have an error beyond the noise that they share with those that are not lost."""
    fine = ~lost & (errors.high > errors.low)
    if not lost.any() or fine.sum() < lost.sum():
        return np.zeros(len(lost), np.bool_)
    common = np.median(errors.errors[fine])
    if np.median(errors.variations[fine]) < _LEAST_TO_COMPARE * common:
        return np.zeros(len(lost), np.bool_)
    return np.asarray(errors.errors > _FURTHER_OFF * common)


def _lost_far_from_zero(errors: ChannelErrors, largest: float) -> Flags:
    """Which channels say nothing of the little that they vary beside their mean, next to one that varies well."""
    lost, variations, spans = errors.lost(largest, least=_LEAST_OF_NARROW), errors.variations, errors.high - errors.low
    judged = lost | (np.square(_LEAST_VARIATION) * (variations + np.square(errors.means)) < variations)
    well = np.flatnonzero(judged & ~lost)
    if not len(well):
        return np.zeros(len(lost), np.bool_)
    widest = well[variations[well].argmax()]
    lost &= (variations < variations[widest] / _WIDER**2) & (spans < spans[widest] / _WIDER)
    lost &= ~errors.lost(largest)
    return lost if lost.sum() >= _LEAST_SHARE * len(lost) else np.zeros(len(lost), np.bool_)


def _is_lost_together(errors: ChannelErrors, largest: float) -> bool:
    """Whether channels of too few numbers say nothing, all of them together, about a mean for each."""
    degrees = len(errors.shift) * (errors.count - 1)  # of freedom: each mean takes one
    if errors.count >= LEAST_NUMBERS or degrees < LEAST_NUMBERS or not errors.finite:
        return False
    variation = errors.variations.mean() * errors.count / (errors.count - 1)
    squared_mean = np.square(errors.means).mean()
    return bool(_is_lost(variation, errors.errors.mean(), squared_mean, largest))


def _is_lost(
    variation: Floats,
    error: Floats,
    squared_mean: Floats,
    largest: float,
    share: float = _LEAST_VARIATION,
    ratio: float = _LEAST_RATIO,
) -> Flags:
    """Where the error is too large for a variation that is more than this share of the size, and than rounding."""
    least = np.maximum(np.square(share) * (variation + squared_mean), np.square(_NOTHING_LEFT * largest))
    return np.asarray((variation > least) & (error * ratio > variation))


def _rows(array: Array, axis: int | None) -> Floats:
    """An array with one row for each channel, float64."""
    moved = array[None] if axis is None else np.moveaxis(array, axis, 0)
    return np.asarray(moved, np.float64).reshape(len(moved), -1)
