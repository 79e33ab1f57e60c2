"""The worst sample's errors for the report: a histogram of their sizes, and a map over the image."""

from __future__ import annotations

import numpy as np

from edgeconv.core import Array, ErrorPicture

_LOWEST, _HIGHEST, _PER_DECADE = -12, 4, 2  # powers of ten, and bins in each
_MAP_SIDE = 64  # cells along each side of the picture
_CHUNK = 1 << 16  # elements at a time: a whole output in float64 would take twice its memory


def picture(sample: str, a: Array, b: Array) -> ErrorPicture:
    """Draws |a - b| as a histogram over its decimal logarithm and, for rank 4, as a map.

    Args:
        sample: its name.
        a: what a device computed, (N, C, H, W) for an image.
        b: the reference, same shape.

    Returns:
        Bins of half a decade; the outermost ones also hold what lies beyond them. The map is max |a - b| over batch,
        channels and the pixels of each of at most 64x64 cells. Elements that are not finite in both are left out.
    """
    low, high = _LOWEST * _PER_DECADE, _HIGHEST * _PER_DECADE
    counts = np.zeros(high - low, np.int64)
    error = np.empty(a.shape, np.float32)
    flat_a, flat_b, flat_error = np.ravel(a), np.ravel(b), error.reshape(-1)
    for start in range(0, a.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(flat_a[part].astype(np.float64) - flat_b[part].astype(np.float64))
            difference[~np.isfinite(difference)] = -1.0
            flat_error[part] = difference
        counts += _histogram(difference[difference >= 0.0], low, high)
    edges = tuple(bin_ / _PER_DECADE for bin_ in range(low, high + 1))
    return ErrorPicture(sample, edges, tuple(int(count) for count in counts), _map(error))


def _histogram(difference: Array, low: int, high: int) -> Array:
    with np.errstate(divide="ignore"):
        bins = np.floor(np.log10(difference) * _PER_DECADE)
    inside = np.clip(bins, low, high - 1).astype(np.int64) - low
    return np.bincount(inside, minlength=high - low)


def _map(error: Array) -> tuple[tuple[float, ...], ...]:
    if error.ndim != 4:
        return ()
    plane = np.maximum(error.max(axis=(0, 1)), 0.0)
    for axis in (0, 1):
        size = plane.shape[axis]
        cells = min(size, _MAP_SIDE)
        plane = np.maximum.reduceat(plane, [cell * size // cells for cell in range(cells)], axis=axis)
    return tuple(tuple(float(value) for value in row) for row in plane)
