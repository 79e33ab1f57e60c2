"""What the integers of a `.tflite` file stand for that its writer put between those of the graph.

The graph states no scale of them, and a value tells a wrong one only where its integers saturate. But none is free to
choose: each follows from the scales beside it, by a rule that is restated here, bit for bit, and asked of every one.

1. *Beside*: it has the integers, or the steps, of a tensor that the same operator, or one that reads it, has as well:
   what is moved, padded, requantized or joined; what floats pick or clamp between DEQUANTIZE and QUANTIZE; and what is
   multiplied by a gate of 0 to 1 that floats made.
2. *Prescribed*: of the results of LOGISTIC, TANH, SOFTMAX and LOG_SOFTMAX.
3. *Multiplied*: of a mean that becomes a sum the scale is the sum's, divided by the count; of the gate of a HardSwish,
   divided by 6, it is a sixth of the gate's.
4. *Ranges*: the ends of the integers are those of the range that the operands' ranges give, in interval arithmetic, cut
   off where an activation does so; also where floats compute it between DEQUANTIZE and QUANTIZE.

Source of 1 and 2: https://ai.google.dev/edge/litert/models/quantization_spec.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product

import numpy as np

from edgeconv.core import Array
from edgeconv.graph.integer_rules import FIXED
from edgeconv.parity.writing._tflite_integers import parameters_of, real_numbers
from edgeconv.reference.tflite import Operator, Tensor, TfliteGraph

Parameters = tuple[float, int]
Interval = tuple[float, float]

_PRESCRIBED = {"LOGISTIC": "Sigmoid", "TANH": "Tanh", "SOFTMAX": "Softmax", "LOG_SOFTMAX": "LogSoftmax"}
_WHOLE: Interval = (-math.inf, math.inf)
# By ActivationFunctionType of the schema: NONE, RELU, RELU_N1_TO_1, RELU6.
_CLAMPS: tuple[Interval, ...] = (_WHOLE, (0.0, math.inf), (-1.0, 1.0), (0.0, 6.0))
_RELU6 = 3
_HALF_UNIT = 2.0**-24
_MOST_DENOMINATOR = 20  # of what is a fraction beyond doubt; other numbers may be floats of somebody's
_READINGS = 4  # numbers that a constant may stand for: a fraction, or up to three floats of one scale
_ARITHMETIC = frozenset({"ADD", "SUB", "MUL", "ABS", "EXP", "LEAKY_RELU"})
"""Whose results have other steps than their operands."""
_JOINING = frozenset({"SELECT_V2", "MAXIMUM", "MINIMUM", "CONCATENATION"})
"""Which pick integers of several operands, that have the result's steps."""
_KEEPING = _JOINING | {"RELU_N1_TO_1", "SPACE_TO_DEPTH"}
"""Of those that pick or clamp, and so may be rounded before as after, which floats may compute between integers: beside
an operand without steps, or as there is no kernel of int16."""


