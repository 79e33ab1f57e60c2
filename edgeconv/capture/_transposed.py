"""ConvTranspose whose padding a file states by its results: ``output_shape`` and ``auto_pad`` become ``pads``.

Specification: ConvTranspose. With ``size = stride * (input - 1) + output_padding + (kernel - 1) * dilation + 1`` the
padding of an axis is ``size - output_shape`` in all; of an odd number the larger half lies behind under ``SAME_UPPER``
and in front otherwise. Where the output shape is larger than that, it is ``output_padding`` that makes it so, of which
the specification, and with it onnxruntime, takes less than a stride or dilation.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.capture._origin import origin_of
from edgeconv.capture._steps import sizes_of
from edgeconv.errors import CaptureError


def settle_transposed(graph: ir.Graph) -> None:
    """Changes in place; all shapes must be static.

    Raises:
        CaptureError: an output shape is larger than the operator can make it; names the node.
    """
    for node in graph:
        if node.op_type != "ConvTranspose" or node.domain != "":
            continue
        automatic = node.attributes.get_string("auto_pad", "NOTSET")
        if "output_shape" in node.attributes or automatic != "NOTSET":
            _settle(node, automatic)


def _settle(node: ir.Node, automatic: str) -> None:
    before, kernel = sizes_of(node.inputs[0])[2:], sizes_of(node.inputs[1])[2:]
    rank, made = len(before), sizes_of(node.outputs[0])[2:]
    strides = node.attributes.get_ints("strides", [1] * rank)
    dilations = node.attributes.get_ints("dilations", [1] * rank)
    extra = list(node.attributes.get_ints("output_padding", [0] * rank))
    pads = [0] * 2 * rank
    for i in range(rank):
        size = strides[i] * (before[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1
        total = max(size - made[i], 0)
        halves = total // 2, total - total // 2
        pads[i], pads[rank + i] = halves if automatic == "SAME_UPPER" else halves[::-1]
        extra[i] += max(made[i] - size, 0)
        if extra[i] >= max(strides[i], dilations[i]):
            raise CaptureError(
                f"ConvTranspose cannot make its output_shape {made}: axis {2 + i} has {size} elements without padding",
                where=origin_of(node).module or node.op_type,
                mend="state a smaller output_shape, or pad the result",
            )
    for name in ("auto_pad", "output_shape"):
        node.attributes.pop(name, None)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    node.attributes["output_padding"] = ir.AttrInt64s("output_padding", extra)
