"""Col2Im, written as the layer that adds up windows: a transposed convolution whose kernels have a single 1.

Specification: Col2Im. It is torch's ``fold``, and becomes what capture makes of that (`_aten.patches.fold`): windows
that tile an image need no sums, and are a DepthToSpace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.edit import constant, stated_input
from edgeconv.graph.steps import Steps, sizes_of
from edgeconv.graph.windows import dilations_of, stated_pads, strides_of


def column_to_image(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """Columns (N, C · taps, windows) as an image (N, C, *sizes); of integers, which no layer takes, nothing.

    Raises:
        CaptureError: there are more or fewer columns than windows; names the node.
    """
    # 1. The windows: how many there are along each axis, of which size, and what the last of them leaves over.
    x, sizes = stated_input(node), sizes_of(node.outputs[0])
    block = constant(stated_input(node, 2))
    if block is None or x.dtype is None or not x.dtype.is_floating_point():
        return {}
    batch, channels, *image = sizes
    kernel = [int(size) for size in block]
    rank, taps = len(kernel), math.prod(kernel)
    strides, dilations, pads = strides_of(node, rank), dilations_of(node, rank), stated_pads(node, rank)
    spans = [step * (size - 1) + 1 for size, step in zip(kernel, dilations, strict=True)]
    room = [size + pads[at] + pads[rank + at] - spans[at] for at, size in enumerate(image)]
    counts = [over // stride + 1 for over, stride in zip(room, strides, strict=True)]
    if sizes_of(x)[-1] != math.prod(counts):
        what = f"Col2Im takes {sizes_of(x)[-1]} columns, where the image has {math.prod(counts)} windows"
        raise refused(node, what, "correct image_shape, block_shape, strides, dilations or pads")
    columns = steps.reshape(x, [batch, channels * taps, *counts], "columns")
    # 2. Square windows that tile the image: each column becomes a block of pixels.
    tiles = rank == 2 and kernel == strides and dilations == [1, 1] and not any(pads) and room == [
        (count - 1) * size for count, size in zip(counts, kernel, strict=True)
    ]  # fmt: skip
    if tiles and kernel[0] == kernel[1]:
        attributes = {"blocksize": kernel[0], "mode": "CRD"}
        return {node.outputs[0]: steps.add("image", "DepthToSpace", [columns], sizes, attributes)}
    # 3. Others overlap, and their elements add up. Pixels behind the last window are output_padding.
    ones = np.tile(np.eye(taps, dtype=x.dtype.numpy()), (channels, 1)).reshape(channels * taps, 1, *kernel)
    attributes = {
        "group": channels,
        "kernel_shape": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
        "output_padding": [over % stride for over, stride in zip(room, strides, strict=True)],
    }
    weight = steps.constant(ones, "windows")
    return {node.outputs[0]: steps.add("image", "ConvTranspose", [columns, weight], sizes, attributes)}
