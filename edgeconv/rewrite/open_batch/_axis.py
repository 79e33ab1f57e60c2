"""Which axis of each value is the batch, and how constants that contain the batch size are rewritten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.errors import FIXED_BATCH, RewriteError
from edgeconv.graph.constants import exact, integers
from edgeconv.graph.edit import input_of, producer_of, tensor_of
from edgeconv.graph.origin import place_of
from edgeconv.graph.replace import replace_constant

_Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Place:
    """The batch in a value: axis ``axis`` has ``outer * batch * inner`` elements, in row-major order.

    ``outer`` and ``inner`` are 1 until a Reshape merges the batch with another axis (attention heads, windows).
    """

    axis: int
    outer: int = 1
    inner: int = 1

    def on(self, axis: int) -> Place:
        """This place on another axis."""
        return Place(axis, self.outer, self.inner)


class Batch:
    """The state of the walk through a graph.

    Attributes:
        size: the batch size that the graph was captured with.
        places: the batch in each value that carries it; a value that is not here is the same for every batch size.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.places: dict[ir.Value, Place] = {}

    def shape(self, node: ir.Node, value: ir.Value | None) -> tuple[int, ...]:
        """The captured shape of a value of the node."""
        if value is None or value.shape is None or not value.shape.is_static():
            self.refuse(node, "has a value without a static shape")
        return tuple(value.shape.numpy())

    def rank(self, node: ir.Node, value: ir.Value | None) -> int:
        """The number of axes of a value of the node."""
        return len(self.shape(node, value))

    def place(self, node: ir.Node, index: int = 0) -> Place:
        """Where input ``index`` carries the batch.

        Raises:
            RewriteError: it does not.
        """
        value = input_of(node, index)
        if value is None or value not in self.places:
            self.refuse(node, f"takes the batch by another input than input {index}")
        return self.places[value]

    def only(self, node: ir.Node, index: int = 0) -> Place:
        """Where input ``index`` carries the batch.

        Raises:
            RewriteError: it does not, or another input does too.
        """
        place = self.place(node, index)
        if any(value in self.places for at, value in enumerate(node.inputs) if at != index and value is not None):
            self.refuse(node, "has parameters that differ from image to image")
        return place

    def untouched(self, node: ir.Node, axes: Sequence[int]) -> Place:
        """Where the first input carries the batch.

        Raises:
            RewriteError: as `only`; or on one of the axes that the node works along.
        """
        place, rank = self.only(node), self.rank(node, node.inputs[0])
        if place.axis in {axis % rank for axis in axes}:
            self.refuse(node, "works along the batch")
        return place

    def constant(self, node: ir.Node, index: int) -> list[int]:
        """The integers of input ``index``.

        Raises:
            RewriteError: they are no constant.
        """
        numbers = integers(node.inputs[index]) if index < len(node.inputs) else None
        if numbers is None:
            self.refuse(node, f"takes sizes that are computed at run time as input {index}")
        return numbers

    def rewrite(self, node: ir.Node, index: int, values: Sequence[int]) -> None:
        """Replaces input ``index`` by other integers."""
        old = input_of(node, index)
        name = (old.name if old is not None else None) or f"{node.outputs[0].name}.{index}"
        replace_constant(node, index, np.array(values, np.int64), ir.DataType.INT64, name)

    def free(self, node: ir.Node, index: int, axis: int, place: Place) -> None:
        """Reduces input ``index`` to one row along an axis, so that it broadcasts to every batch size.

        Args:
            node: an operator that broadcasts.
            index: of an input that does not carry the batch: it has one row, or one per image, which are all equal.
            axis: of that input, which is aligned with the batch.
            place: of the batch in the other input.

        Raises:
            RewriteError: the rows differ, or are computed.
        """
        value = node.inputs[index]
        shape = self.shape(node, value)
        if axis < 0 or shape[axis] == 1:
            return
        array = self.row(node, value, axis, place)
        if value is not None and value.dtype is not None:
            replace_constant(node, index, array, value.dtype, f"{value.name}.row")

    def row(self, node: ir.Node, value: ir.Value | None, axis: int, place: Place) -> _Array:
        """The row of a constant (or an Expand of one) that is repeated for each image; arguments as of `free`."""
        array = _constant(value)
        if array is None:
            name = value.name if value is not None else None
            self.refuse(node, f"meets {name!r}, which does not depend on the batch and yet has its size")
        before, after = array.shape[:axis], array.shape[axis + 1 :]
        if array.shape[axis] != place.outer * self.size * place.inner:
            self.refuse(node, f"meets a constant of {array.shape[axis]} rows")
        rows = array.take([0], axis)
        if not np.array_equal(np.broadcast_to(rows, array.shape), array):
            parts = array.reshape(*before, place.outer, self.size, place.inner, *after)
            is_alike = np.array_equal(np.broadcast_to(parts.take([0], axis + 1), parts.shape), parts)
            why = "repeats itself within the rows of one image" if is_alike else "differs from image to image"
            self.refuse(node, f"meets a constant that {why}")
        return rows

    def through_reshape(self, node: ir.Node) -> Place:
        """Where the batch is after a Reshape: on the output axis that contains it as a whole.

        Raises:
            RewriteError: it is split over several axes.
        """
        value, place = node.inputs[0], self.only(node)
        before, after = self.shape(node, value), self.shape(node, node.outputs[0])
        # Elements per step of the axes before the batch, and behind it: a Reshape keeps both, wherever it puts borders.
        ahead = math.prod(before[: place.axis]) * place.outer
        behind = place.inner * math.prod(before[place.axis + 1 :])
        destination: Place | None = None
        for axis, size in enumerate(after):
            following = math.prod(after[axis + 1 :])
            inner, remainder = divmod(behind, following) if following else (0, 1)
            if remainder:
                continue
            outer, remainder = divmod(size, self.size * inner)
            if not remainder and outer and math.prod(after[:axis]) * outer == ahead:
                destination = Place(axis, outer, inner)
        if destination is None:
            self.refuse(node, f"splits the batch, {_times(before)} to {_times(after)}")
        return destination

    def refuse(self, node: ir.Node, why: str) -> NoReturn:
        """Raises a RewriteError that names the operator which cannot carry the batch."""
        what = f"{node.op_type} {why}: the batch cannot be left open"
        raise RewriteError(what, where=place_of(node), hint=FIXED_BATCH)


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _constant(value: ir.Value | None) -> _Array | None:
    """A constant, or an Expand of one, which `fold_constants` leaves if it is large; its rows then share memory."""
    tensor = tensor_of(value)
    if value is not None and tensor is not None:
        array = exact(value)
        return tensor.numpy() if array is None else array
    node = producer_of(value)
    if node is None or node.op_type != "Expand":
        return None
    data, target = _constant(node.inputs[0]), integers(node.inputs[1])
    if data is None or target is None:
        return None
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(target)))
