"""What the TFLite int8 specification asks of each operator's scales: one entry per operator.

https://ai.google.dev/edge/litert/models/quantization_spec, and where it is silent the kernels of TensorFlow Lite
2.14 and LiteRT 2.3. An operator that is not here has no integer kernel, or none of use: those of the comparisons
(GREATER, EQUAL and the like) abort the process on a scale of 1 or more, and round both sides to 1/256 before they
compare (``ComparisonQuantized`` in tensorflow/lite/kernels/comparisons.cc).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import COMPARISONS, Operator, Tensor
from edgeconv.emit.tflite._quantization import Quantization, of_constant, of_interval, of_type
from edgeconv.graph.integer_rules import FIXED, Fixed

Interval = tuple[float, float]
TABLE = "TABLE"  # no operator of TFLite


class Kind(enum.Enum):
    """How an operator's output gets its scale."""

    SAME = "inputs and outputs have the same parameters"
    FIXED = "the specification prescribes them"
    WEIGHTS = "any; the second input is int8, the bias has the product of the scales"
    FREE = "any"


@dataclass(frozen=True)
class Rule:
    """An operator with an int8 kernel.

    Attributes:
        kind: of its output's parameters.
        int16: whether there is a kernel for int16 activations too, which is as near as theirs.
        fixed: the output's parameters, where the kind is FIXED.
        axis: of the weights, along which scales may differ; None where they may not.
        data: which input is the activation, where the kind is WEIGHTS.
        interval: the range of the result for the ranges of the operands, for results that no plan knows.
    """

    kind: Kind
    int16: bool = True
    fixed: Fixed | None = None
    axis: int | None = None
    data: int = 0
    interval: Callable[[Operator, Sequence[Interval]], Interval] | None = None


def _each(function: Callable[[float], float]) -> Callable[[Operator, Sequence[Interval]], Interval]:
    """The interval rule of a function that grows everywhere."""
    return lambda operator, intervals: (function(intervals[0][0]), function(intervals[0][1]))


def _corners(function: Callable[[float, float], float]) -> Callable[[Operator, Sequence[Interval]], Interval]:
    """The interval rule of a function of two operands whose extremes lie at the ends of both."""

    def rule(operator: Operator, intervals: Sequence[Interval]) -> Interval:
        ends = [function(a, b) for a in intervals[0] for b in intervals[1]]
        return min(ends), max(ends)

    return rule


def _absolute(operator: Operator, intervals: Sequence[Interval]) -> Interval:
    return 0.0, max(map(abs, intervals[0]))


def _leaky(operator: Operator, intervals: Sequence[Interval]) -> Interval:
    slope = operator.options["alpha"]
    ends = [end if end > 0 else slope * end for end in (*intervals[0], 0.0)]
    return min(ends), max(ends)


def _weighted(operator: Operator, intervals: Sequence[Interval]) -> Interval:
    """Exact for each output channel, as if all its inputs could have any value of their range at once."""
    weight, bias = operator.inputs[1], operator.inputs[2]
    if weight.data is None or bias.data is None or weight.quantization is not None:
        return -math.inf, math.inf  # far too wide for a layer of a network: it is left to the plan
    axis = RULES[operator.code].axis or 0
    flat = _rows(weight.data, axis)
    low, high = intervals[0]
    above, below = flat.clip(min=0).sum(axis=1), flat.clip(max=0).sum(axis=1)
    lowest, highest = above * low + below * high + bias.data, above * high + below * low + bias.data
    return float(lowest.min()), float(highest.max())


def _matrix(operator: Operator, intervals: Sequence[Interval]) -> Interval:
    """A product with a constant matrix on the left; of two computed ones only the plan knows."""
    left = operator.inputs[0].data
    if left is None:
        return -math.inf, math.inf
    low, high = intervals[1]
    above, below = left.clip(min=0).sum(axis=-1), left.clip(max=0).sum(axis=-1)
    return float((above * low + below * high).min()), float((above * high + below * low).max())


def _hull(operator: Operator, intervals: Sequence[Interval]) -> Interval:
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _padded(operator: Operator, intervals: Sequence[Interval]) -> Interval:
    return _hull(operator, (*intervals, (0.0, 0.0)) if operator.code == "PAD" else intervals)


