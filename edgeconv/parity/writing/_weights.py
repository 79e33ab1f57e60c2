"""Integer weights of a file that another converter wrote: are they the module's, rounded?

How a converter quantizes is its own affair: which scale, whether per channel, whether it evens out channels, rounds to
the nearest or learns which way, by more than a step where that pays. But where nearly all numbers are the nearest
integers of a module's constant, the few that are far from it are wrong; where all are another factor or some steps
away, the scale or the zero point is. Acceptance thresholds at the outputs see none of this: one weight of ten thousand
moves them by less than the quantization itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing._evened import outlying
from edgeconv.parity.writing._numbers import ORDERS

_LEAST = 4  # numbers; a share of fewer may be chance
_MOST_AGREE = 2 / 3  # share of the numbers that are the nearest integers: then it is that constant of the module
_FEW = 0.02  # of the numbers; where more are off, the converter learned which way to round (Nagel et al. 2020)
_NEAR = 2.0**-10  # relative to a step: folding in float32 moves a number that lies between two integers
_FOLDED = 2.0**-20  # relative to the largest number of a constant: the same of a bias of many steps
_FIT = 0.25  # steps, that a factor found by least squares may be off at the largest number
_FURTHEST = 4  # steps that a zero point is looked for at
_CONSTANTS = 3  # with the nearest integers throughout: then the converter is known to round so
_MOST_SIGNS = 0.3  # of the numbers, more of the same sign than of the other
_PAIR = 128  # the most that the magnitudes of a pair-safe pair add up to: 255 times that is 2^15 - 128
_SCALE = 1e-3  # relative: less than 127 and 128 parts of a largest number are apart
_REACH = 256  # steps: a sum that a converter made one layer of, and another none, has other numbers in few places

Orders = tuple[Array | None, Array | None]


class Rounding:
    """The integer constants of a file beside those of a module.

    Args:
        integers: of the file, by name: the real numbers that they stand for, and a step as it broadcasts.
        constants: of the module, by name, for each graph of it: as it was captured, and with normalizations folded in
            one way and another. Which of them a converter has is its own affair.
        weights: names of those that layers multiply by, and of their biases: these alone are evened out, and rounded
            as is learned. Without it, all are.
    """

    def __init__(
        self,
        integers: Mapping[str, tuple[Array, Array]],
        constants: Sequence[Mapping[str, Array]],
        weights: Collection[str] | None = None,
    ) -> None:
        self._weights = weights
        self._by_size: dict[int, list[Array]] = {}
        for graph in constants:
            for array in graph.values():
                alike = self._by_size.setdefault(array.size, [])
                if not any(other.shape == array.shape and np.array_equal(other, array) for other in alike):
                    alike.append(array.astype(np.float64))
        # Each constant of the file beside that of the module, in that order of axes, which most of its numbers fit.
        self._nearest: dict[str, _Rounded] = {}
        self._layouts: dict[str, list[Array]] = {}
        for name, (held, step) in integers.items():
            steps = np.broadcast_to(step, held.shape)
            alike = self._by_size.get(held.size, []) if _is_telling(held) and (steps > 0).all() else []
            layouts = [moved for due in alike for moved in _layouts(due, held)]
            if layouts:
                self._layouts[name] = layouts
                candidates = (_Rounded(held, due, steps) for due in layouts)
                self._nearest[name] = max(candidates, key=lambda item: float(item.agree.mean()))

    @property
    def to_nearest(self) -> bool:
        """Whether the converter rounds each number to the nearest, and evens out nothing.

        Evening out changes at least two weights.
        """
        weights = [item for item in self._nearest.values() if item.held.ndim > 1]
        exact = sum(not item.wrong for item in self._nearest.values())
        return exact >= _CONSTANTS and sum(item.wrong > 0 for item in weights) <= 1

    @property
    def corrects_biases(self) -> bool:
        """Whether biases make up for what rounding weights does (Nagel et al. 2019): one at least is another."""
        return any(item.held.ndim < 2 and item.agree.mean() < _MOST_AGREE for item in self._nearest.values())

    def faults(self, orders: Mapping[str, Orders] | None = None) -> Iterator[tuple[str, str]]:
        """Name and one line of each constant that is one of the module's, but for something.

        Args:
            orders: which rows and columns of the module's those of a constant are, by name; as they are without.
        """
        to_nearest = self.to_nearest
        for name, item in self._nearest.items():
            text = self._fault(name, item, to_nearest, (orders or {}).get(name, (None, None)))
            if text:
                yield name, f"constant {name}: {text}"

    def _fault(self, name: str, item: _Rounded, to_nearest: bool, orders: Orders) -> str:
        """What is wrong with a constant; empty where it is the module's, rounded in one way or another, or no match."""
        if not item.wrong:
            return ""
        # 1. Most numbers are the nearest integers of the module's: it is that constant, and the others are wrong, but
        # for those that learned rounding has put on the other side (by a step at the most, where there are few).
        if item.agree.mean() >= _MOST_AGREE:
            if item.is_seen:
                return ""
            if to_nearest or (self._weights is not None and name not in self._weights):
                return item.told()
            if item.wrong <= max(1, _FEW * item.held.size):
                return item.told() if item.furthest > 1 + item.slack else ""
        # 2. All numbers are off by the same: its scale or its zero point is wrong.
        else:
            layouts = self._layouts[name]
            text = next(filter(None, (_shifted(item.held, due, item.steps) for due in layouts)), "")
            if text:
                return text
            if any(_exchanged_scales(item.held, due, item.steps) for due in layouts):
                return "its integers are the module's, by the scales of other channels"
        # 3. Channels were evened out, perhaps reordered: what a factor of each does not explain is wrong.
        alike = [due for due in self._by_size.get(item.held.size, []) if due.ndim > 1]
        alike += [moved for due in alike if (moved := _reordered(due, orders)) is not None]
        texts = [_wrong_beside_others(item.held, due, item.steps) for due in alike]
        return "" if "" in texts else next((text for text in texts if text is not None), "")


