"""A graph of integers beside the float graph that it was made from: the same nodes, and roundings between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.edit import constant, input_of
from edgeconv.parity.quantizing._place import Place

_ROUNDING = ("QuantizeLinear", "DequantizeLinear")
_RENAMED = {"bilinear": "linear", "bicubic": "cubic"}  # modes of GridSample since opset 20


@dataclass(frozen=True)
class Pair:
    """QuantizeLinear and DequantizeLinear, by whose parameters a value is rounded."""

    quantize: ir.Node
    dequantize: ir.Node


@dataclass(frozen=True)
class Operand:
    """What a node reads, in both graphs.

    Attributes:
        node: of the graph of integers; None for an output of the graph.
        index: of its input, or of the output.
        before: the node of the float graph.
        value: what that reads.
        base: the same in the graph of integers, before it is rounded; of a constant of integers, what they stand for.
        pairs: that round it in the graph of integers, the one behind the other.
        stored: the DequantizeLinear of a constant; None for all else.
        is_added: whether the float graph has nothing there: a bias.
    """

    node: ir.Node | None
    index: int
    before: ir.Node | None
    value: ir.Value
    base: ir.Value
    pairs: tuple[Pair, ...] = ()
    stored: ir.Node | None = None
    is_added: bool = False

    @property
    def name(self) -> str:
        """What reads it, named after its torch module."""
        return first_name(self.before) if self.before is not None else self.value.name or ""

    @property
    def is_changed(self) -> bool:
        """Whether it is a constant whose numbers, no integers, are others than the float graph's."""
        due, stored = constant(self.value), constant(self.base)
        if due is None or self.stored is not None or due is stored:
            return False
        if stored is None or due.dtype != stored.dtype or due.shape != stored.shape:
            return True
        return due.tobytes() != stored.tobytes()


class Alongside:
    """Two graphs, node by node.

    Args:
        before: the float graph.
        after: made of it; has QuantizeLinear and DequantizeLinear besides.
        same: operators that may stand for one another, ``{("Clip", "Relu")}``.
    """

    def __init__(self, before: ir.Model, after: ir.Model, same: frozenset[tuple[str, str]] = frozenset()) -> None:
        self._same = same
        self.before, self.after = before.graph, after.graph
        self._nodes = [_operators(self.before), _operators(self.after)]
        self._mates: dict[ir.Value, ir.Value] = {}

    def _other_nodes(self) -> Place | None:
        """The first node that is another one; None where all are the same, and so values are, too."""
        nodes, others = self._nodes
        for node, other in zip(nodes, others, strict=False):
            name = first_name(node)
            if (node.domain, node.op_type) != (other.domain, other.op_type):
                if (node.op_type, other.op_type) in self._same:
                    continue
                return Place(name, f"{name} is {other.op_type}, and was {node.op_type} in the float graph")
            if len(node.outputs) != len(other.outputs):
                return Place(name, f"{name} has another number of results than in the float graph")
            attribute = _other_attribute(node, other)
            if attribute:
                return Place(name, f"{name}: {node.op_type} has another {attribute} than in the float graph")
        if len(nodes) != len(others):
            return Place(
                "", f"the graph has {len(others)} operators beside roundings, and the float graph {len(nodes)}"
            )
        for values, mates in ((self.before.inputs, self.after.inputs), (self.before.outputs, self.after.outputs)):
            if [value.name for value in values] != [value.name for value in mates]:
                return Place("", "its inputs or outputs are not the float graph's")
        self._mates = dict(zip(self.before.inputs, self.after.inputs, strict=True))
        for node, other in zip(nodes, others, strict=True):
            self._mates.update(zip(node.outputs, other.outputs, strict=True))
        return None

    def operands(self) -> Iterator[Operand | Place]:
        """All that nodes and outputs read; a `Place` for what reads another value than in the float graph.

        Where a node is another one, there is a `Place` of that and nothing else.
        """
        other_nodes = self._other_nodes()
        if other_nodes is not None:
            yield other_nodes
            return
        for node, other in zip(*self._nodes, strict=True):
            if (node.op_type, other.op_type) in self._same:
                yield self._operand(node, other, 0, node.inputs[0], other.inputs[0]) or _stray(node, 0)
                continue
            for index in range(max(len(node.inputs), len(other.inputs))):
                value, read = input_of(node, index), input_of(other, index)
                if value is not None and read is not None:
                    yield self._operand(node, other, index, value, read) or _stray(node, index)
                elif value is None and read is not None and constant(read) is not None:
                    yield Operand(other, index, node, read, read, is_added=True)
                elif value is not read:
                    yield _stray(node, index)
        for index, (value, read) in enumerate(zip(self.before.outputs, self.after.outputs, strict=True)):
            operand = self._operand(None, None, index, value, read)
            yield operand or Place(value.name or "", f"the output {value.name} is another value of the float graph")

    def _operand(
        self, before: ir.Node | None, node: ir.Node | None, index: int, value: ir.Value | None, read: ir.Value | None
    ) -> Operand | None:
        """None where both do not read the same."""
        if value is None or read is None:
            return None
        base, pairs, stored = source_of(read)
        is_constant = constant(value) is not None
        same = stored is not None or constant(base) is not None if is_constant else self._mates.get(value) is base
        return Operand(node, index, before, value, base, pairs, stored) if same else None


