"""Tries the hypotheses, the likeliest first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.causes._attributes import choices, factors, numbers
from edgeconv.parity.causes._channels import joined_otherwise, moved_channels, values_in_place
from edgeconv.parity.causes._constants import stored_otherwise
from edgeconv.parity.causes._functions import clamped_operands, functions, saturations
from edgeconv.parity.causes._mends import Operation, Part, mends
from edgeconv.parity.causes._normalizations import normalizations
from edgeconv.parity.causes._operands import (
    exchanged_operands,
    flattened_images,
    layers_before,
    misread_operands,
    shifted_places,
)
from edgeconv.parity.causes._piece import Evidence, Hypothesis, Piece, confirmed
from edgeconv.parity.causes._results import exchanged_values, permuted_channels, scaled_channels
from edgeconv.parity.causes._rounding import coarser_numbers, integers
from edgeconv.parity.causes._stated import Stated, stated_otherwise
from edgeconv.parity.causes._weights import misread_weights, weights_of_others
from edgeconv.parity.causes._windows import windows

_MOST_WORK = 1 << 33  # of one search: about 5 s of one core, however large a layer is
_PER_ELEMENT = 16  # products and sums that reading an element, writing it and comparing it take the time of
_FEWEST = 64  # hypotheses that are tried of any layer
_NOTHING: Mapping[str, Array] = MappingProxyType({})
_NO_NODES = Stated({}, {})


def cause_of(
    piece: Piece,
    evidence: Evidence,
    *,
    stored: Mapping[str, Array] = _NOTHING,
    steps: Mapping[str, Array] = _NOTHING,
    others: Mapping[str, Array] = _NOTHING,
    unread: Collection[str] = (),
    elsewhere: Mapping[str, Array] = _NOTHING,
    stated: Stated = _NO_NODES,
    mended: Callable[[], str] = str,
) -> str:
    """Why a result differs from a piece of a graph, in words; empty where no hypothesis explains it.

    A hypothesis is confirmed where the piece, evaluated under it, is within the bound of the actual result, and is not
    without it. One that estimates numbers from the result must explain more elements than it has such numbers.

    Args:
        piece: what should have been computed.
        evidence: what was.
        stored: the constants that the file has for it, in its own layout and precision, by name.
        steps: of the piece's constants that are stored as integers, the scale of one, by name.
        others: further values of the graph, which may stand in its place.
        unread: constants that the file has, and no operator of it reads.
        elsewhere: further constants of the graph, which may stand in the place of the piece's, by name.
        stated: the file's own nodes, where their names are the graph's.
        mended: what the file's own operators tell (`cause_in_operators`), asked before results are scaled and shifted.
    """
    evidence = _in_numbers(evidence)
    differing = evidence.beyond(piece.expected)
    if piece.expected.shape == evidence.actual.shape:
        hypotheses = _hypotheses(piece, evidence, (stored, steps, elsewhere), others, stated)
    else:  # none but these makes another shape of a result
        hypotheses = itertools.chain(stated_otherwise(piece, stated), choices(piece), shifted_places(piece))
    if not differing:
        return ""
    return (
        _confirmed(hypotheses, evidence, differing, _Effort(piece.layers, lambda: piece.evaluations))
        or mended()
        or _confirmed(
            _estimated(piece, evidence), evidence, differing, _Effort(piece.layers, lambda: piece.evaluations)
        )
        or _unread(piece, unread)
    )


def _in_numbers(evidence: Evidence) -> Evidence:
    """With truth values as 0 and 1, which have distances."""
    is_truth = evidence.actual.dtype.kind == "b"
    return replace(evidence, actual=evidence.actual.astype(np.int8)) if is_truth else evidence


def cause_in_constants(piece: Piece, evidence: Evidence, stored: Mapping[str, Array]) -> str:
    """As `cause_of`, by the file's constants alone: for where all else has been tried without them."""
    evidence = _in_numbers(evidence)
    differing = evidence.beyond(piece.expected)
    hypotheses = stored_otherwise(piece, stored, _NOTHING, _NOTHING)
    return _confirmed(hypotheses, evidence, differing, _Effort(piece.layers, lambda: piece.evaluations))


