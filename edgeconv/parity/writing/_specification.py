"""What its format's specification says of any file of integers, whoever wrote it, and what a file says twice.

Sources: TFLite's 8-bit quantization specification (https://ai.google.dev/edge/litert/models/quantization_spec), and its
kernels for 16 bits; ONNX, DequantizeLinear: "In the case of dequantizing int32, there's no zero point".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.graph.edit import constant, input_of
from edgeconv.parity.writing._tflite_integers import WITH_BIAS, parameters_of
from edgeconv.reference.tflite import Operator, Tensor, TfliteGraph

_SIXTEEN = (1 / 32768, 0)
_FIXED: Mapping[str, Mapping[str, tuple[float, int]]] = {
    "int8": {
        "SOFTMAX": (1 / 256, -128),
        "LOGISTIC": (1 / 256, -128),
        "TANH": (1 / 128, 0),
        "L2_NORMALIZATION": (1 / 128, 0),
        "LOG_SOFTMAX": (16 / 256, 127),
    },
    "uint8": {"SOFTMAX": (1 / 256, 0), "LOGISTIC": (1 / 256, 0), "TANH": (1 / 128, 128)},
    "int16": {"SOFTMAX": _SIXTEEN, "LOGISTIC": _SIXTEEN, "TANH": _SIXTEEN},
}
"""Scale and zero point of results whose range is known."""

_SYMMETRIC = ("int4", "int8", "int16")  # weights of these; those of uint8 (before 2019) have a zero point


def tflite_contradictions(graph: TfliteGraph, titles: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Tensor and one line, of what a `.tflite` file may not have, or says in two ways.

    Args:
        graph: the file.
        titles: of its signature, the name of each input and output by that of its tensor.
    """
    for operator in graph.operators:
        yield from _of_layer(graph, operator)
        yield from _of_fixed(graph, operator)
    for tensor in graph.tensors:
        if tensor.quantization is not None and tensor.dtype == "int16" and any(parameters_of(tensor)[1]):
            yield _line(tensor, parameters_of(tensor)[1], "activations of int16 have none")
    names = {title: name for name, title in titles.items()}
    for name, title in titles.items():
        if names.get(name, name) != name:
            yield title, f"the tensor of {title} is called {name}, which is the signature's name of another"


def _of_layer(graph: TfliteGraph, operator: Operator) -> Iterator[tuple[str, str]]:
    """Weights and biases are symmetric."""
    for place, whose in zip(WITH_BIAS.get(operator.name, ())[1:], ("weights", "a bias"), strict=False):
        if place >= len(operator.inputs) or operator.inputs[place] < 0:
            continue
        tensor = graph.tensors[operator.inputs[place]]
        symmetric = whose == "a bias" or (tensor.data is not None and tensor.dtype in _SYMMETRIC)
        if symmetric and not tensor.floating and tensor.quantization is not None and any(parameters_of(tensor)[1]):
            yield _line(tensor, parameters_of(tensor)[1], f"{whose} of integers {'have' if place == 1 else 'has'} none")


def _of_fixed(graph: TfliteGraph, operator: Operator) -> Iterator[tuple[str, str]]:
    for index in operator.outputs:
        tensor = graph.tensors[index]
        due = _FIXED.get(tensor.dtype, {}).get(operator.name)
        if due is None or tensor.quantization is None:
            continue
        (scale, *_), (point, *_) = parameters_of(tensor)
        if (float(np.float32(scale)), point) != due:
            held = f"the scale {scale:.9g} and the zero point {point}"
            yield tensor.name, f"{operator.name} {tensor.name} has {held}: specified are {due[0]} and {due[1]}"


def _line(tensor: Tensor, points: tuple[int, ...], rule: str) -> tuple[str, str]:
    point = next(point for point in points if point)
    return tensor.name, f"tensor {tensor.name} has the zero point {point}: by TFLite's specification {rule}"


def onnx_contradictions(graph: ir.Graph) -> Iterator[tuple[str, str]]:
    """Name and one line, of integers of 32 bits that an `.onnx` file reads with a zero point."""
    for node in graph.all_nodes():
        points = constant(input_of(node, 2)) if node.op_type == "DequantizeLinear" else None
        if points is not None and points.dtype == np.int32 and points.any():
            name = node.outputs[0].name or ""
            point = int(points[points != 0].reshape(-1)[0])
            yield name, f"{name} has the zero point {point}: by ONNX's specification int32 has none"