def _reordered(due: Array, orders: Orders) -> Array | None:
    """A constant with its rows and columns in another order; none where it stays as it is, or has others."""
    rows, columns = orders
    if columns is not None and (due.shape[1] != columns.size):
        columns = None
    if (rows is None and columns is None) or (rows is not None and due.shape[0] != rows.size):
        return None
    due = due if rows is None else due[rows]
    return due if columns is None else due[:, columns]


def _is_telling(held: Array) -> bool:
    """Whether numbers of one magnitude, which are near to anything that is larger, are few."""
    return held.size >= _LEAST and bool(np.mean(np.abs(held) == np.abs(held).max()) < 1 - _MOST_AGREE)


@dataclass(frozen=True, eq=False)
class _Rounded:
    """A constant of the file beside the module's that it is nearest to."""

    held: Array
    due: Array
    steps: Array

    @cached_property
    def slack(self) -> float:
        """Steps that a number may be further off than half a one."""
        return _NEAR + _FOLDED * float(np.abs(self.due / self.steps).max(initial=0.0))

    @cached_property
    def agree(self) -> Array:
        return _agreeing(self.held, self.due, self.steps, self.slack) | self._pair_safe

    @property
    def _pair_safe(self) -> Array:
        """Those one step nearer to zero, so that two beside each other do not overflow 16 bits on x86 without VNNI.

        Such a pair is at most 128: its products with 255 are added up in int16 (VPMADDUBSW).
        """
        if self.held.ndim < 2:
            return np.zeros(self.held.shape, np.bool_)
        magnitude = np.abs(np.rint(self.held / self.steps))
        beside = np.zeros(magnitude.shape)
        beside[..., 1:] = magnitude[..., :-1]
        after = np.zeros(magnitude.shape)
        after[..., :-1] = magnitude[..., 1:]
        full = (magnitude + beside == _PAIR) | (magnitude + after == _PAIR)
        nearer = (np.abs(self.due) > np.abs(self.held)) & (self.due * self.held >= 0)
        return np.asarray(full & nearer & (np.abs(self.due - self.held) <= self.steps))

    @property
    def wrong(self) -> int:
        return int(np.count_nonzero(~self.agree))

    @property
    def is_seen(self) -> bool:
        """Whether a number is further off than integers reach: what reads it says then whether it is the module's."""
        return self.held.ndim > 1 and self.furthest > _REACH

    @cached_property
    def _apart(self) -> Array:
        """In steps, where they do not agree."""
        return np.where(self.agree, 0.0, np.abs(self.held - self.due) / self.steps)

    @property
    def furthest(self) -> float:
        return float(self._apart.max())

    def told(self) -> str:
        at = np.unravel_index(int(np.argmax(self._apart)), self.held.shape)
        several = f"{self.wrong} of {self.held.size} numbers {'is' if self.wrong == 1 else 'are'}"
        return (
            f"{several} not the nearest to the module's; {[int(place) for place in at]} stands for "
            f"{self.held[at]:.6g}, and the module has {self.due[at]:.6g}, {self.furthest:.2g} steps away"
        )


