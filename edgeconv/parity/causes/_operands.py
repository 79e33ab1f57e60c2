"""Operands in another layout or order, exchanged, doubled; parts of results exchanged."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.causes._piece import Hypothesis, Layer, Piece
from edgeconv.parity.causes._weights import Move

_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Max", "Min")
# Operators of the same operands and attributes, one of which may stand in another's place.
KINDRED = (
    _ARITHMETIC,
    ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"),
    ("And", "Or", "Xor"),
    ("ArgMax", "ArgMin"),
    ("Softmax", "LogSoftmax"),
    ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd"),
)
_MOST_PERMUTED = 4  # operands whose every order is tried
_SHIFTS = (1, -1, 2, -2)


def image_moves(image: Array) -> Iterator[Move]:
    """The ways in which an image (N, C, H, W) may be read wrongly, in words and as functions."""
    batch, channels, height, width = image.shape
    stored = (batch, height, width, channels)
    yield (
        "is read in another layout: (N, H, W, C) is taken for (N, C, H, W)",
        lambda array: array.transpose(0, 2, 3, 1).reshape(array.shape),
    )
    yield (
        "is read in another layout: (N, C, H, W) is taken for (N, H, W, C)",
        lambda array: array.reshape(stored).transpose(0, 3, 1, 2),
    )
    if height == width:
        yield "is read with height and width exchanged", lambda array: array.swapaxes(2, 3)
    yield "is read mirrored left to right", lambda array: array[..., ::-1]
    yield "is read upside down", lambda array: array[:, :, ::-1]
    if channels == 3:
        yield "is read with its channels in reverse order (RGB and BGR)", lambda array: array[:, ::-1]


def misread_operands(piece: Piece) -> Iterator[Hypothesis]:
    """Each operand in another layout, and the result."""
    for at, layer in enumerate(piece.layers):
        for index in layer.computed_operands:
            array = layer.operands[index]
            if array is not None and array.ndim == 4 and min(array.shape[1:]) >= 1 and array[0].size > 1:
                for words, move in image_moves(array):
                    what = (
                        f"operand {index} of {layer.name}"
                        if len(layer.computed_operands) > 1
                        else f"the operand of {layer.name}"
                    )
                    yield Hypothesis(f"{what} {words}", partial(piece.again, at, {index: move(array)}))
        yield from _misread_behind_padding(piece, at, layer)
    if piece.expected.ndim == 4 and piece.expected[0].size > 1:
        for words, move in image_moves(piece.expected):
            yield Hypothesis(f"the result {words}", partial(move, piece.expected))


def _misread_behind_padding(piece: Piece, at: int, layer: Layer) -> Iterator[Hypothesis]:
    """The image of a window with its padding, which some runtimes write out, in another layout."""
    pads = layer.attribute("pads", list[int]())
    if layer.operator != "Conv" or layer.data.ndim != 4 or len(pads) != 4 or not any(pads):
        return
    padded = np.pad(layer.data, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    for words, move in image_moves(padded):
        words = f"the operand of {layer.name}, with its padding, {words}"
        yield Hypothesis(words, partial(_without_padding, piece, at, move(padded)))


def _without_padding(piece: Piece, at: int, image: Array) -> Array:
    return piece.again(at, {0: image}, {"pads": [0, 0, 0, 0]})


def layers_before(piece: Piece) -> Iterator[Hypothesis]:
    """A layer before the piece left out: the piece reads that layer's operand in place of its result."""
    for value, alternatives in piece.before.items():
        for words, array in alternatives:
            yield Hypothesis(words, partial(piece.reading, {value: array}))


