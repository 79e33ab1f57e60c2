"""Comparisons, logic and choices.

Specification: tensorflow/lite/kernels/comparisons.cc, logical.cc, select.cc. Quantized integers of 8 bits are compared
after scaling, each by its own scale and rounded to 1/256; those of 16 bits as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._fixed_point import factor, multiplied
from edgeconv.reference.tflite._graph import Array

_Pair = Callable[[Array, Array], Array]


def _compared(merge: _Pair) -> Kernel:
    def compute(call: Call) -> Array:
        call.together(call[0], call[1])
        source = call.source(0)
        if source.quantization is None or source.floating or source.dtype not in ("int8", "uint8"):
            return merge(call[0], call[1])
        a, b = (multiplied(call.integers(at) << 8, factor(float(call.scale(at)))) for at in (0, 1))
        return merge(a, b)

    return compute


def _logical(merge: _Pair) -> Kernel:
    def compute(call: Call) -> Array:
        call.together(call[0], call[1])
        return merge(call[0], call[1])

    return compute


def _select(call: Call) -> Array:
    """All three broadcast; SELECT also takes a vector of conditions, one for each slice along the first axis."""
    condition, a, b = call[0], call[1], call[2]
    if call.operator.name == "SELECT" and condition.ndim == 1 and a.ndim > 1:
        condition = condition.reshape(-1, *[1] * (a.ndim - 1))
    call.together(condition, a, b)
    return np.where(condition, a, b)


OPERATORS: Mapping[str, Kernel] = {
    "EQUAL": _compared(np.equal),
    "GREATER": _compared(np.greater),
    "GREATER_EQUAL": _compared(np.greater_equal),
    "LESS": _compared(np.less),
    "LESS_EQUAL": _compared(np.less_equal),
    "LOGICAL_AND": _logical(np.logical_and),
    "LOGICAL_NOT": lambda call: np.logical_not(call[0]),
    "LOGICAL_OR": _logical(np.logical_or),
    "NOT_EQUAL": _compared(np.not_equal),
    "SELECT": _select,
    "SELECT_V2": _select,
}