class OwnScales:
    """Judges the scales of a file that are not the graph's.

    Args:
        graph: the file.
        stated: the tensors whose scale the graph states, by index.
        numbers: the graph's constants, by name.
    """

    def __init__(self, graph: TfliteGraph, stated: Collection[int], numbers: Mapping[str, Array]) -> None:
        self._graph, self._stated, self._numbers = graph, frozenset(stated), numbers
        self._makers = {index: operator for operator in graph.operators for index in operator.outputs}
        self._readers = defaultdict[int, list[Operator]](list)
        for operator in graph.operators:
            for index in dict.fromkeys(operator.inputs):
                self._readers[index].append(operator)
        self._ranges: list[dict[int, Interval]] = [{} for _ in range(_READINGS)]
        self._reading = 0

    def faults(self) -> Iterator[tuple[str, str]]:
        """Tensor and one line, of each whose scale or zero point follows from nothing beside it."""
        open_ = [index for index in self._makers if index not in self._stated and _has_one_scale(self._tensor(index))]
        following = set(self._stated)
        while True:
            more = [index for index in open_ if index not in following and self._follows(index, following)]
            if not more:
                break
            following.update(more)
        for index in (index for index in open_ if index not in following):
            tensor = self._tensor(index)
            scale, zero = _of(tensor)
            yield (
                tensor.name,
                f"tensor {tensor.name} is the file's own, and its scale {scale:.9g} and zero point {zero} follow from "
                "none beside it",
            )

    def _tensor(self, index: int) -> Tensor:
        return self._graph.tensors[index]

    def _follows(self, index: int, following: Collection[int]) -> bool:
        own, dtype = _of(self._tensor(index)), self._tensor(index).dtype
        for reading in range(_READINGS):
            self._reading = reading
            if own in self._due(index, dtype, following):
                return True
        return False

    def _due(self, index: int, dtype: str, following: Collection[int]) -> Iterator[Parameters]:
        maker = self._makers[index]
        readers = self._readers[index]
        if (sum_ := self._of_a_sum(maker, readers)) is not None:
            yield sum_
            return
        if (part := self._of_a_part(maker)) is not None:
            yield part
            return
        joined = [at for operator in readers if operator.name in _JOINING for at in operator.outputs]
        if joined:
            yield from (_of(self._tensor(at)) for at in joined if _has_one_scale(self._tensor(at)))
            return
        beside = [at for operator in readers for at in operator.outputs]
        beside += [*self._beside_in_floats(index), *self._gated_by_floats(maker)]
        beside += () if maker.name in _ARITHMETIC else (*maker.inputs, *maker.outputs)
        yield from (_of(self._tensor(at)) for at in beside if at in following and self._tensor(at).dtype == dtype)
        if maker.name in _PRESCRIBED:
            fixed = FIXED[_PRESCRIBED[maker.name]]
            yield (fixed.scale16, 0) if dtype == "int16" else (fixed.scale, fixed.zero_point)
        if any(self._gated(reader, index) for reader in readers):
            highest = self._result(maker, self._reach, _CLAMPS[_RELU6])[1]
            yield _of_range(0.0, 6.0 if dtype == "int16" else highest, dtype)
            return
        yield from (_of_range(*self._result(maker, self._range, clamp), dtype) for clamp in _CLAMPS)

    def _beside_in_floats(self, index: int) -> Iterator[int]:
        """Integers that become of it in floats, where an operator picks or clamps between DEQUANTIZE and QUANTIZE."""
        for reader in self._readers[index]:
            for operator in self._readers[reader.outputs[0]] if reader.name == "DEQUANTIZE" else ():
                ends = operator.outputs if operator.name in _KEEPING else ()
                rounded = [again for end in ends for again in self._readers[end] if again.name == "QUANTIZE"]
                yield from (at for again in rounded for at in again.outputs)

    def _gated_by_floats(self, maker: Operator) -> Iterator[int]:
        """What an operator multiplies by a gate of 0 to 1, which was rounded from floats."""
        for gate, other in (maker.inputs, maker.inputs[::-1]) if maker.name == "MUL" else ():
            rounding = self._makers.get(gate)
            if rounding is None or rounding.name != "QUANTIZE" or not self._tensor(rounding.inputs[0]).floating:
                continue
            if self._result(rounding, self._range, _WHOLE) == (0.0, 1.0):
                yield other

    def _of_a_sum(self, maker: Operator, readers: Sequence[Operator]) -> Parameters | None:
        """Of a mean that becomes a sum, by its count: the integers are the sum's own."""
        factor = self._factor(readers[0]) if maker.name == "MEAN" and len(readers) == 1 else None
        result = self._tensor(readers[0].outputs[0]) if factor is not None else None
        if factor is None or result is None or not _has_one_scale(result):
            return None
        scale, zero = _of(result)
        return float(np.float32(scale / factor[0])), zero

    def _of_a_part(self, maker: Operator) -> Parameters | None:
        """Of ReLU6(x + 3) / 6, which is to be multiplied by x: the integers are those before the division."""
        factor = self._factor(maker)
        if factor is None or not self._gated(maker, factor[1]) or not _has_one_scale(self._tensor(factor[1])):
            return None
        scale, zero = _of(self._tensor(factor[1]))
        return float(np.float32(scale * factor[0])), zero

    def _gated(self, operator: Operator, gate: int) -> bool:
        """Whether it multiplies x + 3 by a number, and whoever reads that multiplies it by x."""
        maker, factor = self._makers.get(gate), self._factor(operator)
        if maker is None or maker.name != "ADD" or factor is None:
            return False
        readers = self._readers[operator.outputs[0]]
        return bool(readers) and all(
            reader.name == "MUL" and set(reader.inputs) & set(maker.inputs) for reader in readers
        )

    def _factor(self, operator: Operator) -> tuple[float, int] | None:
        """The number that an operator multiplies by, and what it multiplies."""
        if operator.name != "MUL":
            return None
        pairs = ((self._number(at), other) for at, other in (operator.inputs, operator.inputs[::-1]))
        return next(((number, other) for number, other in pairs if number is not None and number > 0), None)

    def _result(self, operator: Operator, ends: Callable[[int], Interval], clamp: Interval) -> Interval:
        """The range of an operator's result by those of its operands, within an activation's; all, without a rule."""
        rule = _RULES.get(operator.name)
        if rule is None:
            return _WHOLE
        operands = [index for index in operator.inputs if index >= 0 and not _is_places(self._tensor(index))]
        low, high = rule(operator, [ends(index) for index in operands])
        return min(max(low, clamp[0]), clamp[1]), max(min(high, clamp[1]), clamp[0])

    def _range(self, index: int) -> Interval:
        """What numbers of a tensor lie in: that of its operands' ranges, within what its integers stand for."""
        ranges = self._ranges[self._reading]
        if index not in ranges:
            low, high = self._reach(index)
            maker = self._makers.get(index)
            ranges[index] = low, high
            if maker is not None and maker.name in _RULES:
                fused = _CLAMPS[_activation(maker)]
                lowest, highest = self._result(maker, self._range, fused)
                ranges[index] = min(max(low, lowest), high), max(min(high, highest), low)
        return ranges[index]

    def _reach(self, index: int) -> Interval:
        """What the integers of a tensor stand for, or the least and greatest number of a constant."""
        tensor = self._tensor(index)
        if tensor.data is not None:
            number = self._number(index)
            if number is not None:
                return number, number
            array = tensor.data if tensor.quantization is None else real_numbers(tensor, tensor.data)
            return float(array.min()), float(array.max())
        if not _has_one_scale(tensor):
            return _WHOLE
        (scale, zero), limits = _of(tensor), np.iinfo(tensor.dtype)
        return scale * (int(limits.min) - zero), scale * (int(limits.max) - zero)

    def _number(self, index: int) -> float | None:
        """The one number that a constant is: the graph's, or the simplest fraction that becomes its scale."""
        tensor = self._tensor(index)
        if tensor.data is None or not tensor.data.size or np.any(tensor.data != tensor.data.flat[0]):
            return None
        if tensor.quantization is None or tensor.floating:
            return float(np.float64(tensor.data.flat[0]))
        stored = float(real_numbers(tensor, tensor.data).flat[0])
        own = self._numbers.get(tensor.name)
        if own is not None and np.unique(own).size == 1:
            return float(np.float64(own.flat[0]))
        simple = _simplest(stored * (1 - 3 * _HALF_UNIT), stored * (1 + 3 * _HALF_UNIT))
        steps = float(np.asarray(tensor.data).flat[0]) - _of(tensor)[1]
        # Rounded to a float32 before it was used, or not. Where it is no fraction (six times 0.1666667 is 1.0000002),
        # it is one of up to three float32 numbers that have this scale.
        near = [np.float32(simple)]
        if float(Fraction(simple).limit_denominator(_MOST_DENOMINATOR)) != simple:
            single = np.float32(stored)
            near = [single, *(np.nextafter(single, np.float32(end)) for end in (-np.inf, np.inf))]
        numbers = [number for number in (simple, *map(float, near)) if _has_scale(number, steps, tensor)]
        return numbers[self._reading % len(numbers)] if numbers else simple


