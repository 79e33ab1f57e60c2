"""Constants whose numbers in a file are not the graph's: whether they explain the result, and how they were changed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.causes._piece import Hypothesis, Piece
from edgeconv.parity.causes._weights import change_of

_ORDERS = {
    2: ((0, 1), (1, 0)),
    3: ((0, 1, 2), (0, 2, 1), (1, 2, 0)),
    4: ((0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0), (2, 3, 1, 0), (2, 3, 0, 1)),
}
"""How files order the axes of a constant: as torch, channels last, as depthwise and transposed convolutions do."""
_MOST_PARTS = 8
_MOST_ROWS = 16  # of a kernel
_OTHERS = "has other numbers"
_NEAR = 2.0**-10  # relative: a unit of float16, or what a step is off as a float32
_LEAST = 1e-300  # in place of a divisor of zero
_TELLING_ROWS = 16  # of a matrix, which tell in what order its columns are
_MOST = 24  # combinations of constants that are tried


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A constant of the graph as the file may hold it: its name, its numbers in torch's layout, the change in words."""

    name: str
    array: Array
    words: str


def stored_otherwise(
    piece: Piece, stored: Mapping[str, Array], steps: Mapping[str, Array], elsewhere: Mapping[str, Array]
) -> Iterator[Hypothesis]:
    """The constants of the piece as the file has them, one by one, and two together.

    Args:
        piece: of the graph.
        stored: the file's constants that the same value is computed from, in the file's layout and precision.
        steps: of the graph's constants that are stored as integers, the scale of one.
        elsewhere: constants of the graph whose numbers may stand in the place of these.
    """
    candidates = {
        name: [*_candidates(name, due, stored, steps.get(name)), *_parts(name, due, stored)]
        for name, due in piece.names.items()
    }
    for name, items in candidates.items():
        items[:] = [_named_after_another(item, name, steps, elsewhere) for item in items]
    # `change_of` speaks of the first axis as of output channels.
    transposed = _read_by_columns(piece)
    singles = [
        replace(item, words=_exchanged_sides(item.words)) if item.name in transposed else item
        for items in candidates.values()
        for item in items
    ]
    for item in singles:
        words = f"the constant {item.name} {item.words}"
        yield Hypothesis(words, partial(piece.with_constants, {item.name: item.array}))
    pairs = (pair for pair in itertools.combinations(singles, 2) if pair[0].name != pair[1].name)
    for first, second in itertools.islice(pairs, _MOST):
        same = first.words == second.words
        words = f"the constant {first.name} {first.words}" if first.words else ""
        words += f", and {second.name} too" if same else f", and {second.name} {second.words}"
        changed = {item.name: item.array for item in (first, second)}
        yield Hypothesis(words, partial(piece.with_constants, changed))


def change_of_constant(due: Array, array: Array, step: Array | None = None) -> str:
    """How a constant of a file differs from the graph's, in words that follow its name; empty where no rule knows.

    Args:
        due: the graph's.
        array: the file's, in its layout and precision.
        step: of integers, what one more is worth.
    """
    words = (item.words for item in _candidates("", due, {"": array}, step))
    return next((text for text in words if text != _OTHERS), "")


def _named_after_another(
    item: _Candidate, name: str, steps: Mapping[str, Array], elsewhere: Mapping[str, Array]
) -> _Candidate:
    """Numbers that no change explains are told by the constant that has them: the real numbers, or the integers."""
    if item.words != _OTHERS:
        return item
    for other, array in elsewhere.items():
        if other == name or array.shape != item.array.shape:
            continue
        same = np.array_equal(array, item.array) or np.array_equal(array.astype(np.float16), item.array)
        if not same and name in steps and other in steps:
            same = np.array_equal(np.rint(array / steps[other]), np.rint(item.array / steps[name]))
        if same:
            return replace(item, words=f"has the numbers of {other}")
    return item


def _read_by_columns(piece: Piece) -> set[str]:
    """The constants whose first axis is that of inputs: matrices behind a product, and filters of transposed layers."""
    names = set()
    for layer in piece.layers:
        by_columns = layer.operator in ("MatMul", "ConvTranspose")
        by_columns |= layer.operator == "Gemm" and not layer.attribute("transB", 0)
        second = layer.node.inputs[1] if by_columns and layer.is_constant(1) else None
        if second is not None:
            names.add(second.name or "")
    return names


def _exchanged_sides(words: str) -> str:
    """Words on a matrix, where outputs and inputs are the other axes."""
    sides = {"output": "input", "input": "output"}
    return re.sub(r"\b(output|input) channels", lambda side: f"{sides[side[1]]} channels", words)