def flattened_images(piece: Piece) -> Iterator[Hypothesis]:
    """An image that becomes a row of numbers, in another order of its axes."""
    for at, layer in enumerate(piece.layers):
        rows = layer.result.ndim == 2 and layer.data.ndim == 4 and layer.data.size == layer.result.size
        if layer.operator not in ("Flatten", "Reshape") or not rows:
            continue
        # 216 combinations: how the image is stored, which sizes it is taken for, how it is transposed from there.
        for stored, sizes, order in itertools.product(*[list(itertools.permutations((1, 2, 3)))] * 3):
            words = f"{layer.name} takes the axes of the image in another order"
            yield Hypothesis(words, partial(_flattened, piece, at, stored, sizes, order))


def _flattened(piece: Piece, at: int, stored: tuple[int, ...], sizes: tuple[int, ...], order: tuple[int, ...]) -> Array:
    """Stored in one order of axes, taken for another, and moved from there to the right one."""
    image = piece.layers[at].data
    misread = image.transpose(0, *stored).reshape(image.shape[0], *(image.shape[axis] for axis in sizes))
    turned = misread.transpose(0, *order).reshape(image.shape[0], *(image.shape[axis] for axis in stored))
    return piece.after(at, (turned.transpose(0, *np.argsort(stored) + 1).reshape(piece.layers[at].result.shape),))


def exchanged_operands(piece: Piece) -> Iterator[Hypothesis]:
    """Operands in another order, one in another's place, another arithmetic operator, results exchanged."""
    for at, layer in enumerate(piece.layers):
        places = [index for index, array in enumerate(layer.operands) if array is not None and array.dtype.kind == "f"]
        several = len(places) > 1 and (
            layer.operator in (*_ARITHMETIC, "Concat", "MatMul") or len(layer.computed_operands) > 1
        )
        if several and len(layer.computed_operands) >= 1:
            yield from _orders(piece, at, layer, places)
        for kindred in (operators for operators in KINDRED if layer.operator in operators):
            for other in (kind for kind in kindred if kind != layer.operator):
                words = f"{layer.name} is computed as {other}"
                yield Hypothesis(words, partial(piece.again, at, operator=other))
        if len(layer.results) > 1:
            for first, second in itertools.combinations(range(len(layer.results)), 2):
                results = list(layer.results)
                results[first], results[second] = results[second], results[first]
                words = f"results {first} and {second} of {layer.name} are exchanged"
                yield Hypothesis(words, partial(piece.after, at, results))


def _orders(piece: Piece, at: int, layer: Layer, places: Sequence[int]) -> Iterator[Hypothesis]:
    """All orders of a few operands, exchanges of two of many; and one operand read twice."""
    orders: list[tuple[int, ...]] = list(itertools.permutations(places)) if len(places) <= _MOST_PERMUTED else []
    if not orders:
        for first, second in itertools.combinations(range(len(places)), 2):
            swapped = list(places)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            orders.append(tuple(swapped))
    for order in orders:
        if list(order) != list(places):
            operands = {place: layer.operands[source] for place, source in zip(places, order, strict=True)}
            words = f"the operands of {layer.name} are in another order ({', '.join(map(str, order))})"
            yield Hypothesis(words, partial(piece.again, at, operands))
    for first, second in itertools.permutations(places, 2):
        words = f"{layer.name} reads operand {first} in place of operand {second}, too"
        yield Hypothesis(words, partial(piece.again, at, {second: layer.operands[first]}))


def shifted_places(piece: Piece) -> Iterator[Hypothesis]:
    """Integers that say which elements are taken: of Slice, Gather, Split."""
    for at, layer in enumerate(piece.layers):
        if layer.operator not in ("Slice", "Gather"):
            continue
        for by in _SHIFTS:
            operands: dict[int, Array | None] = {}
            for index in (1, 2) if layer.operator == "Slice" else (1,):
                array = layer.operands[index] if len(layer.operands) > index else None
                # An end beyond 2^31 stands for that of the axis, wherever it is, and has no neighbor.
                if array is not None and (index == 1 or np.abs(array).max(initial=0) < 2**31):
                    operands[index] = array + by
            words = f"the places that {layer.name} takes are shifted by {by}"
            yield Hypothesis(words, partial(piece.again, at, operands))
