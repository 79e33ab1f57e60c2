"""Windows whose padding a file states as ``SAME_UPPER`` or ``SAME_LOWER``, where runtimes differ: they get ``pads``.

Specification: Conv and the pools. The padding of an axis is what ``ceil(input / stride)`` windows need in all; of an
odd number the larger half lies behind under ``SAME_UPPER`` and in front under ``SAME_LOWER``.

1. Dilated windows. Of a Conv, onnxruntime (1.32) refuses such padding, and takes the same numbers as ``pads``. Of a
   pool it takes it, but pads, and sizes the result, as if there were no dilation.
2. Windows that end before the last element need no padding, and the formula goes below none. So does onnxruntime for
   pools: LpPool, and AveragePool since opset 19, leave elements out in front, the others fail when they run. Conv
   there, and TensorFlow, whose padding this is, do not pad.

What onnxruntime makes otherwise of the file is said. Sizes are those of ``auto_pad``, whatever ``ceil_mode`` says.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.graph.origin import origin_of
from edgeconv.graph.steps import sizes_of
from edgeconv.graph.traits import Trait, having
from edgeconv.graph.windows import same_pads

_WINDOWED = having(Trait.WINDOWS | Trait.BY_CHANNEL) | {"Conv"}
_CROPPING = ("AveragePool", "LpPool")
_CROPPED_FROM = {"SAME_UPPER": -2, "SAME_LOWER": -3}  # as halves are rounded towards none


def drop_rounding(graph: ir.Graph) -> None:
    """Takes ``ceil_mode`` from pools that pad by themselves: onnx's inference would round by it, runtimes do not."""
    for node in graph:
        if node.domain == "" and node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME"):
            node.attributes.pop("ceil_mode", None)


def settle_automatic_pads(graph: ir.Graph) -> list[str]:
    """Changes in place; all shapes must be static.

    Returns:
        What onnxruntime computes otherwise of the file, one line per node.
    """
    notes = []
    for node in graph:
        if node.op_type not in _WINDOWED or node.domain != "":
            continue
        automatic = node.attributes.get_string("auto_pad", "NOTSET")
        if automatic.startswith("SAME"):
            notes += _settle(node, automatic)
    return notes


def _settle(node: ir.Node, automatic: str) -> list[str]:
    before = sizes_of(node.inputs[0])[2:]
    kernel = node.attributes.get_ints("kernel_shape", []) or sizes_of(node.inputs[1])[2:]
    plain = [1] * len(before)
    dilations, strides = (node.attributes.get_ints(name, []) or plain for name in ("dilations", "strides"))
    totals, undilated = (_totals(before, kernel, strides, apart) for apart in (dilations, plain))
    if all(dilation == 1 for dilation in dilations) and all(total >= 0 for total in totals):
        return []
    padding = [max(0, total) for total in totals]
    node.attributes.pop("auto_pad", None)
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
    """What the windows need beyond the elements of each axis; below zero where they end before the last of them."""
    sizes = zip(before, kernel, strides, dilations, strict=True)
    return [(-(-size // stride) - 1) * stride + (taps - 1) * apart + 1 - size for size, taps, stride, apart in sizes]
