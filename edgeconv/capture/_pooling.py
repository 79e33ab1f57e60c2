"""Pools with ``ceil_mode`` as torch means it.

torch leaves out a window that would start in the padding behind an axis; ONNX's formula for the output size, and with
it shape inference, counts it. By the sizes that torch recorded:

1. Where all of them are the floor sizes, ``ceil_mode`` is 0.
2. Where no axis leaves a window out, the pool stays as it is.
3. Otherwise an axis that leaves one out ends where its last window ends: padding behind it that no window reads is
   taken away, and where even elements are left, a Slice takes them away. All of its windows were whole, so maxima,
   sums and the number of elements that an average divides by stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeconv.capture._origin import origin_of, set_origin

_POOLS = ("MaxPool", "AveragePool", "LpPool")


@dataclass(frozen=True)
class _Axis:
    """A pool along one axis: ``reach`` is the span of a window, ``made`` the output size that torch recorded."""

    size: int
    reach: int
    stride: int
    before: int
    after: int
    made: int

    @property
    def floor(self) -> int:
        return (self.size + self.before + self.after - self.reach) // self.stride + 1

    @property
    def ceil(self) -> int:
        return -(-(self.size + self.before + self.after - self.reach) // self.stride) + 1

    @property
    def read_behind(self) -> int:
        """How far the last window reaches behind the last element; negative when it ends before it."""
        return (self.made - 1) * self.stride + self.reach - self.size - self.before


def settle_ceil_mode(graph: ir.Graph) -> None:
    """Changes the pools of a graph in place by the rules above; all shapes must be static and torch's."""
    for node in list(graph):
        if node.op_type in _POOLS and node.attributes.get_int("ceil_mode", 0) == 1:
            _settle(graph, node)


def _settle(graph: ir.Graph, node: ir.Node) -> None:
    axes = _axes(node)
    if all(axis.made == axis.floor for axis in axes):
        node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
        return
    ends = [axis.after if axis.made == axis.ceil else axis.read_behind for axis in axes]
    if any(end < 0 for end in ends):
        _crop(graph, node, [axis.size + min(0, end) for axis, end in zip(axes, ends, strict=True)])
    pads = [*(axis.before for axis in axes), *(max(0, end) for end in ends)]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)


def _axes(node: ir.Node) -> list[_Axis]:
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None:
        raise ValueError(f"{node.op_type} without a shape")  # a bug of ours: shapes are checked before
    sizes, made = [int(str(each)) for each in source.shape][2:], [int(str(each)) for each in result.shape][2:]
    rank = len(sizes)
    kernel = node.attributes.get_ints("kernel_shape", [1] * rank)
    strides = node.attributes.get_ints("strides", [1] * rank)
    dilations = node.attributes.get_ints("dilations", [1] * rank)
    pads = node.attributes.get_ints("pads", [0] * 2 * rank)
    return [
        _Axis(sizes[i], dilations[i] * (kernel[i] - 1) + 1, strides[i], pads[i], pads[rank + i], made[i])
        for i in range(rank)
    ]


def _crop(graph: ir.Graph, node: ir.Node, sizes: list[int]) -> None:
    """Takes the first elements only of each spatial axis of the pool's input."""
    source = node.inputs[0]
    if source is None or source.shape is None:
        raise ValueError(f"{node.op_type} without a shape")
    stem = f"\3{node.outputs[0].name}"  # nobody else's; `_names` gives the real ones
    bounds = {"starts": [0] * len(sizes), "ends": sizes, "axes": list(range(2, 2 + len(sizes)))}
    constants = [
        ir.val(f"{stem}.{name}", const_value=ir.tensor(np.array(numbers, np.int64), name=f"{stem}.{name}"))
        for name, numbers in bounds.items()
    ]
    crop = ir.node("Slice", [source, *constants])
    output = crop.outputs[0]
    output.name, output.type, output.shape = f"{stem}.cropped", source.type, ir.Shape([*list(source.shape)[:2], *sizes])
    for constant in constants:
        graph.register_initializer(constant)
    set_origin(crop, origin_of(node))
    graph.insert_before(node, crop)
    node.replace_input_with(0, output)
