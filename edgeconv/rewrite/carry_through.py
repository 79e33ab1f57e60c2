"""Ghost modules: a Concat of channels with their depthwise convolution becomes one depthwise convolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import Float64, exact
from edgeconv.graph.each_node import Change, EachNodePass
from edgeconv.graph.edit import dims, graph_of, input_of, only_reader
from edgeconv.graph.replace import disown, replace_constant, take_over
from edgeconv.graph.windows import dilations_of, pads_by_size, stated_pads, strides_of

_MOST_INPUTS = 16  # channels of the first Conv, which is computed twice; measured: with 24 and 40 nothing is gained


class CarryThroughPass(EachNodePass):
    """Turns ``Concat(y, depthwise(y))`` with ``y`` from a Conv into one depthwise Conv of ``(y, y)`` (Ghost modules).

    1. Requires: y, perhaps behind a Relu, comes from a Conv of one group and at most 16 input channels, and nobody
       else reads it; the depthwise Conv has constant weights, stride 1, and a middle tap that lies on its output; if a
       Relu follows it, then one makes y too.
    2. Ensures: the first Conv computes its channels twice, and the Concat is gone; the last value has its name. Values
       between, which have more channels than their torch module's output, lose the module's name.
    3. Exact: a kernel of zeros and a one in the middle passes a channel as it is, and Relu of Relu is Relu.

    The copies of a Concat take longer than these further sums. GhostNet has three such modules; one thread, AVX-512:
    0.97 of the time on LiteRT 2.3, 0.94 on onnxruntime 1.32, whose blocked layout a Concat of 8 channels breaks.
    """

    def change_at(self, node: ir.Node) -> Change | None:
        """The change of a module that ends in this Concat."""
        ghost = _ghost(node) if node.op_type == "Concat" and node.domain == "" else None
        return None if ghost is None else ghost.carry


@dataclass
class _Ghost:
    """The Conv, the depthwise Conv, the Concat, and all values between the first and the last."""

    first: ir.Node
    depthwise: ir.Node
    concat: ir.Node
    between: list[ir.Value]

    def carry(self) -> None:
        """Doubles the channels of both convolutions, and removes the Concat."""
        graph, joined = graph_of(self.concat), self.concat.outputs[0]
        result = self.concat.inputs[1]
        kernel = exact(self.depthwise.inputs[1])
        if kernel is None or result is None:
            return
        for value in self.between:
            shape = dims(value) or ()
            value.shape = ir.Shape([shape[0], 2 * shape[1], *shape[2:]])
            disown(value, graph)
        # Kernels of a single 1 in the middle, for the copies of y, before the kernels that there are.
        identity = np.zeros_like(kernel)
        identity[(slice(None), 0, *(size // 2 for size in kernel.shape[2:]))] = 1
        self._store(self.depthwise, identity, np.zeros(len(kernel)))
        self.depthwise.attributes["group"] = ir.AttrInt64("group", 2 * len(kernel))
        weight, bias = (exact(value) for value in (*self.first.inputs[1:], None)[:2])
        if weight is not None:
            self._store(self.first, weight, bias)
        take_over(joined, result)

    def _store(self, node: ir.Node, weight: Float64, bias: Float64 | None) -> None:
        """Puts weight and bias of further output channels before the node's own."""
        for index, front in ((1, weight), (2, bias)):
            value = input_of(node, index)
            array = exact(value)
            if value is not None and array is not None and front is not None:
                both = np.concatenate([front, array])
                replace_constant(node, index, both, value.dtype or ir.DataType.FLOAT, value.name or "weight")


def _ghost(concat: ir.Node) -> _Ghost | None:
    y, result = (*concat.inputs, None, None)[:2]
    if len(concat.inputs) != 2 or y is None or result is None or concat.attributes.get_int("axis", 0) not in (1, -3):
        return None
    after, depthwise = _convolution_of(result)
    before, first = _convolution_of(y)
    if depthwise is None or first is None or depthwise.inputs[0] is not y or only_reader(result) is not concat:
        return None
    readers = {use.node for use in y.uses()}
    # A Relu behind the depthwise Conv will act on y as well: only if y has passed one does that change nothing.
    if y.is_graph_output() or readers != {depthwise, concat} or (len(after) > 1 and len(before) == 1):
        return None
    between = [*before, *after]
    if any(dims(value) is None for value in between) or dims(y) != dims(result):
        return None
    return _Ghost(first, depthwise, concat, between) if _passes(depthwise) and _makes(first) else None


def _convolution_of(value: ir.Value) -> tuple[list[ir.Value], ir.Node | None]:
    """The Conv that gives a value, perhaps through a Relu, and the results of both."""
    node = value.producer()
    if node is not None and node.op_type == "Relu" and node.domain == "" and node.inputs[0] is not None:
        inner = node.inputs[0]
        conv = inner.producer() if only_reader(inner) is node else None
        return ([value, inner], conv) if _is_conv(conv) else ([], None)
    return ([value], node) if _is_conv(node) else ([], None)


def _is_conv(node: ir.Node | None) -> bool:
    if node is None or node.op_type != "Conv" or node.domain != "":
        return False
    return all(value is None or exact(value) is not None for value in node.inputs[1:])


def _makes(first: ir.Node) -> bool:
    weight = exact(first.inputs[1])
    few = weight is not None and weight.shape[1] <= _MOST_INPUTS
    return few and first.attributes.get_int("group", 1) == 1


def _passes(depthwise: ir.Node) -> bool:
    """Whether the middle tap of each window reads the position of its output: it can pass a channel unchanged."""
    kernel = exact(depthwise.inputs[1])
    if kernel is None or kernel.ndim != 4 or kernel.shape[1] != 1 or len(kernel) < 2:
        return False
    if depthwise.attributes.get_int("group", 1) != len(kernel) or pads_by_size(depthwise):
        return False
    sizes = kernel.shape[2:]
    dilations = dilations_of(depthwise, 2)
    pads = stated_pads(depthwise, len(sizes))
    middle = [(size - 1) * dilation // 2 for size, dilation in zip(sizes, dilations, strict=True)]
    plain = all(stride == 1 for stride in strides_of(depthwise, 2))
    return plain and all(size % 2 for size in sizes) and pads == [*middle, *middle]
