"""Operators that move elements, written once for torch (the engine) and numpy (constant folding).

Specification: the pages of the operators. Axes, splits and shapes are attributes in older opsets, inputs in newer ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.reference._operands import Operands, TensorLike

_Tensor = TypeVar("_Tensor", bound=TensorLike)


def _reshape(call: Operands[_Tensor]) -> _Tensor:
    """Reshape: a target size of 0 keeps the dimension, unless ``allowzero`` is set."""
    shape = call.ints(1, "shape") or []
    if not call.attribute("allowzero", 0):
        if 0 in shape[len(call[0].shape) :]:
            raise call.refuse(f"keeps a dimension of {tuple(call[0].shape)} that there is not, by {list(shape)}")
        shape = [call[0].shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return call[0].reshape(shape)


def _flatten(call: Operands[_Tensor]) -> _Tensor:
    axis, shape = call.axis(call[0].ndim, 1, behind=1), call[0].shape
    return call[0].reshape([math.prod(shape[:axis]), math.prod(shape[axis:])])


def _squeeze(call: Operands[_Tensor]) -> _Tensor:
    """Squeeze; without axes, of every dimension of 1."""
    shape, axes = call[0].shape, call.ints(1, "axes")
    dropped = [axis for axis, size in enumerate(shape) if size == 1] if axes is None else _counted(axes, len(shape))
    if any(shape[axis] != 1 for axis in dropped):
        raise call.refuse(f"cannot remove axes {sorted(dropped)} of shape {tuple(shape)}")
    return call[0].reshape([size for axis, size in enumerate(shape) if axis not in dropped])


def _unsqueeze(call: Operands[_Tensor]) -> _Tensor:
    stated = call.ints(1, "axes") or []
    rank = call[0].ndim + len(stated)
    axes, sizes = _counted(stated, rank), iter(call[0].shape)
    return call[0].reshape([1 if axis in axes else next(sizes) for axis in range(rank)])


def _split(call: Operands[_Tensor]) -> tuple[_Tensor, ...]:
    """Split into the stated sizes, or into equal parts, of which the last may be smaller (opset 18)."""
    axis, count, sizes = call.axis(call[0].ndim), len(call.node.outputs), call.ints(1, "split")
    extent = call[0].shape[axis]
    if sizes is None:
        part = -(-extent // count)
        sizes = [part] * (count - 1) + [extent - part * (count - 1)]
    if min(sizes, default=0) < 0 or sum(sizes) != extent:
        raise call.refuse(f"cannot part {extent} elements into {sizes}")
    bounds = itertools.pairwise([0, *itertools.accumulate(sizes)])
    return tuple(call[0][(*[slice(None)] * axis, slice(start, end))] for start, end in bounds)


def _slice(call: Operands[_Tensor]) -> _Tensor:
    """Slice: starts and ends are clamped as Python's slices are; steps may be negative."""
    x, starts, ends = call[0], call.ints(1, "starts") or [], call.ints(2, "ends") or []
    axes, steps = call.ints(3, "axes"), call.ints(4, "steps") or [1] * len(starts)
    counted = _counted(list(range(len(starts))) if axes is None else axes, x.ndim)
    for axis, start, end, step in zip(counted, starts, ends, steps, strict=True):
        places = range(*slice(start, end, step).indices(x.shape[axis]))
        index: slice | list[int] = slice(places.start, places.stop, step)
        if step < 0:  # torch slices by positive steps only: take the elements by an index list
            index = list(places) or slice(0)
        x = x[(*[slice(None)] * axis, index)]
    return x


def _counted(axes: Sequence[int], rank: int) -> list[int]:
    """Axes, counted from the front.

    Raises:
        IndexError: there is no such axis.
        ValueError: one is named twice.
    """
    if not all(-rank <= axis < rank for axis in axes):
        raise IndexError(f"axes {list(axes)} of a tensor of {rank} axes")
    counted = [axis % rank for axis in axes]
    if len(set(counted)) != len(counted):
        raise ValueError(f"axes {list(axes)} of a tensor of {rank} axes name one twice")
    return counted


def permutation(call: Operands[_Tensor]) -> list[int]:
    """The axes of a Transpose: in reversed order where the node states none."""
    reversed_axes = list(range(call[0].ndim))[::-1]
    return call.attribute("perm", reversed_axes)


def expanded(call: Operands[_Tensor]) -> tuple[int, ...]:
    """The shape that an Expand gives: broadcast both ways, so that a 1 keeps the dimension."""
    return np.broadcast_shapes(tuple(call[0].shape), tuple(call.ints(1, "shape") or ()))


def range_terms(call: Operands[_Tensor]) -> tuple[float, int, float]:
    """The first number of a Range, the count, and the step; integers if the operands are."""
    start, limit, delta = (call[index].reshape([-1]).tolist()[0] for index in range(3))
    return start, max(math.ceil((limit - start) / delta), 0), delta


def shape_result(node: ir.Node, shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """The result of a Shape or Size node for a tensor of this shape."""
    if node.op_type == "Size":
        return np.array(math.prod(shape), np.int64)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    return np.array(shape[start:end], np.int64)


MOVES: Mapping[str, Callable[[Operands[Any]], Any]] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
