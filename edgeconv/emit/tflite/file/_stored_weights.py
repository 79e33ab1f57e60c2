"""Weights stored in fewer bytes, in a graph that computes in floats."""

from __future__ import annotations

import numpy as np

from edgeconv.core.precision import to_float16
from edgeconv.emit.half_precision import is_held
from edgeconv.emit.tflite._graph import Graph, Operator, Tensor

_FLOAT = np.dtype(np.float32)
_HYBRID = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}  # have kernels of float activations by int8 weights


def store_int8(graph: Graph) -> None:
    """Weights that have scales become int8: read as they are by hybrid kernels, behind DEQUANTIZE by other operators.

    Hybrid kernels quantize their input at run time, symmetrically: with ``asymmetricQuantizeInputs`` the file would
    need versions that XNNPACK does not take.
    """
    behind: dict[Tensor, Tensor] = {}
    operators: list[Operator] = []
    for operator in graph.operators:
        for index, tensor in enumerate(operator.inputs):
            # Weights of integer layers are integers already.
            if tensor.data is None or tensor.quantization is None or tensor.dtype != _FLOAT:
                continue
            scales = tensor.quantization
            stored = graph.constant(scales.quantized(tensor.data), tensor.name, scales)
            if operator.code in _HYBRID and index == 1:
                operator.inputs[1] = stored
                continue
            if stored not in behind:
                behind[stored] = Tensor(f"{tensor.name}/float", tensor.shape, _FLOAT)
                operators.append(Operator("DEQUANTIZE", [stored], [behind[stored]]))
            operator.inputs[index] = behind[stored]
        operators.append(operator)
    graph.operators = operators


def store_halves(graph: Graph) -> bool:
    """Float constants become float16 behind DEQUANTIZE, which XNNPACK computes once, when the file is loaded.

    Those that float16 does not hold stay float32: guards, masks and bounds. So do those of places in an image, which
    float16 moves by up to half a pixel.

    Returns:
        Whether float16 held all of them.
    """
    behind: dict[Tensor, Tensor] = {}
    first: list[Operator] = []
    whole = True
    for operator in graph.operators:
        for index, tensor in enumerate(operator.inputs):
            if tensor.data is None or tensor.dtype != _FLOAT or operator.places:
                continue
            if not is_held(tensor.data):
                whole = False
                continue
            if tensor not in behind:
                behind[tensor] = Tensor(f"{tensor.name}/float", tensor.shape, _FLOAT)
                half = graph.constant(to_float16(tensor.data), tensor.name)
                first.append(Operator("DEQUANTIZE", [half], [behind[tensor]]))
            operator.inputs[index] = behind[tensor]
    graph.operators = [*first, *graph.operators]
    return whole
