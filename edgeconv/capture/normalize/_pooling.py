"""Pools with ``ceil_mode`` whose size onnx's shape inference gets wrong.

torch, the runtimes and the text of ONNX's specification drop a window that would start in the padding at the end of an
axis. ONNX's formula for the output size, and so its shape inference, counts that window. The right sizes are torch's,
or those that the text gives for a file. With them:

1. If all sizes are those of floor mode, ``ceil_mode`` becomes 0.
2. If no axis drops a window, the pool stays as it is.
3. Otherwise an axis that drops one is made to end where its last window ends: padding that no window reads is removed,
   and so, by a Slice, are elements that no window reads. The windows that are left were whole, so that maxima, sums and
   the divisors of averages stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.edit import is_taken
from edgeconv.graph.steps import Steps
from edgeconv.graph.traits import Trait, having
from edgeconv.graph.windows import auto_pad_of, dilations_of, stated_pads, strides_of

_POOLS = having(Trait.WINDOWS | Trait.BY_CHANNEL)
_OWN_PADS = ("NOTSET", "VALID")  # SAME_UPPER and SAME_LOWER have another formula for the size


@dataclass(frozen=True)
class _Axis:
    """A pool along one axis.

    Attributes:
        size: number of elements.
        reach: from the first to the last element of a window, dilation included.
        stride: between windows.
        before: padding at the start.
        after: padding at the end.
        count: number of windows: torch's, or inferred.
    """

    size: int
    reach: int
    stride: int
    before: int
    after: int
    count: int

    @property
    def floor(self) -> int:
        return (self.size + self.before + self.after - self.reach) // self.stride + 1

    @property
    def ceil(self) -> int:
        return -(-(self.size + self.before + self.after - self.reach) // self.stride) + 1

    @property
    def whole(self) -> int:
        """The output size in ceil mode, without a last window that starts in the padding at the end."""
        return self.ceil - int((self.ceil - 1) * self.stride >= self.size + self.before)

    @property
    def read_behind(self) -> int:
        """The number of places that the last window reads beyond the last element; negative if it ends before it."""
        return (self.count - 1) * self.stride + self.reach - self.size - self.before


def settle_ceil_mode(graph: ir.Graph) -> None:
    """Applies the rules above to a graph of a module, in place; all shapes must be static and torch's."""
    for node in list(graph):
        if node.op_type in _POOLS and node.attributes.get_int("ceil_mode", 0) == 1:
            _settle(graph, node, _axes(node))


def may_be_short(node: ir.Node) -> bool:
    """Whether a pool of a file can have a window that is dropped: with a stride of 1 none starts in the padding."""
    return (
        node.op_type in _POOLS
        and node.domain == ""
        and node.attributes.get_int("ceil_mode", 0) == 1
        and any(stride > 1 for stride in node.attributes.get_ints("strides", []))
        and auto_pad_of(node) in _OWN_PADS
    )


def settle_first_short(graph: ir.Graph) -> bool:
    """Applies rule 3, in place, to the first pool whose inferred size counts a window that is dropped.

    The sizes behind it were inferred from a wrong one: the caller infers them again.

    Returns:
        Whether there was one.

    Raises:
        CaptureError: the indices of its maxima are used, which would count without the elements that a Slice removes.
    """
    for node in graph:
        if not may_be_short(node) or not _has_sizes(node):
            continue
        axes = _axes(node)
        settled = [replace(axis, count=axis.whole) for axis in axes]
        if axes != settled:
            node.attributes.pop("auto_pad", None)
            _settle(graph, node, settled)
            return True
    return False


def _has_sizes(node: ir.Node) -> bool:
    shapes = [None if value is None else value.shape for value in (node.inputs[0], node.outputs[0])]
    return all(shape is not None and all(isinstance(dim, int) for dim in shape[2:]) for shape in shapes)


def _settle(graph: ir.Graph, node: ir.Node, axes: list[_Axis]) -> None:
    if all(axis.count == axis.floor for axis in axes):
        node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
        return
    # Padding at the end; negative where the last window ends before the last element.
    ends = [axis.after if axis.count == axis.ceil else axis.read_behind for axis in axes]
    if any(end < 0 for end in ends):
        _crop(graph, node, [axis.size + min(0, end) for axis, end in zip(axes, ends, strict=True)])
    pads = [*(axis.before for axis in axes), *(max(0, end) for end in ends)]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)


def _axes(node: ir.Node) -> list[_Axis]:
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None:
        raise ValueError(f"{node.op_type} without a shape")  # a bug of ours: shapes are checked before
    sizes, counts = ([int(str(dim)) for dim in shape][2:] for shape in (source.shape, result.shape))
    rank = len(sizes)
    kernel = node.attributes.get_ints("kernel_shape", [1] * rank)
    strides, dilations, pads = strides_of(node, rank), dilations_of(node, rank), stated_pads(node, rank)
    return [
        _Axis(sizes[i], dilations[i] * (kernel[i] - 1) + 1, strides[i], pads[i], pads[rank + i], counts[i])
        for i in range(rank)
    ]


def _crop(graph: ir.Graph, node: ir.Node, sizes: list[int]) -> None:
    """Puts a Slice before the pool that keeps the first elements of each spatial axis."""
    if any(map(is_taken, node.outputs[1:])):
        what = f"{node.op_type} leaves out a window, and gives the places of its maxima"
        raise refused(node, what, "export it without ceil_mode, or without the indices")
    source = node.inputs[0]
    if source is None or source.shape is None:
        raise ValueError(f"{node.op_type} without a shape")
    steps = Steps(graph, node)
    bounds = {"starts": [0] * len(sizes), "ends": sizes, "axes": list(range(2, 2 + len(sizes)))}
    constants = [steps.constant(np.array(numbers, np.int64), name) for name, numbers in bounds.items()]
    crop = ir.node("Slice", [source, *constants])
    steps.insert(crop)
    steps.name(crop.outputs[0], "cropped")
    crop.outputs[0].type, crop.outputs[0].shape = source.type, ir.Shape([*list(source.shape)[:2], *sizes])
    node.replace_input_with(0, crop.outputs[0])
