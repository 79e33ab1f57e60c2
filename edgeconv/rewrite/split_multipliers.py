"""Splits depthwise convolutions with a channel multiplier into several with one output per channel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgeconv.core.defaults import MOST_JOINED
from edgeconv.graph.constants import Float64, exact
from edgeconv.graph.each_node import Change, EachNodePass
from edgeconv.graph.edit import dims, graph_of, input_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import disown, insert_like, replace_constant, take_over
from edgeconv.graph.traits import Trait, having
from edgeconv.rewrite.algebra._linear import Linear, linear

_FEWEST_CHANNELS = 8  # with fewer, the vector registers of no runtime's kernel are full in either form


class SplitMultipliersPass(EachNodePass):
    """Writes a depthwise Conv of m outputs per channel as m depthwise Convs and a Concat.

    1. Requires: constant weights, m of 2 to 4, at least 8 channels. From the result on there are only elementwise
       operators (of one value, with scalars, or with one another), until each path ends in a Conv of one group, a Gemm
       or a MatMul with constant weights over all of these channels. No graph output is between.
    2. Ensures: the channels, whose order was (channel, part), have the order (part, channel). The values between are no
       longer those of their torch modules, and lose their names.
    3. Exact: the same sums of the same products; a linear operator whose weights are permuted like its input gives the
       same result.

    Runtimes have fast kernels for one output per channel only. FastViT-T8 (three such 7x7 Convs) takes 0.89 of the
    time on LiteRT 2.3 and 0.93 on onnxruntime 1.32, one thread.
    """

    def change_at(self, node: ir.Node) -> Change | None:
        """The split of a Conv."""
        split = _split_of(node) if node.op_type == "Conv" and node.domain == "" else None
        return None if split is None else split.split


@dataclass
class _Split:
    """A possible split.

    Attributes:
        node: the Conv.
        weight: its weight, [channels · count, 1, kernel…].
        count: outputs per channel.
        between: its result, and the results of the elementwise operators behind it.
        readers: the linear operators that read those.
    """

    node: ir.Node
    weight: Float64
    count: int
    between: list[ir.Value]
    readers: list[Linear]

    def split(self) -> None:
        node, graph, result = self.node, graph_of(self.node), self.node.outputs[0]
        order = np.arange(len(self.weight)).reshape(-1, self.count).T.reshape(-1)  # (channel, part) as (part, channel)
        for reader in self.readers:
            replace(reader, weight=reader.weight[:, order]).store()
        for value in self.between:
            disown(value, graph)
        parts = [self._part(index) for index in range(self.count)]
        axis = ir.AttrInt64("axis", 1)
        joined = insert_like(node, "Concat", parts, [axis], unique_name(graph, f"{result.name}.parts"))
        take_over(result, joined)

    def _part(self, index: int) -> ir.Value:
        """The Conv that computes output ``index`` of each channel."""
        node, graph = self.node, graph_of(self.node)
        name = unique_name(graph, f"{node.outputs[0].name}.{index}")
        value = insert_like(node, "Conv", list(node.inputs), list(node.attributes.values()), name)  # type: ignore[arg-type]
        shape = dims(value) or ()
        value.shape = ir.Shape([shape[0], len(self.weight) // self.count, *shape[2:]])
        part = value.producer()
        dtype = value.dtype or ir.DataType.FLOAT
        if part is not None:
            replace_constant(part, 1, self.weight[index :: self.count], dtype, f"{name}.weight")
            bias = exact(input_of(node, 2))
            if bias is not None:
                replace_constant(part, 2, bias[index :: self.count], dtype, f"{name}.bias")
        return value


def _split_of(node: ir.Node) -> _Split | None:
    """The split of a Conv; None if (1) does not hold."""
    weight, groups = exact(node.inputs[1]), node.attributes.get_int("group", 1)
    result, shape = node.outputs[0], dims(node.outputs[0])
    bias = input_of(node, 2)
    if weight is None or shape is None or groups < _FEWEST_CHANNELS or (bias is not None and exact(bias) is None):
        return None
    count = len(weight) // groups
    if weight.shape[1] != 1 or not 2 <= count <= MOST_JOINED:
        return None
    between = [result]
    readers: list[Linear] = []
    for value in between:  # the list grows while its values are followed
        if value.is_graph_output():
            return None
        for use in value.uses():
            if _is_elementwise(use.node, shape):
                between += [output for output in use.node.outputs if output not in between]
            else:
                reader = _reader(use.node, value, len(weight))
                if reader is None:
                    return None
                readers.append(reader)
    # The elementwise operators may read nothing else but scalars: a bias per channel would be in the old order.
    producers = [value.producer() for value in between[1:]]
    operands = [operand for producer in producers if producer is not None for operand in producer.inputs]
    has_no_others = all(_is_scalar(operand) or operand in between for operand in operands)
    return _Split(node, weight, count, between, readers) if has_no_others and readers else None


def _reader(node: ir.Node, value: ir.Value, channels: int) -> Linear | None:
    operator = linear(node)
    if operator is None or operator.groups != 1 or operator.source is not value or operator.axis_in != 1:
        return None
    once = [operand is value for operand in node.inputs].count(True) == 1
    return operator if once and operator.channels_in == channels else None


def _is_elementwise(node: ir.Node, shape: tuple[int, ...]) -> bool:
    return node.domain == "" and node.op_type in _ELEMENTWISE and dims(node.outputs[0]) == shape


def _is_scalar(value: ir.Value | None) -> bool:
    return value is None or (value.const_value is not None and value.const_value.size == 1)


_ELEMENTWISE = having(Trait.FUNCTION) | having(Trait.BROADCASTS)