def _rows(array: Array, axis: int) -> Array:
    moved = array.swapaxes(0, axis)
    return moved.reshape(moved.shape[0], -1)


_ADD, _SUB, _MUL = (_corners(function) for function in (lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b))
_PICKED = _each(lambda x: x)

RULES: Mapping[str, Rule] = {
    # Layers with weights.
    "CONV_2D": Rule(Kind.WEIGHTS, axis=0, interval=_weighted),
    "DEPTHWISE_CONV_2D": Rule(Kind.WEIGHTS, axis=3, interval=_weighted),
    "TRANSPOSE_CONV": Rule(Kind.WEIGHTS, axis=0, data=2),
    "FULLY_CONNECTED": Rule(Kind.WEIGHTS),
    # Arithmetic.
    "ADD": Rule(Kind.FREE, interval=_ADD),
    "SUB": Rule(Kind.FREE, interval=_SUB),
    "MUL": Rule(Kind.FREE, interval=_MUL),
    "ABS": Rule(Kind.FREE, interval=_absolute),
    "MEAN": Rule(Kind.FREE, interval=_PICKED),
    "SUM": Rule(Kind.FREE),
    "BATCH_MATMUL": Rule(Kind.FREE, interval=_matrix),
    "EXP": Rule(Kind.FREE, interval=_each(math.exp)),
    "LOG": Rule(Kind.FREE, int16=False),  # its table of int16 has straight lines, which near 0 are far off
    "RSQRT": Rule(Kind.FREE, int16=False),
    # Activations.
    "RELU": Rule(Kind.FREE, interval=_each(lambda x: max(x, 0.0))),
    "RELU6": Rule(Kind.FREE, interval=_each(lambda x: min(max(x, 0.0), 6.0))),
    "RELU_N1_TO_1": Rule(Kind.FREE, int16=False, interval=_each(lambda x: min(max(x, -1.0), 1.0))),
    "LEAKY_RELU": Rule(Kind.FREE, interval=_leaky),
    "PRELU": Rule(Kind.FREE),  # int16 in other operators, as of _integer_forms
    "HARD_SWISH": Rule(Kind.FREE),  # alike
    "GELU": Rule(Kind.FREE, int16=False),
    "LOGISTIC": Rule(Kind.FIXED, fixed=FIXED["Sigmoid"]),
    "TANH": Rule(Kind.FIXED, fixed=FIXED["Tanh"]),
    "SOFTMAX": Rule(Kind.FIXED, fixed=FIXED["Softmax"]),
    "LOG_SOFTMAX": Rule(Kind.FIXED, int16=False, fixed=FIXED["LogSoftmax"]),
    # Operators that move or pick elements.
    **dict.fromkeys(("RESHAPE", "TRANSPOSE", "SLICE", "SPLIT", "GATHER"), Rule(Kind.SAME, interval=_hull)),
    **dict.fromkeys(("STRIDED_SLICE", "CONCATENATION"), Rule(Kind.SAME, interval=_hull)),
    **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN", "MAX_POOL_2D"), Rule(Kind.SAME, interval=_hull)),
    **dict.fromkeys(("AVERAGE_POOL_2D", "SELECT_V2"), Rule(Kind.SAME, interval=_hull)),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), Rule(Kind.SAME, interval=_hull)),
    "DEPTH_TO_SPACE": Rule(Kind.SAME, interval=_hull),  # alike
    "SPACE_TO_DEPTH": Rule(Kind.SAME, int16=False, interval=_hull),
    **dict.fromkeys(("PAD", "PADV2"), Rule(Kind.SAME, interval=_padded)),
    "MAXIMUM": Rule(Kind.SAME, interval=_corners(max)),
    "MINIMUM": Rule(Kind.SAME, interval=_corners(min)),
    # What only reads integers.
    **dict.fromkeys(("ARG_MAX", "ARG_MIN"), Rule(Kind.FREE, int16=False)),
    # Another scale for the same numbers.
    "QUANTIZE": Rule(Kind.FREE, interval=_hull),
    # Written as a look-up of each integer's image.
    TABLE: Rule(Kind.FREE, int16=False),
}

_FLOAT = np.dtype(np.float32)


