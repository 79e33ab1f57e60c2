"""Replaces ``auto_pad`` of Conv and pools by ``pads``: no later stage meets it.

Specification: Conv and the pools. VALID pads nothing. Under SAME an axis is padded so that ``ceil(input / stride)``
windows fit; the larger half of an odd number is at the end under SAME_UPPER, at the start under SAME_LOWER. Runtimes
disagree on SAME in two cases:

1. Dilated windows. onnxruntime (1.32) refuses SAME for a dilated Conv, but takes the same amounts as ``pads``. For a
   dilated pool it pads, and computes the size, as if there were no dilation.
2. Windows that end before the last element. The formula gives a negative amount. Conv in onnxruntime, and TensorFlow,
   where this padding comes from, pad nothing, and so do the files. Of onnxruntime's pools LpPool, and AveragePool since
   opset 19, crop at the start, and the others fail when they run.

Where onnxruntime computes something else of the source, the report says so. The sizes are those of ``auto_pad``;
``ceil_mode`` has no effect beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.graph.origin import origin_of
from edgeconv.graph.steps import sizes_of
from edgeconv.graph.traits import Trait, having
from edgeconv.graph.windows import auto_pad_of, dilations_of, same_pads, stated_pads, strides_of

_WINDOWED = having(Trait.WINDOWS | Trait.BY_CHANNEL) | {"Conv"}
_CROPPING = ("AveragePool", "LpPool")
# Totals of padding from which onnxruntime crops: it halves them, rounding towards 0, and crops if the first half is
# negative.
_CROPPED_FROM = {"SAME_UPPER": -2, "SAME_LOWER": -3}


def drop_rounding(graph: ir.Graph) -> None:
    """Removes ``ceil_mode`` beside SAME: onnx's shape inference rounds by it, runtimes do not."""
    for node in graph:
        if node.domain == "" and auto_pad_of(node).startswith("SAME"):
            node.attributes.pop("ceil_mode", None)


def settle_automatic_pads(graph: ir.Graph) -> list[str]:
    """Sets ``pads`` in the place of ``auto_pad``; all shapes must be static.

    Returns:
        What onnxruntime computes differently of the source, one line per node.
    """
    notes = []
    for node in graph:
        if node.op_type not in _WINDOWED or node.domain != "":
            continue
        automatic = auto_pad_of(node)
        if automatic.startswith("SAME"):
            notes += _settle(node, automatic)
        elif automatic == "VALID":
            node.attributes["pads"] = ir.AttrInt64s("pads", stated_pads(node, len(sizes_of(node.inputs[0])) - 2))
        node.attributes.pop("auto_pad", None)
    return notes


def _settle(node: ir.Node, automatic: str) -> list[str]:
    before = sizes_of(node.inputs[0])[2:]
    kernel = node.attributes.get_ints("kernel_shape", []) or sizes_of(node.inputs[1])[2:]
    rank = len(before)
    dilations, strides = dilations_of(node, rank), strides_of(node, rank)
    totals, undilated = (_totals(before, kernel, strides, apart) for apart in (dilations, [1] * rank))
    padding = [max(0, total) for total in totals]
    node.attributes["pads"] = ir.AttrInt64s("pads", same_pads(padding, automatic))
    named = f"node {origin_of(node).module!r} ({node.op_type}): of the source onnxruntime"
    if node.op_type in _CROPPING and any(total <= _CROPPED_FROM[automatic] for total in totals):
        return [f"{named} leaves elements out in front; the files take them, as TensorFlow does, and differ there"]
    if node.op_type != "Conv" and padding != [max(0, total) for total in undilated]:
        return [f"{named} pads as if its windows had no dilation; the files pad as ONNX says, and differ there"]
    return []


def _totals(
    before: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """The padding in all that each axis needs; negative where the windows end before the last element."""
    sizes = zip(before, kernel, strides, dilations, strict=True)
    return [(-(-size // stride) - 1) * stride + (taps - 1) * apart + 1 - size for size, taps, stride, apart in sizes]
