"""int8 depthwise convolutions of several results per channel, as grouped ones.

onnxruntime has no kernel for them: it makes a product of matrices for each channel. In groups it makes fewer and larger
ones; what weighs a channel in another's result is zero, so all sums are the same integers. onnxruntime 1.32, one
thread, AVX-512 VNNI, in ms, as it was and in groups of so many channels:

    3x3, two results each, 64 channels, 28x28      3.53   4  0.59   8  0.30   16  0.26   32  0.20   64  0.22
    3x3, two results each, 384 channels, 7x7       1.00      0.25      0.14       0.13       0.10
    5x5, two results each, 96 channels, 14x14      1.75      0.69      0.36       0.22       0.17   96  0.36
    3x3, eight results each, 24 channels, 28x28    0.84      0.27      0.18   24  0.13
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.edit import constant, producer_of
from edgeconv.graph.replace import replace_constant
from edgeconv.graph.stored_integers import own_stored

_MOST_CHANNELS = 32  # of a group; the weights grow by as much


def group_depthwise(graph: ir.Graph) -> None:
    """Writes int8 depthwise Convs of several results per channel in groups of up to 32 channels."""
    for node in graph:
        channels = node.attributes.get_int("group", 1) if node.op_type == "Conv" and node.domain == "" else 1
        size = max((size for size in range(1, _MOST_CHANNELS + 1) if channels % size == 0), default=1)
        maker = own_stored(node, 1) if size > 1 else None
        weight = None if maker is None else constant(maker.inputs[0])
        source = producer_of(node.inputs[0])
        if maker is None or weight is None or source is None or source.op_type != "DequantizeLinear":
            continue
        if weight.shape[1] != 1 or len(weight) <= channels:
            continue
        stored = maker.inputs[0]
        assert stored is not None  # `own_stored` read it
        assert stored.dtype is not None  # alike
        replace_constant(maker, 0, _in_blocks(weight, len(weight) // channels, size), stored.dtype, stored.name or "")
        real = maker.outputs[0]
        if real.shape is not None:
            real.shape = ir.Shape([real.shape[0], size, *list(real.shape)[2:]])
        node.attributes["group"] = ir.AttrInt64("group", channels // size)


def _in_blocks(weight: Array, multiplier: int, size: int) -> Array:
    """(O, 1, H, W) -> (O, I, H, W) of one whose groups have so many channels."""
    own = np.arange(len(weight)) // multiplier % size
    blocks = np.zeros((len(weight), size, *weight.shape[2:]), weight.dtype)
    blocks[np.arange(len(weight)), own] = weight[:, 0]
    return blocks
