"""The versions of operators on integers, and since which TensorFlow Lite runtime they exist.

The facts are those of ``tensorflow/lite/tools/versioning`` (op_version.cc and runtime_version.cc).
"""

from __future__ import annotations

import numpy as np

from edgeconv.emit.tflite._graph import Operator

SINCE_OF_INTEGERS: dict[str, dict[int, str]] = {
    "ABS": {2: "2.4.0", 3: "2.5.0"},
    "ADD": {2: "1.14.0", 3: "2.4.0"},
    "ARG_MAX": {2: "1.14.0"},
    "ARG_MIN": {2: "1.14.0"},
    "AVERAGE_POOL_2D": {2: "1.14.0", 3: "2.3.0"},
    "BATCH_MATMUL": {2: "2.3.0", 3: "2.4.0"},
    "CAST": {3: "2.8.0"},
    "CONCATENATION": {2: "1.14.0", 3: "2.3.0"},
    "CONV_2D": {2: "1.14.0", 3: "1.14.0", 4: "2.3.0", 5: "2.4.0"},
    "DEPTHWISE_CONV_2D": {3: "1.14.0", 4: "2.2.0", 5: "2.3.0", 6: "2.3.0"},
    "DEQUANTIZE": {2: "1.14.0", 3: "1.15.0"},
    "EQUAL": {2: "1.14.0"},
    "EXP": {2: "2.12.0"},
    "FULLY_CONNECTED": {3: "1.14.0", 4: "1.14.0", 7: "2.3.0"},
    "GATHER": {2: "1.14.0", 4: "2.4.0"},
    "GELU": {2: "2.9.0"},
    "GREATER": {2: "1.14.0"},
    "GREATER_EQUAL": {2: "1.14.0"},
    "LEAKY_RELU": {2: "2.3.0"},
    "LESS": {2: "1.14.0"},
    "LESS_EQUAL": {2: "1.14.0"},
    "LOG": {2: "2.12.0"},
    "LOGISTIC": {2: "1.14.0", 3: "2.3.0"},
    "LOG_SOFTMAX": {2: "1.14.0"},
    "MAXIMUM": {2: "1.14.0", 4: "2.3.0"},
    "MAX_POOL_2D": {2: "1.14.0", 3: "2.3.0"},
    "MEAN": {2: "1.14.0", 3: "2.4.0"},
    "MINIMUM": {2: "1.14.0", 4: "2.3.0"},
    "MUL": {2: "1.14.0", 3: "1.15.0", 4: "2.3.0"},
    "PAD": {2: "1.14.0", 3: "2.4.0"},
    "PADV2": {2: "1.14.0", 3: "2.4.0"},
    "QUANTIZE": {1: "1.14.0", 2: "1.15.0"},
    "REDUCE_MAX": {2: "1.14.0", 3: "2.5.0"},
    "REDUCE_MIN": {2: "1.14.0", 3: "2.5.0"},
    "RELU": {2: "2.1.0", 3: "2.5.0"},
    "RELU6": {2: "1.14.0", 3: "2.5.0"},
    "RESIZE_BILINEAR": {2: "1.14.0", 4: "2.5.0"},
    "RESIZE_NEAREST_NEIGHBOR": {2: "1.14.0", 4: "2.4.0"},
    "RSQRT": {2: "2.5.0"},
    "SLICE": {2: "1.14.0", 4: "2.4.0"},
    "SOFTMAX": {2: "1.14.0", 3: "2.3.0"},
    "SPACE_TO_DEPTH": {2: "1.14.0"},
    "SPLIT": {2: "1.14.0", 4: "2.3.0"},
    "STRIDED_SLICE": {2: "1.14.0"},
    "SUB": {2: "1.14.0", 5: "2.4.0"},
    "SUM": {2: "1.15.0"},
    "TANH": {2: "1.14.0", 3: "2.3.0"},
    "TRANSPOSE": {2: "1.14.0", 5: "2.4.0"},
    "TRANSPOSE_CONV": {2: "2.2.0", 3: "2.3.0"},
}

# The versions that take int8 and int16 data, of operators whose first version takes only floats (or uint8).
# Not DEPTH_TO_SPACE: its kernels take int8 at version 1, and LiteRT's reference kernels are registered for no other.
_OF_INT8 = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), 3),
    "FULLY_CONNECTED": 4,
    **dict.fromkeys(("ADD", "SUB", "MUL", "MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION", "LOGISTIC", "TANH"), 2),
    **dict.fromkeys(("TRANSPOSE_CONV", "SOFTMAX", "LOG_SOFTMAX", "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), 2),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_DEPTH"), 2),
    **dict.fromkeys(("TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "PAD", "PADV2", "GATHER"), 2),
    **dict.fromkeys(("MAXIMUM", "MINIMUM", "RELU", "RELU6", "ABS", "GELU", "EXP", "LOG", "RSQRT"), 2),
    **dict.fromkeys(("BATCH_MATMUL", "ARG_MAX", "ARG_MIN", "DEQUANTIZE"), 2),
    **dict.fromkeys(("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"), 2),
    "CAST": 3,
}
_OF_INT16 = {
    "CONV_2D": 4,
    "DEPTHWISE_CONV_2D": 5,
    "FULLY_CONNECTED": 7,
    **dict.fromkeys(("ADD", "MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION", "LOGISTIC", "TANH", "SOFTMAX"), 3),
    **dict.fromkeys(("TRANSPOSE_CONV", "PAD", "PADV2", "MEAN", "RELU", "RELU6", "ABS", "DEQUANTIZE"), 3),
    **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN", "BATCH_MATMUL"), 3),
    **dict.fromkeys(("MUL", "MAXIMUM", "MINIMUM", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE"), 4),
    **dict.fromkeys(("SPLIT", "GATHER"), 4),
    "SUB": 5,
    "TRANSPOSE": 5,
    "LEAKY_RELU": 2,
    "EXP": 2,
    "LOG": 2,
}
_OF_FLOATS_BY_INT8 = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 3}  # hybrid kernels
_PER_CHANNEL_BY_INT8 = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6}  # FULLY_CONNECTED has one since version 12
_DATA = {"SPLIT": 1, "TRANSPOSE_CONV": 2}  # which input is the data, where it is not the first


def version_of_integers(operator: Operator) -> int:
    """The version that the data's integer type asks for, or int8 weights; 1 where there are neither."""
    if operator.code == "QUANTIZE":
        return 2 if operator.outputs[0].dtype == np.int16 else 1
    data = operator.inputs[_DATA.get(operator.code, 0)]
    if data.dtype == np.int8:
        return 3 if operator.code == "MUL" and _gains(operator) else _OF_INT8.get(operator.code, 1)
    if data.dtype == np.int16:
        return _OF_INT16.get(operator.code, 1)
    if operator.code == "DEQUANTIZE":
        return 3
    weights = operator.inputs[1] if operator.code in _OF_FLOATS_BY_INT8 else None
    if weights is None or weights.dtype != np.int8 or weights.quantization is None:
        return 1
    return (_PER_CHANNEL_BY_INT8 if weights.quantization.per_channel else _OF_FLOATS_BY_INT8)[operator.code]


def _gains(operator: Operator) -> bool:
    """Whether the product's integers have to be multiplied by one or more."""
    scales = [tensor.quantization.scale[0] for tensor in (*operator.inputs, *operator.outputs) if tensor.quantization]
    return len(scales) == 3 and scales[0] * scales[1] >= scales[2]
