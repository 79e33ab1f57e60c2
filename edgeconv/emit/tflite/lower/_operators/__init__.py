"""ONNX operators as TFLite: one file per family, one table for all.

A lowering reads its inputs from the `Lowering` in whatever form serves it best, appends TFLite operators and binds
its outputs. To add an operator, write such a function in the file of its family and enter it in that file's table.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeconv.emit.tflite.lower._lowering import Lower
from edgeconv.emit.tflite.lower._operators import (
    activation,
    convolution,
    elementwise,
    functions,
    indexing,
    integers,
    linear,
    normalization,
    padding,
    piecewise,
    pooling,
    reduction,
    resize,
    sampling,
    shape,
    transposed_convolution,
)

FAMILIES: Mapping[str, Mapping[str, Lower]] = {
    "convolution": convolution.LOWERINGS,
    "transposed_convolution": transposed_convolution.LOWERINGS,
    "activation": activation.LOWERINGS,
    "elementwise": elementwise.LOWERINGS,
    "functions": functions.LOWERINGS,
    "piecewise": piecewise.LOWERINGS,
    "padding": padding.LOWERINGS,
    "pooling": pooling.LOWERINGS,
    "reduction": reduction.LOWERINGS,
    "resize": resize.LOWERINGS,
    "sampling": sampling.LOWERINGS,
    "normalization": normalization.LOWERINGS,
    "shape": shape.LOWERINGS,
    "indexing": indexing.LOWERINGS,
    "linear": linear.LOWERINGS,
    "integers": integers.LOWERINGS,
}
LOWERINGS: dict[str, Lower] = {name: lower for family in FAMILIES.values() for name, lower in family.items()}

WITHOUT_LOWERING: Mapping[str, str] = {
    "BitShift": "ONNX shifts unsigned integers, of which TFLite's kernels take none but uint8",
    "ConvInteger": "TFLite multiplies no integers without scales",
    "Det": "TFLite has none: torch's becomes minors, up to four rows",
    "DynamicQuantizeLinear": "its scale is computed, and those of a TFLite file are constants",
    "MatMulInteger": "TFLite multiplies no integers without scales",
    "MaxUnpool": "indices may be equal, and TFLite adds such values; torch's, of disjoint windows, is written out",
}
"""Operators of the reference that may reach this table and have no lowering, and why."""

__all__ = ["FAMILIES", "LOWERINGS", "WITHOUT_LOWERING"]
