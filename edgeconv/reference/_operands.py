"""A node with the values of its inputs, as an operator's function gets it: in torch (the engine) or numpy (folding)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import onnx_ir as ir

from edgeconv.errors import RewriteError
from edgeconv.graph.origin import place_of


class ImpossibleError(RewriteError):
    """The operands admit no result on any runtime: an index out of range, a division by zero, one too large to hold."""


class TensorLike(Protocol):
    """What numpy's arrays and torch's tensors have in common."""

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def ndim(self) -> int: ...
    def reshape(self, shape: Sequence[int], /) -> Self: ...
    def tolist(self) -> Any: ...
    def __getitem__(self, index: Any, /) -> Any: ...


_Tensor = TypeVar("_Tensor", bound=TensorLike)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Operands(Generic[_Tensor]):
    """One node, with the values of its inputs.

    Attributes:
        node: the node.
        values: of its inputs; None where the node leaves an optional input out.
        opset: version of the default ONNX domain that the graph was written in.
        body: evaluates a subgraph of the node, for control flow; gives its outputs.
    """

    node: ir.Node
    values: tuple[_Tensor | list[_Tensor] | None, ...]
    opset: int
    body: Callable[[ir.Graph], tuple[_Tensor | list[_Tensor], ...]]

    def __getitem__(self, index: int) -> _Tensor:
        """Input ``index``, which is required."""
        value = self.optional(index)
        if value is None:
            raise self.refuse(f"has no input {index}")
        return value

    def optional(self, index: int) -> _Tensor | None:
        """Input ``index``; None where it is left out."""
        value = self.values[index] if index < len(self.values) else None
        if isinstance(value, list):
            raise self.refuse(f"has a sequence as input {index} where it takes a tensor")
        return value

    def sequence(self, index: int) -> list[_Tensor]:
        """Input ``index``, a sequence."""
        value = self.values[index]
        if not isinstance(value, list):
            raise self.refuse(f"has no sequence as input {index}")
        return value

    def tensors(self) -> list[_Tensor]:
        """All inputs of an operator that takes any number of them."""
        return [self[index] for index in range(len(self.values))]

    def has(self, name: str) -> bool:
        """Whether the node states the attribute."""
        return name in self.node.attributes

    def attribute(self, name: str, default: _T) -> _T:
        """An attribute as a Python value (lists for INTS and FLOATS), of the type of its default."""
        if name not in self.node.attributes:
            return default
        attribute = self.node.attributes[name]
        if attribute.is_ref():
            raise self.refuse(f"refers to an attribute of a function for {name!r}")
        value: Any = attribute.value
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = list(value)
        stated: _T = value
        return stated

    def ints(self, index: int, name: str) -> list[int] | None:
        """Integers: input ``index`` in newer opsets, attribute ``name`` in older ones; None where neither is stated."""
        value = self.optional(index)
        if value is not None:
            items = value.reshape([-1]).tolist()
            if not all(map(math.isfinite, items)):
                raise self.refuse(f"takes integers as input {index}, and has {items[:8]}")
            return [int(item) for item in items]
        stated: Sequence[int] | None = self.attribute(name, None)
        return None if stated is None else [int(item) for item in stated]

    def axis(self, rank: int, default: int = 0, *, behind: int = 0) -> int:
        """The attribute ``axis``, counted from the front.

        Args:
            rank: of the tensor.
            default: where the node states none.
            behind: how far past the last axis it may be (1 for Flatten).

        Raises:
            IndexError: there is no such axis.
        """
        axis: int = self.attribute("axis", default)
        if not -max(rank, 1) <= axis < max(rank, 1) + behind and "axis" in self.node.attributes:
            raise IndexError(f"axis {axis} of a tensor of {rank} axes")
        return axis + rank if axis < 0 else axis

    def text(self, name: str, default: str) -> str:
        """A STRING attribute."""
        return self.attribute(name, default)

    def refuse(self, what: str) -> RewriteError:
        """The error that says ``<operator> <what>`` and names the node."""
        return RewriteError(f"{self.node.op_type} {what}", where=place_of(self.node))