def data_of(operator: Operator) -> list[Tensor]:
    """The operands that are numbers (and not shapes, axes or conditions), weights left out."""
    rule = RULES.get(operator.code)
    if rule is not None and rule.kind is Kind.WEIGHTS:
        return [operator.inputs[rule.data]]
    return [tensor for tensor in operator.inputs if tensor.dtype == _FLOAT]


def computed(operator: Operator) -> list[Tensor]:
    """The data operands that are no constants."""
    return [tensor for tensor in data_of(operator) if tensor.data is None]


def results_of(operator: Operator) -> list[Tensor]:
    """The results that are numbers."""
    return [tensor for tensor in operator.outputs if tensor.dtype == _FLOAT]


_COMPARING = "its integer kernels round to 1/256 before they compare"


def is_integer(operator: Operator) -> bool:
    """Whether a kernel computes the operator in integers, and all that it needs is known."""
    return why_float(operator) == "" and bool(data_of(operator))


def why_float(operator: Operator) -> str:
    """Why the operator is computed in floats; empty where it is not."""
    rule = RULES.get(operator.code)
    if operator.keeps_float:
        return operator.keeps_float
    if rule is None:
        return _COMPARING if operator.code in COMPARISONS else "there is no integer kernel for it"
    tensors = [*computed(operator), *results_of(operator)]
    if any(tensor.quantization is None for tensor in tensors):
        return "the scales of its operands or of its result are not known"
    dtypes = {tensor.quantization.dtype for tensor in tensors if tensor.quantization}
    if operator.code != "QUANTIZE" and (len(dtypes) > 1 or ("int16" in dtypes and not rule.int16)):
        return f"there is no kernel of {' and '.join(sorted(dtypes))} for it"
    if rule.kind is Kind.WEIGHTS and operator.inputs[1].data is None:
        return "its weights are computed"
    if results_of(operator) and not _fits(operator):
        return "the steps of its result are too fine for those of its operands"
    return ""


def operand_parameters(operator: Operator, tensor: Tensor, dtype: str) -> Quantization:
    """What the integers of a constant operand stand for: zeros in the steps of the result, whose zero is as good."""
    assert tensor.data is not None
    results = results_of(operator)
    if results and results[0].quantization is not None and not tensor.data.any():
        return results[0].quantization
    own = tensor.quantization
    return own if own is not None and own.dtype == dtype else of_constant(tensor.data, dtype)


_SUMS = ("ADD", "SUB")
# 2 to the minus left_shift of kernels/add.cc and kernels/sub.cc.
_FINEST = {"int8": 2.0**-20, "int16": 2.0**-15}
_HIGH_RESOLUTION = 128  # HARD_SWISH of int8 shifts its operand up by seven bits, and rescales by a factor below one
_BELOW_ONE = 1 - 2.0**-20  # a factor nearer to one is rounded up to it


def _fits(operator: Operator) -> bool:
    """Whether the kernels can rescale: sums from twice the coarsest operand, shifted up, by a factor below one.

    Beyond it ADD aborts the process, SUB of int16 gives other numbers, and HARD_SWISH refuses to be prepared (LiteRT
    2.3). Of int16 PRELU and HARD_SWISH are written with sums, whose operand is theirs.
    """
    if operator.code not in (*_SUMS, "HARD_SWISH", "PRELU"):
        return True
    (result,) = results_of(operator)
    assert result.quantization is not None  # the caller looked
    dtype, scale = result.quantization.dtype, result.quantization.scale[0]
    if operator.code in _SUMS:
        operands = [
            tensor.quantization if tensor.data is None else operand_parameters(operator, tensor, dtype)
            for tensor in data_of(operator)
        ]
        coarsest = max(operand.scale[0] for operand in operands if operand is not None)
        # real_output_multiplier in add.cc: twice the larger scale over the result's, shifted;
        # QuantizeMultiplierSmallerThanOneExp aborts where it is not below 1.
        return 2 * coarsest * _FINEST[dtype] < scale
    operand = operator.inputs[0].quantization
    assert operand is not None  # the caller looked
    if dtype == "int16":
        scale = scale if operator.code == "PRELU" else of_interval(0.0, 6.0, dtype).scale[0]  # of ReLU6(x + 3)
        return 2 * operand.scale[0] * _FINEST[dtype] < scale
    # HardSwishPrepare in kernels/activations.cc: output_multiplier_exponent has to be at most 0.
    return operator.code == "PRELU" or operand.scale[0] / _HIGH_RESOLUTION < scale * _BELOW_ONE


