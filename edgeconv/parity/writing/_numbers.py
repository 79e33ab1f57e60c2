"""Which numbers of a few arrays many others have: without ordering these, which are all weights of a network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from edgeconv.core import Array

ORDERS = {2: ((0, 1), (1, 0)), 3: ((0, 1, 2), (0, 2, 1), (1, 2, 0)), 4: ((0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0))}
"""By rank: the orders of axes in which files hold a constant of the graph: as it is, and as TFLite has weights."""
TRIVIAL = (0, 1, -1)
"""Numbers that any constant may have."""

_NEAR = 2.0**-8  # relative: the most that numbers which are taken for others, altered, differ from these
_FEW_UNITS = 2  # in the last place
_GATES = (1, 3, 4)  # of an RNN, a GRU, an LSTM
_DIRECTIONS = 2  # at most: forward and reverse
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


def of_gates(array: Array, constant: Array) -> Array | None:
    """What each of some floats is due to be, if they are biases of a recurrence, gate by gate in any order.

    An LSTM, a GRU or an RNN of ONNX has two for each gate in a row, [Wb, Rb] (B of its specification), which a writer
    adds up at once, where nothing is done to one of them alone. Each number is rounded once.

    Returns:
        The nearest numbers; None where most of some gate's are others.
    """
    if constant.ndim != 2 or len(constant) > _DIRECTIONS or array.dtype == np.float64:
        return None
    due: list[Array] = []
    for gates in (gates for gates in _GATES if constant.shape[1] % (2 * gates) == 0):
        hidden = constant.shape[1] // (2 * gates)
        if hidden <= _FEW_UNITS or array.size % hidden or not hidden <= array.size <= gates * hidden:
            continue
        for first, second in constant.astype(np.float64).reshape(len(constant), 2, gates, hidden):
            rows = _nearest_rows(array.reshape(-1, hidden), (first, second, first + second))
            due += [] if rows is None else [rows.reshape(array.shape)]
    return min(due, key=lambda numbers: int(np.count_nonzero(numbers != array)), default=None)


def _nearest_rows(blocks: Array, stated: Sequence[Array]) -> Array | None:
    """For each block the gate that most of its numbers are those of, each gate once, rounded to their type."""
    rows, free = [], [*range(len(stated[0]))]
    for block in blocks:
        best: tuple[float, int, Array] | None = None
        for exact, gate in itertools.product(stated, free):
            # A half may be rounded by way of float32, as `is_rounded` has it.
            with np.errstate(over="ignore", invalid="ignore"):
                once, twice = exact[gate].astype(block.dtype), exact[gate].astype(np.float32).astype(block.dtype)
            due = np.where(twice == block, twice, once)
            telling = (due != 0) | (block != 0)  # zeros agree by chance
            differing = int(np.count_nonzero(due != block)) / (int(np.count_nonzero(telling)) or 1)
            if best is None or differing < best[0]:
                best = differing, gate, due
        if best is None or 2 * best[0] >= 1:
            return None
        rows.append(best[2])
        free.remove(best[1])
    return np.stack(rows)


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
