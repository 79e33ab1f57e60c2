"""Follows channels through operators that only move whole channel planes.

A plane is one channel of one value, over all spatial positions. Concat, Split, Slice, Gather, and Reshape and
Transpose as channel shuffles use them, move planes without changing them. Each plane gets a number; the operator's
effect is computed by applying the same numpy operation to small arrays of these numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.graph.constants import integers, permutation_of
from edgeconv.graph.edit import input_of, rank

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Planes:
    """The planes of a value.

    Attributes:
        numbers: of the planes, in the shape of the value without its spatial axes; the batch counts as 1.
        spatial: the sizes of the last axes, which make up a plane.
        original: the sizes of those axes before any Reshape.
    """

    numbers: Numbers
    spatial: tuple[int, ...]
    original: tuple[int, ...]

    @property
    def channels(self) -> Numbers | None:
        """The numbers by channel, [C], for a value [N, C, spatial…]; None for a value of another form."""
        whole = self.numbers.ndim == 2 and len(self.numbers) == 1 and self.spatial == self.original
        return self.numbers[0] if whole else None

    def arranged(self, numbers: Numbers, spatial: tuple[int, ...] | None = None) -> Planes:
        """The same kind of planes with other numbers."""
        return replace(self, numbers=numbers, spatial=self.spatial if spatial is None else spatial)


def sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape with 1 for the batch; None if another axis is not static."""
    if value is None or value.shape is None or len(value.shape) == 0:
        return None
    rest = [size for size in value.shape[1:] if isinstance(size, int)]
    if len(rest) != len(value.shape) - 1:
        return None
    return (1, *rest)


def fresh(value: ir.Value, first: int) -> Planes | None:
    """The planes of a value [N, C, spatial…], numbered from ``first`` on."""
    shape = sizes(value)
    if shape is None or len(shape) < 2:
        return None
    return Planes(np.arange(first, first + shape[1], dtype=np.int64)[None], shape[2:], shape[2:])


def moves(node: ir.Node) -> bool:
    """Whether the operator of a node can move planes."""
    return node.domain == "" and node.op_type in _MOVES


def moved(node: ir.Node, operands: list[Planes]) -> list[Planes] | None:
    """The planes of the node's results; None if it does not keep planes whole."""
    first = operands[0]
    if any(operand.spatial != first.spatial or operand.original != first.original for operand in operands):
        return None
    return _MOVES[node.op_type](node, operands)


def _concat(node: ir.Node, operands: list[Planes]) -> list[Planes] | None:
    """Concat along an axis of planes; along the batch axis only if its 1 is no stand-in for a larger batch."""
    axis = _axis(node, operands[0], node.attributes.get_int("axis", 0))
    pairs = list(zip(node.inputs, operands, strict=True))
    if axis is None or (axis == 0 and any(_stands_for_batch(value, planes) for value, planes in pairs)):
        return None
    if len({planes.numbers.shape[:axis] + planes.numbers.shape[axis + 1 :] for planes in operands}) > 1:
        return None
    return [operands[0].arranged(np.concatenate([operand.numbers for operand in operands], axis))]


def _split(node: ir.Node, operands: list[Planes]) -> list[Planes] | None:
    axis = _axis(node, operands[0], node.attributes.get_int("axis", 0))
    shapes = [value.shape for value in node.outputs]
    if axis is None or (axis == 0 and _has_batch(node, operands[0])) or any(shape is None for shape in shapes):
        return None
    parts_of = [shape[axis] for shape in shapes if shape is not None]
    ends = np.cumsum([size for size in parts_of if isinstance(size, int)])
    parts = np.split(operands[0].numbers, ends[:-1].tolist(), axis)
    return [operands[0].arranged(part) for part in parts]


def _slice(node: ir.Node, operands: list[Planes]) -> list[Planes] | None:
    stated = [input_of(node, index) for index in range(1, 5)]
    starts, ends, axes, steps = map(integers, stated)
    if starts is None or ends is None:
        return None
    # Stated, but no constant: which elements are taken is not known.
    if (axes is None and stated[2] is not None) or (steps is None and stated[3] is not None):
        return None
    numbers = operands[0].numbers
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = _axis(node, operands[0], axes[index] if axes is not None else index)
        step = steps[index] if steps is not None else 1
        if axis is None or step < 1 or (axis == 0 and _has_batch(node, operands[0])):
            return None
        cut = [slice(None)] * numbers.ndim
        cut[axis] = slice(start, end, step)
        numbers = numbers[tuple(cut)]
    return [operands[0].arranged(numbers)]


def _gather(node: ir.Node, operands: list[Planes]) -> list[Planes] | None:
    axis = _axis(node, operands[0], node.attributes.get_int("axis", 0))
    index, dimensions = integers(node.inputs[1]), rank(node.inputs[1])
    if axis is None or index is None or (axis == 0 and _has_batch(node, operands[0])):
        return None
    if dimensions not in (0, 1) or (dimensions == 0 and operands[0].numbers.ndim == 1):  # no axis of planes is left
        return None
    numbers = np.take(operands[0].numbers, index[0] if dimensions == 0 else index, axis)
    return [operands[0].arranged(numbers)]


def _reshape(node: ir.Node, operands: list[Planes]) -> list[Planes] | None:
    """[N, C, H, W] -> [N, g, C/g, H, W], [N, C, H * W], …: any shape whose last axes are a plane."""
    before, after = node.inputs[0], node.outputs[0]
    if after.shape is None or before is None or before.shape is None:
        return None
    shape: tuple[int, ...] | None = tuple(size for size in after.shape if isinstance(size, int))
    if _has_batch(node, operands[0]):  # which must not be merged with other axes
        shape = sizes(after) if len(after.shape) > 0 and after.shape[0] == before.shape[0] else None
    if shape is None or len(shape) != len(after.shape):
        return None
    numbers, area = operands[0].numbers, math.prod(operands[0].spatial)
    # How many of the last axes make up a plane is ambiguous if some are 1: as many as originally, if that fits.
    for count in (len(operands[0].original), *range(len(shape) + 1)):
        lead, spatial = shape[: len(shape) - count], shape[max(0, len(shape) - count) :]
        if lead and math.prod(spatial) == area and math.prod(lead) == numbers.size:
            return [operands[0].arranged(numbers.reshape(lead), spatial)]
    return None


def _transpose(node: ir.Node, operands: list[Planes]) -> list[Planes] | None:
    lead = operands[0].numbers.ndim
    axes = range(lead + len(operands[0].spatial))
    order = permutation_of(node, len(axes))
    if order[lead:] != list(axes[lead:]) or (order[0] != 0 and _has_batch(node, operands[0])):
        return None
    return [operands[0].arranged(operands[0].numbers.transpose(order[:lead]))]


def _axis(node: ir.Node, operand: Planes, axis: int) -> int | None:
    """An axis of the plane numbers, from 0; None for a spatial axis."""
    axis %= operand.numbers.ndim + len(operand.spatial)
    return axis if axis < operand.numbers.ndim else None


def _has_batch(node: ir.Node, operand: Planes) -> bool:
    """Whether axis 0 of the node's operand is the batch, which must not be moved or merged."""
    return _stands_for_batch(node.inputs[0], operand)


def _stands_for_batch(value: ir.Value | None, planes: Planes) -> bool:
    """Whether the 1 on axis 0 of the numbers stands for a batch of another size."""
    return value is None or value.shape is None or value.shape[0] != planes.numbers.shape[0]


_MOVES: dict[str, Callable[[ir.Node, list[Planes]], list[Planes] | None]] = {
    "Concat": _concat,
    "Flatten": _reshape,
    "Gather": _gather,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
