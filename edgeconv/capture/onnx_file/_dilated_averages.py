"""AveragePool with ``dilations`` (opset 19), written as a depthwise convolution.

TFLite's pools have no dilations. onnxruntime 1.32 fuses an integer AveragePool to QLinearAveragePool, which has none
either, and then refuses the file. A depthwise convolution has them in both formats, in float and in integers.

1. If every window counts n elements, all weights are 1/n.
2. Otherwise the weights are 1, and a Mul with 1/n of each window follows. Padding does not count, nor does anything
   beyond it that a window reaches in ceil_mode.
3. Dilations of 1 are removed: onnxruntime refuses the file if they are stated at all.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.core import Array
from edgeconv.graph.steps import Steps, sizes_of
from edgeconv.graph.windows import counted_elements, dilations_of, stated_pads, strides_of


def settle_dilated_averages(graph: ir.Graph) -> None:
    """Replaces in place; all shapes must be static.

    Raises:
        CaptureError: a window reads nothing that counts; names the node.
    """
    for node in list(graph):
        if node.op_type != "AveragePool" or node.domain != "" or "dilations" not in node.attributes:
            continue
        kernel, dilations = (node.attributes.get_ints(name) for name in ("kernel_shape", "dilations"))
        if all(taps == 1 or dilation == 1 for taps, dilation in zip(kernel, dilations, strict=True)):
            node.attributes.pop("dilations")
        else:
            _settle(Steps(graph, node), node)


def _settle(steps: Steps, node: ir.Node) -> None:
    x, result = node.inputs[0], node.outputs[0]
    _, channels, *before = sizes_of(x)
    _, _, *after = sizes_of(result)
    kernel = list(node.attributes.get_ints("kernel_shape"))
    rank = len(kernel)
    strides, dilations = strides_of(node, rank), dilations_of(node, rank)
    # SAME_UPPER and SAME_LOWER are numbers already (`_automatic_pads`); what is left is VALID, which pads nothing.
    pads = stated_pads(node, rank)
    # How far the last window of each axis reaches behind the elements: the convolution pads so much.
    reaches = [
        max(0, (after[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - before[i] - pads[i])
        for i in range(rank)
    ]
    counts = _counts(node, before, after, pads)
    if not counts.all():
        what = f"{node.op_type} has windows of nothing but padding"
        raise refused(node, what, "pad less than a window on each side")
    alike = bool((counts == counts.flat[0]).all())
    weight = np.full((channels, 1, *kernel), 1 / counts.flat[0] if alike else 1, np.float32)
    attributes = {"strides": strides, "dilations": dilations, "pads": [*pads[:rank], *reaches], "group": channels}
    y = steps.add("sum", "Conv", [x, steps.constant(weight, "weight")], sizes_of(result), attributes)
    if not alike:
        shares = steps.constant((1 / counts).astype(np.float32), "shares")
        y = steps.add("mean", "Mul", [y, shares], sizes_of(result))
    steps.replace({result: y})


def _counts(node: ir.Node, sizes: list[int], after: list[int], pads: list[int]) -> Array:
    """The number of elements that each window divides by, of the shape of the result's spatial axes."""
    rank, padding = len(sizes), bool(node.attributes.get_int("count_include_pad", 0))
    kernel, dilations = (node.attributes.get_ints(name) for name in ("kernel_shape", "dilations"))
    strides = strides_of(node, rank)
    counts = [
        counted_elements(
            *(size, after[i], kernel[i], (pads[i], pads[rank + i])),
            stride=strides[i],
            dilation=dilations[i],
            with_padding=padding,
        )
        for i, size in enumerate(sizes)
    ]
    return np.asarray(math.prod(np.ix_(*counts)), np.float64)
