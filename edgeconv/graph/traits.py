"""What is true of the ONNX operators: one row of traits for each, as the specification defines it.

Stages ask for the operators that share a trait (`having`), and keep no lists of their own. What a stage does with an
operator (its kernel, its TFLite form, its int8 parameters) stands in that stage's table. Each trait that numbers can
show is shown for every row by evaluating the operator: ``tests/graph/test_graph_traits.py``.

To add an operator, add its row; a test names the operators of `edgeconv.reference` that have none.

Source: https://github.com/onnx/onnx/blob/main/docs/Operators.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Flag, auto
from functools import cache


class Trait(Flag):
    """A property of an operator: of its first result, at the attributes' defaults or not.

    Of further results it says nothing: whoever changes what an operator reads asks `edgeconv.graph.edit.is_taken` of
    these. Parts of one operand (of Split, say) count as one result.
    """

    NONE = 0

    FUNCTION = auto()
    """Each element of the result is the same function of the element at its place of the first operand. The other
    operands are parameters of the function: one number each."""

    FINITE = auto()
    """A function that gives a number for every number; infinite only where it overflows."""

    BROADCASTS = auto()
    """Each element of the result is the same function of the elements at its place of all operands, which are broadcast
    to one shape."""

    BY_CHANNEL = auto()
    """Each channel (axis 1) of the result is the same function of that channel of the only operand: a pool."""

    MOVES = auto()
    """The result's elements are elements of the operands, chosen by their place alone."""

    REARRANGES = auto()
    """It moves, and each element of the operand appears exactly once."""

    PICKS = auto()
    """The result's elements are elements of the operands, chosen by their size: the largest or the smallest."""

    REDUCES = auto()
    """One number of all elements along axes (``keepdims``, axes as an operand or attribute)."""

    WINDOWS = auto()
    """A window of ``kernel_shape`` slides over the spatial axes, with ``pads``, ``strides`` and ``dilations``."""

    LAYER = auto()
    """Sums of products with a weight, the second operand."""

    HOMOGENEOUS = auto()
    """A positive factor on a channel of the data comes out as that factor on that channel of the result."""

    IDENTITY_ABOVE_ZERO = auto()
    """Of what is not negative, the result is elements of the operand as they are."""

    RECTIFIES = auto()
    """The identity above zero; below, it neither falls nor rises faster than its operand, where its slopes (``alpha``,
    the operand of PRelu) are of 0 to 1."""

    NEVER_NEGATIVE = auto()
    """No element of the result is below zero."""

    KEEPS_SIGN = auto()
    """Of operands without negative elements, no element of the result is below zero."""

    COMPARES = auto()
    """The result says how two numbers compare (bool)."""

    RANDOM = auto()
    """The result is no function of the operands."""

    QUANTIZES = auto()
    """It leads from real numbers to integers of a scale and zero point, or back."""


_FUNCTION, _PARTIAL = Trait.FUNCTION | Trait.FINITE, Trait.FUNCTION
_BROADCASTS, _BY_CHANNEL = Trait.BROADCASTS, Trait.BY_CHANNEL
_MOVES, _PICKS, _REDUCES, _WINDOWS, _LAYER = Trait.MOVES, Trait.PICKS, Trait.REDUCES, Trait.WINDOWS, Trait.LAYER
_REARRANGES = Trait.MOVES | Trait.REARRANGES
_SCALES, _SIGN, _POSITIVE = Trait.HOMOGENEOUS, Trait.KEEPS_SIGN, Trait.NEVER_NEGATIVE | Trait.KEEPS_SIGN
_LIKE_ELU = Trait.IDENTITY_ABOVE_ZERO | Trait.RECTIFIES | Trait.KEEPS_SIGN
_RECTIFIES = _LIKE_ELU | Trait.HOMOGENEOUS
_COMPARES, _RANDOM, _QUANTIZES = Trait.COMPARES | Trait.BROADCASTS, Trait.RANDOM, Trait.QUANTIZES

