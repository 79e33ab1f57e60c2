"""Which elements of a value anybody reads: what a `Where` drops does not count.

``where(x > 0, log(x), x)`` computes the logarithms of all elements and takes those of some. The others may be infinite,
not a number, or so large that a scale for them leaves nothing for those that are taken.

Rules
    1. Of the tensors that a `Where` chooses from, those elements are read that its condition picks, among those that
       are read of its result.
    2. An operator that computes each element of the elements at its place reads what is read of its result. So does
       one that only lays elements out in another order.
    3. An operator on rows (softmax, layer norm, the product with a constant matrix) reads them whole.
    4. Any other reader, and a caller who is given the value, reads everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.constants import permutation_of
from edgeconv.graph.edit import constant, dims, rank
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._graph import named

_Read = npt.NDArray[np.bool_]
_Sizes = tuple[int, ...]
_Back = Callable[[_Read, _Sizes], _Read]
"""From what is read of an operator's result to what it reads of an operand of these sizes."""


class ReadElements:
    """The values of a graph of which elements may go unread.

    Attributes:
        names: theirs.
        conditions: the names of the computed values that decide which; needed for every batch.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._partial: dict[str, ir.Value] = {}
        conditions: dict[str, None] = {}
        # From the outputs backwards: whether a value is read in part depends on what is read of its readers' results.
        for node in reversed(list(graph)):
            for value in {value: None for value in node.inputs if value is not None}:
                if not self._may_be_partial(value):
                    continue
                self._partial[named(value)] = value
                choices = [use.node.inputs[0] for use in value.uses() if use.node.op_type == "Where"]
                conditions.update((named(choice), None) for choice in choices if choice and constant(choice) is None)
        self.names = frozenset(self._partial)
        self.conditions = tuple(conditions)

    def of(self, values: Mapping[str, Array]) -> dict[str, _Read]:
        """Masks of one batch, True where an element is read, by the names of the values that may have unread elements.

        Args:
            values: those of `conditions` among them.
        """
        reads: dict[str, _Read] = {}
        for name, value in self._partial.items():  # readers first
            sizes = dims(value) or ()
            read = np.zeros(sizes, np.bool_)
            for use in value.uses():
                result = use.node.outputs[0]
                of_result = reads.get(named(result), np.ones(dims(result) or (), np.bool_))
                if use.node.op_type == "Where":
                    of_result = of_result & _picked(use.node, use.idx, values)
                read |= _back(use.node, use.idx)(of_result, sizes)  # type: ignore[misc]  # `_may_be_partial` saw to it
            reads[name] = read
        return reads

    def _may_be_partial(self, value: ir.Value) -> bool:
        if value.is_graph_output() or value.dtype != ir.DataType.FLOAT or dims(value) is None:
            return False
        return all(self._hands_on(use.node, use.idx) for use in value.uses())

    def _hands_on(self, node: ir.Node, index: int) -> bool:
        result = node.outputs[0]
        if dims(result) is None or _back(node, index) is None:
            return False
        return node.op_type == "Where" or named(result) in self._partial


def _picked(node: ir.Node, index: int, values: Mapping[str, Array]) -> _Read:
    """The elements that a `Where` takes of this operand."""
    condition = constant(node.inputs[0])
    if condition is None:
        condition = values[named(node.inputs[0])]  # type: ignore[arg-type]  # an operand that must be there
    return np.asarray(condition if index == 1 else ~condition, np.bool_)


def _back(node: ir.Node, index: int) -> _Back | None:
    """How an operator reads this operand; None where it may read everything."""
    if node.op_type == "Where":
        return _summed if index > 0 else None
    if node.op_type in having(Trait.BROADCASTS) or (node.op_type in having(Trait.FUNCTION) and index == 0):
        return _summed
    if index > 0 or (axes := rank(node.inputs[0])) is None:
        return None
    if node.op_type in having(Trait.KEEPS_ORDER):
        return lambda read, sizes: read.reshape(sizes)
    match node.op_type:
        case "Transpose":
            back = np.argsort(permutation_of(node, axes))
            return lambda read, sizes: read.transpose(back)
        case "Softmax" | "LogSoftmax":
            return _rows(node.attributes.get_int("axis", -1) % axes)
        case "LayerNormalization":
            return _rows(*range(node.attributes.get_int("axis", -1) % axes, axes))
        case "MatMul" if axes > 1 and _is_matrix(node.inputs[1]):
            return _rows(axes - 1)
        case "Gemm" if not node.attributes.get_int("transA", 0) and _is_matrix(node.inputs[1]):
            return _rows(axes - 1)
    return None


def _is_matrix(value: ir.Value | None) -> bool:
    return constant(value) is not None and rank(value) == 2


def _summed(read: _Read, sizes: _Sizes) -> _Read:
    """An element is read where any result is that it was broadcast to."""
    added = read.ndim - len(sizes)
    # Axes of the operand that are 1 and were broadcast.
    wide = tuple(axis for axis in range(added, read.ndim) if sizes[axis - added] == 1 != read.shape[axis])
    return np.asarray(read.any(axis=(*range(added), *wide), keepdims=True).reshape(sizes))


def _rows(*axes: int) -> _Back:
    return lambda read, sizes: np.broadcast_to(read.any(axis=axes, keepdims=True), sizes)
