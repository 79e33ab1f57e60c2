"""Pools with ``ceil_mode`` as torch means it, for runtimes that count the last window otherwise.

torch leaves out a window that would start in the padding behind an axis; ONNX's formula for the output size, and with
it shape inference, counts it. By the sizes that torch recorded:

1. An axis where the floor size and torch's agree needs no ``ceil_mode``; when all do, it is 0.
2. When no window was left out, the pool stays as it is.
3. Otherwise the padding behind says how far the last windows reach, and ``ceil_mode`` is 0. A maximum does not see
   padding. An average that counts the padding counts only what the module declares, not what a window reaches
   beyond: the declared padding becomes zeros of a Pad, the reach beyond is padding that is not counted.

Each is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    def needed(self) -> int:
        """The padding behind that the last window reaches over; at least what is declared."""
        return max(self.after, (self.made - 1) * self.stride + self.reach - self.size - self.before)


def settle_ceil_mode(graph: ir.Graph) -> None:
    """Changes the pools of a graph in place by the rules above; all shapes must be static and torch's."""
    for node in list(graph):
        if node.op_type in _POOLS and node.attributes.get_int("ceil_mode", 0) == 1:
            _settle(graph, node)


def _settle(graph: ir.Graph, node: ir.Node) -> None:
    axes = _axes(node)
    if all(axis.made == axis.ceil for axis in axes) and any(axis.made != axis.floor for axis in axes):
        return
    node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
    if all(axis.made == axis.floor for axis in axes):
        return
    if node.op_type == "MaxPool":
        kernel = node.attributes["kernel_shape"].as_ints()
        if any(axis.needed >= taps for axis, taps in zip(axes, kernel, strict=True)):  # onnxruntime refuses such pads
            axes = _pad_before(graph, node, [replace(axis, after=axis.needed) for axis in axes], -np.inf)
    elif node.attributes.get_int("count_include_pad", 0):
        node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 0)
        axes = _pad_before(graph, node, axes, 0.0)
    pads = [*(axis.before for axis in axes), *(axis.needed for axis in axes)]
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


def _pad_before(graph: ir.Graph, node: ir.Node, axes: list[_Axis], fill: float) -> list[_Axis]:
    """Puts the declared padding into a Pad of its own; the axes of the pool that is left, without padding."""
    padded = [replace(axis, size=axis.size + axis.before + axis.after, before=0, after=0) for axis in axes]
    source = node.inputs[0]
    if padded == axes or source is None or source.shape is None or source.dtype is None:
        return axes
    name = f"\3{node.outputs[0].name}"  # nobody else's; `_names` gives the real ones
    amounts = np.array([0, 0, *(axis.before for axis in axes), 0, 0, *(axis.after for axis in axes)], np.int64)
    constants = [
        ir.val(f"{name}.{kind}", const_value=ir.tensor(array, name=f"{name}.{kind}"))
        for kind, array in (("pads", amounts), ("fill", np.array(fill, source.dtype.numpy())))
    ]
    pad = ir.node("Pad", [source, *constants], {"mode": "constant"})
    output = pad.outputs[0]
    output.name, output.type = f"{name}.padded", source.type
    output.shape = ir.Shape([*list(source.shape)[:2], *(axis.size for axis in padded)])
    for constant in constants:
        graph.register_initializer(constant)
    set_origin(pad, origin_of(node))
    graph.insert_before(node, pad)
    node.replace_input_with(0, output)
    return padded
