"""Which version of an operator expresses it, and since which TensorFlow Lite runtime that version exists.

The facts are those of ``tensorflow/lite/tools/versioning`` (op_version.cc and runtime_version.cc), for the float32
operators that this emitter writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from edgeconv.emit.tflite._graph import Operator


def _dilated(operator: Operator) -> int:
    return (
        2 if operator.options.get("dilationWFactor", 1) != 1 or operator.options.get("dilationHFactor", 1) != 1 else 1
    )


def _grouped(operator: Operator) -> int:
    return 6 if operator.inputs[0].shape[-1] != operator.inputs[1].shape[-1] else 1


def _fully_connected(operator: Operator) -> int:
    if len(operator.inputs) == 2:
        return 6
    return 5 if operator.options.get("keepNumDims") else 1


def _transpose(operator: Operator) -> int:
    rank = len(operator.inputs[0].shape)
    return 6 if rank > 5 else 4 if rank > 4 else 1


def _broadcast_above_rank_4(version: int) -> Callable[[Operator], int]:
    def rule(operator: Operator) -> int:
        a, b = operator.inputs[0].shape, operator.inputs[1].shape
        return version if a != b and max(len(a), len(b)) > 4 else 1

    return rule


def _above_rank_4(version: int) -> Callable[[Operator], int]:
    return lambda operator: version if len(operator.inputs[0].shape) > 4 else 1


def _int64(version: int) -> Callable[[Operator], int]:
    return lambda operator: version if operator.inputs[0].dtype == np.int64 else 1


def _pixel_centers(operator: Operator) -> int:
    return 3 if operator.options.get("halfPixelCenters") else 1


def _nearest(operator: Operator) -> int:
    return 3 if operator.options.get("halfPixelCenters") or operator.options.get("alignCorners") else 1


_VERSION: dict[str, Callable[[Operator], int]] = {
    "CONV_2D": _grouped,
    "DEPTHWISE_CONV_2D": _dilated,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE": _transpose,
    "TRANSPOSE_CONV": lambda operator: 3 if len(operator.inputs) == 4 else 1,
    "RESIZE_BILINEAR": _pixel_centers,
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
    "MAXIMUM": _broadcast_above_rank_4(3),
    "MINIMUM": _broadcast_above_rank_4(3),
    "SUB": _broadcast_above_rank_4(3),
    "DIV": _broadcast_above_rank_4(2),
    "SLICE": _above_rank_4(5),
    "STRIDED_SLICE": _above_rank_4(4),
    "PAD": _above_rank_4(4),
    "PADV2": _above_rank_4(4),
    "ADD": _int64(4),
    "MUL": _int64(5),
    "BROADCAST_TO": lambda operator: 2,
}

# Operators and versions that are not here need no more than _OLDEST.
_OLDEST = "1.14.0"
_SINCE = {
    ("CONV_2D", 6): "2.9.0",
    ("BATCH_MATMUL", 1): "2.3.0",
    ("BROADCAST_TO", 2): "2.5.0",
    ("ADD", 4): "2.6.0",
    ("MUL", 5): "2.6.0",
    ("SUB", 3): "2.3.0",
    ("DIV", 2): "2.3.0",
    ("DEPTH_TO_SPACE", 1): "2.1.0",
    ("FULLY_CONNECTED", 5): "2.0.0",
    ("FULLY_CONNECTED", 6): "2.1.0",
    ("MAXIMUM", 3): "2.3.0",
    ("MINIMUM", 3): "2.3.0",
    ("PAD", 4): "2.6.0",
    ("PADV2", 4): "2.6.0",
    ("RESIZE_BILINEAR", 3): "2.2.0",
    ("RESIZE_NEAREST_NEIGHBOR", 3): "2.3.0",
    ("STRIDED_SLICE", 4): "2.2.0",
    ("SLICE", 5): "2.5.0",
    ("TRANSPOSE", 4): "2.3.0",
    ("TRANSPOSE", 6): "2.17.0",
    ("TRANSPOSE_CONV", 3): "2.3.0",
    ("HARD_SWISH", 1): "1.15.0",
    ("SELECT_V2", 1): "2.2.0",
    ("GELU", 1): "2.9.0",
    ("RELU_0_TO_1", 1): "2.10.0",
}


def version_of(operator: Operator) -> int:
    """The lowest version that expresses this operator as it stands."""
    rule = _VERSION.get(operator.code)
    return rule(operator) if rule else 1


def minimum_runtime(codes: Iterable[tuple[str, int]]) -> str:
    """The oldest runtime that knows all these (operator, version) pairs, as ``"2.9.0"``."""
    return max((_SINCE.get(code, _OLDEST) for code in codes), key=_ordered, default=_OLDEST)


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
