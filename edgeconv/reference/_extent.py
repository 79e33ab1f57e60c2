"""Limits of the size of values, for constant folding and for evaluation.

A file of a hundred bytes can ask for a range of 10^9 numbers, or double a constant forty times. So the number of
elements of a result is estimated from the operands before it is computed. A rule takes the node and its operands (None
for sequences and absent ones).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import onnx_ir as ir

from edgeconv.reference._operands import TensorLike

MOST_ELEMENTS = 2**29
"""Elements of any value: 2 GiB as float32, twice that in the reference's float64."""
MOST_FOLDED = 2**25
"""Elements of a folded constant that is larger than its operands."""

Arguments = Sequence[TensorLike | None]
_Rule = Callable[[ir.Node, Arguments], float]


def result_elements(node: ir.Node, arguments: Sequence[object]) -> float:
    """An estimate of the elements of a node's first result, which is at most too small by a small factor."""
    tensors = _tensors(arguments)
    try:
        return _RULES.get(node.op_type, _broadcast)(node, tensors)
    except (IndexError, TypeError, ValueError, RuntimeError, ZeroDivisionError, OverflowError, AttributeError):
        return _largest(tensors)  # operands that do not fit: computing the node will raise


def largest(arguments: Sequence[object]) -> float:
    """The number of elements of the largest operand."""
    return _largest(_tensors(arguments))


def _tensors(arguments: Sequence[object]) -> Arguments:
    """The operands, with None for sequences, which are not counted."""
    return [None if item is None or isinstance(item, list) else cast("TensorLike", item) for item in arguments]


def _largest(tensors: Arguments) -> float:
    return float(max((_count(item) for item in tensors if item is not None), default=0))


def _broadcast(node: ir.Node, tensors: Arguments) -> float:
    shapes = [tuple(item.shape) for item in tensors if item is not None]
    return max(_product(np.broadcast_shapes(*shapes)), _largest(tensors))


def _count(tensor: TensorLike) -> float:
    """Its elements."""
    return float(math.prod(tensor.shape))


def _product(sizes: Sequence[float]) -> float:
    total = 1.0
    for size in sizes:
        total *= max(0.0, float(size))
    return total


def _numbers(tensor: TensorLike | None) -> list[float]:
    return [] if tensor is None else [float(item) for item in tensor.reshape([-1]).tolist()]


def _tensor(tensors: Arguments, at: int) -> TensorLike:
    tensor = tensors[at]
    if tensor is None:
        raise ValueError(at)
    return tensor


def _range(node: ir.Node, tensors: Arguments) -> float:
    start, limit, delta = (_numbers(item)[0] for item in tensors[:3])
    return max(0.0, (limit - start) / delta)


def _expand(node: ir.Node, tensors: Arguments) -> float:
    sizes, own = _numbers(tensors[1]), [float(size) for size in _tensor(tensors, 0).shape]
    rank = max(len(sizes), len(own))
    padded = ([1.0] * (rank - len(sizes)) + sizes, [1.0] * (rank - len(own)) + own)
    return _product([max(pair) for pair in zip(*padded, strict=True)])


def _tile(node: ir.Node, tensors: Arguments) -> float:
    return _count(_tensor(tensors, 0)) * _product(_numbers(tensors[1]))


def _pad(node: ir.Node, tensors: Arguments) -> float:
    shape, pads = list(_tensor(tensors, 0).shape), _numbers(tensors[1] if len(tensors) > 1 else None)
    pads = pads or [float(size) for size in _ints(node, "pads")]
    axes = [int(axis) for axis in _numbers(tensors[3])] if len(tensors) > 3 else list(range(len(shape)))
    sizes = [float(size) for size in shape]
    for at, axis in enumerate(axes):
        sizes[axis] += pads[at] + pads[at + len(axes)]
    return _product(sizes)


def _as_it_is(node: ir.Node, tensors: Arguments) -> float:
    return _count(_tensor(tensors, 0))  # the other operands (scales, indices) do not broadcast it


