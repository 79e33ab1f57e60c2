"""ConvTranspose: ``output_shape`` and ``auto_pad`` become ``pads``.

Specification: ConvTranspose. An axis without padding has
``size = stride * (input - 1) + output_padding + (kernel - 1) * dilation + 1`` elements. Then

- its padding is ``size - output_shape`` in all; the larger half of an odd number is at the end under ``SAME_UPPER``,
  and at the start otherwise;
- an output shape that is larger than ``size`` needs more ``output_padding``, which the specification, and onnxruntime,
  limit to less than the larger of stride and dilation;
- ``auto_pad`` stands for an output shape of ``stride * input``, or ``size`` where that is smaller; onnx's shape
  inference adds ``output_padding`` to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.edit import constant
from edgeconv.graph.steps import sizes_of
from edgeconv.graph.windows import auto_pad_of, dilations_of, same_pads, strides_of


def state_same_pads(graph: ir.Graph) -> None:
    """Replaces ``auto_pad`` by ``pads``, in place, if the kernel is known: before shapes are inferred from them.

    Raises:
        CaptureError: a node has ``output_padding`` beside it, and its kernel is not known; names the node.
    """
    for node in graph:
        if node.op_type != "ConvTranspose" or node.domain != "" or "output_shape" in node.attributes:
            continue
        automatic = auto_pad_of(node)
        if not automatic.startswith("SAME"):
            continue
        weight = constant(node.inputs[1])
        stated = node.attributes.get_ints("kernel_shape", ())
        kernel = list(stated) if weight is None else list(weight.shape[2:])
        extra = node.attributes.get_ints("output_padding", ())
        if kernel:
            _state(node, automatic, kernel, extra or [0] * len(kernel))
        elif any(extra):
            what = f"ConvTranspose has auto_pad and output_padding {list(extra)}, and weights that are computed"
            raise refused(node, what, "state its kernel_shape, or its pads")


def _state(node: ir.Node, automatic: str, kernel: Sequence[int], extra: Sequence[int]) -> None:
    strides = strides_of(node, len(kernel))
    dilations = dilations_of(node, len(kernel))
    # size - stride * input, in which the size of the input cancels out
    totals = [max(extra[i] + (size - 1) * dilations[i] + 1 - strides[i], 0) for i, size in enumerate(kernel)]
    _set_pads(node, automatic, totals)


def _set_pads(node: ir.Node, automatic: str, totals: Sequence[int]) -> None:
    for name in ("auto_pad", "output_shape"):
        node.attributes.pop(name, None)
    node.attributes["pads"] = ir.AttrInt64s("pads", same_pads(totals, automatic))


def settle_transposed(graph: ir.Graph) -> None:
    """Replaces ``output_shape`` and what is left of ``auto_pad``, in place; all shapes must be static.

    Raises:
        CaptureError: an output shape is larger than the operator can make it; names the node.
    """
    for node in graph:
        if node.op_type != "ConvTranspose" or node.domain != "":
            continue
        automatic = auto_pad_of(node)
        if "output_shape" in node.attributes or automatic != "NOTSET":
            _settle(node, automatic)


def _settle(node: ir.Node, automatic: str) -> None:
    before, kernel = sizes_of(node.inputs[0])[2:], sizes_of(node.inputs[1])[2:]
    rank, after = len(before), sizes_of(node.outputs[0])[2:]
    strides = strides_of(node, rank)
    dilations = dilations_of(node, rank)
    extra = list(node.attributes.get_ints("output_padding", [0] * rank))
    totals = []
    for i in range(rank):
        size = strides[i] * (before[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1
        # The output is smaller than `size`: padding; larger: output_padding.
        totals.append(max(size - after[i], 0))
        extra[i] += max(after[i] - size, 0)
        if extra[i] >= max(strides[i], dilations[i]):
            raise refused(
                node,
                f"ConvTranspose cannot make its output_shape {after}: axis {2 + i} has {size} elements without padding",
                "state a smaller output_shape, or pad the result",
            )
    _set_pads(node, automatic, totals)
    node.attributes["output_padding"] = ir.AttrInt64s("output_padding", extra)
