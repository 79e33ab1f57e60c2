"""Operators that choose elements by index, and that order them.

Specification: tensorflow/lite/kernels/gather.cc, gather_nd.cc, scatter_nd.cc, one_hot.cc, arg_min_max.cc, topk_v2.cc,
cumsum.cc, reverse.cc, where.cc, embedding_lookup.cc, dynamic_update_slice.cc. Negative indices are invalid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel, Result
from edgeconv.reference.tflite._graph import Array


def _indices(call: Call, at: int) -> Array:
    indices = call[at]
    if indices.dtype.kind not in "iu" or (indices.size and indices.min() < 0):
        raise call.refuse("has an index below 0, or that is no integer")
    return indices.astype(np.int64)


def _gather(call: Call) -> Array:
    """Axes before ``batch_dims`` are shared by data and indices."""
    x, indices = call[0], _indices(call, 1)
    axis, shared = call.axis(call.integer("axis"), x.ndim), call.integer("batch_dims")
    shared += indices.ndim if shared < 0 else 0
    if not 0 <= shared <= axis or x.shape[:shared] != indices.shape[:shared]:
        raise call.refuse(f"shares {shared} axes of {list(x.shape)} and {list(indices.shape)}")
    call.sized((*x.shape[:axis], *indices.shape[shared:], *x.shape[axis + 1 :]))
    if not shared:
        return np.take(x, indices, axis)
    count = math.prod(x.shape[:shared])
    pairs = zip(x.reshape(count, *x.shape[shared:]), indices.reshape(count, *indices.shape[shared:]), strict=True)
    stacked = np.stack([np.take(part, chosen, axis - shared) for part, chosen in pairs])
    return stacked.reshape(*x.shape[:shared], *stacked.shape[1:])


def _gather_nd(call: Call) -> Array:
    indices = _indices(call, 1)
    call.sized((*indices.shape[:-1], *call[0].shape[indices.shape[-1] :]))
    return np.asarray(call[0][tuple(np.moveaxis(indices, -1, 0))])


def _scatter_nd(call: Call) -> Array:
    """SCATTER_ND: into zeros; updates with the same index are added."""
    indices, updates = _indices(call, 0), call[1]
    result = np.zeros(call.sized(call.ints(2)), updates.dtype)
    np.add.at(result, tuple(np.moveaxis(indices, -1, 0)), updates)
    return result


def _one_hot(call: Call) -> Array:
    """An index that is out of range, also below 0, gives no hot element."""
    (depth,) = call.ints(1)
    indices = call[0]
    axis = call.integer("axis")
    axis = indices.ndim if axis == -1 else call.axis(axis, indices.ndim + 1)
    call.sized((*indices.shape, depth))
    places = np.arange(depth).reshape([-1 if at == axis else 1 for at in range(indices.ndim + 1)])
    hot = np.expand_dims(indices, axis) == places
    return np.where(hot, call[2].reshape(-1)[:1], call[3].reshape(-1)[:1])


def _extreme_index(function: Callable[..., Array]) -> Kernel:
    """The first of equal ones."""

    def compute(call: Call) -> Array:
        (axis,) = call.ints(1)
        return np.asarray(function(call[0], axis=call.axis(axis, call[0].ndim)))

    return compute


def _top_k(call: Call) -> Result:
    """The largest of the last axis and their indices; of equal ones the first."""
    (count,) = call.ints(1)
    if not 0 <= count <= call[0].shape[-1]:
        raise call.refuse(f"takes {count} of {call[0].shape[-1]}")
    order = np.argsort(-call[0].astype(np.float64), axis=-1, kind="stable")[..., :count]
    return np.take_along_axis(call[0], order, axis=-1), order


def _cumulative_sum(call: Call) -> Array:
    if call.quantized:
        raise call.refuse("of quantized integers is not computed")
    (axis,) = call.ints(1)
    axis = call.axis(axis, call[0].ndim)
    x = np.flip(call[0], axis) if call.flag("reverse") else call[0]
    sums = np.cumsum(x, axis=axis, dtype=x.dtype)
    if call.flag("exclusive"):
        sums = np.roll(sums, 1, axis)
        sums[(*[slice(None)] * axis, slice(0, 1))] = 0
    return np.flip(sums, axis) if call.flag("reverse") else sums


def _reverse(call: Call) -> Array:
    return np.flip(call[0], tuple(call.axis(axis, call[0].ndim) for axis in call.ints(1)))


def _reverse_sequence(call: Call) -> Array:
    """Reverses the first elements of each batch along an axis, as many as input 1 says."""
    sequence, batch = (call.axis(call.integer(name), call[0].ndim) for name in ("seq_dim", "batch_dim"))
    x = np.moveaxis(call[0], (batch, sequence), (0, 1)).copy()
    for row, length in zip(x, call.ints(1), strict=True):
        if not 0 <= length <= x.shape[1]:
            raise call.refuse(f"reverses {length} of {x.shape[1]}")
        row[:length] = row[:length][::-1]
    return np.moveaxis(x, (0, 1), (batch, sequence))


def _embedding(call: Call) -> Array:
    indices = _indices(call, 0)
    call.sized((*indices.shape, *call[1].shape[1:]))
    return call.real(1)[indices] if call.result.floating else call[1][indices]


def _update(call: Call) -> Array:
    """DYNAMIC_UPDATE_SLICE: a start that would put the slice outside of the data is clamped."""
    starts, sizes = call.ints(2), call[1].shape
    places = []
    for start, size, whole in zip(starts, sizes, call[0].shape, strict=True):
        if size > whole:
            raise call.refuse(f"puts {size} into {whole}")
        first = min(max(start, 0), whole - size)
        places.append(slice(first, first + size))
    result = call[0].copy()
    result[tuple(places)] = call[1]
    return result


OPERATORS: Mapping[str, Kernel] = {
    "ARG_MAX": _extreme_index(np.argmax),
    "ARG_MIN": _extreme_index(np.argmin),
    "CUMSUM": _cumulative_sum,
    "DYNAMIC_UPDATE_SLICE": _update,
    "EMBEDDING_LOOKUP": _embedding,
    "GATHER": _gather,
    "GATHER_ND": _gather_nd,
    "ONE_HOT": _one_hot,
    "REVERSE_SEQUENCE": _reverse_sequence,
    "REVERSE_V2": _reverse,
    "SCATTER_ND": _scatter_nd,
    "TOPK_V2": _top_k,
    "WHERE": lambda call: np.argwhere(call[0]),
}
