"""The element types that a file computes and stores in: the last change to a lowered graph."""

from __future__ import annotations

from dataclasses import dataclass

from edgeconv.emit.tflite._graph import Graph
from edgeconv.emit.tflite.file._stored_weights import store_halves, store_int8
from edgeconv.emit.tflite.integer._convert import make_integer
from edgeconv.emit.tflite.simplify._shared_memory import copy_shared
from edgeconv.errors import EmitError

_WEIGHTS = ("float32", "float16")
_IO = ("float32", "int8", "uint8", "int16")


@dataclass(frozen=True)
class Encoding:
    """What the caller may choose.

    Attributes:
        halves: float constants are stored as float16.
        io: of inputs and outputs that have quantization parameters: ``"float32"``, ``"uint8"``, or the integers that
            the graph has there.
    """

    halves: bool = False
    io: str = "float32"


def encoding_of(weights: str, io: str) -> Encoding:
    """The choice by names.

    Raises:
        EmitError: a name is unknown.
    """
    for option, choices, what in ((weights, _WEIGHTS, "weights"), (io, _IO, "io")):
        if option not in choices:
            raise EmitError(f"unknown {what} {option!r}", where="tflite", hint=f"use {', '.join(choices)}")
    return Encoding(weights == "float16", io)


def encode(graph: Graph, encoding: Encoding, *, integer: bool) -> tuple[str, ...]:
    """Gives a simplified float graph the element types of the file, in place.

    Args:
        graph: as `simplify` leaves it; tensors carry the quantization that they will have.
        encoding: what the caller chose.
        integer: whether activations have scales; weights alone are stored as int8 in any case.

    Returns:
        Notes for the user.
    """
    notes = make_integer(graph, io=encoding.io) if integer else ()
    store_int8(graph)
    if encoding.halves:
        graph.all_halves = store_halves(graph)
    # Last: it looks at which operators follow one another in the file.
    copy_shared(graph)
    return notes
