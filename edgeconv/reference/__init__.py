"""Evaluates graphs in float64: the reference that rewrites, files and runtimes are compared with.

Public names
    `evaluate`: every value of an `onnx_ir.Model`, by name.
    `evaluate_each`: the same for many samples; what depends on constants only is computed once.
    `evaluate_node`: one node on arrays; constant folding, at capture and in rewrites.
    `shape_result`: the result of Shape and Size for a shape.
    `OPERATORS`: ONNX operator -> function.

The package `tflite` reads `.tflite` files back and evaluates them, in float64 and in exact integers.

The engine is torch on the CPU, operator by operator, straight from the ONNX specification; nothing is fused or
reordered, so that two graphs can be compared value by value. To add an operator, write a function of a `Call` in the
file of its family in ``_operators/`` and enter it in that file's table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import on_first_use

if TYPE_CHECKING:
    from edgeconv.reference._evaluate import evaluate, evaluate_each
    from edgeconv.reference._extent import MOST_ELEMENTS
    from edgeconv.reference._moves import shape_result
    from edgeconv.reference._node import evaluate_node
    from edgeconv.reference._operands import ImpossibleError
    from edgeconv.reference._operators import OPERATORS

__all__ = [
    "MOST_ELEMENTS",
    "OPERATORS",
    "ImpossibleError",
    "evaluate",
    "evaluate_each",
    "evaluate_node",
    "shape_result",
]

# torch is imported on first use only: shapes are folded without it, and .tflite files are read without it.
__getattr__ = on_first_use(
    __name__,
    {
        "_evaluate": ("evaluate", "evaluate_each"),
        "_extent": ("MOST_ELEMENTS",),
        "_moves": ("shape_result",),
        "_node": ("evaluate_node",),
        "_operands": ("ImpossibleError",),
        "_operators": ("OPERATORS",),
    },
)
