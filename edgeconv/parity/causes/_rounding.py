"""Coarser rounding than a runtime claims, and other ways to round and saturate integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from edgeconv.core import Array
from edgeconv.graph.traits import Trait, having
from edgeconv.parity.causes._piece import Evidence, Hypothesis, Layer, Piece

_SUMS = having(Trait.LAYER)
_HALF_UNIT = 2.0**-11  # of float16
_LEAST_AT_AN_END = 2  # integers that are the smallest or largest of all: one is always there


def _in_bits(bits: int) -> Callable[[Array], Array]:
    """Rounds to so many bits of significand, ties to even."""

    def rounded(array: Array) -> Array:
        fraction, exponent = np.frexp(array)
        return np.asarray(np.ldexp(np.rint(fraction * 2.0**bits), exponent - bits))

    return rounded


def halved(array: Array) -> Array:
    """Rounds to float16 as hardware does: numbers beyond its range become infinite; float64."""
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float64)


_FORMATS: dict[str, Callable[[Array], Array]] = {"float16": halved, "bfloat16": _in_bits(8), "TF32": _in_bits(11)}


def coarser_numbers(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """Operands rounded to fewer bits; sums in float16; results stored in float16."""
    for at, layer in enumerate(piece.layers):
        if layer.operator not in _SUMS:
            continue
        places = [index for index in (0, 1) if (item := layer.operands[index]) is not None and item.dtype.kind == "f"]
        for name, rounded in _FORMATS.items():
            for indices in dict.fromkeys((tuple(places), *((index,) for index in places))):
                what = "the operands" if len(indices) > 1 else "the weights" if indices == (1,) else "the data"
                words = f"{what} of {layer.name} are rounded to {name}"
                yield Hypothesis(words, partial(_of_rounded, piece, at, rounded, indices))
    last = len(piece.layers) - 1
    expected = piece.expected
    if expected.dtype.kind != "f" or expected.shape != evidence.actual.shape:
        return
    # These two give no other result: they widen the bound, where the actual numbers are numbers of float16.
    step = 2 * _HALF_UNIT * np.abs(expected) + evidence.bound
    if np.array_equal(halved(evidence.actual), evidence.actual, equal_nan=True):
        yield Hypothesis("the result is stored in float16", partial(_within, expected, evidence.actual, step))
    if len(piece.layers) == 1 and piece.layers[last].operator in _SUMS:
        layer = piece.layers[last]
        # gamma_n |w| |x| (Higham, section 3.1) of a sum of n products, with room for two more roundings.
        bound = (_terms(layer) + 2) * _HALF_UNIT * _summed(layer)
        yield Hypothesis(f"{layer.name} is summed in float16", partial(_within_sums, expected, evidence.actual, bound))


def _of_rounded(piece: Piece, at: int, rounded: Callable[[Array], Array], places: tuple[int, ...]) -> Array:
    layer = piece.layers[at]
    arrays = {index: array for index in places if (array := layer.operands[index]) is not None}
    return piece.again(at, {index: rounded(array) for index, array in arrays.items()})


def _within(expected: Array, actual: Array, bound: Array) -> Array:
    """The actual numbers where they lie within a wider bound, else the expected ones, which then do not match."""
    return np.where(np.abs(actual - expected) <= bound, actual, expected)


def _within_sums(expected: Array, actual: Array, bound: Array) -> Array:
    """The same, where every actual number is one of float16, as sums in float16 are."""
    return _within(expected, actual, bound) if np.array_equal(halved(actual), actual) else expected


def _terms(layer: Layer) -> int:
    weights = layer.operands[1]
    shape = () if weights is None else weights.shape
    return math.prod(shape[1:]) if layer.operator == "Conv" else math.prod(shape[-2:-1])


def _summed(layer: Layer) -> Array:
    """The sums of the products' magnitudes."""
    magnitudes = {at: np.abs(array) for at, array in enumerate(layer.operands) if array is not None}
    return layer.again(magnitudes)[0]


def integers(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """Ties rounded another way, fractions cut off; another range that integers saturate at."""
    for at, layer in enumerate(piece.layers):
        if layer.operator == "QuantizeLinear":
            for words, rounded in _ROUNDINGS.items():
                yield Hypothesis(f"{layer.name} {words}", partial(_quantized, piece, at, rounded))
    expected, actual = piece.expected, evidence.actual
    if expected.dtype.kind in "iu" and expected.shape == actual.shape:
        low, high = int(actual.min(initial=0)), int(actual.max(initial=0))
        many = np.count_nonzero(actual == low) >= _LEAST_AT_AN_END, np.count_nonzero(actual == high) >= _LEAST_AT_AN_END
        for limits in ((low, None), (None, high), (low, high)):
            if all(limit is None or enough for limit, enough in zip(limits, many, strict=True)):
                ends = " and ".join(str(limit) for limit in limits if limit is not None)
                yield Hypothesis(f"the result saturates at {ends}", partial(np.clip, expected, *limits), fitted=2)


_ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "rounds ties up, and not to even": lambda x: np.floor(x + 0.5),
    "rounds ties away from zero, and not to even": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "rounds ties towards zero, and not to even": lambda x: np.copysign(np.ceil(np.abs(x) - 0.5), x),
    "cuts fractions off instead of rounding": np.trunc,
    "rounds down instead of to the nearest": np.floor,
}


def _quantized(piece: Piece, at: int, rounded: Callable[[Array], Array]) -> Array:
    layer = piece.layers[at]
    scale, zero = layer.operands[1], layer.operands[2] if len(layer.operands) > 2 else None
    assert scale is not None  # QuantizeLinear has one
    limits = np.iinfo(layer.result.dtype)
    axis = layer.attribute("axis", 1)
    along = [-1 if place == axis else 1 for place in range(layer.data.ndim)]
    steps, point = (
        (array if array.size == 1 else array.reshape(along)) for array in (scale, np.zeros(1) if zero is None else zero)
    )
    # The quotient in float32, as kernels compute it: in float64, its ties would be others.
    places = rounded((layer.data.astype(np.float32) / steps.astype(np.float32)).astype(np.float64)) + point
    return piece.after(at, (np.clip(places, limits.min, limits.max).astype(layer.result.dtype),))
