"""Convolutions and pools: padding (side, amount, value, mode), phase of strides, dilation, kind of window."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgeconv.core import Array
from edgeconv.graph.traits import Trait, having
from edgeconv.parity.causes._fit import fitted
from edgeconv.parity.causes._piece import Evidence, Hypothesis, Layer, Piece

_POOLS = having(Trait.WINDOWS | Trait.BY_CHANNEL)
_WINDOWS = ("Conv", *_POOLS)
_MODES = {
    "edge": "the nearest cell",
    "reflect": "the image mirrored at its edge cells",
    "symmetric": "a mirrored image",
}
_DILATIONS = (1, 2, 3, 4)
_MOST = 48  # combinations of paddings
_WHOLE = {"GlobalAveragePool": "GlobalMaxPool", "GlobalMaxPool": "GlobalAveragePool"}
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin", "ReduceL2", "ReduceL1")


@dataclass(frozen=True)
class _Window:
    """A window along the spatial axes: its attributes, and the sizes of the image before and after."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    sizes: tuple[int, ...]
    results: tuple[int, ...]

    @classmethod
    def of(cls, layer: Layer) -> _Window | None:
        """Of a layer; None where its padding is not stated as numbers."""
        rank = layer.data.ndim - 2
        weight = layer.operands[1] if layer.operator == "Conv" else None
        kernel = layer.attribute("kernel_shape", [] if weight is None else list(weight.shape[2:]))
        pads = layer.attribute("pads", [0] * (2 * rank))
        if layer.attribute("auto_pad", "NOTSET") != "NOTSET" or len(kernel) != rank or rank < 1:
            return None
        return cls(
            tuple(kernel),
            tuple(layer.attribute("strides", [1] * rank)),
            tuple(layer.attribute("dilations", [1] * rank)),
            tuple(pads[:rank]),
            tuple(pads[rank:]),
            layer.data.shape[2:],
            layer.result.shape[2:],
        )

    def needed(self, axis: int, dilation: int | None = None) -> int:
        """The least padding, of both sides together, with which the result has the size that it has."""
        extent = (self.kernel[axis] - 1) * (dilation or self.dilations[axis]) + 1
        return max((self.results[axis] - 1) * self.strides[axis] + extent - self.sizes[axis], 0)

    def pads(self, begins: Sequence[int], dilations: Sequence[int] | None = None) -> list[int]:
        """ONNX's ``pads`` with these in front, and as many behind as the size of the result needs."""
        stated = dilations or self.dilations
        ends = [max(self.needed(axis, stated[axis]) - begin, 0) for axis, begin in enumerate(begins)]
        return [*begins, *ends]


