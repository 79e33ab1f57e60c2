"""What TFLite's two resizing operators compute along one axis, by the arithmetic of their kernels.

The kernels compute positions in float32, in different orders: TensorFlow Lite (x + 1/2) * scale - 1/2
(``reference/resize_bilinear.h``, which the optimized ones share), XNNPACK x * scale + (scale / 2 - 1/2), clamped to the
image (``src/indirection.c``); the nearest element is that of ``reference/resize_nearest_neighbor.h``. A bilinear
position is therefore off by some roundings, and its weights with it; a nearest one that is on a border between two
elements, or next to it, has to be computed as the kernel does.

For integers the kernels of TensorFlow Lite (but not XNNPACK) round the scale to 1/1024 element: from 20 to 28 elements
the last position is 0.01 elements off, from 67 to 159 0.08, and if the scale was rounded up it may be outside of the
image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeconv.core import Array

MODES = ((False, True), (True, False), (False, False))  # (align corners, half-pixel centers)
_HALF = np.float32(0.5)
_PARTS = 1024  # of an element
# Beyond these steps, products with constant matrices are written instead. In int16 they only round the result. In int8
# they round their weights, too, which costs about two steps on every runtime, while XNNPACK's operator has none of the
# error, and is faster: so more is allowed.
MOST_STEPS = {"int8": 4.0, "int16": 0.5}
"""By integer type: the steps that RESIZE_BILINEAR may be off."""
_ROUNDINGS = 4  # of a position: the scale's, the product's, and those of two sums


def nearest_elements(size: int, count: int, align: bool, half: bool) -> Array:
    """The input element of each of ``count`` output elements, by RESIZE_NEAREST_NEIGHBOR."""
    places = (_numbers(count) + np.float32(0.5 if half else 0)) * _scale(size, count, align)
    # TfLiteRound rounds halves up; float64 keeps 0.49999997 + 0.5 below 1, which float32 would not.
    rounded = np.floor(places.astype(np.float64) + 0.5) if align else np.floor(places)
    return np.clip(rounded, 0, size - 1).astype(np.int64)


def agrees_with_linear(weights: Array, align: bool, half: bool) -> bool:
    """Whether RESIZE_BILINEAR has these weights (output, input) on every kernel, up to float32's roundings."""
    count, size = weights.shape
    allowed = _ROUNDINGS * max(size, count) * 2.0**-24
    return all(
        bool(np.max(np.abs(_shares(places, size) - weights)) <= allowed)
        for places in linear_places(size, count, align, half)
    )


def linear_places(size: int, count: int, align: bool, half: bool) -> tuple[Array, Array]:
    """The positions that RESIZE_BILINEAR reads, in input elements: of TensorFlow Lite's kernels, and of XNNPACK."""
    numbers, scale = _numbers(count), _scale(size, count, align)
    if not half:
        return numbers * scale, np.minimum(numbers * scale, np.float32(size - 1))
    delegated = numbers * scale + (_HALF * scale - _HALF)
    return (numbers + _HALF) * scale - _HALF, np.clip(delegated, 0, np.float32(size - 1))


def integer_steps(weights: Sequence[Array], align: bool, half: bool, kind: str) -> float:
    """The steps that RESIZE_BILINEAR of this integer type may be off by its positions, for both axes together."""
    return sum(integer_error(matrix, align, half) for matrix in weights) * (2**16 if kind == "int16" else 2**8)


def linear_weights(size: int, count: int, align: bool, half: bool) -> Array:
    """The (output, input) weights at the exact positions."""
    numbers = np.arange(count, dtype=np.float64)
    whole, parts = (size - 1, count - 1) if align and count > 1 else (size, count)
    return _shares((numbers + 0.5) * size / count - 0.5 if half else numbers * whole / parts, size)


def integer_error(weights: Array, align: bool, half: bool) -> float:
    """The largest error of RESIZE_BILINEAR's integer kernel against these weights, as a fraction of the whole range.

    Infinite if it reads outside of the image: 4 to 160, with neither corners nor pixel centers aligned.
    """
    count, size = weights.shape
    whole, parts = (size - 1, count - 1) if align and count > 1 else (size, count)
    # ResizeBilinearInteger (reference/resize_bilinear.h): the scale in 10 bits behind the point, rounded.
    scale = (_PARTS * whole + parts // 2) // parts
    places = np.arange(count) * scale + (scale // 2 - _PARTS // 2 if half else 0)
    lower = np.maximum(np.trunc(places / _PARTS), 0).astype(int)
    upper = np.minimum(np.trunc((places + _PARTS - 1) / _PARTS), size - 1).astype(int)
    if lower.max() >= size:
        return math.inf
    share = (places - _PARTS * lower) / _PARTS
    computed, rows = np.zeros((count, size)), np.arange(count)
    np.add.at(computed, (rows, lower), 1 - share)
    np.add.at(computed, (rows, np.maximum(upper, 0)), share)
    # Both rows sum to 1, so the differences sum to 0: over elements of a whole range they give half of their magnitude.
    return float(np.abs(computed - weights).sum(axis=1).max()) / 2


def _numbers(count: int) -> Array:
    return np.arange(count, dtype=np.float32)


def _scale(size: int, count: int, align: bool) -> np.float32:
    if align and count > 1:
        return np.float32(size - 1) / np.float32(count - 1)
    return np.float32(size) / np.float32(count)


def _shares(places: Array, size: int) -> Array:
    """The (output, input) weights of the elements on both sides of each place."""
    weights = np.zeros((len(places), size))
    floor = np.floor(places)
    share = (places - floor).astype(np.float64)
    rows = np.arange(len(places))
    for offset, part in ((0, 1 - share), (1, share)):
        np.add.at(weights, (rows, np.clip(floor + offset, 0, size - 1).astype(int)), part)
    return weights
