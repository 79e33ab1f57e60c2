"""How each operator is quantized: the table that `edgeconv.quantize` and the int8 emitters read.

The rules are those of the TFLite int8 quantization specification
(https://ai.google.dev/edge/litert/models/quantization_spec), applied to ONNX operators. An operator that has no row, is
no layer and is not in `FIXED` stays float, and `FLOAT` says why. Facts that do not depend on the kernels are in
`edgeconv.graph.traits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto

from edgeconv.graph.traits import Trait, having


class Rule(Flag):
    """A property of an operator's integer kernels."""

    OWN = auto()
    """Its output has a scale of its own, from calibration. (ReduceMean and GlobalAveragePool are MEAN in TFLite, which
    rescales; a mean's range is a small part of its input's. A GELU that is written out counts as one Gelu.)"""

    SHARED = auto()
    """Its float inputs and outputs all have the same scale and zero point: it moves integers or picks them."""

    READS = auto()
    """It reads quantized integers as they are, but its result is not quantized: ArgMax depends on their order only."""

    TABLE = auto()
    """A function of one number that is a table of 256 integers in TFLite, where its input and output are int8."""

    INT8_ONLY = auto()
    """TFLite computes it with int8 activations, but not with int16.

    Elu, Selu and Celu could be written out in its int16 operators. Measured with the reference kernels of LiteRT 2.3,
    Conv - Celu(0.2) - Conv on noise of scale 1, 4, 16 and 60 then has 49.2, 45.2, 46.3 and 42.3 dB, and 49.2, 45.2,
    46.8 and 44.9 dB with the Celu in float: the table of EXP spans the whole range of its input, and the layer is 1, 3,
    9 and 47 steps off. Selu: up to 25."""

    FUSES = auto()
    """A Relu or Clip after it fuses into it: the quantization of the clamped value clamps by saturation."""

    CONSTANTS = auto()
    """Its constant operands are tensors of integers, too."""


_OWN, _SHARED, _READS, _TABLE = Rule.OWN, Rule.SHARED, Rule.READS, Rule.TABLE
_INT8_ONLY, _FUSES, _CONSTANTS = Rule.INT8_ONLY, Rule.FUSES, Rule.CONSTANTS

RULES: dict[str, Rule] = {
    "Abs": _OWN,
    "Add": _OWN | _FUSES | _CONSTANTS,
    "ArgMax": _READS | _INT8_ONLY,
    "ArgMin": _READS | _INT8_ONLY,
    "AveragePool": _SHARED,
    "BatchNormalization": _OWN,
    "Celu": _OWN | _TABLE | _INT8_ONLY,
    "Clip": _OWN,
    "Concat": _SHARED | _CONSTANTS,
    "Conv": _FUSES,
    "ConvTranspose": _FUSES,
    "Cos": _OWN | _TABLE | _INT8_ONLY,
    "DepthToSpace": _SHARED,
    "Div": _OWN,
    "Dropout": _SHARED,
    "Elu": _OWN | _TABLE | _INT8_ONLY,
    "Erf": _TABLE,
    "Exp": _OWN,
    "Expand": _SHARED,
    "Flatten": _SHARED,
    "Gather": _SHARED | _CONSTANTS,
    "Gelu": _OWN | _INT8_ONLY,
    "Gemm": _FUSES,
    "GlobalAveragePool": _OWN,
    "GlobalMaxPool": _SHARED,
    "HardSigmoid": _OWN,
    "HardSwish": _OWN,
    "Identity": _SHARED,
    "LeakyRelu": _OWN,
    "Log": _OWN | _TABLE | _INT8_ONLY,
    "LogSoftmax": _INT8_ONLY,
    "MatMul": _OWN | _FUSES,
    "Max": _SHARED | _CONSTANTS,
    "MaxPool": _SHARED,
    "Min": _SHARED | _CONSTANTS,
    "Mish": _OWN | _TABLE | _INT8_ONLY,
    "Mul": _OWN | _FUSES | _CONSTANTS,
    "Neg": _OWN,
    "PRelu": _OWN | _CONSTANTS,
    "Pad": _SHARED,
    "Reciprocal": _OWN | _TABLE | _INT8_ONLY,
    "ReduceL1": _OWN,
    "ReduceMax": _SHARED,
    "ReduceMean": _OWN,
    "ReduceMin": _SHARED,
    "ReduceSum": _OWN,
    "Relu": _OWN,
    "Reshape": _SHARED,
    "Resize": _SHARED,
    "Selu": _OWN | _TABLE | _INT8_ONLY,
    "Shrink": _TABLE,
    "Sin": _OWN | _TABLE | _INT8_ONLY,
    "Sinh": _TABLE,
    "Slice": _SHARED,
    "Softplus": _OWN | _TABLE | _INT8_ONLY,
    "Softsign": _OWN | _TABLE | _INT8_ONLY,
    "SpaceToDepth": _SHARED | _INT8_ONLY,
    "Split": _SHARED,
    "Sqrt": _OWN | _TABLE | _INT8_ONLY,
    "Squeeze": _SHARED,
    "Sub": _OWN | _FUSES | _CONSTANTS,
    "Sum": _OWN,
    "ThresholdedRelu": _TABLE,
    "Tile": _SHARED,
    "Transpose": _SHARED,
    "Trilu": _OWN,
    "Unsqueeze": _SHARED,
    "Where": _OWN,
}