def _candidates(name: str, due: Array, stored: Mapping[str, Array], step: Array | None = None) -> Iterator[_Candidate]:
    """What the file may hold in a constant's place, the one of the same name first."""
    alike = [other for other, array in stored.items() if array.size == due.size]
    for other in sorted(alike, key=lambda item: (item != name, item)):
        array = stored[other]
        for moved_back in _in_the_graphs_order(array, due, step):
            if np.array_equal(moved_back, due):
                continue
            words = change_of(_in_precision(due, array), moved_back, step)
            yield _Candidate(name, moved_back.astype(np.float64), words or _OTHERS)


def _parts(name: str, due: Array, stored: Mapping[str, Array]) -> Iterator[_Candidate]:
    """A constant that the file holds in parts along an axis (channels, rows of a kernel), one of which is changed."""
    for other, axis in itertools.product(sorted(stored), range(min(due.ndim, 3))):
        array, size = stored[other], due.shape[axis]
        length = array.size * size // max(due.size, 1)
        if due.ndim < 2 or not 0 < length < size or array.size * size != length * due.size:
            continue
        for rows in _slices(size, length, spread=axis == 2):
            place = (slice(None),) * axis + (rows,)
            part = due[place]
            for order in _ORDERS.get(due.ndim, ()):
                moved_back = _moved_back(array, part, order)
                if moved_back is None or np.array_equal(moved_back, part):
                    continue
                whole = due.astype(np.float64)
                whole[place] = moved_back
                words = change_of(_in_precision(part, array), moved_back) or "has other numbers"
                yield _Candidate(name, whole, f"{words}, in the part {list(range(size))[rows]} along axis {axis}")


def _slices(size: int, length: int, *, spread: bool) -> Iterator[slice]:
    """The parts of an axis, one behind the other; of a kernel's rows any evenly spread ones, as dilation has them."""
    if not spread:
        yield from (slice(at, at + length) for at in range(0, min(size, _MOST_PARTS * length), length))
        return
    for step in range(1, size if size <= _MOST_ROWS else 1):
        yield from (slice(at, at + (length - 1) * step + 1, step) for at in range(size - (length - 1) * step))


def _in_the_graphs_order(array: Array, due: Array, step: Array | None) -> Iterator[Array]:
    """A file's constant in each order of axes that it may have; first in that of a map that was flattened, if it is."""
    moved = [_moved_back(array, due, order) for order in _ORDERS.get(due.ndim, ((*range(due.ndim),),))]
    plain = [item for item in moved if item is not None]
    if due.ndim == 2 and due.dtype.kind == "f":
        yield from _flattened(plain, due, step)
    yield from plain


def _flattened(plain: Sequence[Array], due: Array, step: Array | None) -> Iterator[Array]:
    """A matrix whose rows or columns are a map with channels last, in the order of one with channels first.

    How many channels there were is told by the numbers, which are then near to the graph's: within a step for most.
    """
    most = np.abs(due) * _NEAR if step is None else np.broadcast_to(step * (1 + _NEAR), due.shape)
    for array, axis in itertools.product(plain, (1, 0)):
        size, rows = due.shape[axis], slice(0, _TELLING_ROWS)
        arrays = [np.moveaxis(item, axis, 1)[rows] for item in (array, due, most)]
        for channels in (count for count in range(2, size) if size % count == 0):
            first = _channels_first(arrays[0], channels)
            with np.errstate(invalid="ignore"):  # of infinite numbers, whose median is NaN: not near
                distance = np.median(np.abs(first - arrays[1]) / np.maximum(arrays[2], _LEAST))
            if distance <= 1:
                yield np.moveaxis(_channels_first(np.moveaxis(array, axis, 1), channels), 1, axis)
                return


def _channels_first(matrix: Array, channels: int) -> Array:
    """Columns of places, each with all channels, as columns of channels, each with all places."""
    return matrix.reshape(len(matrix), -1, channels).swapaxes(1, 2).reshape(matrix.shape)


def _moved_back(array: Array, due: Array, order: tuple[int, ...]) -> Array | None:
    """A file's constant in the graph's order of axes; None where its shape is another."""
    shape = tuple(due.shape[axis] for axis in order)
    if tuple(size for size in shape if size > 1) != tuple(size for size in array.shape if size > 1):
        return None
    return np.asarray(array.reshape(shape).transpose(np.argsort(order)))


def _in_precision(due: Array, array: Array) -> Array:
    with np.errstate(over="ignore"):
        return due.astype(array.dtype) if array.dtype.kind == "f" else due
