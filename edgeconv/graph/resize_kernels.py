"""What TFLite's two resizing operators compute along one axis, by the arithmetic of their kernels.

All of them reckon in float32, and not in the same order. TensorFlow Lite's own kernels take the place
(x + 1/2) * scale - 1/2 (``reference/resize_bilinear.h``, which the optimized ones share), XNNPACK
x * scale + (scale / 2 - 1/2), cut to the image (``src/indirection.c``); the nearest element is that of
``reference/resize_nearest_neighbor.h``. So a bilinear place is off by some roundings, which its weights follow; where
a nearest one lies on a border between two elements, or next to it, the kernel's own arithmetic says which it is.

Of integers the kernels of TensorFlow Lite (but not XNNPACK) reckon with a scale in 1024ths of an element: from 20 to 28
they end 0.01 elements off, from 67 to 159 0.08, and where the scale was rounded up they may read behind the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeconv.core import Array

MODES = ((False, True), (True, False), (False, False))  # (align corners, half-pixel centers)
_HALF = np.float32(0.5)
_PARTS = 1024  # of an element
# Of int16 the products with matrices are exact but for their rounding. Of int8 they round their weights, too, which
# costs some two steps on every runtime; XNNPACK's operator has none of this error, and is faster.
MOST_STEPS = {"int8": 4.0, "int16": 0.5}
"""So many steps the operator may be off where it is written."""
_ROUNDINGS = 4  # of a place: the scale's, the product's, and those of two sums


def nearest_elements(size: int, count: int, align: bool, half: bool) -> Array:
    """The input element of each of ``count`` output elements, by RESIZE_NEAREST_NEIGHBOR."""
    places = (_numbers(count) + np.float32(0.5 if half else 0)) * _scale(size, count, align)
    # TfLiteRound rounds halves away from zero, and not what is just below a half.
    rounded = np.floor(places.astype(np.float64) + 0.5) if align else np.floor(places)
    return np.clip(rounded, 0, size - 1).astype(np.int64)


def agrees_with_linear(weights: Array, align: bool, half: bool) -> bool:
    """Whether RESIZE_BILINEAR takes these weighted means, but for float32's roundings of a place, on every kernel."""
    count, size = weights.shape
    allowed = _ROUNDINGS * max(size, count) * 2.0**-24
    return all(
        bool(np.max(np.abs(_shares(places, size) - weights)) <= allowed)
        for places in linear_places(size, count, align, half)
    )


def linear_places(size: int, count: int, align: bool, half: bool) -> tuple[Array, Array]:
    """Where RESIZE_BILINEAR looks, in input elements: TensorFlow Lite's kernels and XNNPACK."""
    numbers, scale = _numbers(count), _scale(size, count, align)
    if not half:
        return numbers * scale, np.minimum(numbers * scale, np.float32(size - 1))
    delegated = numbers * scale + (_HALF * scale - _HALF)
    return (numbers + _HALF) * scale - _HALF, np.clip(delegated, 0, np.float32(size - 1))


def integer_steps(weights: Sequence[Array], align: bool, half: bool, kind: str) -> float:
    """How many steps RESIZE_BILINEAR of integers of this type may be off by its places, for both axes together."""
    return sum(integer_error(matrix, align, half) for matrix in weights) * (2**16 if kind == "int16" else 2**8)


def linear_weights(size: int, count: int, align: bool, half: bool) -> Array:
    """The (output, input) weights at the exact places."""
    numbers = np.arange(count, dtype=np.float64)
    whole, parts = (size - 1, count - 1) if align and count > 1 else (size, count)
    return _shares((numbers + 0.5) * size / count - 0.5 if half else numbers * whole / parts, size)


def integer_error(weights: Array, align: bool, half: bool) -> float:
    """How far off these weighted means are by RESIZE_BILINEAR's arithmetic of integers, in parts of the whole range.

    Infinite where it reads what is no element of the image: 4 to 160, neither corners nor pixel centers aligned.
    """
    count, size = weights.shape
    whole, parts = (size - 1, count - 1) if align and count > 1 else (size, count)
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
