"""A node with its operands, as the rules of `_node_rules` and the like read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeconv.errors import ParityError
from edgeconv.graph.origin import place_of
from edgeconv.parity.bounds._arithmetic import Arithmetic, Array
from edgeconv.parity.bounds._bound import Bound
from edgeconv.parity.bounds._bounded import Bounded
from edgeconv.reference import evaluate_node
from edgeconv.reference._operands import Operands


@dataclass(frozen=True)
class Site(Operands[Array]):
    """A node with its operands.

    Attributes:
        arithmetic: of the runtime.
        results: the exact ones.
        carried: operands that no runtime returned, by their place: computed, with the errors that they may have.
    """

    arithmetic: Arithmetic
    results: tuple[Array, ...]
    carried: Mapping[int, Bound] = field(default_factory=dict)

    def x(self, index: int = 0) -> Bounded:
        """An operand."""
        own = Bounded.of(self[index], self.arithmetic)
        bound = self.carried.get(index)
        if bound is None:
            return own
        return own.carrying(bound.errors)

    def maybe(self, index: int) -> Bounded | None:
        """An operand that may be left out."""
        return None if self.optional(index) is None else self.x(index)

    def number(self, name: str, default: float) -> float:
        """A FLOAT attribute."""
        return float(self.attribute(name, default))

    def again(self, operands: Sequence[Array]) -> Array:
        """The first result of the same node on others of its leading operands."""
        rest = self.values[len(operands) :]
        arrays = [*operands, *(item if not isinstance(item, list) else None for item in rest)]
        return evaluate_node(self.node, arrays, opset=self.opset)[0]

    def axes(self, index: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """The axes of a reduction, counted from the front; all where none is stated."""
        rank = self[0].ndim
        stated = self.ints(index, "axes") or (list(range(rank)) if default is None else default)
        return tuple(axis % rank for axis in stated)

    def unknown(self, form: str) -> ParityError:
        """The error for a form of the operator that has no bound."""
        what = f"no error bound is known for {self.node.op_type} {form}"
        return ParityError(what, where=place_of(self.node), hint="judge its outputs")

    @property
    def spatial(self) -> tuple[int, ...]:
        """The axes behind batch and channels."""
        return tuple(range(2, self[0].ndim))


Rule = Callable[[Site], "Bounded | tuple[Bounded | None, ...]"]
