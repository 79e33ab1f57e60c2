"""Which numbers of a few arrays many others have: without ordering these, which are all weights of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeconv.core import Array

ORDERS = {2: ((0, 1), (1, 0)), 3: ((0, 1, 2), (0, 2, 1), (1, 2, 0)), 4: ((0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0))}
"""By rank: the orders of axes in which files hold a constant of the graph: as it is, and as TFLite has weights."""
TRIVIAL = (0, 1, -1)
"""Numbers that any constant may have."""

_NEAR = 2.0**-8  # relative: the most that numbers which are taken for others, altered, differ from these
_FEW_UNITS = 2  # in the last place
_FEW = 16  # numbers that are looked for one by one, which reads an array as often


class Pool:
    """The numbers of some arrays, and those that any constant may have.

    Args:
        arrays: whose numbers they are.
        convert: brings one of them to the type of what is looked for.
    """

    def __init__(self, arrays: Sequence[Array], convert: Callable[[Array], Array]) -> None:
        self._arrays = sorted(arrays, key=lambda array: array.size)  # a number is found in the small ones for less
        self._convert = convert

    def missing(self, arrays: Sequence[Array]) -> Array:
        """The numbers of arrays of one type that are not among these: ascending, each once, without NaN."""
        numbers = _unique([array for array in arrays if array.size] or [np.zeros(0)])
        numbers = numbers[~np.isin(numbers, np.array(TRIVIAL, numbers.dtype))]
        for array in self._arrays:
            if not numbers.size:
                break
            numbers = numbers[~_among(numbers, self._convert(array).reshape(-1))]
        return numbers


def of_these(array: Array, numbers: Array) -> Array:
    """Those of some numbers that an array has, ascending."""
    return numbers[_among(numbers, array.reshape(-1))] if numbers.size else numbers


def _unique(arrays: Sequence[Array]) -> Array:
    numbers = np.unique(np.concatenate([array.reshape(-1) for array in arrays]))
    return np.asarray(numbers[~np.isnan(numbers)])


def _among(numbers: Array, array: Array) -> Array:
    """Which of some numbers, ascending, are elements of an array."""
    if numbers.size <= _FEW:
        return np.array([bool((array == number).any()) for number in numbers], np.bool_)
    if array.size < numbers.size:
        places = np.minimum(np.searchsorted(numbers, array), numbers.size - 1)
        result = np.zeros(numbers.size, np.bool_)
        result[places[numbers[places] == array]] = True
        return result
    ordered = np.sort(array)
    places = np.minimum(np.searchsorted(ordered, numbers), ordered.size - 1)
    return np.asarray(ordered[places] == numbers)


def are_multiples(array: Array, constant: Array) -> bool:
    """Whether floats are one factor times those of a constant, in its order: a product of a writer's own.

    Scales of a normalization whose variances are all 1, say. A factor so near to 1 that it is a few units in the last
    place may be a fault of all numbers.
    """
    if array.size != constant.size or array.size == 1 or array.dtype == np.float64:
        return False
    held, stated = (numbers.reshape(-1).astype(np.float64) for numbers in (array, constant))
    held, stated = held[stated != 0], stated[stated != 0]
    unit = float(np.finfo(array.dtype).eps)
    factor = float(np.median(held / stated)) if stated.size else 1.0
    return abs(factor - 1) > _FEW_UNITS * unit and bool(
        (np.abs(held - factor * stated) <= 2 * unit * np.abs(held)).all()
    )


def chance(numbers: Array, absent: Array) -> float:
    """How likely numbers that have nothing to do with those that are absent lie as near to them.

    A number x lies within d of one of n that are spread over [x/2, 2x] with a probability of about 2dn / 1.5x.
    """
    ordered = absent.astype(np.float64)  # ascending
    altered = numbers.astype(np.float64)
    places = np.searchsorted(ordered, altered)
    sides = [ordered[np.clip(places + step, 0, len(ordered) - 1)] for step in (-1, 0)]
    distance = np.minimum(*(np.abs(side - altered) for side in sides))
    if not (distance <= _NEAR * np.abs(altered)).all():
        return 1.0
    ends = np.sort(np.stack([altered / 2, altered * 2]), axis=0)
    count = np.searchsorted(ordered, ends[1], side="right") - np.searchsorted(ordered, ends[0])
    likely = 2 * distance * count / (1.5 * np.abs(altered))
    return float(min(1.0, likely.max())) ** len(altered)
