"""Quantized depthwise convolutions over a number of channels that fills vectors, by channels that nothing reads.

onnxruntime's kernel of int8 depthwise convolutions takes 16 channels at a time, and what is left over one by one. 3x3
of 56x56, onnxruntime 1.32, one thread, AVX-512, in ms by the number of channels:

    8  0.17    12  0.34    16  0.11    24  0.29    32  0.14    36  0.53    40  0.43    48  0.16    64  0.19

In whole networks: RepGhost 0.74, MobileNetV3-Large 0.87, MNASNet-A1 0.85 of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgeconv.graph.edit import MODULE, constant, is_taken, producer_of
from edgeconv.graph.replace import replace_constant
from edgeconv.graph.stored_integers import own_stored
from edgeconv.graph.traits import Trait, having

_FULL = 16  # channels that the kernel takes at a time
_BACK = "DequantizeLinear"
_UNARY = having(Trait.FUNCTION | Trait.FINITE) | {
    *("QuantizeLinear", _BACK, "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
}
_BINARY = ("Add", "Mul", "Sub")


def pad_integers(graph: ir.Graph) -> None:
    """Adds channels to int8 depthwise Convs and what is around them until their number is a multiple of 16.

    1. Requires: from the Conv on, before and behind, nothing but operators that treat every channel alike, up to Convs
       of one group with constant weights, which make the channels and read them. No more than as many are added as
       there are.
    2. Ensures: the values between have more channels, behind their own. They are no longer their torch modules'
       outputs, but keep their names: by those link 3 of the proof finds them, and leaves out what was added.
    3. Exact: the weights by which the last Convs read what is added are zero, and an integer is never infinite.
    """
    for node in list(graph):
        channels = _depthwise(node)
        if channels % _FULL and channels >= _FULL / 2 and _is_integer(node):
            region = _Region(channels)
            if region.grow(node):
                region.pad()


def _depthwise(node: ir.Node) -> int:
    """The number of channels of a depthwise Conv with one result for each; 0 of other nodes."""
    groups = node.attributes.get_int("group", 1) if node.op_type == "Conv" and node.domain == "" else 0
    return groups if groups > 1 and _channels(node.inputs[0]) == groups == _channels(node.outputs[0]) else 0


def _is_integer(node: ir.Node) -> bool:
    return all((maker := producer_of(value)) is not None and maker.op_type == _BACK for value in node.inputs[:2])


def _channels(value: ir.Value | None) -> int | None:
    """The size of a value's second axis, where it is known."""
    shape = None if value is None else value.shape
    size = None if shape is None or len(shape) < 2 else shape[1]
    return size if isinstance(size, int) else None


