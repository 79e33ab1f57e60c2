"""Channels of an `.onnx` file that its graph has not, and that nothing reads: taken out before both are compared.

A writer may add some so that a runtime's vectors are full. That they change nothing is seen here: what follows from
them treats every channel alike, up to convolutions of integers that weigh each of them by zero. A file where that does
not hold is compared as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.constants import new_constant
from edgeconv.graph.edit import constant, input_of, producer_of
from edgeconv.graph.traits import Trait, having

_ROUNDS = ("QuantizeLinear", "DequantizeLinear")
_BACK = "DequantizeLinear"
_ALIKE = having(Trait.FUNCTION) | {*_ROUNDS, "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"}
_TOGETHER = ("Add", "Mul", "Sub")


def take_out_channels(file: ir.Graph, graph: ir.Graph) -> None:
    """Takes out of a file what its convolutions have more channels of than the graph's of the same name."""
    due = {node.outputs[0].name: node for node in graph if node.op_type == "Conv"}
    more = _More({})
    for node in file:
        own = due.get(node.outputs[0].name) if node.op_type == "Conv" and node.domain == "" else None
        weight, stated = (None if conv is None else _numbers(conv) for conv in (node, own))
        if own is None or weight is None or stated is None or weight.ndim != stated.ndim:
            continue
        if len(weight) > len(stated) and node.attributes.get_int("group", 1) == 1:
            more.begin(node, len(weight), len(stated))
    if more.values and more.reach():
        more.take_out(file)


@dataclass
class _More:
    """What has more channels: of each value how many it has, and how many are due.

    Attributes:
        values: the numbers of channels.
        makers: the convolutions of one group that make them.
        depthwise: those that treat each by itself.
        readers: those of one group that read them.
    """

    values: dict[ir.Value, tuple[int, int]]
    makers: dict[ir.Node, None] = field(default_factory=dict)
    depthwise: dict[ir.Node, None] = field(default_factory=dict)
    readers: dict[ir.Node, None] = field(default_factory=dict)

    def begin(self, conv: ir.Node, held: int, due: int) -> None:
        """Enters the result of a convolution of one group."""
        self.makers[conv] = None
        self.values[conv.outputs[0]] = held, due

    def reach(self) -> bool:
        """Enters all that follows from the values; whether they change nothing that is due."""
        pending = list(self.values)
        for value in pending:
            if value.is_graph_output():
                return False
            for use in value.uses():
                results = self._following(use.node, value)
                if results is None:
                    return False
                for result in results:
                    if result not in self.values:
                        self.values[result] = self.values[value]
                        pending.append(result)  # the list that is walked: until nothing new follows
        nodes = {use.node for value in self.values for use in value.uses()} - self.readers.keys()
        return all(self._reads_nothing_else(node) for node in nodes)

    def _following(self, node: ir.Node, value: ir.Value) -> list[ir.Value] | None:
        """The values of a node that have as many channels; None where it does not treat them alike."""
        held, due = self.values[value]
        if node.domain != "" or len(node.outputs) != 1 or node.graph is not value.graph:
            return None
        if node.op_type == "Conv" and node.inputs[0] is value:
            return self._following_conv(node, held, due)
        if node.op_type in _ALIKE and node.inputs[0] is value and all(map(_is_of_all, node.inputs[1:])):
            return [node.outputs[0]]
        return [node.outputs[0]] if node.op_type in _TOGETHER else None

    def _following_conv(self, node: ir.Node, held: int, due: int) -> list[ir.Value] | None:
        weight, groups = _numbers(node), node.attributes.get_int("group", 1)
        if weight is None:
            return None
        if groups == held == len(weight) and weight.shape[1] == 1:
            self.depthwise[node] = None
            return [node.outputs[0]]
        # Zero times an integer is zero: of floats it would have to be shown that they are finite.
        maker = producer_of(node.inputs[0])
        is_integer = maker is not None and maker.op_type == _BACK
        if groups != 1 or not is_integer or weight.shape[1] != held or weight[:, due:].any():
            return None
        self.readers[node] = None
        return []

    def _reads_nothing_else(self, node: ir.Node) -> bool:
        """Whether every operand of a node has the channels, too, or is one number for all."""
        operands = node.inputs[:1] if node.op_type == "Conv" else node.inputs
        return all(value in self.values or _is_of_all(value) for value in operands)

    def take_out(self, graph: ir.Graph) -> None:
        """Leaves the channels that are due."""
        for node in (*self.makers, *self.depthwise):
            _, due = self.values[node.outputs[0]]
            for index in range(1, len(node.inputs)):
                _cut(graph, node, index, 0, due)
            if node in self.depthwise:
                node.attributes["group"] = ir.AttrInt64("group", due)
        for node in self.readers:
            source = node.inputs[0]
            assert source is not None  # `_following` was given it
            _cut(graph, node, 1, 1, self.values[source][1])
        for value, (_, due) in self.values.items():
            if value.shape is not None:
                value.shape = ir.Shape([due if at == 1 else size for at, size in enumerate(value.shape)])


def _numbers(conv: ir.Node) -> Array | None:
    """A convolution's weight in integers, or in floats, as it is stored; None where it is computed, or not at 0."""
    weight = input_of(conv, 1)
    maker = producer_of(weight)
    if maker is None or maker.op_type != _BACK:
        return constant(weight)
    zero = constant(input_of(maker, 2))
    return None if zero is not None and zero.any() else constant(maker.inputs[0])


def _is_of_all(value: ir.Value | None) -> bool:
    """Whether it is left out, or one constant number."""
    array = constant(value)
    return value is None or (array is not None and array.size == 1)


def _cut(graph: ir.Graph, node: ir.Node, index: int, axis: int, due: int) -> None:
    """Leaves the first elements of a constant along an axis, and of the scales of its integers."""
    value = node.inputs[index]
    maker = producer_of(value)
    if maker is not None and maker.op_type == _BACK:
        for position in range(len(maker.inputs) if axis == 0 else 1):
            _cut(graph, maker, position, axis, due)
        if value is not None:
            value.shape = None
        return
    array = constant(value)
    if value is None or array is None or array.ndim <= axis or array.shape[axis] <= due:
        return
    name, rest = value.name or "", np.take(array, range(due), axis)
    node.replace_input_with(index, None)
    if value.uses():  # others read all of it
        name = f"{name}.{node.outputs[0].name}"
    else:
        graph.initializers.pop(name, None)
    node.replace_input_with(index, new_constant(graph, name, rest))