def _filled(node: ir.Node, tensors: Arguments) -> float:
    return _product(_numbers(tensors[0]))


def _one_hot(node: ir.Node, tensors: Arguments) -> float:
    return _count(_tensor(tensors, 0)) * _numbers(tensors[1])[0]


def _resize(node: ir.Node, tensors: Arguments) -> float:
    own = _tensor(tensors, 0)
    *_, last = [item for item in tensors if item is not None]
    values = _numbers(last)
    if not values or isinstance(last.reshape([-1]).tolist()[0], float):  # scales
        return _count(own) * _product(values)
    return _product(values) * _count(own) / _product(own.shape[-len(values) :])


def _matrices(node: ir.Node, tensors: Arguments) -> float:
    a, b = _tensor(tensors, 0), _tensor(tensors, 1)
    return _count(a) / a.shape[-1 if a.ndim else 0] * b.shape[-1]


def _joined(node: ir.Node, tensors: Arguments) -> float:
    return float(sum(_count(item) for item in tensors if item is not None))


def _window(node: ir.Node, tensors: Arguments) -> float:
    x, pads = _tensor(tensors, 0), _ints(node, "pads") or [0] * 8
    spatial = [float(size) for size in x.shape[2:]]
    padded = [size + pads[at] + pads[at + len(spatial)] for at, size in enumerate(spatial)]
    return max(_largest(tensors), _product([*x.shape[:2], *padded]), _product(_ints(node, "kernel_shape")))


def _gather(node: ir.Node, tensors: Arguments) -> float:
    x, axis = _tensor(tensors, 0), node.attributes.get_int("axis", 0)
    return _count(_tensor(tensors, 1)) * _count(x) / max(1, x.shape[axis])


def _gather_nd(node: ir.Node, tensors: Arguments) -> float:
    x, indices = _tensor(tensors, 0), _tensor(tensors, 1)
    *places, depth = indices.shape
    return _product([*places, *x.shape[node.attributes.get_int("batch_dims", 0) + depth :]])


def _of_indices(node: ir.Node, tensors: Arguments) -> float:
    return _count(_tensor(tensors, 1))


def _grid(node: ir.Node, tensors: Arguments) -> float:
    return 3 * _product(_numbers(tensors[1])[2:])


def _einsum(node: ir.Node, tensors: Arguments) -> float:
    terms, _, output = str(node.attributes["equation"].value).replace(" ", "").partition("->")
    sizes = {
        letter: size
        for term, item in zip(terms.split(","), tensors, strict=True)
        if item is not None
        for letter, size in zip(term, item.shape, strict=True)
    }
    return _product([sizes[letter] for letter in output])


def _ints(node: ir.Node, name: str) -> list[int]:
    return [int(item) for item in node.attributes[name].as_ints()] if name in node.attributes else []


_RULES: Mapping[str, _Rule] = {
    "AffineGrid": _grid,
    "AveragePool": _window,
    "BatchNormalization": _as_it_is,
    "Concat": _joined,
    "ConstantOfShape": _filled,
    "Conv": _window,
    "ConvTranspose": _window,
    "DequantizeLinear": _as_it_is,
    "Einsum": _einsum,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _of_indices,
    "GatherND": _gather_nd,
    "GroupNormalization": _as_it_is,
    "InstanceNormalization": _as_it_is,
    "LpPool": _window,
    "MatMul": _matrices,
    "MaxPool": _window,
    "OneHot": _one_hot,
    "Pad": _pad,
    "QuantizeLinear": _as_it_is,
    "Range": _range,
    "Resize": _resize,
    "Scatter": _as_it_is,
    "ScatterElements": _as_it_is,
    "ScatterND": _as_it_is,
    "Tile": _tile,
    "Upsample": _resize,
}


def shown(elements: float) -> str:
    """A number of elements for a message: ``"1,000,000"``, or ``"1e+15"``."""
    return f"{int(elements):,}" if math.isfinite(elements) and elements < 10**13 else f"{elements:.0e}"
