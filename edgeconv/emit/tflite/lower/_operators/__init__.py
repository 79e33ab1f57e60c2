"""ONNX operators as TFLite: one file per family, one table for all.

A lowering reads its inputs from the `Lowering` in whatever form serves it best, appends TFLite operators and binds
its outputs. To add an operator, write such a function in the file of its family and enter it in that file's table.
"""

from __future__ import annotations

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

LOWERINGS: dict[str, Lower] = {
    **convolution.LOWERINGS,
    **transposed_convolution.LOWERINGS,
    **activation.LOWERINGS,
    **elementwise.LOWERINGS,
    **functions.LOWERINGS,
    **piecewise.LOWERINGS,
    **padding.LOWERINGS,
    **pooling.LOWERINGS,
    **reduction.LOWERINGS,
    **resize.LOWERINGS,
    **sampling.LOWERINGS,
    **normalization.LOWERINGS,
    **shape.LOWERINGS,
    **indexing.LOWERINGS,
    **linear.LOWERINGS,
    **integers.LOWERINGS,
}

__all__ = ["LOWERINGS"]
