"""Integer weights of a file that another converter wrote: are they the module's, rounded?

How a converter quantizes is its own affair: which scale, whether per channel, whether it evens out channels, rounds to
the nearest or learns which way, by more than a step where that pays. But where nearly all numbers are the nearest
integers of a module's constant, the few that are far from it are wrong; where all are another factor or some steps
away, the scale or the zero point is. Acceptance thresholds at the outputs see none of this: one weight of ten thousand
moves them by less than the quantization itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing._evened import outlying

_ORDERS = {2: ((0, 1), (1, 0)), 3: ((0, 1, 2), (0, 2, 1), (1, 2, 0)), 4: ((0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0))}
_LEAST = 4  # numbers, of which a share says something
_MOST_AGREE = 2 / 3
_FEW = 0.02  # of the numbers; where more are off, the converter learnt which way to round (Nagel et al. 2020)
_NEAR = 2.0**-10  # relative to a step: folding in float32 moves a number that lies between two integers
_FIT = 0.25  # steps, that a factor found by least squares may be off at the largest number
_FURTHEST = 4  # steps that a zero point is looked for at


def wrong_integers(
    integers: Mapping[str, tuple[Array, Array]], constants: Mapping[str, Array]
) -> Iterator[tuple[str, str]]:
    """Name and one line of each quantized constant that is one of a module's, but for something.

    Args:
        integers: of the file, by name: the real numbers that they stand for, and a step as it broadcasts.
        constants: of the module, normalizations folded, by name.
    """
    by_size: dict[int, list[Array]] = {}
    for array in constants.values():
        by_size.setdefault(array.size, []).append(array.astype(np.float64))
    rounded: dict[str, _Rounded] = {}
    for name, (held, step) in integers.items():
        steps = np.broadcast_to(step, held.shape)
        alike = by_size.get(held.size, []) if _is_telling(held) and (steps > 0).all() else []
        layouts = [moved for due in alike for moved in _layouts(due, held)]
        if not layouts:
            continue
        best = max((_Rounded(held, due, steps) for due in layouts), key=lambda item: float(item.agree.mean()))
        if best.agree.mean() >= _MOST_AGREE:
            rounded[name] = best
            continue
        text = next(filter(None, (_shifted(held, due, steps) for due in layouts)), "")
        text = text or next(filter(None, (_wrong_beside_others(held, due, steps) for due in alike)), "")
        if text:
            yield name, f"constant {name}: {text}"
    for name, item in rounded.items():
        if 0 < item.wrong <= max(1, _FEW * item.held.size) and item.furthest > 1 + _NEAR:
            yield name, f"constant {name}: {item.told()}"
        elif item.wrong:
            alike = by_size[item.held.size]
            text = next(filter(None, (_wrong_beside_others(item.held, due, item.steps) for due in alike)), "")
            if text:
                yield name, f"constant {name}: {text}"


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
    def agree(self) -> Array:
        return _agreeing(self.held, self.due, self.steps)

    @property
    def wrong(self) -> int:
        return int(np.count_nonzero(~self.agree))

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


def _wrong_beside_others(held: Array, due: Array, steps: Array) -> str:
    """Of a constant that is the module's times factors of its rows and columns, but for a few numbers."""
    for order in _ORDERS.get(due.ndim, ()):
        shape = due.transpose(order).shape
        back = np.argsort(order)
        stored, stored_steps = (array.reshape(shape).transpose(back) for array in (held, steps))
        found = outlying(stored, due, stored_steps)
        if found is not None:
            wrong, fitted = found
            count = int(np.count_nonzero(wrong))
            at = np.unravel_index(int(np.argmax(np.where(wrong, np.abs(stored - fitted), 0.0))), due.shape)
            return (
                f"{count} of {held.size} numbers {'is' if count == 1 else 'are'} further from the module's than all "
                f"others, but for a factor of each channel; {[int(place) for place in at]} stands for "
                f"{stored[at]:.6g} where {fitted[at]:.6g} is expected"
            )
    return ""


def _layouts(due: Array, held: Array) -> Iterator[Array]:
    orders = _ORDERS.get(due.ndim, ((*range(due.ndim),),))
    yield from (due.transpose(order).reshape(held.shape) for order in orders)


def _agreeing(held: Array, due: Array, steps: Array, slack: float = _NEAR) -> Array:
    """Where an integer is the nearest one; a number beyond the largest magnitude is cut off."""
    cut = (np.abs(due) > np.abs(held)) & (np.abs(held) >= np.abs(held).max())
    near = np.abs(held - due) <= steps * (0.5 + slack)
    return np.asarray(near | (cut & (np.sign(due) == np.sign(held))))


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
