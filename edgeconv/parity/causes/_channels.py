"""Channels in other places in front of a layer, or behind one inside of a piece; other values in operands' places."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from edgeconv.core import Array
from edgeconv.graph.traits import Trait, having
from edgeconv.parity.causes._piece import Evidence, Hypothesis, Layer, Piece

_MOST_CHANNELS = 512  # whose pairs are compared
_SEEN = 48  # elements of the result that pairs are told apart by
_STEP = 2.0**-10  # relative, of a layer's result: what becomes of it behind the layer
_LINEAR = having(Trait.LAYER)
_IMAGES = having(Trait.LAYER | Trait.WINDOWS)
_MOST_VALUES = 400  # of the graph, that are tried in an operand's place


def moved_channels(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """Channels of an operand, or of an inner result, reversed, shifted, shuffled, or two of them exchanged."""
    for at, layer in enumerate(piece.layers):
        for index in layer.computed_operands:
            array = layer.operands[index]
            several = len(layer.computed_operands) > 1
            what = f"operand {index} of {layer.name}" if several else f"the operand of {layer.name}"
            if array is not None:
                for words, moved in _in_order(array):
                    yield Hypothesis(f"{what} {words}", partial(piece.again, at, {index: moved}))
        if at < len(piece.layers) - 1 and len(layer.results) == 1 and layer.result.dtype.kind == "f":
            for words, moved in _in_order(layer.result):
                yield Hypothesis(f"the result of {layer.name} {words}", partial(piece.after, at, (moved,)))
    yield from _two_wrong(piece, evidence)
    for at, layer in enumerate(piece.layers):
        if layer.operator in _LINEAR and layer.is_constant(1):
            yield from _exchanged(piece, at, layer, evidence)


def _two_wrong(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """Where the result is wrong in two channels alone: these two exchanged in an operand, or in an inner result."""
    expected, actual = piece.expected, evidence.actual
    if expected.shape != actual.shape or expected.ndim < 2:
        return
    axis = 1
    wrong = np.abs(actual - expected) > evidence.tolerance(expected)
    places = np.flatnonzero(wrong.any(axis=tuple(other for other in range(wrong.ndim) if other != axis)))
    if len(places) != 2:
        return
    first, second = (int(place) for place in places)
    order = np.arange(expected.shape[axis])
    order[[first, second]] = second, first
    for at, layer in enumerate(piece.layers):
        for index in layer.computed_operands:
            array = layer.operands[index]
            if array is not None and array.ndim > axis and array.shape[axis] == len(order):
                what = f"operand {index}" if len(layer.computed_operands) > 1 else "the operand"
                words = f"{what} of {layer.name} has its channels {first} and {second} exchanged"
                yield Hypothesis(words, partial(piece.again, at, {index: np.take(array, order, axis)}))
        if len(layer.results) == 1 and layer.result.ndim > axis and layer.result.shape[axis] == len(order):
            words = f"the result of {layer.name} has its channels {first} and {second} exchanged"
            yield Hypothesis(words, partial(piece.after, at, (np.take(layer.result, order, axis),)))


def _in_order(array: Array) -> Iterator[tuple[str, Array]]:
    """An array with its channels, or its last axis, in the orders that mistakes lead to."""
    for axis in dict.fromkeys((1, array.ndim - 1)) if array.ndim > 1 else ():
        count = array.shape[axis]
        places = np.arange(count)
        orders = {"in reverse order": places[::-1], "each in its neighbor's place": np.roll(places, 1)}
        orders["each in its neighbor's place, the other way"] = np.roll(places, -1)
        for groups in (size for size in range(2, count) if count % size == 0):
            shuffled = places.reshape(groups, -1)
            orders[f"shuffled in {groups} groups"] = shuffled.T.reshape(-1)
            orders[f"with its {groups} groups in reverse order"] = shuffled[::-1].reshape(-1)
        for words, order in orders.items() if count > 1 else ():
            called = "channels" if axis == 1 else "last axis"
            yield f"has its {called} {words}", np.take(array, order, axis)


def _exchanged(piece: Piece, at: int, layer: Layer, evidence: Evidence) -> Iterator[Hypothesis]:
    """Two channels of a layer's operand in each other's places, or two of its weights, which is the same.

    What an exchange changes is known of each pair from a few elements of the result, without computing it whole.
    """
    axis = 1 if layer.operator in _IMAGES else layer.data.ndim - 1
    count = layer.data.shape[axis]
    moved = _moved(piece, at, layer, evidence)
    if moved is None or not 1 < count <= _MOST_CHANNELS:
        return
    places, change = moved
    shares = _shares(layer, places)
    if shares is None:
        return
    own = np.einsum("ekk->ek", shares)
    pairs = shares + shares.swapaxes(1, 2) - own[:, :, None] - own[:, None, :]
    distance = np.abs(pairs - change[:, None, None]).max(0)
    first, second = (int(place) for place in np.unravel_index(int(np.argmin(distance)), distance.shape))
    if first != second:
        order = np.arange(count)
        order[[first, second]] = second, first
        words = f"the operand of {layer.name} has its channels {min(first, second)} and {max(first, second)} exchanged"
        yield Hypothesis(words, partial(piece.again, at, {0: np.take(layer.data, order, axis)}))


def _moved(piece: Piece, at: int, layer: Layer, evidence: Evidence) -> tuple[Array, Array] | None:
    """Some elements of a layer's result, and by how much they were others, as far as what is behind it shows that.

    Behind it are activations and normalizations, which compute each element by itself and are straight almost
    everywhere; where they are not, the element is left out.
    """
    result, expected, actual = layer.result, piece.expected, evidence.actual
    if result.shape != expected.shape or actual.shape != expected.shape or result.dtype.kind != "f":
        return None
    step = _STEP * float(np.abs(result).max(initial=0.0))
    if not step:
        return None
    slopes = (piece.after(at, (result + step,)) - expected) / step
    with np.errstate(all="ignore"):
        change = np.where(slopes == 0, np.nan, (actual - expected) / slopes)
    there = result + np.nan_to_num(change)
    below, reached, above = (piece.after(at, (there + by,)) for by in (-step, 0.0, step))
    # At a limit, one side moves nothing: what was cut off there is not known.
    straight = np.abs(above - below - 2 * step * slopes) <= _STEP * np.abs(step * slopes)
    tolerance = evidence.tolerance(expected)
    wrong = np.abs(actual - expected) > tolerance
    valid = np.isfinite(change) & straight & wrong & (np.abs(reached - actual) <= tolerance)
    indices = np.argwhere(valid)
    if not len(indices):
        return None
    chosen = indices[np.linspace(0, len(indices) - 1, min(_SEEN, len(indices))).astype(int)]
    return chosen, change[tuple(chosen.T)]


def _shares(layer: Layer, places: Array) -> Array | None:
    """What weights of one channel make of another, (element, channel of the weights, channel of the operand)."""
    weights, data = layer.operands[1], layer.data
    if weights is None:
        return None
    if layer.operator in _IMAGES:
        of_image = _of_windows if layer.operator == "Conv" else _of_spread_windows
        return of_image(layer, weights, places) if data.ndim == 4 else None
    if weights.ndim != 2 or (layer.operator == "Gemm" and layer.attribute("transA", 0)):
        return None
    columns = weights.T if layer.operator == "Gemm" and layer.attribute("transB", 0) else weights
    rows = data.reshape(-1, data.shape[-1])
    flat = np.ravel_multi_index(tuple(places[:, :-1].T), data.shape[:-1]) if data.ndim > 1 else np.zeros(len(places))
    factor = layer.attribute("alpha", 1.0) if layer.operator == "Gemm" else 1.0
    shares: Array = factor * columns[:, places[:, -1]].T[:, :, None] * rows[flat.astype(int)][:, None, :]
    return shares


def _of_windows(layer: Layer, weights: Array, places: Array) -> Array | None:
    """The same of a convolution of images."""
    pads, data = layer.attribute("pads", [0] * 4), layer.data
    if layer.attribute("auto_pad", "NOTSET") != "NOTSET":
        return None
    strides, dilations = layer.attribute("strides", [1, 1]), layer.attribute("dilations", [1, 1])
    padded = np.pad(data, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    per_group, groups = weights.shape[1], layer.attribute("group", 1)
    shares = np.zeros((len(places), data.shape[1], data.shape[1]))
    for row, (batch, output, *corner) in enumerate(places.tolist()):
        taps = [
            start * stride + dilation * np.arange(size)
            for start, stride, dilation, size in zip(corner, strides, dilations, weights.shape[2:], strict=True)
        ]
        window = padded[batch][:, taps[0][:, None], taps[1][None, :]].reshape(data.shape[1], -1)
        first = output // (len(weights) // groups) * per_group
        shares[row, first : first + per_group] = weights[output].reshape(per_group, -1) @ window.T
    return shares


def _of_spread_windows(layer: Layer, weights: Array, places: Array) -> Array | None:
    """The same of a transposed convolution: each element is a sum over the taps that meet a pixel."""
    pads, data = layer.attribute("pads", [0] * 4), layer.data
    if layer.attribute("auto_pad", "NOTSET") != "NOTSET" or layer.attribute("output_shape", list[int]()):
        return None
    strides, dilations = layer.attribute("strides", [1, 1]), layer.attribute("dilations", [1, 1])
    count, per_group = data.shape[1], weights.shape[1]
    members = count // layer.attribute("group", 1)
    shares = np.zeros((len(places), count, count))
    for row, (batch, output, *corner) in enumerate(places.tolist()):
        met = []
        for axis, start in enumerate(corner):
            steps = start + pads[axis] - dilations[axis] * np.arange(weights.shape[2 + axis])
            pixels = steps // strides[axis]
            taps = np.flatnonzero((steps % strides[axis] == 0) & (pixels >= 0) & (pixels < data.shape[2 + axis]))
            met.append((taps, pixels[taps]))
        (rows, above), (columns, beside) = met
        window = data[batch][:, above[:, None], beside[None, :]].reshape(count, -1)
        first = output // per_group * members
        kernel = weights[first : first + members, output % per_group][:, rows[:, None], columns[None, :]]
        shares[row, first : first + members] = kernel.reshape(members, -1) @ window.T
    return shares


def joined_otherwise(piece: Piece) -> Iterator[Hypothesis]:
    """Operands joined along another axis, and axes that are not moved: numbers in their order, in the right shape."""
    for at, layer in enumerate(piece.layers):
        if layer.operator == "Transpose":
            taken = layer.data.reshape(layer.result.shape)
            yield Hypothesis(
                f"{layer.name} is left out, and its numbers are taken in their order",
                partial(piece.after, at, (taken,)),
            )
        if layer.operator == "Reshape":
            yield from _taken_in_another_order(piece, at, layer)
        parts = [array for array in layer.operands if array is not None]
        if layer.operator == "Concat" and len({part.shape for part in parts}) == 1:
            own = layer.attribute("axis", 0) % layer.result.ndim
            for axis in (axis for axis in range(layer.result.ndim) if axis != own):
                joined = np.concatenate(parts, axis).reshape(layer.result.shape)
                yield Hypothesis(
                    f"{layer.name} is along axis {axis} instead of {own}", partial(piece.after, at, (joined,))
                )


def _taken_in_another_order(piece: Piece, at: int, layer: Layer) -> Iterator[Hypothesis]:
    """Two sizes of a new shape exchanged, and their axes moved back."""
    shape = layer.result.shape
    for first, second in itertools.combinations(range(len(shape)), 2):
        if shape[first] != shape[second] and min(shape[first], shape[second]) > 1:
            sizes = list(shape)
            sizes[first], sizes[second] = sizes[second], sizes[first]
            taken = layer.data.reshape(sizes).swapaxes(first, second)
            words = f"{layer.name} has its axes {first} and {second} in another order"
            yield Hypothesis(words, partial(piece.after, at, (taken,)))


def values_in_place(piece: Piece, others: Mapping[str, Array]) -> Iterator[Hypothesis]:
    """Another value of the graph in an operand's place."""
    for at, layer in enumerate(piece.layers):
        for index in layer.computed_operands:
            operand, value = layer.operands[index], layer.node.inputs[index]
            if operand is None or value is None:
                continue
            called = f"operand {index}" if len(layer.computed_operands) > 1 else "its operand"
            alike = ((name, array) for name, array in others.items() if array.shape == operand.shape)
            for name, array in itertools.islice(alike, _MOST_VALUES):
                words = f"{layer.name} reads {name} in place of {called}"
                yield Hypothesis(words, partial(piece.again, at, {index: array}))
