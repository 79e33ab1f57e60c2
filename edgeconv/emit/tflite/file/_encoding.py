"""The element types that a file computes and stores in: the last change to a lowered graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeconv.core.precision import to_float16
from edgeconv.emit.half_precision import is_held, is_limit_beside_one
from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite.simplify._shared_memory import copy_shared
from edgeconv.errors import EmitError

_WEIGHTS = ("float32", "float16")
_COMPARING = frozenset({"EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL"})
_LIMITING = _COMPARING | {"MAXIMUM", "MINIMUM", "SELECT_V2"}
_IO = ("float32", "int8", "uint8", "int16")


@dataclass(frozen=True)
class Encoding:
    """What the caller may choose.

    Attributes:
        halves: float constants are stored as float16.
        io: of inputs and outputs that have quantization parameters: ``"float32"``, ``"uint8"``, or the integers that
            the graph has there.
        exact: functions between integers are computed in floats where the integer kernels are a step off.
    """

    halves: bool = False
    io: str = "float32"
    exact: bool = False


def encoding_of(weights: str, io: str, *, exact: bool = False) -> Encoding:
    """The choice by names.

    Raises:
        EmitError: a name is unknown.
    """
    for option, choices, what in ((weights, _WEIGHTS, "weights"), (io, _IO, "io")):
        if option not in choices:
            raise EmitError(f"unknown {what} {option!r}", where="tflite", hint=f"use {', '.join(choices)}")
    return Encoding(weights == "float16", io, exact)


def encode(graph: Graph, encoding: Encoding, *, integer: bool) -> tuple[str, ...]:
    """Gives a simplified float graph the element types of the file, in place.

    Args:
        graph: as `simplify` leaves it; tensors carry the quantization that they will have.
        encoding: what the caller chose.
        integer: whether activations have scales; weights alone are stored as int8 in any case.

    Returns:
        Notes for the user.
    """
    notes: tuple[str, ...] = ()
    if integer:
        from edgeconv.emit.tflite.integer._convert import make_integer  # with its room, which files of floats need not

        notes = make_integer(graph, io=encoding.io, exact=encoding.exact)
    _store_int8(graph)
    if encoding.halves:
        graph.all_halves = _store_halves(graph)
    # Last: it looks at which operators follow one another in the file.
    copy_shared(graph)
    return notes


_FLOAT = np.dtype(np.float32)
_HYBRID = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}  # have kernels of float activations by int8 weights


def _store_int8(graph: Graph) -> None:
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


def _store_halves(graph: Graph) -> bool:
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
            if not is_held(tensor.data) or (operator.code in _LIMITING and is_limit_beside_one(tensor.data)):
                whole = False
                continue
            if tensor not in behind:
                behind[tensor] = Tensor(f"{tensor.name}/float", tensor.shape, _FLOAT)
                half = graph.constant(to_float16(tensor.data), tensor.name)
                first.append(Operator("DEQUANTIZE", [half], [behind[tensor]]))
            operator.inputs[index] = behind[tensor]
    graph.operators = [*first, *graph.operators]
    return whole
