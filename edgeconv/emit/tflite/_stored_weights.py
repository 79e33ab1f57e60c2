"""Weights stored in fewer bytes, in a graph that computes in floats."""

from __future__ import annotations

import numpy as np

from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.errors import EmitError

_FLOAT = np.dtype(np.float32)
_HYBRID = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}  # they have kernels of floats by int8
_LARGEST_HALF = float(np.finfo(np.float16).max)


def store_int8(graph: Graph) -> None:
    """Weights that have scales become int8: read as they are by hybrid kernels, behind DEQUANTIZE by other operators.

    Hybrid kernels quantise their input at run time, symmetrically: with ``asymmetricQuantizeInputs`` the file would
    need versions that XNNPACK does not take.
    """
    behind: dict[Tensor, Tensor] = {}
    made: list[Operator] = []
    for operator in graph.operators:
        for index, tensor in enumerate(operator.inputs):
            if tensor.data is None or tensor.quantization is None or tensor.dtype != _FLOAT:
                continue
            scales = tensor.quantization
            stored = graph.constant(scales.quantise(tensor.data), tensor.name, scales)
            if operator.code in _HYBRID and index == 1:
                operator.inputs[1] = stored
                continue
            if stored not in behind:
                behind[stored] = Tensor(f"{tensor.name}/float", tensor.shape, _FLOAT)
                made.append(Operator("DEQUANTIZE", [stored], [behind[stored]]))
            operator.inputs[index] = behind[stored]
        made.append(operator)
    graph.operators = made


def store_halves(graph: Graph) -> None:
    """Every float constant becomes float16 behind DEQUANTIZE, which XNNPACK computes once, when the file is loaded.

    Raises:
        EmitError: a constant is beyond float16's range.
    """
    behind: dict[Tensor, Tensor] = {}
    first: list[Operator] = []
    for operator in graph.operators:
        for index, tensor in enumerate(operator.inputs):
            if tensor.data is None or tensor.dtype != _FLOAT:
                continue
            if tensor not in behind:
                behind[tensor] = Tensor(f"{tensor.name}/float", tensor.shape, _FLOAT)
                first.append(Operator("DEQUANTIZE", [_half(graph, tensor)], [behind[tensor]]))
            operator.inputs[index] = behind[tensor]
    graph.operators = [*first, *graph.operators]


def _half(graph: Graph, tensor: Tensor) -> Tensor:
    assert tensor.data is not None
    largest = float(np.max(np.abs(tensor.data), initial=0.0))
    if largest > _LARGEST_HALF:
        raise EmitError(
            f"the constant {tensor.name!r} holds {largest:.4g}, and float16 ends at {_LARGEST_HALF:.0f}",
            where="tflite, fp16",
            mend="export fp32, or scale the weights",
        )
    return graph.constant(tensor.data.astype(np.float16), tensor.name)
