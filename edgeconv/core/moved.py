"""Arrays whose axes were moved, in the order of C: copied part by part."""

from __future__ import annotations

import numpy as np

from edgeconv.core.precision import Array

_PART = 1 << 15  # elements; the lines that a part reads and writes stay in the cache until all of them are used
_LINE = 16  # elements that lie together, at least, where a part is cut along the last axis


def contiguous(array: Array) -> Array:
    """The array in the order of C, itself where it is so already; as `np.asarray` with ``order="C"``.

    Numpy writes a result element by element in its order: of an image whose channels were moved from the last axis,
    each is read from another line of memory, and by the next channel the line is gone from the cache.
    """
    long = [axis for axis, size in enumerate(array.shape) if size > 1]
    if array.flags.c_contiguous or array.size <= _PART or len(long) < 2:
        return np.asarray(array, order="C")
    nearest = min(long, key=lambda axis: abs(array.strides[axis]))  # whose elements lie together before
    others = [axis for axis in long if axis not in (nearest, long[-1])]
    axis = max(others or long, key=array.shape.__getitem__)
    step = max(1 if others else _LINE, _PART * array.shape[axis] // array.size)
    result = np.empty(array.shape, array.dtype)
    for start in range(0, array.shape[axis], step):
        part = (*[slice(None)] * axis, slice(start, start + step))
        result[part] = array[part]
    return result
