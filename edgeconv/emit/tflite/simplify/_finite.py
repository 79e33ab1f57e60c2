"""Which tensors of a finished TFLite graph may hold infinities on purpose, such as masks."""

from __future__ import annotations

import numpy as np

from edgeconv.emit.tflite._graph import Graph, Tensor

_BOUNDED = {"ARG_MAX", "ARG_MIN", "HARD_SWISH", "LOGISTIC", "RELU6", "RELU_N1_TO_1", "SOFTMAX", "TANH"}
_SUMS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
"""Sums of products with weights: of infinite elements they are seldom anything but not a number."""


def maybe_infinite(graph: Graph) -> set[Tensor]:
    """Tensors behind infinite constants (the -inf of a mask) and logarithms, up to what is bounded or a layer."""
    infinite: set[Tensor] = set()
    for operator in graph.operators:  # in the order of the data
        if operator.code in _BOUNDED | _SUMS:
            continue
        read = [tensor for tensor in operator.inputs if tensor.dtype == np.float32]
        if operator.code == "LOG" or any(tensor in infinite or _is_infinite(tensor) for tensor in read):
            infinite.update(tensor for tensor in operator.outputs if tensor.dtype == np.float32)
    return infinite


def _is_infinite(tensor: Tensor) -> bool:
    return tensor.data is not None and bool(np.isinf(tensor.data).any())
