"""What the integers of a `.tflite` file stand for, and where an operator reads others than were written."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeconv.core import Array
from edgeconv.reference.tflite import Operator, Tensor, TfliteGraph

_MOVING = frozenset(
    {
        *("TRANSPOSE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE", "GATHER", "PAD", "MIRROR_PAD"),
        *("DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND"),
        *("MAX_POOL_2D", "AVERAGE_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
    }
)
"""Whose results have the scale of what they read: their kernels do not look at it (quantization specification:
"Input and outputs must all have same scale/zero_point")."""

WITH_BIAS = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}
"""Places of data, weight and bias among the operands."""

APART = 1e-3
"""Relative: scales of biases that other converters write; they are products of float32 numbers."""


def tflite_misread(graph: TfliteGraph, apart: float = APART) -> Iterator[tuple[str, str]]:
    """Tensor and one line, of integers that an operator reads as other numbers than they were written as.

    A bias is read with the product of the scales of data and weight, whatever its own says (quantization specification
    of TFLite: "scale = input_scale * weight_scale").

    Args:
        graph: the file.
        apart: how far the scale of a bias may be from that product, rounded to float32; relative.
    """
    for operator in graph.operators:
        if operator.name in _MOVING:
            source, result = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
            if not source.floating and source.quantization != result.quantization:
                yield (
                    result.name,
                    f"tensor {result.name} has the integers of {source.name}, and another scale or zero point",
                )
        off = _bias_off(graph, operator)
        if off > apart:
            bias = graph.tensors[operator.inputs[WITH_BIAS[operator.name][2]]]
            if apart and bias.data is not None and not np.any(bias.data):
                continue  # of another converter: several layers may share a bias of zeros, whatever its scale
            line = f"the scale of the bias {bias.name} is {off:.3g} off the product of those of data and weight"
            yield bias.name, line


def _bias_off(graph: TfliteGraph, operator: Operator) -> float:
    """How far the scale of a bias is from the product of those of data and weight; 0 where there is no such bias."""
    places = WITH_BIAS.get(operator.name, ())
    if not places or len(operator.inputs) <= places[2] or any(operator.inputs[place] < 0 for place in places):
        return 0.0
    tensors = [graph.tensors[operator.inputs[place]] for place in places]
    if any(tensor.quantization is None or tensor.floating for tensor in tensors):
        return 0.0
    data, weight, bias = (np.array(parameters_of(tensor)[0], np.float64) for tensor in tensors)
    if bias.size not in (1, weight.size):
        return 0.0
    product = (data * weight).astype(np.float32).astype(np.float64)
    return float(np.abs(bias / product - 1).max())


def tflite_integers(graph: TfliteGraph) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Of each quantized constant, the real numbers that it stands for, and a step as it broadcasts."""
    for tensor in graph.tensors:
        if tensor.data is not None and tensor.quantization is not None and not tensor.floating:
            real = real_numbers(tensor, np.asarray(tensor.data))
            yield tensor.name, (real, real_numbers(tensor, np.asarray(tensor.data) + 1.0) - real)


def real_numbers(tensor: Tensor, stored: Array) -> Array:
    """The real numbers that integers of a tensor stand for, float64."""
    assert tensor.quantization is not None  # the caller looked
    scales, points = (np.array(numbers, np.float64) for numbers in parameters_of(tensor))
    if len(scales) > 1:
        along = [-1 if axis == tensor.quantization.axis else 1 for axis in range(stored.ndim)]
        scales, points = scales.reshape(along), points.reshape(along)
    return np.asarray((stored.astype(np.float64) - points) * scales)


def parameters_of(tensor: Tensor) -> tuple[tuple[float, ...], tuple[int, ...]]:
    assert tensor.quantization is not None  # the caller looked
    return tensor.quantization.scales, tensor.quantization.zero_points
