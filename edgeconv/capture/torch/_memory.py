"""In-place operators and views: the ONNX value of each torch tensor after all writes so far.

Tensors of torch share memory; values of an ONNX graph do not. A write gives the written tensor a new value, carries it
back through the views to the tensor that owns the memory, and marks all other views of that memory as stale: their
values are computed anew when they are next read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node as FxNode

from edgeconv.capture.torch._assignments import replaced, with_diagonal
from edgeconv.capture.torch._builder import DTYPES, Builder, Result, Unsupported, sizes_of, torch_dtype
from edgeconv.capture.torch._storage import storage_of


class Memory:
    """The present ONNX value of each torch node.

    Args:
        builder: appends the nodes that carry a write back.
        translate: computes the value of a node from the present values of its arguments.
        is_written: whether the graph has any write; without one, shared memory does not matter and is not tracked.
    """

    def __init__(self, builder: Builder, translate: Callable[[FxNode], Result], *, is_written: bool) -> None:
        self._builder = builder
        self._translate = translate
        self._is_written = is_written
        self._values: dict[FxNode, Result] = {}
        self._source: dict[FxNode, FxNode] = {}  # by a view: the tensor that it is a view of
        self._sharing: dict[int, list[FxNode]] = defaultdict(list)  # by storage: all tensors in it
        self._stale: set[FxNode] = set()  # views whose value was computed before the last write to their memory
        self._same: set[FxNode] = set()  # views with the very elements of their source

    def bind(self, node: FxNode, value: Result, *, source: FxNode | None = None) -> None:
        """Sets the value of a node for the first time; ``source`` is the tensor that a write returned."""
        self._values[node] = value
        if not self._is_written or node.meta.get("val") is None:
            return
        self._sharing[storage_of(node)].append(node)
        viewed = source or _viewed(node)
        if viewed is not None:
            self._source[node] = viewed
            if source is not None or (isinstance(value, ir.Value) and is_same_view(node, viewed)):
                self._same.add(node)

    def read(self, node: Any) -> Result:
        """The present value of a node."""
        if not isinstance(node, FxNode) or node not in self._values:
            raise Unsupported("a result that is no tensor")
        if node in self._stale:
            self._stale.discard(node)
            self._values[node] = self.read(self._source[node]) if node in self._same else self._translate(node)
        return self._values[node]

    def write(self, node: FxNode, value: ir.Value) -> None:
        """Gives a tensor a new value; every tensor that shares its memory sees it from now on.

        Raises:
            Unsupported: the tensor is a view through which a write cannot be carried back.
        """
        written = [node]
        self._values[node] = value
        while (owner := self._source.get(node)) is not None:
            if node not in self._same:
                value = self._carried_back(node, owner, value)
            self._values[owner] = value
            written.append(owner)
            node = owner
        self._stale -= set(written)
        self._stale |= set(self._sharing[storage_of(written[0])]) - set(written)
        if any(view not in self._source for view in self._stale):
            raise Unsupported("a write to memory that is shared in an unknown way")

    def _carried_back(self, view: FxNode, owner: FxNode, value: ir.Value) -> ir.Value:
        """The new value of a tensor after the elements that a view of it shows were replaced by `value`."""
        before = self.read(owner)
        if not isinstance(before, ir.Value):
            raise Unsupported("a write through a view of several tensors")
        name, exact = str(view.target), self._builder.exact
        if name in _RESHAPED:
            return self._builder.reshape(value, sizes_of(before))
        if name in _PERMUTED:
            order = _PERMUTED[name](view, len(sizes_of(before)))
            return self._builder.transpose(value, [order.index(axis) for axis in range(len(order))])
        if before in exact and value in exact and name in _PARTS and callable(view.target):  # a table that is filled
            after = exact[before].clone()
            view.target(after, *view.args[1:]).copy_(exact[value])
            return self._builder.exactly(after, DTYPES[torch_dtype(before.dtype)])
        if name == "aten.diagonal.default":
            return with_diagonal(self._builder, before, value, *_bound_diagonal(view))
        # A part of one axis: what lies before it, the new part, what lies behind it.
        axis, places = _span(view, sizes_of(before))
        start, length = places.start, len(places)
        shape = (*sizes_of(before)[:axis], length, *sizes_of(before)[axis + 1 :])
        part = self._builder.reshape(value, shape)
        if places.step != 1:
            return replaced(self._builder, before, part, list(places), axis)
        parts = [part]
        if start:
            parts.insert(0, self._builder.slice(before, axis, 0, start))
        if start + length < sizes_of(before)[axis]:
            parts.append(self._builder.slice(before, axis, start + length, sizes_of(before)[axis]))
        return self._builder.concat(parts, axis)


_RESHAPED = frozenset(
    {
        "aten.view.default", "aten.reshape.default", "aten.flatten.using_ints", "aten.unsqueeze.default",
        "aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.unflatten.int",
    }
)  # fmt: skip
"""Views whose write is carried back by a reshape: all elements, in the same order."""

_PARTS = frozenset({"aten.slice.Tensor", "aten.select.int", "aten.narrow.default"})


def _permute_order(view: FxNode, rank: int) -> list[int]:
    return [axis % rank for axis in _ints(view.args[1])]


def _transpose_order(view: FxNode, rank: int) -> list[int]:
    order = list(range(rank))
    first, second = _ints(view.args[1:3])
    order[first], order[second] = order[second], order[first]
    return order


# By a view that only moves axes: the axis of the viewed tensor at each of its positions.
_PERMUTED: dict[str, Callable[[FxNode, int], list[int]]] = {
    "aten.permute.default": _permute_order,
    "aten.transpose.int": _transpose_order,
    "aten.t.default": lambda _view, rank: list(range(rank))[::-1],
}


def _span(view: FxNode, sizes: tuple[int, ...]) -> tuple[int, range]:
    """The axis along which a view shows a part of a tensor of these sizes, and the indices on it."""
    name = str(view.target)
    if name == "aten.slice.Tensor":
        # dim, start, end, step, with the schema's defaults for those left out
        arguments: list[Any] = [*view.args[1:], *[0, None, None, 1][len(view.args) - 1 :]]
        axis, step = _ints([arguments[0], arguments[3]])
        return axis % len(sizes), range(*slice(arguments[1], arguments[2], step).indices(sizes[axis]))
    if name == "aten.select.int":
        dim, index = _ints(view.args[1:3])
        return dim % len(sizes), range(index % sizes[dim], index % sizes[dim] + 1)
    if name == "aten.narrow.default":
        dim, start, length = _ints(view.args[1:4])
        return dim % len(sizes), range(start % sizes[dim], start % sizes[dim] + length)
    if isinstance(pieces := view.args[0], FxNode) and str(pieces.target) in _PIECES:
        position = _PIECES[str(pieces.target)]
        along = pieces.args[position] if len(pieces.args) > position else 0
        axis, item = _ints([along, view.args[1]])
        is_unbind = str(pieces.target) == "aten.unbind.int"
        lengths = [1 if is_unbind else piece.shape[axis] for piece in pieces.meta["val"]]
        return axis % len(sizes), range(sum(lengths[:item]), sum(lengths[: item + 1]))
    raise Unsupported(f"a write through {name}")


# The operators that make lists of pieces, with the position of their axis among the arguments.
_PIECES = {
    "aten.chunk.default": 2, "aten.split.Tensor": 2, "aten.split_with_sizes.default": 2, "aten.split.sizes": 2,
    "aten.unbind.int": 1,
}  # fmt: skip


def _bound_diagonal(view: FxNode) -> list[int]:
    """Offset and axes of a diagonal."""
    return _ints([*view.args[1:], *(0, 0, 1)[len(view.args) - 1 :]])


def _ints(arguments: Any) -> list[int]:
    if not all(isinstance(argument, int) for argument in arguments):
        raise Unsupported("a write through a view whose place is not known")
    return list(arguments)


def _viewed(node: FxNode) -> FxNode | None:
    """The tensor that a node's result is a view of: its first argument, or the one that a list was split from."""
    first = node.args[0] if node.args else None
    while isinstance(first, FxNode) and not isinstance(first.meta.get("val"), torch.Tensor):
        first = first.args[0] if first.args else None
    if not isinstance(first, FxNode) or node.op != "call_function":
        return None
    return first if storage_of(first) == storage_of(node) else None


def is_same_view(node: FxNode, other: FxNode) -> bool:
    """Whether two tensors are the same elements of the same memory in the same order."""
    if storage_of(node) != storage_of(other):
        return False
    a, b = node.meta["val"], other.meta["val"]
    same_place = a.storage_offset() == b.storage_offset() and a.stride() == b.stride()
    return bool(same_place and a.shape == b.shape and a.dtype == b.dtype)
