"""In which numbers a file computes and stores: the last change of a lowered graph."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeconv.emit.tflite._graph import Graph
from edgeconv.emit.tflite.file._stored_weights import store_halves, store_int8
from edgeconv.emit.tflite.integer._convert import make_integer
from edgeconv.emit.tflite.simplify._shared_memory import copy_shared
from edgeconv.errors import EmitError

LARGEST_BYTES = 2**31 - 2**20
"""flatbuffers' offsets end at 2 GiB; a megabyte is left for everything but the weights."""
_WEIGHTS = ("float32", "float16")
_IO = ("float32", "int8", "int16")


@dataclass(frozen=True)
class Encoding:
    """What the caller may choose.

    Attributes:
        halves: float constants are stored as float16.
        integer_io: inputs and outputs that have quantization parameters are integers.
    """

    halves: bool = False
    integer_io: bool = False


def encoding_of(weights: str, io: str) -> Encoding:
    """The choice by names.

    Raises:
        EmitError: a name is unknown.
    """
    for option, choices, what in ((weights, _WEIGHTS, "weights"), (io, _IO, "io")):
        if option not in choices:
            raise EmitError(f"unknown {what} {option!r}", where="tflite", hint=f"use {', '.join(choices)}")
    return Encoding(weights == "float16", io != "float32")


def check_size(model: ir.Model, weights: str) -> None:
    """Refuses a graph whose weights no file holds: TFLite's offsets end at 2 GiB, and have no file beside it.

    Raises:
        EmitError: they take more.
    """
    constants = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    halved = weights == "float16"
    size = sum(
        constant.nbytes // (2 if halved and constant.dtype == ir.DataType.FLOAT else 1) for constant in constants
    )
    if size > LARGEST_BYTES:
        raise EmitError(
            f"the weights take {size / 2**30:.2f} GiB, and a .tflite file holds less than 2 GiB",
            where="tflite",
            hint="export a smaller variant, the .onnx file alone, or the network in parts",
        )


def encode(graph: Graph, encoding: Encoding, *, integer: bool) -> tuple[str, ...]:
    """Turns a float graph into what is to be written; returns notes for the user."""
    notes = make_integer(graph, integer_io=encoding.integer_io) if integer else ()
    store_int8(graph)
    if encoding.halves:
        graph.all_halves = store_halves(graph)
    copy_shared(graph)
    return notes