@dataclass
class _Region:
    """The values whose channels are one another's, and the Convs that make them, read them, or do both one by one.

    Attributes:
        channels: of every value.
        values: in the order in which they were reached.
        makers: Convs of one group whose results the values are.
        readers: Convs of one group that read them.
        depthwise: those between.
    """

    channels: int
    values: dict[ir.Value, None] = field(default_factory=dict)
    makers: dict[ir.Node, None] = field(default_factory=dict)
    readers: dict[ir.Node, None] = field(default_factory=dict)
    depthwise: dict[ir.Node, None] = field(default_factory=dict)

    def grow(self, start: ir.Node) -> bool:
        """Reaches all that a depthwise Conv's channels are; whether the requirements hold for it."""
        pending = [start.inputs[0], start.outputs[0]]
        while pending:
            value = pending.pop()
            if value is None or value in self.values:
                continue
            maker = value.producer()
            if maker is None or value.is_graph_output() or _channels(value) != self.channels:
                return False
            self.values[value] = None
            for node, makes in ((maker, True), *((use.node, False) for use in value.uses())):
                reached = self._reached(node, makes=makes) if node.graph is start.graph else None
                if reached is None:
                    return False
                pending += reached
        return True

    def _reached(self, node: ir.Node, *, makes: bool) -> list[ir.Value | None] | None:
        """The values of a node whose channels are the region's, too; None where it does not treat them alike."""
        if node.domain != "" or any(map(is_taken, node.outputs[1:])):
            return None
        if _depthwise(node):
            self.depthwise[node] = None
            return [node.inputs[0], node.outputs[0]] if _has_own_constants(node) else None
        if node.op_type == "Conv":
            (self.makers if makes else self.readers)[node] = None
            is_plain = node.attributes.get_int("group", 1) == 1 and _has_own_constants(node)
            return [] if is_plain and (makes or (_is_integer(node) and self._keeps_pairs(node))) else None
        if node.op_type in _UNARY:
            is_alike = all(value is None or _is_of_all(value) for value in node.inputs[1:])
            return [node.inputs[0], node.outputs[0]] if is_alike else None
        if node.op_type in _BINARY:
            return [*(value for value in node.inputs if not _is_of_all(value)), node.outputs[0]]
        return None

    def _keeps_pairs(self, reader: ir.Node) -> bool:
        """Whether the weights that a processor adds up in 16 bits, two neighbors in a row, stay one another's.

        Of an odd number of channels the last one's neighbor is the next position's first, and it is no more with others
        between: a plan that is safe from overflow (`edgeconv.quantize`) holds for those pairs alone.
        """
        shape = None if reader.inputs[1] is None else reader.inputs[1].shape
        return self.channels % 2 == 0 or (shape is not None and all(size == 1 for size in list(shape)[2:]))

    def pad(self) -> None:
        """Adds the channels."""
        more = -self.channels % _FULL
        for value in self.values:
            assert value.shape is not None  # `grow` read it
            value.shape = ir.Shape([value.shape[0], self.channels + more, *list(value.shape)[2:]])
            value.metadata_props.pop(MODULE, None)
        for node in (*self.makers, *self.depthwise):
            for index in range(1, len(node.inputs)):
                _widen(node, index, 0, more)
        for node in self.readers:
            _widen(node, 1, 1, more)
        for node in self.depthwise:
            node.attributes["group"] = ir.AttrInt64("group", self.channels + more)


def _maker(value: ir.Value) -> ir.Node:
    maker = value.producer()
    assert maker is not None  # `_Region.grow` looked
    return maker


def _is_of_all(value: ir.Value | None) -> bool:
    """Whether it is one constant number for all channels."""
    array = constant(value)
    return array is not None and array.size == 1


def _has_own_constants(node: ir.Node) -> bool:
    """Whether weight and bias are constants, of floats or of integers whose zero is 0, that no other node reads."""
    return all(
        value is None or constant(value) is not None or _is_along_results(own_stored(node, index))
        for index, value in enumerate(node.inputs[1:], start=1)
    )


def _is_along_results(dequantize: ir.Node | None) -> bool:
    """Whether scales, where there are several, lie along the first axis."""
    if dequantize is None:
        return False
    return dequantize.attributes.get_int("axis", 1) == 0 or all(map(_is_of_all, dequantize.inputs[1:]))


def _widen(node: ir.Node, index: int, axis: int, more: int) -> None:
    """Adds zeros to a weight or bias along an axis, in steps like those of the last channel."""
    value = node.inputs[index]
    if value is None:
        return
    if constant(value) is not None:
        _pad_constant(node, index, axis, more)
        return
    maker = _maker(value)
    _pad_constant(maker, 0, axis, more)
    for position in range(1, len(maker.inputs) if axis == 0 else 0):
        _pad_constant(maker, position, 0, more, "edge")
    if value.shape is not None:
        sizes = [size + more if at == axis and isinstance(size, int) else size for at, size in enumerate(value.shape)]
        value.shape = ir.Shape(sizes)


def _pad_constant(
    node: ir.Node, index: int, axis: int, more: int, mode: Literal["constant", "edge"] = "constant"
) -> None:
    """Adds zeros to a constant along an axis, or, of mode ``"edge"``, its last number, unless it has only one."""
    value = node.inputs[index]
    array = constant(value)
    assert value is not None  # `_has_own_constants` looked
    assert array is not None  # alike
    assert value.dtype is not None  # a constant has one
    if mode == "constant" or array.size > 1:
        widths = [(0, more if at == axis else 0) for at in range(array.ndim)]
        replace_constant(node, index, np.pad(array, widths, mode=mode), value.dtype, value.name or "weight")