_APPROXIMATE = ("HARD_SWISH", "LEAKY_RELU", "PRELU")
_CLOSE = 1e-6  # of a constant: it is met but for float32's own rounding
ROUNDED_TWICE = "kernels of integers round more than once"
ROUNDED_INSIDE = "integers would be rounded inside of what the graph rounds once"
_ROUNDED_CONSTANT = "integers would round a constant, too"
INEXACT = frozenset({ROUNDED_TWICE, ROUNDED_INSIDE, _ROUNDED_CONSTANT})
"""Why an operator of an exact graph is computed in floats although integers could."""


def why_not_exact(operator: Operator) -> str:
    """Why integers would not give the nearest to the operator's real result; empty where they do, or none are known.

    XNNPACK's LEAKY_RELU multiplies by factors of eight binary places; its form of HARD_SWISH rounds the gate, PRELU's
    the slopes; Sigmoid, Tanh and Softmax write the parameters that the specification prescribes, of which others are
    made. Share of results that are a step off, of networks trained for int8 (LiteRT 2.3, one-step errors throughout):
    LEAKY_RELU 0 to 3 % (reference kernels 6 to 17 %), HARD_SWISH 1 to 4 %, HardSigmoid 8 to 38 %, SiLU 1 to 4 %,
    QUANTIZE to other steps 5 to 17 %.
    """
    rule, results = RULES.get(operator.code), results_of(operator)
    if rule is None or not results or results[0].quantization is None:
        return ""
    dtype = results[0].quantization.dtype
    if operator.code in _APPROXIMATE:
        return ROUNDED_TWICE
    if rule.kind is Kind.FIXED and prescribed(operator, dtype) != results[0].quantization:
        return ROUNDED_TWICE
    constants = [tensor for tensor in data_of(operator) if tensor.data is not None] if rule.kind is Kind.FREE else []
    held = all(holds(operand_parameters(operator, tensor, dtype), tensor) for tensor in constants)
    return "" if held or operator.code == TABLE else _ROUNDED_CONSTANT


def holds(quantization: Quantization, tensor: Tensor) -> bool:
    """Whether the numbers of a constant are among those that the integers stand for; of no constant: yes."""
    if tensor.data is None:
        return True
    represented = quantization.dequantized(quantization.quantized(tensor.data))
    return bool((abs(represented - tensor.data) <= _CLOSE * abs(tensor.data)).all())


def prescribed(operator: Operator, dtype: str) -> Quantization | None:
    """The result's parameters, where the specification prescribes them and there is a kernel of this type."""
    rule = RULES[operator.code]
    if rule.fixed is None or (dtype == "int16" and not rule.int16):
        return None
    if dtype == "int16":
        return of_type(dtype, rule.fixed.scale16, 0)
    return of_type(dtype, rule.fixed.scale, rule.fixed.zero_point)


_BOUNDS: Mapping[str, Interval] = {"RELU": (0.0, math.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}


def bounds_of(operator: Operator) -> Interval | None:
    """What the operator clamps to; None where it is no clamp."""
    if operator.code in ("MAXIMUM", "MINIMUM"):
        bound = operator.inputs[1].data
        if bound is None or bound.size != 1:
            return None
        limit = float(bound.reshape(()))
        return (limit, math.inf) if operator.code == "MAXIMUM" else (-math.inf, limit)
    return _BOUNDS.get(operator.code)


_MEANS = ("AVERAGE_POOL_2D", "RESIZE_BILINEAR")


def picks(operator: Operator) -> bool:
    """Whether every element of the results is one of the operands: then rounding before is rounding after."""
    rule = RULES.get(operator.code)
    return rule is not None and rule.kind is Kind.SAME and operator.code not in _MEANS


# By ActivationFunctionType of the schema: NONE, RELU, RELU_N1_TO_1, RELU6.
_CLAMPS: Mapping[int, Interval] = {0: (-math.inf, math.inf), 1: (0.0, math.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}


def clamped(operator: Operator, interval: Interval) -> Interval:
    """The range after the operator's fused activation."""
    low, high = _CLAMPS[operator.options.get("fusedActivationFunction", 0)]
    return min(max(interval[0], low), high), max(min(interval[1], high), low)
