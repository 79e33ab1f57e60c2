"""Dilated windows whose padding a file states as ``auto_pad``: ``SAME_UPPER`` and ``SAME_LOWER`` become ``pads``.

Specification: Conv and the pools. The padding of an axis is what ``ceil(input / stride)`` windows need in all; of an
odd number the larger half lies behind under ``SAME_UPPER`` and in front under ``SAME_LOWER``. onnxruntime refuses such
padding where a dilation is not 1, and takes the same numbers as ``pads``.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.capture._steps import sizes_of
from edgeconv.capture.same_pads import same_pads

_WINDOWED = ("Conv", "MaxPool", "AveragePool", "LpPool")


def settle_dilated_pads(graph: ir.Graph) -> None:
    """Changes in place; all shapes must be static."""
    for node in graph:
        if node.op_type not in _WINDOWED or node.domain != "":
            continue
        automatic = node.attributes.get_string("auto_pad", "NOTSET")
        dilations = node.attributes.get_ints("dilations", [])
        if automatic.startswith("SAME") and any(dilation != 1 for dilation in dilations):
            _settle(node, automatic, dilations)


def _settle(node: ir.Node, automatic: str, dilations: Sequence[int]) -> None:
    before, rank = sizes_of(node.inputs[0])[2:], len(dilations)
    kernel = node.attributes.get_ints("kernel_shape", []) or sizes_of(node.inputs[1])[2:]
    strides = node.attributes.get_ints("strides", [1] * rank)
    windows = [-(-before[i] // strides[i]) for i in range(rank)]
    totals = [
        max((windows[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - before[i], 0) for i in range(rank)
    ]
    node.attributes.pop("auto_pad", None)
    node.attributes["pads"] = ir.AttrInt64s("pads", same_pads(totals, automatic))