def _has_scale(number: float, steps: float, tensor: Tensor) -> bool:
    """Whether a constant has its scale of a number, which may have been rounded before."""
    scale = np.float32(_of(tensor)[0])
    return bool(steps) and any(np.float32(item / steps) == scale for item in (number, float(np.float32(number))))


def _simplest(low: float, high: float) -> float:
    """The fraction of least denominator between two numbers of one sign."""
    if low > high:
        low, high = high, low
    if high < 0:
        return -_simplest(-high, -low)
    if low <= 0:
        return 0.0
    terms, a, b = list[int](), Fraction(low), Fraction(high)
    while (whole := math.ceil(a)) > b:
        terms.append(whole - 1)
        a, b = 1 / (b - (whole - 1)), 1 / (a - (whole - 1))
    result = Fraction(whole)
    for term in reversed(terms):
        result = term + 1 / result
    return float(result)


def _has_one_scale(tensor: Tensor) -> bool:
    return tensor.quantization is not None and not tensor.floating and not tensor.quantization.per_channel


def _of(tensor: Tensor) -> Parameters:
    (scale, *_), (zero, *_) = parameters_of(tensor)
    return scale, zero


def _activation(operator: Operator) -> int:
    stated = operator.options.get("fused_activation_function", 0)
    return stated if isinstance(stated, int) else 0