def windows(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """Other paddings, phases, dilations and kinds of windows."""
    for at, layer in enumerate(piece.layers):
        if layer.operator in _WINDOWS and (window := _Window.of(layer)) is not None:
            yield from _other_sides(piece, at, window)
            yield from _other_padding(piece, at, window, evidence)
            yield from _other_dilations(piece, at, window)
        if layer.operator in _POOLS:
            yield from _other_pools(piece, at)
        if layer.operator == "Pad":
            yield from _other_pads(piece, at)
        if layer.operator == "ConvTranspose":
            yield from _transposed(piece, at)
        kinds = _REDUCTIONS if layer.operator in _REDUCTIONS else (_WHOLE.get(layer.operator, layer.operator),)
        for kind in (kind for kind in kinds if kind != layer.operator):
            attributes = {"keepdims": layer.attribute("keepdims", 1)} if kind in _REDUCTIONS else {}
            yield Hypothesis(f"{layer.name} is computed as {kind}", _of_kind(piece, at, kind, attributes))


def _of_kind(piece: Piece, at: int, kind: str, attributes: dict[str, Any]) -> Callable[[], Array]:
    def compute() -> Array:
        layer = piece.layers[at]
        operands: dict[int, Array | None] = {}
        axes = layer.attribute("axes", list[int]())
        if axes and len(layer.operands) < 2:
            operands = {1: np.array(axes, np.int64)}
        return piece.again(at, operands, attributes, kind)

    return compute


def _other_sides(piece: Piece, at: int, window: _Window) -> Iterator[Hypothesis]:
    """Padding moved from one side to the other, which shifts the cells that a window with strides reads.

    The usual case is SAME padding: TensorFlow puts the odd cell behind, where torch's symmetric padding has it in front
    too.
    """
    layer = piece.layers[at]
    stated = [*window.begins, *window.ends]
    totals = [begin + end for begin, end in zip(window.begins, window.ends, strict=True)]
    counts = [range(max(window.needed(axis), total) + 1) for axis, total in enumerate(totals)]
    # SAME_UPPER of ONNX and SAME of TensorFlow: half of what is needed in front, rounded down.
    same = tuple(window.needed(axis) // 2 for axis in range(len(window.sizes)))
    choices = [begins for begins in itertools.product(*counts) if begins != window.begins]
    # The nearest first: three axes have too many to try all.
    choices.sort(key=lambda begins: sum(abs(a - b) for a, b in zip(begins, window.begins, strict=True)))
    for begins in choices[:_MOST]:
        pads = window.pads(begins)
        phase = " (another phase of its stride)" if max(window.strides) > 1 else ""
        phase += ", which is what SAME means" if begins == same and max(window.strides) > 1 else ""
        words = f"the padding of {layer.name} is {_sides(pads)} instead of {_sides(stated)}{phase}"
        yield Hypothesis(words, partial(piece.again, at, attributes={"pads": pads}))


def _sides(pads: Sequence[int]) -> str:
    half = len(pads) // 2
    return f"{list(pads[:half])} before and {list(pads[half:])} behind"


def _other_padding(piece: Piece, at: int, window: _Window, evidence: Evidence) -> Iterator[Hypothesis]:
    """Padding with other values: the edge's, a mirrored image, a number."""
    layer = piece.layers[at]
    if not any((*window.begins, *window.ends)):
        return
    widths = [(0, 0), (0, 0), *zip(window.begins, window.ends, strict=True)]
    # The padding is written out with np.pad, and the layer itself then has none.
    bare = {"pads": [0] * (2 * len(window.sizes)), "ceil_mode": 0}

    def padded(array: Array) -> Array:
        return piece.again(at, {0: array}, {k: v for k, v in bare.items() if k in layer.node.attributes})

    for mode, words in _MODES.items():

        def of_mode(mode: str = mode) -> Array:
            return padded(np.pad(layer.data, widths, mode=mode))  # type: ignore[call-overload]

        yield Hypothesis(f"the padding of {layer.name} holds {words} instead of zeros", of_mode)

    def of_number(number: float) -> Array:
        return padded(np.pad(layer.data, widths, constant_values=number))

    for number in (1.0, -1.0):
        yield Hypothesis(f"the padding of {layer.name} holds {number:g} instead of zeros", partial(of_number, number))
    if layer.operator == "Conv":
        for number in fitted(of_number, 0.0, evidence.actual):
            words = f"the padding of {layer.name} holds {number:.6g} instead of zeros"
            yield Hypothesis(words, partial(of_number, number), fitted=1)


def _other_dilations(piece: Piece, at: int, window: _Window) -> Iterator[Hypothesis]:
    layer = piece.layers[at]
    rank = len(window.sizes)
    if max(window.kernel) == 1:
        return
    for dilation in _DILATIONS:
        dilations = [dilation if size > 1 else 1 for size in window.kernel]
        if tuple(dilations) == window.dilations:
            continue
        grow = [(size - 1) * (dilation - old) for size, old in zip(window.kernel, window.dilations, strict=True)]
        # Padded so that the window keeps its center, its end (causal), or by half of what the size needs, as SAME does.
        centered = [begin + more // 2 for begin, more in zip(window.begins, grow, strict=True)]
        halves = [window.needed(axis, dilations[axis]) // 2 for axis in range(rank)]
        causal = [begin + more for begin, more in zip(window.begins, grow, strict=True)]
        for begins in dict.fromkeys((tuple(centered), tuple(causal), tuple(halves))):
            if min(begins) >= 0:
                attributes = {"dilations": dilations, "pads": window.pads(begins, dilations)}
                words = f"the dilation of {layer.name} is {dilations} instead of {list(window.dilations)}"
                yield Hypothesis(words, partial(piece.again, at, attributes=attributes))


def _other_pools(piece: Piece, at: int) -> Iterator[Hypothesis]:
    layer = piece.layers[at]
    if layer.operator == "AveragePool":
        counted = 1 - layer.attribute("count_include_pad", 0)
        words = f"{layer.name} {'counts' if counted else 'leaves out'} the cells of its padding"
        yield Hypothesis(words, partial(piece.again, at, attributes={"count_include_pad": counted}))
        yield from _other_divisors(piece, at)
    names = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")
    attributes = {name: layer.node.attributes[name].value for name in names if name in layer.node.attributes}
    other = "AveragePool" if layer.operator == "MaxPool" else "MaxPool"
    for counted in (0, 1):
        stated = {**attributes, "count_include_pad": counted} if other == "AveragePool" else attributes
        yield Hypothesis(f"{layer.name} is computed as {other}", _of_kind(piece, at, other, stated))
    if other == "AveragePool":
        yield from _averages_of_padded(piece, at, attributes)


def _averages_of_padded(piece: Piece, at: int, attributes: Mapping[str, Any]) -> Iterator[Hypothesis]:
    """A maximum whose image a file pads by itself, in front or on both sides, computed as the average of that.

    Edge cells, or zeros where nothing is negative, change no maximum; a format may pad behind by itself, uncounted.
    """
    layer = piece.layers[at]
    rank = layer.data.ndim - 2
    pads = list(layer.attribute("pads", [0] * (2 * rank)))
    if not any(pads) or min(pads) < 0:
        return
    for mode, is_behind in itertools.product(("edge", "constant"), (False, True)):
        behind = pads[rank:] if is_behind else [0] * rank
        cells = [(0, 0), (0, 0), *zip(pads[:rank], behind, strict=True)]
        left = [0] * rank + ([0] * rank if is_behind else pads[rank:])
        stated = {**attributes, "pads": left, "count_include_pad": 0}
        averaged = partial(_average_of_padded, piece, at, cells, mode, stated)
        yield Hypothesis(f"{layer.name} is computed as AveragePool", averaged)


def _average_of_padded(
    piece: Piece, at: int, cells: Sequence[tuple[int, int]], mode: str, stated: Mapping[str, Any]
) -> Array:
    layer = piece.layers[at]
    padded = np.pad(layer.data, cells, mode=mode)  # type: ignore[call-overload]
    return piece.again(at, {0: padded}, stated, "AveragePool")


def _other_divisors(piece: Piece, at: int) -> Iterator[Hypothesis]:
    """Pools over padded windows that count other cells: averages, and maxima, by the share of cells inside the image.

    The share comes from averaging an image of ones, with the padding counted as zeros.
    """
    layer = piece.layers[at]
    names = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")
    stated = {name: layer.node.attributes[name].value for name in names if name in layer.node.attributes}
    if not any(layer.attribute("pads", [0])):
        return
    (share,) = layer.again({0: np.ones_like(layer.data)}, {"count_include_pad": 1})
    (counted,), (inside,) = (layer.again(attributes={"count_include_pad": flag}) for flag in (1, 0))
    (largest,) = layer.again(attributes=stated, operator="MaxPool")
    # A mean over inner cells is one over all, divided by their share: corrections in the wrong direction.
    averages = (counted * share, inside / share)
    for result in averages:
        words = f"{layer.name} divides by another number of cells at its padding"
        yield Hypothesis(words, partial(piece.after, at, (result,)))
    # Maxima that leave the padding out, or count its zeros.
    with_zeros = np.maximum(largest, np.where(share < 1, 0.0, largest))
    for maximum, factor in itertools.product((largest, with_zeros), (share, 1 / share)):
        yield Hypothesis(f"{layer.name} is computed as MaxPool", partial(piece.after, at, (maximum * factor,)))


def _other_pads(piece: Piece, at: int) -> Iterator[Hypothesis]:
    """A Pad: cells on other sides, another mode."""
    layer = piece.layers[at]
    mode = layer.attribute("mode", "constant")
    for other in ("constant", "edge", "reflect", "wrap"):
        if other != mode:
            words = f"{layer.name} pads by {other} instead of {mode}"
            yield Hypothesis(words, partial(piece.again, at, attributes={"mode": other}))
    pads = layer.operands[1] if len(layer.operands) > 1 else None
    if pads is None:
        return
    half = pads.size // 2
    yield from _cells_elsewhere(piece, at, pads.reshape(-1)[:half].tolist(), pads.reshape(-1)[half:].tolist())
    for axis, by in itertools.product(range(half), (1, -1)):
        shifted = pads.copy().reshape(-1)
        shifted[axis] += by
        shifted[axis + half] -= by
        if shifted.min() >= 0:
            words = f"the padding of {layer.name} is {_sides(shifted.tolist())} instead of {_sides(pads.tolist())}"
            yield Hypothesis(words, partial(piece.again, at, {1: shifted}))


def _cells_elsewhere(piece: Piece, at: int, begins: Sequence[int], ends: Sequence[int]) -> Iterator[Hypothesis]:
    """The cells in front, those of the image and those behind, joined in another order along an axis."""
    layer = piece.layers[at]
    result = layer.result
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=False)):
        if result.ndim != len(begins) or min(begin, end) < 0 or not begin + end:
            continue
        parts = [part for part in np.split(result, [begin, result.shape[axis] - end], axis) if part.shape[axis]]
        for order in itertools.permutations(range(len(parts))):
            if list(order) != sorted(order):
                joined = np.concatenate([parts[place] for place in order], axis)
                words = f"the padding of {layer.name} and its image are in another order along axis {axis}"
                yield Hypothesis(words, partial(piece.after, at, (joined,)))


def _transposed(piece: Piece, at: int) -> Iterator[Hypothesis]:
    """A transposed convolution whose result is cropped elsewhere, which is what ``pads`` mean there."""
    layer = piece.layers[at]
    rank = layer.data.ndim - 2
    pads = layer.attribute("pads", [0] * (2 * rank))
    for by in itertools.product((-1, 0, 1), repeat=rank):
        shifted = [
            *(pads[axis] + by[axis] for axis in range(rank)),
            *(pads[axis + rank] - by[axis] for axis in range(rank)),
        ]
        if any(by) and min(shifted) >= 0:
            words = f"the padding of {layer.name} is {_sides(shifted)} instead of {_sides(pads)}"
            yield Hypothesis(words, partial(piece.again, at, attributes={"pads": shifted}))
