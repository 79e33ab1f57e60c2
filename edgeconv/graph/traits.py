"""Facts of the ONNX operators, by the specification: one row of traits for each.

Stages ask for the operators that have a trait (`having`), and keep no lists of their own. What a stage does with an
operator (its kernel, its TFLite form, its int8 parameters) is in that stage's table. Traits that can be tested are
tested for every row by evaluating the operator: ``tests/graph/test_graph_traits.py``.

To add an operator, add its row; a test names the operators of `edgeconv.reference` that have none.

Source: https://github.com/onnx/onnx/blob/main/docs/Operators.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Flag, auto
from functools import cache


class Trait(Flag):
    """A property of an operator's first result, whatever its attributes are.

    It says nothing of further results (see `edgeconv.graph.edit.is_taken`). The parts that Split gives count as one
    result.
    """

    NONE = 0

    FUNCTION = auto()
    """Each element of the result is the same function of the element at that position of the first operand. The other
    operands are parameters of the function: one number each."""

    FINITE = auto()
    """A function that gives a number for every number; infinite only where it overflows."""

    BROADCASTS = auto()
    """Each element of the result is the same function of the elements at that position of all operands, after
    broadcasting."""

    AFFINE = auto()
    """It broadcasts; with constants for all operands but the first, it is a factor times the first plus a term."""

    SIGNED_SUM = auto()
    """An affine operator whose factors are 1 and -1, of whichever operand."""

    BY_SAMPLE = auto()
    """Axis 0 is the batch: each of its elements in the result is the same function of that element of the first
    operand. The other operands are parameters."""

    BY_CHANNEL = auto()
    """Each channel (axis 1) of the result is the same function of that channel of the only operand: a pool."""

    MOVES = auto()
    """The result's elements are elements of the operands, chosen by position only."""

    REARRANGES = auto()
    """It moves, and each element of the operand appears exactly once."""

    KEEPS_ORDER = auto()
    """It rearranges, and the elements stay in their row-major order: at most the shape changes."""

    PICKS = auto()
    """The result's elements are elements of the operands, chosen by value."""

    LARGEST = auto()
    """It picks the largest: of a window, along axes, or of the operands."""

    SMALLEST = auto()
    """It picks the smallest."""

    RANKS = auto()
    """A result holds indices along an axis (from zero on) of elements that are chosen by value."""

    REDUCES = auto()
    """One number for all elements along axes (``keepdims``, axes as an operand or attribute)."""

    ADDS_UP = auto()
    """A sum over axes or windows of the elements, their absolute values, squares or exponentials. The result is the
    sum, or a mean, root or logarithm of it."""

    AVERAGES = auto()
    """It adds up, and the result is the mean of the elements themselves (zeros of a padding may be among them)."""

    WINDOWS = auto()
    """A window of ``kernel_shape`` slides over the spatial axes, with ``pads``, ``strides`` and ``dilations``."""

    LAYER = auto()
    """Sums of products with a weight, the second operand."""

    WEIGHTED = auto()
    """The operands after the data multiply it or are added to it: weights, scales, biases. A NaN in one of them is a
    NaN in the result."""

    HOMOGENEOUS = auto()
    """A positive factor on a channel of the data is the same factor on that channel of the result."""

    IDENTITY_ABOVE_ZERO = auto()
    """For operands that are not negative, the result's elements are elements of the operand."""

    RECTIFIES = auto()
    """The identity above zero; below, its slope is from 0 to 1, if ``alpha`` (or the operand of PRelu) is."""

    CLAMPS = auto()
    """The identity between two bounds, and the nearer bound beyond them."""

    PIECEWISE_CONSTANT = auto()
    """A step function."""

    SATURATES = auto()
    """A function that is finite for infinite numbers, too."""

    BOUNDED = auto()
    """No finite element of the result is beyond 128, whatever float32 numbers the operands hold."""

    NO_LARGER = auto()
    """No element of the result is more than twice as large as the largest of the operands plus a constant: the
    logarithm of their number, at most 16."""

    BEYOND_FLOAT16 = auto()
    """For a few thousand numbers from -100 to 100, the result may hold numbers beyond 65504."""

    SCALE_INVARIANT = auto()
    """The result has the operand's type, and a positive factor on the whole operand does not change it (except through
    an epsilon)."""

    NEVER_NEGATIVE = auto()
    """No element of the result is below zero."""

    KEEPS_SIGN = auto()
    """For operands without negative elements, no element of the result is below zero."""

    COMPARES = auto()
    """The result is a comparison of two numbers (bool)."""

    SHAPE_ONLY = auto()
    """The result depends on the shape of the operand only."""

    RANDOM = auto()
    """The result is drawn at random."""

    QUANTIZES = auto()
    """It quantizes or dequantizes: from real numbers to integers with scale and zero point, or back."""

    SCALED = auto()
    """It quantizes or dequantizes by its operands: the scale is the second, the zero point the third."""


