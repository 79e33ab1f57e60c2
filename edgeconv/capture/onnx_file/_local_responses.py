"""LRN in the forms that onnxruntime does not run, written as a convolution, a power and a quotient.

onnxruntime 1.32 runs LRN of four axes and of odd sizes only (core/providers/cpu/nn/lrn.cc); the specification has
neither limit. The sum of squares over neighboring channels is a 1x1 convolution.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeconv.graph.steps import Steps, sizes_of
from edgeconv.graph.windows import neighbors

_SPATIAL = (1, 2, 3)  # numbers of spatial axes for which every runtime has a Conv


def settle_local_responses(graph: ir.Graph) -> None:
    """Replaces in place; all shapes must be static."""
    for node in list(graph):
        if node.op_type != "LRN" or node.domain != "":
            continue
        size = node.attributes.get_int("size", 1)
        if size % 2 == 0 or len(sizes_of(node.inputs[0])) != 4:
            _settle(Steps(graph, node), node, size)


def _settle(steps: Steps, node: ir.Node, size: int) -> None:
    """x / (bias + alpha / size · sum of squares) ^ beta (specification: LRN)."""
    x, sizes = node.inputs[0], sizes_of(node.inputs[0])
    batch, channels, *image = sizes
    squares = steps.add("square", "Mul", [x, x], sizes)
    inner = image if len(image) in _SPATIAL else [math.prod(image)]
    squares = squares if inner == image else steps.reshape(squares, [batch, channels, *inner], "square.flat")
    weight = neighbors(channels, size) * (node.attributes.get_float("alpha", 1e-4) / size)
    bias = np.full(channels, node.attributes.get_float("bias", 1.0))
    kernels = weight.reshape(channels, channels, *[1] * len(inner)).astype(np.float32)
    operands = [squares, steps.constant(kernels, "weight"), steps.constant(bias.astype(np.float32), "bias")]
    total = steps.add("sum", "Conv", operands, [batch, channels, *inner])
    total = total if inner == image else steps.reshape(total, sizes, "sum.shaped")
    beta = steps.constant(np.array(node.attributes.get_float("beta", 0.75), np.float32), "beta")
    power = steps.add("power", "Pow", [total, beta], sizes)
    steps.replace({node.outputs[0]: steps.add("quotient", "Div", [x, power], sizes)})