TRAITS: dict[str, Trait] = {
    "Abs": _FUNCTION | _POSITIVE | _SCALES | Trait.IDENTITY_ABOVE_ZERO,
    "Acos": _PARTIAL | _POSITIVE,
    "Acosh": _PARTIAL | _POSITIVE,
    "Add": _BROADCASTS | _SIGN,
    "AffineGrid": Trait.NONE,
    "And": _BROADCASTS,
    "ArgMax": _REDUCES,
    "ArgMin": _REDUCES,
    "Asin": _PARTIAL | _SIGN,
    "Asinh": _FUNCTION | _SIGN,
    "Atan": _FUNCTION | _SIGN,
    "Atanh": _PARTIAL | _SIGN,
    "Attention": Trait.NONE,
    "AveragePool": _BY_CHANNEL | _WINDOWS | _SCALES | _SIGN,
    "BatchNormalization": Trait.NONE,
    "Bernoulli": _RANDOM,
    "BitShift": _BROADCASTS,
    "BitwiseAnd": _BROADCASTS,
    "BitwiseNot": _FUNCTION,
    "BitwiseOr": _BROADCASTS,
    "BitwiseXor": _BROADCASTS,
    "Cast": _FUNCTION,
    "CastLike": Trait.NONE,
    "Ceil": _FUNCTION | _SIGN,
    "Celu": _FUNCTION | _LIKE_ELU,
    "CenterCropPad": Trait.NONE,
    "Clip": _FUNCTION,
    "Col2Im": Trait.NONE,
    "Compress": _MOVES | _SIGN,
    "Concat": _MOVES | _SIGN,
    "ConcatFromSequence": _MOVES | _SIGN,
    "Constant": Trait.NONE,
    "ConstantOfShape": Trait.NONE,
    "Conv": _LAYER | _WINDOWS,
    "ConvInteger": _WINDOWS,
    "ConvTranspose": _LAYER | _WINDOWS,
    "Cos": _FUNCTION,
    "Cosh": _FUNCTION | _POSITIVE,
    "CumProd": Trait.NONE,
    "CumSum": _SIGN,
    "DepthToSpace": _REARRANGES | _SIGN,
    "DequantizeLinear": _QUANTIZES,
    "Det": Trait.NONE,
    "Div": _BROADCASTS | _SIGN,
    "Dropout": _FUNCTION | _RECTIFIES,
    "DynamicQuantizeLinear": _QUANTIZES,
    "Einsum": Trait.NONE,
    "Elu": _FUNCTION | _LIKE_ELU,
    "Equal": _COMPARES,
    "Erf": _FUNCTION | _SIGN,
    "Exp": _FUNCTION | _POSITIVE,
    "Expand": _MOVES | _SIGN,
    "EyeLike": Trait.NONE,
    "Flatten": _REARRANGES | _SIGN,
    "Floor": _FUNCTION | _SIGN,
    "GRU": Trait.NONE,
    "Gather": _MOVES | _SIGN,
    "GatherElements": _MOVES | _SIGN,
    "GatherND": _MOVES | _SIGN,
    "Gelu": _FUNCTION | _SIGN,
    "Gemm": _LAYER,
    "GlobalAveragePool": _BY_CHANNEL | _SCALES | _SIGN,
    "GlobalLpPool": _BY_CHANNEL | _SCALES | _POSITIVE,
    "GlobalMaxPool": _BY_CHANNEL | _PICKS | _SCALES | _SIGN,
    "Greater": _COMPARES,
    "GreaterOrEqual": _COMPARES,
    "GridSample": Trait.NONE,
    "GroupNormalization": Trait.NONE,
    "HardSigmoid": _FUNCTION | _POSITIVE,
    "HardSwish": _FUNCTION | _SIGN,
    "Hardmax": _POSITIVE,
    "Identity": _FUNCTION | _REARRANGES | _RECTIFIES,
    "If": Trait.NONE,
    "InstanceNormalization": Trait.NONE,
    "IsInf": _FUNCTION,
    "IsNaN": _FUNCTION,
    "LRN": _SIGN,
    "LSTM": Trait.NONE,
    "LayerNormalization": Trait.NONE,
    "LeakyRelu": _FUNCTION | _RECTIFIES,
    "Less": _COMPARES,
    "LessOrEqual": _COMPARES,
    "Log": _PARTIAL,
    "LogSoftmax": Trait.NONE,
    "LpNormalization": _SIGN,
    "LpPool": _BY_CHANNEL | _WINDOWS | _SCALES | _POSITIVE,
    "MatMul": _LAYER,
    "MatMulInteger": Trait.NONE,
    "Max": _BROADCASTS | _PICKS | _SIGN,
    "MaxPool": _BY_CHANNEL | _WINDOWS | _PICKS | _RECTIFIES,
    "MaxUnpool": _SIGN,
    "Mean": _BROADCASTS | _SIGN,
    "MeanVarianceNormalization": Trait.NONE,
    "Min": _BROADCASTS | _PICKS | _SIGN,
    "Mish": _FUNCTION | _SIGN,
    "Mod": _BROADCASTS,
    "Mul": _BROADCASTS | _SIGN,
    "Multinomial": _RANDOM,
    "Neg": _FUNCTION,
    "NonZero": Trait.NONE,
    "Not": _FUNCTION,
    "OneHot": Trait.NONE,
    "Or": _BROADCASTS,
    "PRelu": _BROADCASTS | _RECTIFIES,
    "Pad": Trait.NONE,
    "Pow": _BROADCASTS | _SIGN,
    "QLinearConv": _WINDOWS,
    "QLinearMatMul": Trait.NONE,
    "QuantizeLinear": _QUANTIZES,
    "RMSNormalization": Trait.NONE,
    "RNN": Trait.NONE,
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
    "Range": Trait.NONE,
    "Reciprocal": _PARTIAL | _SIGN,
    "ReduceL1": _REDUCES | _SIGN,
    "ReduceL2": _REDUCES | _SIGN,
    "ReduceLogSum": _REDUCES,
    "ReduceLogSumExp": _REDUCES | _SIGN,
    "ReduceMax": _REDUCES | _PICKS | _SIGN,
    "ReduceMean": _REDUCES | _SIGN,
    "ReduceMin": _REDUCES | _PICKS | _SIGN,
    "ReduceProd": _REDUCES | _SIGN,
    "ReduceSum": _REDUCES | _SIGN,
    "ReduceSumSquare": _REDUCES | _SIGN,
    "Relu": _FUNCTION | _RECTIFIES | _POSITIVE,
    "Reshape": _REARRANGES | _SIGN,
    "Resize": Trait.NONE,
    "ReverseSequence": _REARRANGES | _SIGN,
    "RotaryEmbedding": Trait.NONE,
    "Round": _FUNCTION | _SIGN,
    "Scatter": Trait.NONE,
    "ScatterElements": Trait.NONE,
    "ScatterND": Trait.NONE,
    "Selu": _FUNCTION | _SIGN,
    "SequenceAt": _MOVES | _SIGN,
    "SequenceConstruct": _MOVES | _SIGN,
    "SequenceLength": Trait.NONE,
    "Shape": Trait.NONE,
    "Shrink": _FUNCTION,
    "Sigmoid": _FUNCTION | _POSITIVE,
    "Sign": _FUNCTION | _SIGN,
    "Sin": _FUNCTION,
    "Sinh": _FUNCTION | _SIGN,
    "Size": Trait.NONE,
    "Slice": _MOVES | _SIGN,
    "Softmax": _POSITIVE,
    "Softplus": _FUNCTION | _POSITIVE,
    "Softsign": _FUNCTION | _SIGN,
    "SpaceToDepth": _REARRANGES | _SIGN,
    "Split": _MOVES | _SIGN,
    "SplitToSequence": _MOVES | _SIGN,
    "Sqrt": _PARTIAL | _POSITIVE,
    "Squeeze": _REARRANGES | _SIGN,
    "Sub": _BROADCASTS,
    "Sum": _BROADCASTS | _SIGN,
    "Swish": _FUNCTION | _SIGN,
    "Tan": _FUNCTION,
    "Tanh": _FUNCTION | _SIGN,
    "ThresholdedRelu": _FUNCTION | _SIGN,
    "Tile": _MOVES | _SIGN,
    "TopK": _PICKS | _SIGN,
    "Transpose": _REARRANGES | _SIGN,
    "Trilu": _SIGN,
    "Unsqueeze": _REARRANGES | _SIGN,
    "Upsample": Trait.NONE,
    "Where": _BROADCASTS,
    "Xor": _BROADCASTS,
}


@cache
def having(traits: Trait) -> frozenset[str]:
    """The operators that have all of these traits."""
    return frozenset(name for name, own in TRAITS.items() if traits in own)


def having_any(traits: Iterable[Trait]) -> frozenset[str]:
    """The operators that have at least one of these traits."""
    return frozenset().union(*map(having, traits))