def _is_places(tensor: Tensor) -> bool:
    """Whether it holds sizes, axes or indices, and no numbers."""
    return tensor.quantization is None and not tensor.floating


def _of_range(low: float, high: float, dtype: str) -> Parameters:
    """With which integers reach from end to end and hold zero exactly; of 16 bits they are symmetric."""
    low, high = min(low, 0.0), max(high, 0.0)
    if not math.isfinite(high - low):
        return 0.0, 0
    if dtype == "int16":
        return float(np.float32(max(-low, high) / 32767 or 1.0)), 0
    scale = float(np.float32((high - low) / 255 or 1.0))
    return scale, int(np.clip(np.rint(-128 - low / scale), -128, 127))


def _grows(function: Callable[[float], float]) -> Rule:
    return lambda operator, ends: (function(ends[0][0]), function(ends[0][1]))


def _at_corners(function: Callable[[float, float], float]) -> Rule:
    def rule(operator: Operator, ends: Sequence[Interval]) -> Interval:
        results = [function(a, b) for a, b in product(ends[0], ends[1])]
        return min(results), max(results)

    return rule


def _absolute(operator: Operator, ends: Sequence[Interval]) -> Interval:
    return 0.0, max(map(abs, ends[0]))


def _leaky(operator: Operator, ends: Sequence[Interval]) -> Interval:
    slope = float(operator.options["alpha"])  # type: ignore[arg-type]
    results = [end if end > 0 else slope * end for end in (*ends[0], 0.0)]
    return min(results), max(results)


def _hull(operator: Operator, ends: Sequence[Interval]) -> Interval:
    return min(low for low, _ in ends), max(high for _, high in ends)


Rule = Callable[[Operator, Sequence[Interval]], Interval]
_RULES: Mapping[str, Rule] = {
    "ADD": _at_corners(lambda a, b: a + b),
    "SUB": _at_corners(lambda a, b: a - b),
    "MUL": _at_corners(lambda a, b: a * b),
    "ABS": _absolute,
    "MEAN": _hull,
    "DEQUANTIZE": _hull,
    "EXP": _grows(math.exp),
    "RELU": _grows(lambda x: max(x, 0.0)),
    "RELU6": _grows(lambda x: min(max(x, 0.0), 6.0)),
    "RELU_N1_TO_1": _grows(lambda x: min(max(x, -1.0), 1.0)),
    "LEAKY_RELU": _leaky,
    "MAXIMUM": _at_corners(max),
    "MINIMUM": _at_corners(min),
    **dict.fromkeys(("RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "GATHER", "CONCATENATION"), _hull),
    **dict.fromkeys(("MAX_POOL_2D", "AVERAGE_POOL_2D", "REDUCE_MAX", "REDUCE_MIN", "QUANTIZE"), _hull),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"), _hull),
}
