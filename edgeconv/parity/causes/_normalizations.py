"""Normalizations whose steps (mean, difference, variance, root, factor) are computed otherwise, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.causes._piece import Hypothesis, Layer, Piece

_CENTERS: Mapping[str, Callable[..., Array]] = {"the largest": np.max, "the least": np.min, "the sum": np.sum}


def normalizations(piece: Piece) -> Iterator[Hypothesis]:
    """What a file computes that has a normalization in steps, one of which is wrong."""
    for at, layer in enumerate(piece.layers):
        if layer.operator in ("LayerNormalization", "InstanceNormalization") and layer.results:
            for words, array in _variants(layer):
                yield Hypothesis(f"{layer.name} {words}", partial(piece.after, at, (array, *layer.results[1:])))


def _variants(layer: Layer) -> Iterator[tuple[str, Array]]:
    x = layer.data
    first = layer.attribute("axis", -1) % x.ndim if layer.operator == "LayerNormalization" else 2
    axes = tuple(range(first, x.ndim))
    eps = layer.attribute("epsilon", 1e-5)
    mean = x.mean(axes, keepdims=True)
    variance = np.square(x - mean).mean(axes, keepdims=True)
    # Of both operators, the normalized number is (y - shift) / scale of the result y.
    scale, shift = (_broadcast(layer, index, x.ndim) for index in (1, 2))

    def result(centered: Array, spread: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(centered * spread * scale + shift)

    root = np.sqrt(variance + eps)
    for words, centered in (
        ("does not subtract the mean", x),
        ("subtracts from the mean: its operands are in another order", mean - x),
        ("adds the mean", x + mean),
        ("multiplies by the mean", x * mean),
    ):
        yield words, result(centered, 1 / root)
        yield words, result(centered, 1 / np.sqrt(np.square(centered).mean(axes, keepdims=True) + eps))
    yield "multiplies the difference from the mean by itself", result(np.square(x - mean), np.ones(1))
    yield "does not divide by the deviation", result(x - mean, np.ones(1))
    yield "multiplies by the deviation", result(x - mean, root)
    yield "divides by the variance", result(x - mean, 1 / (variance + eps))
    with np.errstate(all="ignore"):
        yield "divides the deviation by the difference: its operands are in another order", result(1 / (x - mean), root)
    squares = np.square(x).mean(axes, keepdims=True)
    yield "takes the mean of the squares for the variance", result(x - mean, 1 / np.sqrt(squares + eps))
    number = float(np.prod([x.shape[axis] for axis in axes]))
    if number > 1:
        unbiased = variance * number / (number - 1)
        yield "divides by n - 1 in its variance", result(x - mean, 1 / np.sqrt(unbiased + eps))
    yield from _other_centers(x, axes, eps, result)
    parts = ((1, "scale", np.ones(1), shift), (2, "shift", scale, np.zeros(1)))
    for index, what, factor, term in parts:
        if len(layer.operands) > index:
            yield f"leaves its {what} out", np.asarray((x - mean) / root * factor + term)


def _other_centers(
    x: Array, axes: tuple[int, ...], eps: float, result: Callable[[Array, Array], Array]
) -> Iterator[tuple[str, Array]]:
    """Another reduction in the place of the mean, of the variance, or of both."""
    mean = x.mean(axes, keepdims=True)
    variance = np.square(x - mean).mean(axes, keepdims=True)
    for name, reduce in _CENTERS.items():
        other = reduce(x, axis=axes, keepdims=True)
        around = np.square(x - other).mean(axes, keepdims=True)
        yield f"takes {name} for the mean", result(x - other, 1 / np.sqrt(around + eps))
        yield f"subtracts {name} in place of the mean", result(x - other, 1 / np.sqrt(variance + eps))
        squares = reduce(np.square(x - mean), axis=axes, keepdims=True)
        yield f"takes {name} of the squares for the variance", result(x - mean, 1 / np.sqrt(squares + eps))


def _broadcast(layer: Layer, index: int, rank: int) -> Array:
    """Scale or shift as they meet the data: of channels, or of the last axes."""
    array = layer.operands[index] if len(layer.operands) > index else None
    if array is None:
        return np.full(1, 1.0 if index == 1 else 0.0)
    return array.reshape(-1, *[1] * (rank - 2)) if layer.operator == "InstanceNormalization" else array