_FUNCTION, _PARTIAL, _CLAMPS = Trait.FUNCTION | Trait.FINITE, Trait.FUNCTION, Trait.CLAMPS
_STEPS, _SATURATES = Trait.PIECEWISE_CONSTANT, Trait.SATURATES
_BROADCASTS, _AFFINE, _SIGNED = Trait.BROADCASTS, Trait.AFFINE, Trait.AFFINE | Trait.SIGNED_SUM
_BY_CHANNEL, _SAMPLE = Trait.BY_CHANNEL | Trait.BY_SAMPLE, Trait.BY_SAMPLE
_WINDOWS, _SHAPE = Trait.WINDOWS, Trait.SHAPE_ONLY
_MOVES, _PICKS = Trait.MOVES | Trait.NO_LARGER, Trait.PICKS | Trait.NO_LARGER
_REARRANGES, _LARGEST, _SMALLEST = _MOVES | Trait.REARRANGES, _PICKS | Trait.LARGEST, _PICKS | Trait.SMALLEST
_KEEPS_ORDER = _REARRANGES | Trait.KEEPS_ORDER
_REDUCES, _RANKS, _ADDS_UP = Trait.REDUCES, Trait.RANKS, Trait.ADDS_UP
_AVERAGES = Trait.ADDS_UP | Trait.AVERAGES | Trait.NO_LARGER
_LAYER, _WEIGHTED = Trait.LAYER | Trait.WEIGHTED, Trait.WEIGHTED
_SCALES, _SIGN, _POSITIVE = Trait.HOMOGENEOUS, Trait.KEEPS_SIGN, Trait.NEVER_NEGATIVE | Trait.KEEPS_SIGN
_BOUNDED, _NO_LARGER, _BEYOND, _INVARIANT = (
    Trait.BOUNDED, Trait.NO_LARGER, Trait.BEYOND_FLOAT16, Trait.SCALE_INVARIANT
)  # fmt: skip
_LIKE_ELU = Trait.IDENTITY_ABOVE_ZERO | Trait.RECTIFIES | Trait.KEEPS_SIGN
_RECTIFIES = _LIKE_ELU | Trait.HOMOGENEOUS
_COMPARES = Trait.COMPARES | Trait.BROADCASTS | Trait.BOUNDED
_RANDOM, _QUANTIZES, _SCALED = Trait.RANDOM, Trait.QUANTIZES, Trait.QUANTIZES | Trait.SCALED