def _ruled(rule: Rule) -> frozenset[str]:
    return frozenset(name for name, own in RULES.items() if rule in own)


LAYERS = having(Trait.LAYER)
"""Operators with an int8 weight; a MatMul of two activations is of `OWN` instead."""

OWN, SHARED, READING = _ruled(Rule.OWN), _ruled(Rule.SHARED), _ruled(Rule.READS)
LOOKED_UP, WITHOUT_INT16 = _ruled(Rule.TABLE), _ruled(Rule.INT8_ONLY)
FUSING, CONSTANT_OPERANDS = _ruled(Rule.FUSES), _ruled(Rule.CONSTANTS)

MOVING = SHARED - having(Trait.PICKS) - {"AveragePool", "Resize"}
"""Operators of `SHARED` that only move elements."""

KNOWN_RANGES: dict[str, tuple[float, float]] = {"HardSigmoid": (0.0, 1.0)}
"""Operators of `OWN` whose range is known without calibration; both ends, where they saturate, are exact."""


@dataclass(frozen=True)
class Fixed:
    """The parameters that the specification prescribes for an operator's output."""

    scale: float
    zero_point: int
    scale16: float


# Ranges that are known: [0, 1) of Sigmoid and Softmax, [-1, 1) of Tanh, (-16, 0] of LogSoftmax. With 16 bits the zero
# point is 0, so that half of the integers are of no use where all numbers have one sign.
FIXED: dict[str, Fixed] = {
    "LogSoftmax": Fixed(16 / 256, 127, 16 / 32768),
    "Sigmoid": Fixed(1 / 256, -128, 1 / 32768),
    "Softmax": Fixed(1 / 256, -128, 1 / 32768),
    "Tanh": Fixed(1 / 128, 0, 1 / 32768),
}
"""By operator. SiLU is one of these and a product: a Sigmoid, and a Mul of `OWN`, whose scale is calibrated."""

WITH_INTEGERS = LAYERS | OWN | SHARED | READING | FIXED.keys()
"""Operators that integers compute, where their parameters allow it."""

LOWEST_LOG = -16.0
"""The least value of an int8 LogSoftmax (its scale is fixed at 16 / 256); one with smaller values stays float."""

WITHOUT_KERNEL: Mapping[str, str] = {
    "Ceil": "CEIL",
    "Cosh": "NEG",
    "CumSum": "CUMSUM",
    "Floor": "FLOOR",
    "GridSample": "FLOOR",
    "Pow": "POW",
    "ReverseSequence": "REVERSE_SEQUENCE",
    "Round": "ROUND",
    **dict.fromkeys(("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Erf", "Tan"), "DIV"),
    **dict.fromkeys(("InstanceNormalization", "LRN", "LayerNormalization", "LpNormalization"), "DIV"),
    **dict.fromkeys(("GlobalLpPool", "LpPool", "ReduceL2", "ReduceSumSquare", "Sinh"), "SQUARE"),
}
"""By ONNX operator: the TFLite operator in its lowering that has no int8 kernel in tflite-runtime 2.14."""

_COMPARES = "TFLite compares integers only after rounding them to 1/256"
_INTEGERS = "its integers are the model's own, and stand for no real numbers"
_BOOLEANS = "its results are booleans"
_PLACES = "not written yet: integers could be moved as floats are"
FLOAT: Mapping[str, str] = {
    **{name: f"tflite-runtime 2.14 has no int8 kernel of {code}" for name, code in WITHOUT_KERNEL.items()},
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), _COMPARES),
    **dict.fromkeys(("Shrink", "Sign", "ThresholdedRelu"), _COMPARES),
    **dict.fromkeys(("And", "IsInf", "IsNaN", "Not", "Or", "Xor"), _BOOLEANS),
    **dict.fromkeys(("BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"), _INTEGERS),
    **dict.fromkeys(("GatherElements", "GatherND", "ScatterElements", "ScatterND", "TopK"), _PLACES),
    **dict.fromkeys(("Cast", "CastLike"), "it leads to another type of numbers"),
    "Mod": "TFLite's FLOOR_MOD of int8 knows no scales",
    "ReduceLogSum": "the sum inside has no scale in the plan",
    "ReduceLogSumExp": "the exponentials inside have no scale in the plan",
    "ReduceProd": "TFLite's REDUCE_PROD of int8 knows no scales",
}
"""Operators with a TFLite form that integers do not compute, and why."""