def cause_in_operators(part: Part, due: Evidence, actual: Array) -> str:
    """Why a part of a file computes something else, by the change of one of its operators that mends it; or nothing.

    Args:
        part: the file's operators.
        due: what the graph computes, and how far from it a right file may be.
        actual: what the file computes.
    """
    due = _in_numbers(due)
    spent = 0

    def counted(compute: Callable[..., Array]) -> Callable[..., Array]:
        def again(*arguments: Any) -> Array:
            nonlocal spent
            spent += 1
            return compute(*arguments)

        return again

    part = replace(part, after=counted(part.after), reading=counted(part.reading))
    return _confirmed(mends(part, due, actual), due, due.beyond(actual), _Effort(part.operations, lambda: spent))


class _Effort:
    """How many times some layers may be evaluated again, as `_MOST_WORK` allows: the likeliest hypotheses are tried.

    Counted are the products of weights and data, and elements; a clock would give another answer each time.

    Args:
        layers: between held values and a judged one.
        evaluations: how many times they have been so far.
    """

    def __init__(self, layers: Sequence[Operation], evaluations: Callable[[], int]) -> None:
        work = sum(map(_work, layers))
        self._evaluations = evaluations
        self._most = evaluations() + max(_FEWEST, _MOST_WORK // max(work, 1))

    @property
    def is_left(self) -> bool:
        """Whether another hypothesis may be tried."""
        return self._evaluations() < self._most


def _work(layer: Operation) -> int:
    work = _PER_ELEMENT * sum(array.size for array in (*layer.operands, *layer.results) if array is not None)
    result = layer.results[0]
    for at, array in enumerate(layer.operands):
        if array is not None and array.ndim > 1 and layer.is_constant(at):
            channels = max((size for size in array.shape if size in result.shape), default=1)
            work += result.size * (array.size // max(channels, 1))
    return work


def _confirmed(hypotheses: Iterable[Hypothesis], evidence: Evidence, differing: int, effort: _Effort) -> str:
    """The words of the first hypothesis that is confirmed, as far as the effort allows; none of a right result."""
    if not differing:
        return ""
    tried = itertools.takewhile(lambda _: effort.is_left, hypotheses)
    return next((item.words for item in tried if confirmed(item, evidence, differing)), "")


def _unread(piece: Piece, unread: Collection[str]) -> str:
    """Of a layer none of whose constants is read: what stands in its place is none of the graph's values."""
    for layer in piece.layers:
        inputs = [layer.node.inputs[at] for at in layer.constants()]
        names = {value.name or "" for value in inputs if value is not None}
        if names and names <= {*unread}:
            return f"{layer.name} is left out: the file reads none of its constants"
    return ""


def _hypotheses(
    piece: Piece,
    evidence: Evidence,
    constants: tuple[Mapping[str, Array], Mapping[str, Array], Mapping[str, Array]],
    others: Mapping[str, Array],
    stated: Stated,
) -> Iterator[Hypothesis]:
    # 1. Other constants in the file: an observed difference, which needs no guess.
    yield from stored_otherwise(piece, *constants)
    # 2. Another operator, attribute or order: each has few alternatives, and none is likely to fit by chance.
    yield from windows(piece, evidence)
    yield from clamped_operands(piece)
    yield from functions(piece, evidence)
    yield from layers_before(piece)
    yield from choices(piece)
    yield from joined_otherwise(piece)
    yield from normalizations(piece)
    yield from exchanged_operands(piece)
    yield from misread_operands(piece)
    yield from misread_weights(piece)
    yield from weights_of_others(piece, constants[2])
    yield from flattened_images(piece)
    yield from permuted_channels(piece, evidence)
    yield from shifted_places(piece)
    yield from exchanged_values(evidence, others)
    yield from moved_channels(piece, evidence)
    yield from values_in_place(piece, others)
    yield from stated_otherwise(piece, stated)
    # 3. One number of a layer, estimated from the result; truth values and places, which many numbers fit, wait.
    if piece.expected.dtype.kind == "f":
        yield from numbers(piece, evidence)


def _estimated(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    if piece.expected.shape != evidence.actual.shape:
        return
    # 4. Estimated of the result itself, whatever made it, from one number to two per channel: the more there are, the
    # more they explain without being the cause.
    yield from saturations(piece, evidence)
    if piece.expected.dtype.kind != "f":
        yield from numbers(piece, evidence)
    yield from integers(piece, evidence)
    yield from factors(piece, evidence)
    yield from scaled_channels(piece, evidence)
    # 5. Last, since it allows a wider bound, which would explain smaller faults of any other kind as well.
    yield from coarser_numbers(piece, evidence)
