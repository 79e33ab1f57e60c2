"""Depthwise convolutions over a number of channels that fills vectors, by channels that are zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import exact, has_constants
from edgeconv.graph.edit import dims, graph_of, is_taken, only_reader
from edgeconv.graph.replace import disown, replace_constant
from edgeconv.graph.traits import Trait, having

_WIDEST_VECTOR = 16  # floats; the block of onnxruntime's blocked layout on AVX-512
_FULL = 8  # channels of a multiple of this are left alone: no vector of any runtime's is half empty
_MOST = 1 / 8  # of the channels


def pad_channels(graph: ir.Graph) -> bool:
    """Adds channels to depthwise Convs between two others until their number is a multiple of 16.

    1. Requires: Conv, depthwise Conv, Conv in a row, with nothing but activations between that take zero to a finite
       number; the outer two of one group; constant weights. The number of channels is no multiple of 8, and at most
       an eighth is added.
    2. Ensures: the values between have more channels; as those are not their torch modules', they lose their names.
    3. Exact: the weights of what is added are zero in all three, so nothing of it reaches the last one's sums.

    onnxruntime computes depthwise convolutions in its blocked layout only for a multiple of the block. ShuffleNetV2 1x
    (58 and 116 channels) takes 0.90 of the time on onnxruntime 1.32, one thread, AVX-512, and as long as before on
    LiteRT 2.3.

    Returns:
        Whether it changed the graph.
    """
    rows = [_row(node) for node in graph if node.op_type == "Conv" and node.domain == ""]
    for row in rows:
        if row is not None:
            row.pad()
    return any(rows)


@dataclass
class _Row:
    """Three Convs, and the values between them."""

    first: ir.Node
    depthwise: ir.Node
    last: ir.Node
    between: list[ir.Value]
    more: int

    def pad(self) -> None:
        graph = graph_of(self.depthwise)
        for value in self.between:
            shape = dims(value) or ()
            value.shape = ir.Shape([shape[0], shape[1] + self.more, *shape[2:]])
            disown(value, graph)
        # Output channels of the first two, input channels of the last.
        for node, axis in ((self.first, 0), (self.depthwise, 0), (self.last, 1)):
            for index, weight in enumerate(node.inputs[1:], start=1):
                array = exact(weight)
                # The last Conv's bias has one number per output channel, and no new ones.
                if weight is None or array is None or (index == 2 and axis == 1):
                    continue
                wider = np.pad(array, [(0, self.more if dimension == axis else 0) for dimension in range(array.ndim)])
                replace_constant(node, index, wider, weight.dtype or ir.DataType.FLOAT, weight.name or "weight")
        groups = self.depthwise.attributes.get_int("group", 1)
        self.depthwise.attributes["group"] = ir.AttrInt64("group", groups + self.more)


def _row(node: ir.Node) -> _Row | None:
    """The row that the depthwise Conv is the middle of; None where (1) does not hold."""
    channels = node.attributes.get_int("group", 1)
    more = -channels % _WIDEST_VECTOR
    if channels % _FULL == 0 or more > _MOST * channels:
        return None
    weight = exact(node.inputs[1])
    if weight is None or weight.shape[:2] != (channels, 1):
        return None
    before, first = _behind(node)
    after, last = _ahead(node)
    if first is None or last is None or not all(has_constants(layer) for layer in (first, node, last)):
        return None
    if any(layer.attributes.get_int("group", 1) != 1 for layer in (first, last)):
        return None
    between = [*before, *after]
    is_free = all(dims(value) is not None and not value.is_graph_output() for value in between)
    return _Row(first, node, last, between, more) if is_free else None


def _behind(node: ir.Node) -> tuple[list[ir.Value], ir.Node | None]:
    """The values from the Conv before to a node, and that Conv."""
    values: list[ir.Value] = []
    value: ir.Value | None = node.inputs[0]
    while value is not None and only_reader(value) is node:
        values.append(value)
        maker = value.producer()
        if maker is None or maker.domain != "":
            break
        if maker.op_type == "Conv":
            return values, maker
        if not _is_activation(maker):
            break
        node, value = maker, maker.inputs[0]
    return [], None


def _ahead(node: ir.Node) -> tuple[list[ir.Value], ir.Node | None]:
    """The values from a node to the Conv behind, and that Conv."""
    values = [node.outputs[0]]
    while (following := only_reader(values[-1])) is not None and following.domain == "":
        if following.op_type == "Conv" and following.inputs[0] is values[-1]:
            return values, following
        if not _is_activation(following):
            break
        values.append(following.outputs[0])
    return [], None


def _is_activation(node: ir.Node) -> bool:
    """Whether a node does the same to all channels, and makes nothing else (as a Dropout's mask)."""
    return node.op_type in _ACTIVATIONS and not any(map(is_taken, node.outputs[1:]))


_ACTIVATIONS = having(Trait.FUNCTION | Trait.FINITE)  # infinity times a weight of zero would be NaN
