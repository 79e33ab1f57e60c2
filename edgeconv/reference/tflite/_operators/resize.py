"""Resizing of images, in real numbers and in integers.

Specification: RESIZE_BILINEAR, RESIZE_NEAREST_NEIGHBOR; tensorflow/lite/kernels/internal/reference/resize_bilinear.h
and resize_nearest_neighbor.h. Where the nearest pixel changes, the kernels' float32 decides, and so it does here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._fixed_point import rounded
from edgeconv.reference.tflite._graph import Array

_BITS = 10  # of a position, after the point, in integers


def _sizes(call: Call) -> tuple[int, int]:
    sizes = call.ints(1)
    if call[0].ndim != 4 or len(sizes) != 2 or min(sizes) < 1 or 0 in call[0].shape:
        raise call.refuse(f"brings {list(call[0].shape)} to {sizes}")
    call.sized((call[0].shape[0], *sizes, call[0].shape[3]))
    call.sized((call[0].shape[0], sizes[0], *call[0].shape[2:]))
    return sizes[0], sizes[1]


def _nearest(call: Call) -> Array:
    result = call[0]
    for axis, size in enumerate(_sizes(call), start=1):
        whole, corners = result.shape[axis], call.flag("align_corners")
        unit = np.float32(1)
        scale = (whole - 1) * unit / np.float32(size - 1) if corners and size > 1 else whole * unit / np.float32(size)
        offset = np.float32(0.5 if call.flag("half_pixel_centers") else 0.0)
        position = (np.arange(size).astype(np.float32) + offset) * scale
        index = rounded(position) if corners else np.floor(position)
        result = np.take(result, np.clip(index, 0, whole - 1).astype(np.int64), axis)
    return result


def _bilinear(call: Call) -> Array:
    if call.quantized and call.result.dtype != "uint8":
        return _bilinear_in_integers(call)
    result = call[0].astype(np.float64)
    for axis, size in enumerate(_sizes(call), start=1):
        whole = result.shape[axis]
        corners = call.flag("align_corners") and size > 1
        scale = (whole - 1) / (size - 1) if corners else whole / size
        half = 0.5 if call.flag("half_pixel_centers") else 0.0
        position = (np.arange(size) + half) * scale - half
        low = np.maximum(np.floor(position), 0)
        high = np.minimum(np.ceil(position), whole - 1)
        weight = (position - low).reshape([-1 if at == axis else 1 for at in range(4)])
        below, above = (np.take(result, np.minimum(index, whole - 1).astype(np.int64), axis) for index in (low, high))
        result = below * (1 - weight) + above * weight
    return np.floor(result + 0.5).astype(np.int64) if call.quantized else result


def _bilinear_in_integers(call: Call) -> Array:
    """Positions have 10 bits after the point, and so has each axis's weight; the sum is rounded once."""
    result, halves = call[0].astype(np.int64), call.flag("half_pixel_centers")
    for axis, size in enumerate(_sizes(call), start=1):
        whole = result.shape[axis]
        span, steps = (whole - 1, size - 1) if call.flag("align_corners") and size > 1 else (whole, size)
        # ResizeBilinearInteger and ComputeInterpolationValuesInteger (reference/resize_bilinear.h).
        scale = ((span << _BITS) + steps // 2) // steps
        position = np.arange(size) * scale + (scale // 2 - (1 << (_BITS - 1)) if halves else 0)
        low = np.maximum(position >> _BITS, 0)
        high = np.minimum((position + (1 << _BITS) - 1) >> _BITS, whole - 1)
        weight = (position - (low << _BITS)).reshape([-1 if at == axis else 1 for at in range(4)])
        below, above = (np.take(result, np.minimum(index, whole - 1), axis) for index in (low, high))
        result = below * ((1 << _BITS) - weight) + above * weight
    half = np.where(result > 0, 1 << (2 * _BITS - 1), -(1 << (2 * _BITS - 1)))
    return np.asarray(np.sign(result) * (np.abs(result + half) >> (2 * _BITS)))


OPERATORS: Mapping[str, Kernel] = {"RESIZE_BILINEAR": _bilinear, "RESIZE_NEAREST_NEIGHBOR": _nearest}