def source_of(value: ir.Value) -> tuple[ir.Value, tuple[Pair, ...], ir.Node | None]:
    """What a value is before it is rounded, the roundings (the first one first), and the node of a stored constant."""
    pairs: list[Pair] = []
    while (node := value.producer()) is not None and node.op_type == "DequantizeLinear":
        integers = node.inputs[0]
        maker = None if integers is None else integers.producer()
        if maker is None or maker.op_type != "QuantizeLinear" or maker.inputs[0] is None:
            return value, tuple(reversed(pairs)), node if constant(integers) is not None else None
        pairs.append(Pair(maker, node))
        value = maker.inputs[0]
    return value, tuple(reversed(pairs)), None


def first_name(node: ir.Node) -> str:
    """A node's first output, which is named after the torch module."""
    return next((value.name for value in node.outputs if value.name), node.op_type)


def _stray(node: ir.Node, index: int) -> Place:
    name = first_name(node)
    return Place(name, f"{name}: operand {index} of {node.op_type} is not what it is in the float graph")


def _operators(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if node.op_type not in _ROUNDING]


def _other_attribute(node: ir.Node, other: ir.Node) -> str:
    """The name of an attribute that differs; empty where all are the same."""
    if all(attribute is other.attributes.get(name) for name, attribute in node.attributes.items()):
        return "" if len(node.attributes) == len(other.attributes) else "attribute"
    due, stated = _attributes(node), _attributes(other)
    return next((name for name in sorted({*due, *stated}) if due.get(name) != stated.get(name)), "")


def _attributes(node: ir.Node) -> Mapping[str, object]:
    """What the attributes say; graphs by their operators, tensors by their numbers."""
    stated: dict[str, object] = {}
    for name, attribute in node.attributes.items():
        value = attribute.value
        if attribute.type == ir.AttributeType.GRAPH:
            stated[name] = tuple(inner.op_type for inner in value)
        elif attribute.type == ir.AttributeType.TENSOR:
            stated[name] = (value.dtype, tuple(value.shape), value.numpy().tobytes())
        else:
            stated[name] = tuple(value) if isinstance(value, list | tuple) else value
    if node.op_type == "GridSample" and isinstance(stated.get("mode"), str):
        stated["mode"] = _RENAMED.get(str(stated["mode"]), stated["mode"])
    return stated


def numbers_of(node: ir.Node) -> tuple[Array, Array]:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear, as they are stored; zero where none is."""
    scale, zero = constant(input_of(node, 1)), constant(input_of(node, 2))
    scale = np.full((), np.nan, np.float32) if scale is None else scale
    return scale, np.zeros(scale.shape, np.int8) if zero is None else zero
