"""What quantisation does to each operator: the table that everything else in this room reads.

The rules are those of the TFLite int8 quantisation specification
(https://ai.google.dev/edge/litert/models/quantization_spec), applied to ONNX operators. An operator that is in none of
the tables stays float.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeconv.graph.traits import Trait, having

LAYERS = having(Trait.LAYER)
"""Operators with an int8 weight; a MatMul of two activations is of `OWN` instead."""

OWN = frozenset(
    {
        "Abs",
        "Add",
        "BatchNormalization",
        "Celu",
        "Clip",
        "Cos",
        "Div",
        "Elu",
        "Exp",
        "Gelu",
        "GlobalAveragePool",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
        "MatMul",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Reciprocal",
        "ReduceL1",
        "ReduceMean",
        "ReduceSum",
        "Relu",
        "Selu",
        "Sin",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Sub",
        "Sum",
        "Trilu",
        "Where",
    }
)
"""Operators whose output has a scale of its own, found by calibration.

ReduceMean and GlobalAveragePool are MEAN in TFLite, which rescales; a mean's range is a small part of its input's.
Functions of one number without a kernel of their own are tables of 256 integers there. A GELU that several nodes spell
out is one Gelu.
"""

READING = frozenset({"ArgMax", "ArgMin"})
"""Operators that read integers as well as numbers, and make neither: of equal scales, the order is the same."""

KNOWN_RANGES: dict[str, tuple[float, float]] = {"HardSigmoid": (0.0, 1.0)}
"""Operators of `OWN` whose range is no matter of data: where they saturate, both ends are exact."""

SHARED = frozenset(
    {
        "AveragePool",
        "Concat",
        "DepthToSpace",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GlobalMaxPool",
        "Identity",
        "Max",
        "MaxPool",
        "Min",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators whose float inputs and outputs all have the same scale and zero point: they move integers or pick them."""

MOVING = SHARED - {"AveragePool", "GlobalMaxPool", "Max", "MaxPool", "Min", "ReduceMax", "ReduceMin", "Resize"}
"""Those of `SHARED` that choose elements by their place alone, and compute nothing."""


@dataclass(frozen=True)
class Fixed:
    """The parameters that the specification prescribes for an operator's output."""

    scale: float
    zero_point: int
    scale16: float


FIXED: dict[str, Fixed] = {
    "LogSoftmax": Fixed(16 / 256, 127, 16 / 32768),
    "Sigmoid": Fixed(1 / 256, -128, 1 / 32768),
    "Softmax": Fixed(1 / 256, -128, 1 / 32768),
    "Tanh": Fixed(1 / 128, 0, 1 / 32768),
}

LOWEST_LOG = -16.0
"""What a LogSoftmax of integers can give; one that gives less stays float."""

LOOKED_UP = frozenset(
    {
        "Celu",
        "Cos",
        "Elu",
        "Erf",
        "Log",
        "Mish",
        "Reciprocal",
        "Selu",
        "Sin",
        "Softplus",
        "Softsign",
        "Sqrt",
    }
)
"""Functions of one number that are tables of 256 integers in TFLite, where their input and output are int8."""

WITHOUT_INT16 = (LOOKED_UP - {"Erf", "Log"}) | {"ArgMax", "ArgMin", "Gelu", "LogSoftmax", "SpaceToDepth"}
"""Operators that TFLite computes with int8 activations, but not with int16.

Elu, Selu and Celu could be spelt out in its int16 operators. By the reference kernels of LiteRT 2.3, Conv - Celu(0.2) -
Conv on noise of scale 1, 4, 16 and 60 then makes 49.2, 45.2, 46.3 and 42.3 dB, and 49.2, 45.2, 46.8 and 44.9 dB with
the Celu in float: the table of EXP is as wide as the numbers, and the layer 1, 3, 9 and 47 steps off. Selu: up to 25.
"""

FUSING = frozenset({"Add", "Conv", "ConvTranspose", "Gemm", "MatMul", "Mul", "Sub"})
"""Operators that a Relu or Clip after them fuses into: the quantisation of the clamped value clamps by saturation."""

CONSTANT_OPERANDS = frozenset({"Add", "Concat", "Gather", "Max", "Min", "Mul", "PRelu", "Sub"})
"""Operators whose constant operands are tensors of integers too."""
