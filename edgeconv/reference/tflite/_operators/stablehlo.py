"""Operators of StableHLO that kernels compute as they are.

Specification: https://openxla.org/stablehlo/spec; tensorflow/lite/kernels/stablehlo_reduce_window.cc, dilate.cc and
stablehlo_elementwise.cc. Windows and dilations take integers as they are stored, whatever they stand for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._graph import Array

_Pair = Callable[[Array, Array], Array]
# By ReduceWindowFunction (schema.fbs): ADD, MUL, MINIMUM, MAXIMUM, ALL, ANY.
_MERGES: Mapping[int, _Pair] = {
    1: np.add,
    2: np.multiply,
    3: np.minimum,
    4: np.maximum,
    5: np.logical_and,
    6: np.logical_or,
}
SUM, PRODUCT = 1, 2


def _reduce_window(call: Call) -> Array:
    """Windows over the data, spread and padded with the first value; a negative padding cuts off."""
    merge = _MERGES.get(call.integer("reduce_function"))
    if merge is None:
        raise call.refuse("reduces by something that no kernel takes")
    rank = call[0].ndim
    if not rank or call[1].size != 1:
        raise call.refuse(f"has data of {rank} axes and {call[1].size} first values")
    first = call[1].reshape(()).astype(call[0].dtype)
    spread = _dilated(call, call[0], first, _vector(call, "base_dilations", rank))
    x = _padded(call, spread, first, _vector(call, "padding", 2 * rank, default=0))
    taps, strides, dilations = (
        _vector(call, f"window_{name}", rank) for name in ("dimensions", "strides", "dilations")
    )
    extents = [(taps[axis] - 1) * dilations[axis] + 1 for axis in range(rank)]
    if any(extent > size for extent, size in zip(extents, x.shape, strict=True)):
        raise call.refuse(f"has windows of {extents} on data of {list(x.shape)}")
    counts = [(x.shape[axis] - extents[axis]) // strides[axis] + 1 for axis in range(rank)]
    result = np.full(call.sized(counts), first, x.dtype)
    for places in itertools.product(*map(range, taps)):
        seen = tuple(
            slice(place * dilation, place * dilation + (count - 1) * stride + 1, stride)
            for place, dilation, count, stride in zip(places, dilations, counts, strides, strict=True)
        )
        result = merge(result, x[seen]).astype(x.dtype)
    return result


def _vector(call: Call, name: str, length: int, *, default: int = 1) -> tuple[int, ...]:
    """An option of integers; one that is left out is the default throughout."""
    stated = call.operator.options.get(name, ()) or (default,) * length
    if not isinstance(stated, tuple) or len(stated) != length or (default and min(stated) < 1):
        raise call.refuse(f"has {stated} as {name}")
    return stated


def _dilated(call: Call, x: Array, between: Array, factors: tuple[int, ...]) -> Array:
    """Its elements at multiples of the factors, another number between them."""
    shape = [max(size - 1, 0) * factor + min(size, 1) for size, factor in zip(x.shape, factors, strict=True)]
    result = np.full(call.sized(shape), between, x.dtype)
    result[tuple(slice(None, None, factor) for factor in factors)] = x
    return result


def _padded(call: Call, x: Array, value: Array, padding: tuple[int, ...]) -> Array:
    pairs = list(zip(padding[::2], padding[1::2], strict=True))
    if any(size + min(low, 0) + min(high, 0) < 0 for size, (low, high) in zip(x.shape, pairs, strict=True)):
        raise call.refuse(f"cuts off more than there is: {pairs} of {list(x.shape)}")
    slices = tuple(slice(max(-low, 0), size - max(-high, 0)) for size, (low, high) in zip(x.shape, pairs, strict=True))
    wider = [(max(low, 0), max(high, 0)) for low, high in pairs]
    call.sized([size + low + high for size, (low, high) in zip(x[slices].shape, wider, strict=True)])
    return np.pad(x[slices], wider, constant_values=value)


def _dilate(call: Call) -> Array:
    factors = tuple(call.ints(1))
    if len(factors) != call[0].ndim or min(factors, default=1) < 1:
        raise call.refuse(f"has the dilations {list(factors)} for {call[0].ndim} axes")
    return _dilated(call, call[0], call[2].reshape(()).astype(call[0].dtype), factors)


def _plain(merge: _Pair) -> Kernel:
    """Two operands of one shape, of real numbers or of plain integers."""

    def compute(call: Call) -> Array:
        if call.quantized or call[0].shape != call[1].shape:
            raise call.refuse("has operands that are quantized, or of different shapes")
        return merge(call[0], call[1])

    return compute


OPERATORS: Mapping[str, Kernel] = {
    "DILATE": _dilate,
    "STABLEHLO_ADD": _plain(np.add),
    "STABLEHLO_MAXIMUM": _plain(np.maximum),
    "STABLEHLO_MINIMUM": _plain(np.minimum),
    "STABLEHLO_MULTIPLY": _plain(np.multiply),
    "STABLEHLO_REDUCE_WINDOW": _reduce_window,
}
