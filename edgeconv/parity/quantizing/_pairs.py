"""Pairs of weights that some processors add up in 16 bits, and what a rounding may do to such a pair.

Kernels of x86 without VNNI multiply bytes in pairs: ``vpmaddubsw`` adds two products of uint8 and int8 in int16, which
saturates (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2). 255 · 128 fits, 255 · 129 does not.
They reduce a convolution position by position, and at each position over the input channels; a product over the rows of
its matrix. So pairs are (0, 1), (2, 3), … of that order; the last of an odd number is alone.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array

LARGEST = 128
_HIGHEST = 127
_NEAR = 2.0**-12  # steps, which float32 may be off of a weight of 127


def in_rows(node: ir.Node, axis: int, array: Array) -> Array | None:
    """A weight as (output channels, terms in the order of the kernel); None where no kernel adds pairs.

    Args:
        node: Conv, ConvTranspose, Gemm or MatMul.
        axis: of the output channels.
        array: of the weight's shape.
    """
    if node.op_type == "ConvTranspose":
        return None
    if node.op_type != "Conv":
        return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    if array.shape[1] == 1 and node.attributes.get_int("group", 1) == array.shape[0]:
        return None  # depthwise: one product at a time
    return np.moveaxis(array, 1, -1).reshape(array.shape[0], -1)


def overflowing(rows: Array) -> int:
    """How many pairs of integers (channels, terms) overflow."""
    first, second = (rows[:, start : rows.shape[1] // 2 * 2 : 2].astype(np.int16) for start in (0, 1))
    large = np.abs(first + second) > LARGEST  # of one sign, as none is beyond 127
    return int(np.count_nonzero(large))


def at_the_limit(rows: Array) -> Array:
    """Where a weight and its partner are as large together as they may be."""
    first, second = _ends(rows)
    return _spread(np.abs(_together(first, second)) == LARGEST, rows.shape)


def too_large(real: Array) -> Array:
    """Where a real number and its partner are larger together than integers may be, (channels, terms)."""
    return _spread(np.abs(_together(*_ends(real))) > LARGEST, real.shape)


def cut_evenly(steps: Array, integers: Array) -> Array:
    """Where a pair that would overflow became the nearest one that does not: both give up the same, to a step.

    Args:
        steps: the real multiples of the scale, (channels, terms).
        integers: what they became.
    """
    real, whole = _ends(np.clip(steps, -_HIGHEST, _HIGHEST)), _ends(integers)
    over = np.abs(_together(*(np.rint(end) for end in real))) > LARGEST
    over &= np.abs(_together(*whole)) == LARGEST
    kept = [np.sign(a) == np.sign(b) for a, b in zip(real, whole, strict=True)]
    lost = [np.abs(a) - np.abs(b) for a, b in zip(real, whole, strict=True)]
    even = np.abs(lost[0] - lost[1]) <= 1 + _NEAR
    ends = (np.abs(whole[0]) == 1) | (np.abs(whole[1]) == 1)  # one that could give up no more
    return _spread(over & kept[0] & kept[1] & (even | ends), steps.shape)


def most_growth(rows: Array) -> Array:
    """How much larger than for 127 alone the scale of a channel has to be for no pair to overflow, (channels,)."""
    largest = np.abs(rows).max(axis=1, initial=0.0)
    sums = np.abs(_together(*_ends(rows))).max(axis=1, initial=0.0)
    return np.asarray(np.maximum(1.0, sums / np.where(largest > 0, largest, 1.0) * (_HIGHEST / LARGEST)))


def _ends(rows: Array) -> tuple[Array, Array]:
    """The first and the second of each pair, (channels, pairs); one that is alone has zero beside it."""
    padded = np.pad(rows.astype(np.float64), ((0, 0), (0, rows.shape[1] % 2)))
    return padded[:, ::2], padded[:, 1::2]


def _together(first: Array, second: Array) -> Array:
    """The sums of pairs of one sign, and zero for others."""
    return np.asarray(np.where(first * second > 0, first + second, 0.0))


def _spread(of_pairs: Array, shape: tuple[int, ...]) -> Array:
    return np.asarray(np.repeat(of_pairs, 2, axis=1))[:, : math.prod(shape[1:])]
