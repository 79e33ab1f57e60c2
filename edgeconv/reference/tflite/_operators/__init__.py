"""TFLite operators, in float64 and in exact integers: one file per family, one table for all.

An operator is a function of a `Call`, after its reference kernel (tensorflow/lite/kernels). It never changes its inputs
in place. Whether it computes in real numbers or in integers is told by its first output (`Call.quantized`).
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeconv.reference.tflite._call import Kernel
from edgeconv.reference.tflite._operators import (
    activation,
    arithmetic,
    comparison,
    convolution,
    indexing,
    linear,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shape,
    softmax,
    stablehlo,
    unary,
)

OPERATORS: Mapping[str, Kernel] = {
    **convolution.OPERATORS,
    **pooling.OPERATORS,
    **linear.OPERATORS,
    **arithmetic.OPERATORS,
    **comparison.OPERATORS,
    **unary.OPERATORS,
    **activation.OPERATORS,
    **softmax.OPERATORS,
    **reduction.OPERATORS,
    **resize.OPERATORS,
    **shape.OPERATORS,
    **indexing.OPERATORS,
    **quantization.OPERATORS,
    **recurrent.OPERATORS,
    **stablehlo.OPERATORS,
}

__all__ = ["OPERATORS"]
