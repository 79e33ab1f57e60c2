"""Reads `.tflite` files from their bytes and evaluates them, in float64 and in exact integers.

Public names
    `read`: a file as a `TfliteGraph`; all of the file is verified first.
    `evaluate`: every tensor of a graph, by name.
    `evaluate_operator`: one operator on operands of the caller's.
    `TfliteGraph`, `Tensor`, `Operator`, `Quantization`: the frozen values that a file is read as.
    `OPERATORS`: the table of what is evaluated, builtin operator -> function.
    `open_tflite`, `operator_number`, `names_of`, `text_of`: for those who want the schema's own objects.

Written after the schema, the quantization specification (https://ai.google.dev/edge/litert/models/quantization_spec)
and TFLite's reference kernels. It shares no code with the emitter, as the proof compares the two. Layouts are those of
the file (NHWC); nothing is fused, reordered or transposed. To add an operator, write a function of a `Call` in the file
of its family in ``_operators/`` and enter it in that file's table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import on_first_use

if TYPE_CHECKING:
    from edgeconv.reference.tflite._evaluate import evaluate, evaluate_operator
    from edgeconv.reference.tflite._graph import Operator, Quantization, Tensor, TfliteGraph
    from edgeconv.reference.tflite._operators import OPERATORS
    from edgeconv.reference.tflite._read import read
    from edgeconv.reference.tflite._verify import names_of, open_tflite, operator_number, text_of

__all__ = [
    # A file as values
    "read",
    "TfliteGraph",
    "Tensor",
    "Operator",
    "Quantization",
    # What it computes
    "evaluate",
    "evaluate_operator",
    "OPERATORS",
    # The schema's own objects
    "names_of",
    "open_tflite",
    "operator_number",
    "text_of",
]

__getattr__ = on_first_use(
    __name__,
    {
        "_evaluate": ("evaluate", "evaluate_operator"),
        "_graph": ("Operator", "Quantization", "Tensor", "TfliteGraph"),
        "_operators": ("OPERATORS",),
        "_read": ("read",),
        "_verify": ("names_of", "open_tflite", "operator_number", "text_of"),
    },
)