def _wrong_beside_others(held: Array, due: Array, steps: Array) -> str | None:
    """Of a constant that is the module's times factors of its rows and columns, but for a few numbers.

    Empty where it is so for all numbers; none where it is not the module's.
    """
    told = None
    for order in ORDERS.get(due.ndim, ()):
        shape = due.transpose(order).shape
        back = np.argsort(order)
        stored, stored_steps = (array.reshape(shape).transpose(back) for array in (held, steps))
        if np.sum(np.sign(stored) * np.sign(due)) < _MOST_SIGNS * due.size:
            continue  # factors are positive
        found = outlying(stored, due, stored_steps)
        if found is None:
            continue
        wrong, fitted = found
        if not wrong.any():
            return ""
        count = int(np.count_nonzero(wrong))
        at = np.unravel_index(int(np.argmax(np.where(wrong, np.abs(stored - fitted), 0.0))), due.shape)
        told = told or (
            f"{count} of {held.size} numbers {'is' if count == 1 else 'are'} further from the module's than all "
            f"others, but for a factor of each channel; {[int(place) for place in at]} stands for "
            f"{stored[at]:.6g} where {fitted[at]:.6g} is expected"
        )
    return told


def _layouts(due: Array, held: Array) -> Iterator[Array]:
    orders = ORDERS.get(due.ndim, ((*range(due.ndim),),))
    yield from (due.transpose(order).reshape(held.shape) for order in orders)


def _agreeing(held: Array, due: Array, steps: Array, slack: float = _NEAR) -> Array:
    """Where an integer is the nearest one; a number beyond the largest magnitude is cut off."""
    cut = (np.abs(due) > np.abs(held)) & (np.abs(held) >= np.abs(held).max())
    near = np.abs(held - due) <= steps * (0.5 + slack)
    return np.asarray(near | (cut & (np.sign(due) == np.sign(held))))


def _exchanged_scales(held: Array, due: Array, steps: Array) -> bool:
    """Whether the integers are the module's by the scales of other channels: a share of the largest number of each."""
    axes = [axis for axis in range(steps.ndim) if steps.shape[axis] > 1 and np.ptp(steps, axis=axis).any()]
    if len(axes) != 1:
        return False
    others = tuple(axis for axis in range(steps.ndim) if axis != axes[0])
    counts = np.rint(held / steps)
    scales, most = steps.max(others, keepdims=True), float(np.abs(counts).max(initial=0.0))
    if not most or np.abs(counts).max(others).min() < most - 1:
        return False  # a channel that does not use its whole range tells no scale
    stated = np.abs(due).max(others, keepdims=True) / most
    if not stated.all() or not np.allclose(np.sort(scales, None), np.sort(stated, None), rtol=_SCALE, atol=0):
        return False
    return bool(_agreeing(counts * stated, due, stated).mean() >= _MOST_AGREE)


def _shifted(held: Array, due: Array, steps: Array) -> str:
    """Of a constant that is the module's times a factor, or some steps away, all of it."""
    for count in (*range(-_FURTHEST, 0), *range(1, _FURTHEST + 1)):
        if _agreeing(held - count * steps, due, steps).mean() > 1 - _FEW:
            return f"its zero point is {abs(count)} off: all numbers are {count:+d} steps from the module's"
    energy = float(np.sum(due * due))
    factor = float(np.sum(held * due)) / energy if energy else 1.0
    if factor > 0 and _agreeing(held / factor, due, steps / factor, _FIT).mean() > 1 - _FEW:
        return f"its scale is {factor:.4g} times what the module's numbers have"
    return ""
