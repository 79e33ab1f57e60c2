"""Operands that look for trouble, for calls of torch's and what was captured of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing import OnDemand, lowered, past_kinks, signed

_Arrays = Mapping[str, Array]
# Numbers at which functions of torch's bend, jump or change their form by themselves.
_BENDS = (0.0, 0.5, 1.0, 3.0, 6.0, 20.0)
_NEAR = (0.0, 2.0**-20, -(2.0**-20), 2.0**-6, -(2.0**-6), 0.25, -0.25)  # relative to a number: on it, and on both sides
_MOST_NUMBERS = 1 << 10
_LARGEST = 2.0**100  # a number of more is a stand-in for infinity
_SEEDS = (0, 1)


def troubling_operands(
    inputs: _Arrays,
    values: _Arrays,
    reaches: Sequence[float],
    numbers: Mapping[str, Collection[float]],
    never_negative: Collection[str],
) -> Iterator[tuple[_Arrays, _Arrays]]:
    """Inputs and held values in place of a sample's; integers and booleans stay what they are.

    Beyond every kink, of both signs, and without zeros; small, so that what is added to a variance counts; all of one
    sign, so that a maximum or its padding shows; and around each number at which something bends or jumps, on it (two
    operands of one call are equal there in places), a few units of float32 beside it, and further off.

    Args:
        inputs: the sample's, by name.
        values: what the graph computes of it, by name.
        reaches: how far kinks lie, see `reach_of_graph`.
        numbers: that the calls which read an input or a value state, by its name: limits, slopes, eps.
        never_negative: the values that no input makes negative.
    """
    furthest = max((abs(number) for own in numbers.values() for number in own if abs(number) < _LARGEST), default=1.0)
    for larger, beyond in past_kinks(inputs, values, [*reaches, 2 * max(furthest, 1.0)], never_negative):
        changed = {name: _of_one_nan(array) for name, array in larger.items()}
        yield changed, OnDemand.of_each(values, partial(_read_of, beyond))
    changes: list[Callable[[str, Array], Array]] = [_lowered, partial(_of_sign, -1.0), partial(_of_sign, 1.0)]
    changes += [partial(_with_numbers, numbers, seed) for seed in _SEEDS]
    for change in changes:
        changed = {name: change(name, array) for name, array in inputs.items()}
        yield changed, OnDemand.of_each(values, partial(_changed, values, change))


def _read_of(values: _Arrays, name: str) -> Array:
    return _of_one_nan(values[name])


def _of_one_nan(array: Array) -> Array:
    """An array whose NaN have no sign of their own: copysign reads one in torch, and nothing does in ONNX."""
    is_whole = array.dtype.kind != "f" or not np.isnan(array.max(initial=0.0))
    return array if is_whole else np.where(np.isnan(array), np.nan, array)


def _changed(values: _Arrays, change: Callable[[str, Array], Array], name: str) -> Array:
    return change(name, values[name])


def _lowered(name: str, array: Array) -> Array:
    return lowered(array)


def _of_sign(sign: float, name: str, array: Array) -> Array:
    return signed(array, sign)


def _with_numbers(numbers: Mapping[str, Collection[float]], seed: int, name: str, array: Array) -> Array:
    """Real numbers with others in place of half of them, in places that are drawn."""
    if array.dtype.kind != "f":
        return array
    stated = sorted({abs(number) for number in numbers.get(name, ()) if abs(number) < _LARGEST})
    near = [number + offset * (number or 1.0) for number in stated for offset in _NEAR]
    rounded = [float(np.float32(number)) for number in stated]  # where a file bends
    around = np.array([*_BENDS, *rounded, *near])[:_MOST_NUMBERS]
    generator = np.random.default_rng([seed, array.size])
    drawn = generator.choice(around, array.shape) * generator.choice([-1.0, 1.0], array.shape)
    return np.where(generator.integers(0, 2, array.shape) > 0, drawn, array)
