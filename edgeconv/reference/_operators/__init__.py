"""ONNX operators in float64: one file per family, one table for all.

An operator is a function of a `Call`, after the operator's page of the ONNX specification
(https://onnx.ai/onnx/operators/), opsets 7 to 24 where they differ. It never changes its inputs in place.
"""

from __future__ import annotations

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

OPERATORS: dict[str, Operator] = {
    **convolution.OPERATORS,
    **activation.OPERATORS,
    **arithmetic.OPERATORS,
    **pooling.OPERATORS,
    **reduction.OPERATORS,
    **resize.OPERATORS,
    **normalization.OPERATORS,
    **shape.OPERATORS,
    **indexing.OPERATORS,
    **linear.OPERATORS,
    **attention.OPERATORS,
    **recurrent.OPERATORS,
    **constant.OPERATORS,
    **quantization.OPERATORS,
    **control.OPERATORS,
}

__all__ = ["OPERATORS"]
