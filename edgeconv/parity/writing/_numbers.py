"""Which numbers of a few arrays many others have: without ordering these, which are all weights of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeconv.core import Array

ORDERS = {2: ((0, 1), (1, 0)), 3: ((0, 1, 2), (0, 2, 1), (1, 2, 0)), 4: ((0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0))}
"""By rank: the orders of axes in which files hold a constant of the graph: as it is, and as TFLite has weights."""
TRIVIAL = (0, 1, -1)
"""Numbers that any constant may have."""

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
