"""ONNX operators in float64: one file per family, collected in one table.

An operator is a function of a `Call`, after the operator's page of the ONNX specification
(https://onnx.ai/onnx/operators/), opsets 7 to 24 where they differ. It never changes its inputs in place.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeconv.reference._call import Operator
from edgeconv.reference._operators import (
    activation,
    arithmetic,
    attention,
    constant,
    control,
    convolution,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shape,
)

FAMILIES: Mapping[str, Mapping[str, Operator]] = {
    "convolution": convolution.OPERATORS,
    "activation": activation.OPERATORS,
    "arithmetic": arithmetic.OPERATORS,
    "pooling": pooling.OPERATORS,
    "reduction": reduction.OPERATORS,
    "resize": resize.OPERATORS,
    "normalization": normalization.OPERATORS,
    "shape": shape.OPERATORS,
    "indexing": indexing.OPERATORS,
    "linear": linear.OPERATORS,
    "attention": attention.OPERATORS,
    "recurrent": recurrent.OPERATORS,
    "constant": constant.OPERATORS,
    "quantization": quantization.OPERATORS,
    "control": control.OPERATORS,
}
OPERATORS: dict[str, Operator] = {name: function for family in FAMILIES.values() for name, function in family.items()}

__all__ = ["FAMILIES", "OPERATORS"]
