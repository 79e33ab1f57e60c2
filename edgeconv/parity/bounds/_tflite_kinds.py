"""TFLite operators by what their results may be: which round nothing, which jump, which are a step off."""

from __future__ import annotations

NOTHING_ROUNDED = frozenset(
    {
        *("ABS", "ARG_MAX", "ARG_MIN", "BATCH_TO_SPACE_ND", "BITCAST", "BROADCAST_TO", "CEIL", "CONCATENATION"),
        *("DEPTH_TO_SPACE", "DYNAMIC_UPDATE_SLICE", "EMBEDDING_LOOKUP", "EQUAL", "EXPAND_DIMS", "FILL", "FLOOR"),
        *("GATHER", "GATHER_ND", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "LOGICAL_AND", "LOGICAL_NOT"),
        *("LOGICAL_OR", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MIRROR_PAD", "NEG", "NOT_EQUAL", "ONE_HOT", "PACK"),
        *("PAD", "PADV2", "RANK", "REDUCE_ALL", "REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6"),
        *("RELU_0_TO_1", "RELU_N1_TO_1", "RESHAPE", "REVERSE_SEQUENCE", "REVERSE_V2", "ROUND", "SELECT"),
        *("SELECT_V2", "SHAPE"),
        *("SIGN", "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE"),
        *("TILE", "STABLEHLO_MAXIMUM", "STABLEHLO_MINIMUM", "TOPK_V2", "TRANSPOSE", "UNPACK", "WHERE"),
        *("ZEROS_LIKE", "DILATE"),
    }
)
JUMPS = frozenset(("CEIL", "EQUAL", "FLOOR", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL", "SIGN"))
"""Those whose result jumps where a tiny number is read as 0."""
CARRIED = frozenset(
    {
        *("ABS", "BATCH_TO_SPACE_ND", "BROADCAST_TO", "CONCATENATION", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER"),
        *("GATHER_ND", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MIRROR_PAD", "NEG", "PACK", "PAD", "PADV2", "REDUCE_MAX"),
        *("REDUCE_MIN", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "RESHAPE", "REVERSE_V2", "SLICE"),
        *("SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE"),
        "UNPACK",
    }
)
"""Those that round nothing, and whose results lie between what they make of both ends of their operands' errors."""
# Quantized, one step from the reference on TFLite's own kernels too: tables and formulas in float32, and products of
# matrices, whose optimized kernels (ruy) round once where the reference kernels round twice. So does LiteRT's optimized
# SUM: at ties of a factor of 1/2 it is one step off; its reference kernel of SUM is wrong by any number of steps.
ONE_STEP = frozenset(
    {
        *("ELU", "EXP", "GELU", "LOG", "LOGISTIC", "QUANTIZE", "RSQRT", "SOFTMAX", "SQRT", "SUM", "TANH"),
        *("BATCH_MATMUL", "CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"),
    }
)
CLAMPED_SUMS = frozenset({"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
