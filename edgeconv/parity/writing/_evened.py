"""Integer weights of another converter's that evened out channels: are they the module's, but for a factor each?

Cross-layer equalization (Nagel et al. 2019, section 4.1) divides what a layer makes of a channel by a factor, and
multiplies what the next one reads: an element of a weight is the module's times a factor of its row and one of its
column, rounded. Both are fitted; what a converter's rounding leaves then is alike in all elements, and where a few are
much further off than all others, these are wrong.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

from edgeconv.core import Array

_TELLING = 8  # steps: a smaller number is mostly rounding, and no factor is estimated from it
_LEAST = 8  # numbers of a row or a column; of fewer its factor is not estimated
_ROUNDS = 6
_OUTLYING = 3.0  # steps; what is further off takes no part in the fit
_FEW = 0.25  # of the numbers: two of eight channels that were exchanged
_PER_FACTOR = 4  # right numbers; fewer are fitted by chance
_BEYOND = 2.0  # times what the others are off, and a step: the gap behind which numbers are wrong
_MOST_OFF = 3.0  # steps, that right numbers are off; a fit that leaves more explains nothing


def outlying(held: Array, due: Array, steps: Array) -> tuple[Array, Array] | None:
    """Which elements are wrong, and what the fit expects of all; none where the fit explains nothing.

    Args:
        held: the real numbers that integers stand for, rows on axis 0 and columns on axis 1.
        due: the module's.
        steps: of each.
    """
    if due.ndim < 2 or due.shape[0] < 2:
        return None
    # 1. Factors that a few wrong numbers cannot move: medians, without numbers that may have been cut off.
    cut = np.abs(held) >= np.abs(held).max()
    telling = (np.abs(held) >= _TELLING * steps) & (due * held > 0) & ~cut
    fitted = due * _medians(held, due, telling)
    # 2. Nearer ones by least squares, of the numbers that are near to the fit so far.
    for _ in range(_ROUNDS):
        near = telling & (np.abs(held - fitted) <= _OUTLYING * steps)
        for axis in (0, 1):
            fitted = fitted * _factors(held, fitted, near, axis)
    # 3. What all numbers are off then, in steps.
    apart = np.abs(held - fitted) / steps
    known = np.isfinite(apart) & ~(cut & (np.abs(fitted) > np.abs(held)))
    if np.count_nonzero(known) < known.size / 2:
        return None
    return _behind_a_gap(np.where(known, apart, 0.0), fitted)


def _behind_a_gap(apart: Array, fitted: Array) -> tuple[Array, Array] | None:
    """Rows and columns that are off as a whole, then elements."""
    wrong = np.zeros(apart.shape, np.bool_)
    for axis in (0, 1):
        middle = np.median(apart, axis=_others(apart.ndim, axis), keepdims=True)
        wrong |= middle > _end_of_most(middle)
    rest = apart[~wrong]
    wrong |= apart > _end_of_most(rest)
    right = np.count_nonzero(~wrong)
    if right < (1 - _FEW) * apart.size or right < _PER_FACTOR * sum(apart.shape[:2]):
        return None
    if apart[~wrong].max(initial=0.0) > _MOST_OFF:
        return None
    return wrong, fitted


def _end_of_most(numbers: Array) -> float:
    """The number behind which a gap is; infinite where there is none among the few largest."""
    ordered = np.sort(numbers, axis=None)
    first = max(0, math.ceil(ordered.size * (1 - _FEW)) - 1)
    gaps = np.flatnonzero(ordered[first + 1 :] > _BEYOND * ordered[first:-1] + 1)
    return float(ordered[first + gaps[0]]) if gaps.size else math.inf


def _medians(held: Array, due: Array, telling: Array) -> Array:
    """Factors of rows and columns, as they broadcast, by medians: a few numbers may be anything."""
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a row without a telling number
        ratios = np.where(telling, np.log(np.abs(held / due)), np.nan)
        logs = np.zeros_like(ratios)
        for _ in range(_ROUNDS):
            for axis in (0, 1):
                logs = logs + np.nanmedian(ratios - logs, axis=_others(due.ndim, axis), keepdims=True)
    return np.exp(logs)


def _factors(held: Array, fitted: Array, near: Array, axis: int) -> Array:
    """By least squares, of each row or column; 1 where too few numbers tell it."""
    others = _others(held.ndim, axis)
    product = np.where(near, held * fitted, 0.0).sum(axis=others, keepdims=True)
    square = np.where(near, fitted * fitted, 0.0).sum(axis=others, keepdims=True)
    told = near.sum(axis=others, keepdims=True) >= _LEAST
    return np.asarray(np.where(told, product / np.where(told, square, 1.0), 1.0))


def _others(rank: int, axis: int) -> tuple[int, ...]:
    return tuple(place for place in range(rank) if place != axis)