TRAITS: dict[str, Trait] = {
    "Abs": _FUNCTION | _POSITIVE | _SCALES | Trait.IDENTITY_ABOVE_ZERO | _NO_LARGER,
    "Acos": _PARTIAL | _POSITIVE | _BOUNDED,
    "Acosh": _PARTIAL | _POSITIVE | _BOUNDED,
    "Add": _BROADCASTS | _SIGN | _NO_LARGER | _SIGNED,
    "AffineGrid": Trait.NONE,
    "And": _BROADCASTS | _BOUNDED,
    "ArgMax": _REDUCES | _RANKS,
    "ArgMin": _REDUCES | _RANKS,
    "Asin": _PARTIAL | _SIGN | _BOUNDED,
    "Asinh": _FUNCTION | _SIGN | _BOUNDED,
    "Atan": _FUNCTION | _SIGN | _BOUNDED | _SATURATES,
    "Atanh": _PARTIAL | _SIGN | _BOUNDED,
    "Attention": Trait.NONE,
    "AveragePool": _BY_CHANNEL | _WINDOWS | _SCALES | _SIGN | _AVERAGES,
    "BatchNormalization": _SAMPLE | _WEIGHTED,
    "Bernoulli": _RANDOM,
    "BitShift": _BROADCASTS,
    "BitwiseAnd": _BROADCASTS,
    "BitwiseNot": _FUNCTION,
    "BitwiseOr": _BROADCASTS,
    "BitwiseXor": _BROADCASTS,
    "Cast": _FUNCTION,
    "CastLike": Trait.NONE,
    "Ceil": _FUNCTION | _SIGN | _NO_LARGER | _STEPS,
    "Celu": _FUNCTION | _LIKE_ELU | _NO_LARGER,
    "CenterCropPad": _NO_LARGER,
    "Clip": _FUNCTION | _NO_LARGER | _CLAMPS,
    "Col2Im": _SAMPLE,
    "Compress": _MOVES | _SIGN,
    "Concat": _MOVES | _SIGN,
    "ConcatFromSequence": _MOVES | _SIGN,
    "Constant": Trait.NONE,
    "ConstantOfShape": Trait.NONE,
    "Conv": _LAYER | _WINDOWS | _SAMPLE,
    "ConvInteger": _WINDOWS | _SAMPLE,
    "ConvTranspose": _LAYER | _WINDOWS | _SAMPLE,
    "Cos": _FUNCTION | _BOUNDED,
    "Cosh": _FUNCTION | _POSITIVE | _BEYOND,
    "CumProd": _BEYOND,
    "CumSum": _SIGN | _BEYOND,
    "DepthToSpace": _REARRANGES | _SIGN | _SAMPLE,
    "DequantizeLinear": _SCALED,
    "Det": _BEYOND,
    "Div": _BROADCASTS | _SIGN | _AFFINE,
    "Dropout": _FUNCTION | _RECTIFIES | _NO_LARGER,
    "DynamicQuantizeLinear": _QUANTIZES,
    "Einsum": Trait.NONE,
    "Elu": _FUNCTION | _LIKE_ELU,
    "Equal": _COMPARES,
    "Erf": _FUNCTION | _SIGN | _BOUNDED | _SATURATES,
    "Exp": _FUNCTION | _POSITIVE | _BEYOND,
    "Expand": _MOVES | _SIGN,
    "EyeLike": _SHAPE,
    "Flatten": _KEEPS_ORDER | _SIGN,
    "Floor": _FUNCTION | _SIGN | _NO_LARGER | _STEPS,
    "GRU": _WEIGHTED,
    "Gather": _MOVES | _SIGN,
    "GatherElements": _MOVES | _SIGN,
    "GatherND": _MOVES | _SIGN,
    "Gelu": _FUNCTION | _SIGN | _NO_LARGER,
    "Gemm": _LAYER,
    "GlobalAveragePool": _BY_CHANNEL | _SCALES | _SIGN | _AVERAGES,
    "GlobalLpPool": _BY_CHANNEL | _SCALES | _POSITIVE | _ADDS_UP | _BEYOND,
    "GlobalMaxPool": _BY_CHANNEL | _LARGEST | _SCALES | _SIGN,
    "Greater": _COMPARES,
    "GreaterOrEqual": _COMPARES,
    "GridSample": _NO_LARGER,
    "GroupNormalization": _INVARIANT | _SAMPLE | _WEIGHTED,
    "HardSigmoid": _FUNCTION | _POSITIVE | _BOUNDED | _SATURATES,
    "HardSwish": _FUNCTION | _SIGN | _NO_LARGER,
    "Hardmax": _POSITIVE | _BOUNDED | _INVARIANT,
    "Identity": _FUNCTION | _KEEPS_ORDER | _RECTIFIES,
    "If": Trait.NONE,
    "InstanceNormalization": _INVARIANT | _SAMPLE | _WEIGHTED,
    "IsInf": _FUNCTION | _BOUNDED | _STEPS | _SATURATES,
    "IsNaN": _FUNCTION | _BOUNDED | _STEPS | _SATURATES,
    "LRN": _SIGN | _SAMPLE,
    "LSTM": _WEIGHTED,
    "LayerNormalization": _INVARIANT | _WEIGHTED,
    "LeakyRelu": _FUNCTION | _RECTIFIES,
    "Less": _COMPARES,
    "LessOrEqual": _COMPARES,
    "Log": _PARTIAL | _BOUNDED,
    "LogSoftmax": _NO_LARGER,
    "LpNormalization": _SIGN | _INVARIANT,
    "LpPool": _BY_CHANNEL | _WINDOWS | _SCALES | _POSITIVE | _ADDS_UP | _BEYOND,
    "MatMul": _LAYER,
    "MatMulInteger": Trait.NONE,
    "Max": _BROADCASTS | _LARGEST | _SIGN,
    "MaxPool": _BY_CHANNEL | _WINDOWS | _LARGEST | _RECTIFIES,
    "MaxUnpool": _SIGN | _NO_LARGER,
    "Mean": _BROADCASTS | _SIGN | _NO_LARGER | _AFFINE,
    "MeanVarianceNormalization": _INVARIANT,
    "Min": _BROADCASTS | _SMALLEST | _SIGN,
    "Mish": _FUNCTION | _SIGN | _NO_LARGER,
    "Mod": _BROADCASTS | _NO_LARGER,
    "Mul": _BROADCASTS | _SIGN | _AFFINE,
    "Multinomial": _RANDOM,
    "Neg": _FUNCTION | _NO_LARGER,
    "NonZero": Trait.NONE,
    "Not": _FUNCTION | _BOUNDED,
    "OneHot": Trait.NONE,
    "Or": _BROADCASTS | _BOUNDED,
    "PRelu": _BROADCASTS | _RECTIFIES | _WEIGHTED,
    "Pad": _NO_LARGER,
    "Pow": _BROADCASTS | _SIGN | _BEYOND,
    "QLinearConv": _WINDOWS | _SAMPLE,
    "QLinearMatMul": Trait.NONE,
    "QuantizeLinear": _SCALED,
    "RMSNormalization": _INVARIANT | _WEIGHTED,
    "RNN": _WEIGHTED,
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
    "Range": Trait.NONE,
    "Reciprocal": _PARTIAL | _SIGN,
    "ReduceL1": _REDUCES | _SIGN | _BEYOND | _ADDS_UP,
    "ReduceL2": _REDUCES | _SIGN | _ADDS_UP,
    "ReduceLogSum": _REDUCES | _BOUNDED | _ADDS_UP,
    "ReduceLogSumExp": _REDUCES | _SIGN | _NO_LARGER | _ADDS_UP,
    "ReduceMax": _REDUCES | _LARGEST | _SIGN,
    "ReduceMean": _REDUCES | _SIGN | _AVERAGES,
    "ReduceMin": _REDUCES | _SMALLEST | _SIGN,
    "ReduceProd": _REDUCES | _SIGN | _BEYOND,
    "ReduceSum": _REDUCES | _SIGN | _BEYOND | _ADDS_UP,
    "ReduceSumSquare": _REDUCES | _SIGN | _BEYOND | _ADDS_UP,
    "Relu": _FUNCTION | _RECTIFIES | _POSITIVE | _NO_LARGER | _CLAMPS,
    "Reshape": _KEEPS_ORDER | _SIGN,
    "Resize": _NO_LARGER,
    "ReverseSequence": _REARRANGES | _SIGN,
    "RotaryEmbedding": Trait.NONE,
    "Round": _FUNCTION | _SIGN | _NO_LARGER | _STEPS,
    "Scatter": Trait.NONE,
    "ScatterElements": Trait.NONE,
    "ScatterND": Trait.NONE,
    "Selu": _FUNCTION | _SIGN,
    "SequenceAt": _MOVES | _SIGN,
    "SequenceConstruct": _MOVES | _SIGN,
    "SequenceLength": Trait.NONE,
    "Shape": _SHAPE,
    "Shrink": _FUNCTION,
    "Sigmoid": _FUNCTION | _POSITIVE | _BOUNDED | _SATURATES,
    "Sign": _FUNCTION | _SIGN | _BOUNDED | _INVARIANT | _STEPS | _SATURATES,
    "Sin": _FUNCTION | _BOUNDED,
    "Sinh": _FUNCTION | _SIGN | _BEYOND,
    "Size": _SHAPE,
    "Slice": _MOVES | _SIGN,
    "Softmax": _POSITIVE | _BOUNDED,
    "Softplus": _FUNCTION | _POSITIVE | _NO_LARGER,
    "Softsign": _FUNCTION | _SIGN | _BOUNDED,
    "SpaceToDepth": _REARRANGES | _SIGN | _SAMPLE,
    "Split": _MOVES | _SIGN,
    "SplitToSequence": _MOVES | _SIGN,
    "Sqrt": _PARTIAL | _POSITIVE | _NO_LARGER,
    "Squeeze": _KEEPS_ORDER | _SIGN,
    "Sub": _BROADCASTS | _NO_LARGER | _SIGNED,
    "Sum": _BROADCASTS | _SIGN | _SIGNED,
    "Swish": _FUNCTION | _SIGN | _NO_LARGER,
    "Tan": _FUNCTION | _BEYOND,
    "Tanh": _FUNCTION | _SIGN | _BOUNDED | _SATURATES,
    "ThresholdedRelu": _FUNCTION | _SIGN | _NO_LARGER,
    "Tile": _MOVES | _SIGN,
    "TopK": _PICKS | _SIGN | _RANKS,
    "Transpose": _REARRANGES | _SIGN,
    "Trilu": _SIGN | _NO_LARGER,
    "Unsqueeze": _KEEPS_ORDER | _SIGN,
    "Upsample": _NO_LARGER,
    "Where": _BROADCASTS | _NO_LARGER,
    "Xor": _BROADCASTS | _BOUNDED,
}


@cache
def having(traits: Trait) -> frozenset[str]:
    """The operators that have all of these traits."""
    return frozenset(name for name, own in TRAITS.items() if traits in own)


def having_any(traits: Iterable[Trait]) -> frozenset[str]:
    """The operators that have at least one of these traits."""
    return frozenset().union(*map(having, traits))
