"""Which version of an operator expresses it, and since which TensorFlow Lite runtime that version exists.

The facts are those of ``tensorflow/lite/tools/versioning`` (op_version.cc and runtime_version.cc), for the
operators and element types that this emitter writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from edgeconv.emit.tflite._graph import Operator
from edgeconv.emit.tflite.file._integer_versions import SINCE_OF_INTEGERS, version_of_integers


def _dilated(operator: Operator) -> int:
    factors = [operator.options.get(name, 1) for name in ("dilationWFactor", "dilationHFactor")]
    return 1 if factors == [1, 1] else 2


def _grouped(operator: Operator) -> int:
    # A group reads fewer channels than the input has (is_grouped_convolution).
    return 6 if operator.inputs[0].shape[-1] != operator.inputs[1].shape[-1] else 1


def _fully_connected(operator: Operator) -> int:
    # Without a bias since version 6; keep_num_dims since 5.
    if len(operator.inputs) == 2:
        return 6
    return 5 if operator.options.get("keepNumDims") else 1


def _transpose(operator: Operator) -> int:
    # More axes first, as GetBuiltinOperatorVersion asks: the first that holds decides.
    rank = len(operator.inputs[0].shape)
    if rank > 5:
        return 6
    return 4 if rank > 4 else _typed(np.bool_, 3)(operator)


def _sub(operator: Operator) -> int:
    return max(_typed(np.int64, 4)(operator), _broadcast_above_rank_4(3)(operator))


def _strided_slice(operator: Operator) -> int:
    return 4 if len(operator.inputs[0].shape) > 4 else _typed(np.bool_, 3)(operator)


def _cast(operator: Operator) -> int:
    return 5 if any(tensor.dtype == np.float16 for tensor in (operator.inputs[0], operator.outputs[0])) else 1


def _broadcast_above_rank_4(version: int) -> Callable[[Operator], int]:
    def rule(operator: Operator) -> int:
        a, b = operator.inputs[0].shape, operator.inputs[1].shape
        return version if a != b and max(len(a), len(b)) > 4 else 1

    return rule


def _above_rank_4(version: int) -> Callable[[Operator], int]:
    return lambda operator: version if len(operator.inputs[0].shape) > 4 else 1


def _typed(dtype: type[np.generic], version: int, index: int = 0) -> Callable[[Operator], int]:
    return lambda operator: version if operator.inputs[index].dtype == dtype else 1


def _pixel_centers(operator: Operator) -> int:
    return 3 if operator.options.get("halfPixelCenters") else 1


def _nearest(operator: Operator) -> int:
    return 3 if operator.options.get("halfPixelCenters") or operator.options.get("alignCorners") else 1


def _gather(operator: Operator) -> int:
    return 5 if operator.options.get("batchDims") else 3 if operator.inputs[0].dtype == np.bool_ else 1


_VERSION: dict[str, Callable[[Operator], int]] = {
    "CONV_2D": _grouped,
    "DEPTHWISE_CONV_2D": _dilated,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE": _transpose,
    # With a bias.
    "TRANSPOSE_CONV": lambda operator: 3 if len(operator.inputs) == 4 else 1,
    "RESIZE_BILINEAR": _pixel_centers,
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
    "MAXIMUM": _broadcast_above_rank_4(3),
    "MINIMUM": _broadcast_above_rank_4(3),
    "SUB": _sub,
    "DIV": _broadcast_above_rank_4(2),
    "SLICE": _above_rank_4(5),
    "STRIDED_SLICE": _strided_slice,
    "PAD": _above_rank_4(4),
    "PADV2": _above_rank_4(4),
    "ADD": _typed(np.int64, 4),
    "MUL": _typed(np.int64, 5),
    "GATHER": _gather,
    # Input 0 is the axis, input 1 the tensor that is split.
    "SPLIT": _typed(np.int32, 3, index=1),
    "CAST": _cast,
}

# Every operator that this emitter writes for floats: the versions it may get, and the first runtime that has each.
SINCE: dict[str, dict[int, str]] = {
    "ABS": {1: "1.13.0"},
    "ADD": {1: "1.5.0", 4: "2.6.0"},
    "ARG_MAX": {1: "1.9.0"},
    "ARG_MIN": {1: "1.9.0"},
    "AVERAGE_POOL_2D": {1: "1.5.0"},
    "BATCH_MATMUL": {1: "2.3.0"},
    "CAST": {1: "1.5.0", 5: "2.12.0"},
    "CEIL": {1: "1.14.0"},
    "CONCATENATION": {1: "1.5.0"},
    "CONV_2D": {1: "1.5.0", 6: "2.9.0"},
    "COS": {1: "1.14.0"},
    "CUMSUM": {1: "2.4.0"},
    "DEPTHWISE_CONV_2D": {1: "1.5.0", 2: "1.12.0"},
    "DEPTH_TO_SPACE": {1: "2.1.0"},
    "DIV": {1: "1.6.0", 2: "2.3.0"},
    "EQUAL": {1: "1.14.0"},
    "EXP": {1: "1.7.0"},
    "FLOOR": {1: "1.9.0"},
    "FLOOR_MOD": {1: "1.13.0"},
    "FULLY_CONNECTED": {1: "1.5.0", 5: "2.0.0", 6: "2.1.0"},
    "GATHER": {1: "1.6.0", 3: "1.15.0", 5: "2.5.0"},
    "GELU": {1: "2.9.0"},
    "GREATER": {1: "1.14.0"},
    "GREATER_EQUAL": {1: "1.14.0"},
    "HARD_SWISH": {1: "1.15.0"},
    "LEAKY_RELU": {1: "1.13.1"},
    "LESS": {1: "1.14.0"},
    "LESS_EQUAL": {1: "1.14.0"},
    "LOG": {1: "1.14.0"},
    "LOGICAL_AND": {1: "1.11.0"},
    "LOGICAL_NOT": {1: "1.11.0"},
    "LOGICAL_OR": {1: "1.11.0"},
    "LOGISTIC": {1: "1.14.0"},
    "LOG_SOFTMAX": {1: "1.14.0"},
    "MAXIMUM": {1: "1.14.0", 3: "2.3.0"},
    "MAX_POOL_2D": {1: "1.5.0"},
    "MEAN": {1: "1.6.0"},
    "MINIMUM": {1: "1.14.0", 3: "2.3.0"},
    "MUL": {1: "1.5.0", 5: "2.6.0"},
    "NEG": {1: "1.9.0"},
    "NOT_EQUAL": {1: "1.14.0"},
    "PAD": {1: "1.5.0", 4: "2.6.0"},
    "PADV2": {1: "1.9.0", 4: "2.6.0"},
    "POW": {1: "1.10.0"},
    "PRELU": {1: "1.8.0"},
    "REDUCE_MAX": {1: "1.11.0"},
    "REDUCE_MIN": {1: "1.11.0"},
    "REDUCE_PROD": {1: "1.11.0"},
    "RELU": {1: "1.5.0"},
    "RELU6": {1: "1.5.0"},
    "RELU_N1_TO_1": {1: "1.5.0"},
    "RESHAPE": {1: "1.5.0"},
    "RESIZE_BILINEAR": {1: "1.7.0", 3: "2.2.0"},
    "RESIZE_NEAREST_NEIGHBOR": {1: "1.13.1", 3: "2.3.0"},
    "REVERSE_SEQUENCE": {1: "1.14.0"},
    "ROUND": {1: "1.14.0"},
    "RSQRT": {1: "1.10.0"},
    "SCATTER_ND": {1: "2.1.0"},
    "SELECT_V2": {1: "2.2.0"},
    "SIN": {1: "1.9.0"},
    "SLICE": {1: "1.14.0", 5: "2.5.0"},
    "SOFTMAX": {1: "1.5.0"},
    "SPACE_TO_DEPTH": {1: "1.5.0"},
    "SPLIT": {1: "1.5.0", 3: "1.14.0"},
    "SQRT": {1: "1.10.0"},
    "SQUARE": {1: "1.12.0"},
    "STRIDED_SLICE": {1: "1.6.0", 3: "2.1.0", 4: "2.2.0"},
    "SUB": {1: "1.6.0", 3: "2.3.0", 4: "2.4.0"},
    "SUM": {1: "1.10.0"},
    "TANH": {1: "1.14.0"},
    "TOPK_V2": {1: "1.7.0"},
    "TRANSPOSE": {1: "1.6.0", 3: "1.15.0", 4: "2.3.0", 6: "2.12.0"},
    "TRANSPOSE_CONV": {1: "1.9.0", 3: "2.3.0"},
}
_OLDEST = "1.5.0"  # of a file without operators


def version_of(operator: Operator) -> int:
    """The lowest version that expresses this operator as it stands."""
    rule = _VERSION.get(operator.code)
    # Each version takes all that the ones before it take.
    return max(rule(operator) if rule else 1, version_of_integers(operator))


def minimum_runtime(codes: Iterable[tuple[str, int]]) -> str:
    """The oldest runtime that knows all these (operator, version) pairs, as ``"2.9.0"``."""
    # As numbers: as texts, 2.10 would come before 2.9.
    return max((_since(code, version) for code, version in codes), key=_ordered, default=_OLDEST)


def _since(code: str, version: int) -> str:
    return SINCE.get(code, {}).get(version) or SINCE_OF_INTEGERS[code][version]


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
