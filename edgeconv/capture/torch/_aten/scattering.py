"""Reductions at computed places: ``scatter_reduce``, ``index_reduce``, ``scatter`` and ``put`` that add."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Operand, Unsupported, renamed, sizes_of

_REDUCTIONS: Mapping[str, tuple[str, float]] = {
    "sum": ("add", 0),
    "mean": ("add", 0),
    "prod": ("mul", 1),
    "amax": ("max", -math.inf),
    "amin": ("min", math.inf),
}
"""By torch's name of a reduction: ONNX's, and its neutral element."""


def scatter_reduce(
    b: Builder, x: ir.Value, dim: int, index: ir.Value, src: ir.Value, reduce: str, include_self: bool
) -> ir.Value:
    """Elements reduced into computed places of an axis: ScatterElements with a reduction (opset 18).

    A mean, which ONNX has not, is a sum by its count. Refused are means of integers, which torch divides with other
    roundings, and integers without the tensor itself (``include_self=False``).
    """
    if not sizes_of(x):
        raise Unsupported("a scalar")
    if not b.dtype.is_floating_point() and (reduce == "mean" or not include_self):
        raise Unsupported(f"the {reduce} of integers")
    for axis, size in enumerate(sizes_of(index)):
        if sizes_of(src)[axis] != size:
            # torch reads the part of a larger source that the indices cover; ONNX requires equal shapes.
            src = b.slice(src, axis, 0, size)
    reduction, neutral = _REDUCTIONS[reduce]
    sizes = sizes_of(index)

    def scattered(base: ir.Value, updates: ir.Value, how: str) -> ir.Value:
        return b.add("ScatterElements", base, index, updates, shape=b.shape, axis=dim, reduction=how)

    # ONNX always reduces into the tensor. With include_self=False its elements at the indices are neutral ones first.
    base = x if include_self else scattered(x, b.filled(neutral, *sizes), "none")
    result = scattered(base, src, reduction)
    if reduce != "mean":
        return result
    count = scattered(b.filled(int(include_self), *b.shape), b.filled(1, *sizes), "add")
    # An element that no index points to stays as it is: its count is 0, and it is divided by 1.
    return b.add("Div", result, count if include_self else b.add("Max", count, b.scalar(1)))


def scatter(b: Builder, x: ir.Value, dim: int, index: ir.Value, src: Operand, reduce: str) -> ir.Value:
    """``scatter`` that adds or multiplies, a tensor or a number: `scatter_reduce` with the tensor itself."""
    source = src if isinstance(src, ir.Value) else b.filled(src, *sizes_of(index))
    return scatter_reduce(b, x, dim, index, source, {"add": "sum", "multiply": "prod"}[reduce], True)


def index_reduce(
    b: Builder, x: ir.Value, dim: int, index: ir.Value, source: ir.Value, reduce: str, include_self: bool
) -> ir.Value:
    """Slices reduced into computed places of an axis: `scatter_reduce`, each slice's place expanded over the slice."""
    sizes = sizes_of(source)
    if not sizes or not sizes_of(x):
        raise Unsupported("a scalar")
    axis = dim % len(sizes)
    line = b.reshape(index, tuple(sizes[axis] if at == axis else 1 for at in range(len(sizes))))
    places = line if sizes_of(line) == sizes else b.add("Expand", line, b.ints(*sizes), shape=sizes)
    return scatter_reduce(b, x, axis, places, source, reduce, include_self)


def put(b: Builder, x: ir.Value, index: ir.Value, source: ir.Value, accumulate: bool) -> ir.Value:
    """Elements put at, or added to, places in the flattened tensor: ScatterElements along its one axis.

    Where two places are equal and nothing is added, torch does not say which element is left, and neither does ONNX.
    """
    count = math.prod(sizes_of(index))
    line = b.reshape(x, (math.prod(sizes_of(x)),))
    updates = [b.reshape(value, (count,)) for value in (index, source)]
    how = "add" if accumulate else "none"
    result = b.add("ScatterElements", line, *updates, shape=sizes_of(line), axis=0, reduction=how)
    return b.reshape(result, b.shape)


TABLE: Mapping[str, Entry] = {
    "aten.scatter_reduce.two": scatter_reduce,
    "aten.scatter.reduce": scatter,
    "aten.scatter.value_reduce": renamed(scatter, value="src"),
    "aten.index_reduce.default": index_reduce,
    "aten.put.default": put,
}
