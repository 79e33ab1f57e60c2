"""What two graphs compute alike, node by node, and what has to be compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np
import onnx_ir as ir

from edgeconv.graph.edit import tensor_of


class Beside:
    """Two graphs that share names of values.

    Args:
        before: a graph.
        after: what became of it.
        held: the values that both have and that are compared, by name; each answers for itself.
    """

    def __init__(self, before: ir.Model, after: ir.Model, held: Collection[str]) -> None:
        self._makers = tuple(_makers(model) for model in (before, after))
        self._held = frozenset(held)
        self._inputs = frozenset(value.name or "" for value in before.graph.inputs)
        self._is_same: dict[str, bool] = {}

    def changed(self) -> list[str]:
        """The held values that the graphs do not compute by the same nodes from others, in the second graph's order."""
        return [name for name in self._makers[1] if name in self._held and not self.is_alike(name)]

    def is_alike(self, name: str) -> bool:
        """Whether both graphs compute a value by the same nodes, with the same constants, from the same held values."""
        return self._same(name)

    def operators(self, name: str) -> frozenset[str]:
        """The operators, of both graphs, between a value and the held values before it."""
        return frozenset(node.op_type for makers in self._makers for node in _before(makers, name, self._held)[0])

    def apart(self, names: Collection[str]) -> list[str]:
        """Those that both graphs compute from the same held values, of which none is computed from another.

        These held values may then be anything. Of what one graph alone reads the other may read the origin, as where
        the same was computed twice; and a graph may rely on what a value is computed from.
        """
        chosen = []
        for name in names:
            read, also = self._read(name, self._held)
            if read == also and not self._dependent(read):
                chosen.append(name)
        return chosen

    def read(self, name: str, unheld: Collection[str] = ()) -> frozenset[str]:
        """The held values and the inputs that either graph computes a value from, without those not held."""
        read, also = self._read(name, self._held.difference(unheld))
        return read | also

    def in_the_way(self, name: str) -> frozenset[str]:
        """The held values without which `apart` holds of a value, if without any: the latest first, and no more.

        A node that one graph leaves out is seen only where its operand is held, and its own result is not.
        """
        held = self._held
        while True:
            read, also = self._read(name, held)
            latest = max((read ^ also | self._dependent(read | also)) & held, key=self._place, default=None)
            if latest is None:
                return self._held - held
            held -= {latest}

    def _read(self, name: str, held: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
        """What each graph computes a value from directly, of held values and inputs."""
        before, after = (_before(makers, name, held | self._inputs)[1] for makers in self._makers)
        return before, after

    def _dependent(self, names: Collection[str]) -> frozenset[str]:
        """Those that are computed from others of them."""
        bits = sum(1 << self._places[name] for name in names if name in self._places)
        return frozenset(name for name in names if self._origins.get(name, 0) & bits)

    def _place(self, name: str) -> int:
        return self._places.get(name, len(self._places))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate((*self._inputs, *self._makers[0]))}

    @cached_property
    def _origins(self) -> dict[str, int]:
        """The values that each value of the first graph is computed from, as bits at their places."""
        origins: dict[str, int] = {}
        for name, node in self._makers[0].items():
            bits = 0
            for operand in (value.name or "" for value in node.inputs if value is not None):
                bits |= origins.get(operand, 0) | (1 << self._places[operand] if operand in self._places else 0)
            origins[name] = bits
        return origins

    def _same(self, name: str) -> bool:
        if name not in self._is_same:
            self._is_same[name] = False  # for a graph that contradicts itself
            one, other = (makers.get(name) for makers in self._makers)
            if one is None or other is None:  # an input of both graphs
                self._is_same[name] = one is other
            else:
                self._is_same[name] = _is_alike(one, other, name) and self._same_operands(one, other)
        return self._is_same[name]

    def _same_operands(self, one: ir.Node, other: ir.Node) -> bool:
        if len(one.inputs) != len(other.inputs):
            return False
        return all(self._same_operand(a, b) for a, b in zip(one.inputs, other.inputs, strict=True))

    def _same_operand(self, one: ir.Value | None, other: ir.Value | None) -> bool:
        if one is None or other is None:
            return one is other
        stored, other_stored = tensor_of(one), tensor_of(other)
        if stored is not None and other_stored is not None:
            return stored is other_stored or _is_equal(stored, other_stored)
        if stored is not other_stored or one.name != other.name:
            return False
        name = one.name or ""
        return name in self._held or self._same(name)


def _before(makers: Mapping[str, ir.Node], name: str, held: Collection[str]) -> tuple[set[ir.Node], frozenset[str]]:
    """The nodes between a value and the held values before it, and what they read of these."""
    waiting, nodes, read = [name], set[ir.Node](), set[str]()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node not in nodes:
            nodes.add(node)
            operands = {value.name or "" for value in node.inputs if value is not None}
            read |= operands & frozenset(held)
            waiting += operands.difference(held)
    return nodes, frozenset(read)


def _makers(model: ir.Model) -> dict[str, ir.Node]:
    return {value.name or "": node for node in model.graph for value in node.outputs}


def _is_alike(one: ir.Node, other: ir.Node, name: str) -> bool:
    """Whether two nodes are the same but for their operands, and make this value as the same result."""
    if (one.domain, one.op_type, len(one.outputs)) != (other.domain, other.op_type, len(other.outputs)):
        return False
    if [value.name == name for value in one.outputs] != [value.name == name for value in other.outputs]:
        return False
    if one.attributes.keys() != other.attributes.keys():
        return False
    return all(
        attribute is other.attributes[key]
        or (attribute.type == other.attributes[key].type and _stated(attribute) == _stated(other.attributes[key]))
        for key, attribute in one.attributes.items()
    )


def _stated(attribute: ir.Attr) -> object:
    """What an attribute says: one of several numbers may be held as a list or as a tuple."""
    return tuple(attribute.value) if isinstance(attribute.value, list) else attribute.value


def _is_equal(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    if one.dtype != other.dtype or one.dtype == ir.DataType.STRING or tuple(one.shape) != tuple(other.shape):
        return False
    a, b = one.numpy(), other.numpy()
    return a is b or bool(np.array_equal(a, b))
