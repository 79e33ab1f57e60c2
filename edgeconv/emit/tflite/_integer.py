"""Float graph whose tensors know their quantisation -> graph of integers.

1. Parameters spread to the tensors that lowering made: through operators that share them, by prescription, by ranges.
2. Where an operator wants parameters to be alike that are not, a producer writes those that are wanted, if it may,
   or the integers are requantised.
3. An operator with an integer kernel whose operands and results all have parameters becomes integer; any other stays
   float between DEQUANTIZE and QUANTIZE, and is reported.
4. Weights, biases and constants become integers; the inputs and outputs are what the caller asks for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite._integer_forms import integer_form
from edgeconv.emit.tflite._integer_rules import RULES, Interval, Kind, Rule, clamped
from edgeconv.emit.tflite._quantization import Quantization, of_constant, of_interval, of_type, of_weights

_FLOAT = np.dtype(np.float32)
_BIAS = {"int8": "int32", "int16": "int64"}


def make_integer(graph: Graph, *, integer_io: bool) -> tuple[str, ...]:
    """Makes a graph integer in place.

    Args:
        graph: lowered and simplified, its tensors still float; those that the plan knows have their quantization.
        integer_io: whether inputs and outputs are integers too, where they have parameters.

    Returns:
        What stays float and why, one line per operator.
    """
    _spread_backwards(graph)
    _spread(graph)
    _settle(graph)
    _drop_clamps(graph)
    notes = _Rewrite(graph).run()
    if not integer_io:
        _float_borders(graph)
    return notes


def data_of(operator: Operator) -> list[Tensor]:
    """The operands that are numbers (and not shapes, axes or conditions), weights left out."""
    rule = RULES.get(operator.code)
    if rule is not None and rule.kind is Kind.WEIGHTS:
        return [operator.inputs[rule.data]]
    return [tensor for tensor in operator.inputs if tensor.dtype == _FLOAT]


def _results(operator: Operator) -> list[Tensor]:
    return [tensor for tensor in operator.outputs if tensor.dtype == _FLOAT]


# 1. Parameters for every tensor


def _spread_backwards(graph: Graph) -> None:
    """Through what shares parameters, and through clamps that saturation makes superfluous (see `_drop_clamps`)."""
    consumers = graph.consumers()
    for operator in reversed(graph.operators):
        rule = RULES.get(operator.code)
        known = next((tensor.quantization for tensor in operator.outputs if tensor.quantization), None)
        if rule is not None and rule.kind is Kind.SAME and known is not None:
            for tensor in data_of(operator):
                if tensor.data is None and tensor.quantization is None:
                    tensor.quantization = known
        source, bounds = operator.inputs[0], _bounds(operator)
        alone = source.quantization is None and len(consumers[source]) == 1 and source not in graph.outputs
        if alone and bounds is not None and known is not None and _within(known, bounds):
            source.quantization = known


def _spread(graph: Graph) -> None:
    ranges: dict[Tensor, Interval] = {}
    for operator in graph.operators:
        rule = RULES.get(operator.code)
        given = [tensor.quantization for tensor in data_of(operator) if tensor.data is None]
        known = next((one for one in given if one is not None), None)
        if rule is None or known is None or operator.keeps_float:
            continue
        made = _made(operator, rule, ranges) if all(given) else None
        for tensor in _results(operator):
            if rule.kind is Kind.FIXED:
                tensor.quantization = _fixed(rule, known.dtype)
            elif tensor.quantization is None and rule.kind is Kind.SAME:
                tensor.quantization = known
            elif tensor.quantization is None and made is not None:
                tensor.quantization = of_interval(*made, known.dtype)
            if made is not None:
                ranges[tensor] = made


def _fixed(rule: Rule, dtype: str) -> Quantization:
    scale, zero_point, scale16 = rule.fixed
    return of_type(dtype, scale16, 0) if dtype == "int16" else of_type(dtype, scale, zero_point)


def _made(operator: Operator, rule: Rule, ranges: Mapping[Tensor, Interval]) -> Interval | None:
    """The range of the result by the ranges of the operands, where the operator has a rule for that."""
    if rule.interval is None:
        return None
    made = clamped(operator, rule.interval(operator, [_interval(tensor, ranges) for tensor in data_of(operator)]))
    return made if all(map(math.isfinite, made)) else None


def _interval(tensor: Tensor, ranges: Mapping[Tensor, Interval]) -> Interval:
    """What the numbers of a tensor lie in: what is known of their making, within what its integers can stand for."""
    if tensor.data is not None:
        return float(tensor.data.min()), float(tensor.data.max())
    assert tensor.quantization is not None  # the caller looked
    low, high = tensor.quantization.interval
    lowest, highest = ranges.get(tensor, (low, high))
    return min(max(low, lowest), high), max(min(high, highest), low)


# 2. Parameters that have to be alike


def _settle(graph: Graph) -> None:
    producers, consumers = graph.producers(), graph.consumers()
    made: list[Operator] = []
    for operator in graph.operators:
        rule = RULES.get(operator.code)
        data = [tensor for tensor in data_of(operator) if tensor.data is None]
        if rule is not None and rule.kind is Kind.SAME and data and all(one.quantization for one in data):
            results = _results(operator)
            target = results[0].quantization if len(data) > 1 else data[0].quantization
            for tensor in results:
                tensor.quantization = target
            for tensor in data:
                if target is not None and tensor.quantization != target:
                    free = len(consumers[tensor]) == 1 and tensor not in (*graph.outputs, *graph.inputs)
                    if free and _writes_any(producers.get(tensor), target):
                        tensor.quantization = target
                    else:
                        made.append(_requantised(operator, tensor, target))
        made.append(operator)
    graph.operators = made


def _writes_any(producer: Operator | None, target: Quantization) -> bool:
    """Whether the operator can write its result with these parameters as well as with its own."""
    rule = RULES.get(producer.code) if producer is not None else None
    if producer is None or rule is None or rule.kind not in (Kind.FREE, Kind.WEIGHTS) or producer.keeps_float:
        return False
    return all(one.quantization and one.quantization.dtype == target.dtype for one in data_of(producer))


def _requantised(operator: Operator, tensor: Tensor, target: Quantization) -> Operator:
    copy = Tensor(f"{tensor.name}/requantized", tensor.shape, tensor.dtype, quantization=target)
    operator.inputs = [copy if one is tensor else one for one in operator.inputs]
    return Operator("QUANTIZE", [tensor], [copy])


_BOUNDS: Mapping[str, Interval] = {"RELU": (0.0, math.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}


def _drop_clamps(graph: Graph) -> None:
    """A clamp goes where saturation does the same: its operand has its result's parameters, and no number beyond."""
    producers, consumers = graph.producers(), graph.consumers()
    for operator in list(graph.operators):
        source, result = operator.inputs[0], operator.outputs[0]
        bounds, producer = _bounds(operator), producers.get(source)
        if bounds is None or producer is None or source.quantization is None or not is_integer(producer):
            continue
        alone = len(consumers[source]) == 1 and source not in graph.outputs
        if alone and source.quantization == result.quantization and _within(source.quantization, bounds):
            producer.outputs = [result if one is source else one for one in producer.outputs]
            producers[result] = producer
            graph.operators.remove(operator)


def _within(quantization: Quantization, bounds: Interval) -> bool:
    """Whether all integers stand for numbers within the bounds, but for half a step."""
    (low, high), slack = quantization.interval, quantization.scale[0] / 2
    return bounds[0] <= low + slack and high - slack <= bounds[1]


def _bounds(operator: Operator) -> Interval | None:
    """What the operator clamps to; None where it is no clamp."""
    if operator.code in ("MAXIMUM", "MINIMUM"):
        bound = operator.inputs[1].data
        if bound is None or bound.size != 1:
            return None
        limit = float(bound.reshape(()))
        return (limit, math.inf) if operator.code == "MAXIMUM" else (-math.inf, limit)
    return _BOUNDS.get(operator.code)


# 3. and 4. Integers


class _Rewrite:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made: list[Operator] = []
        self.notes: list[str] = []
        self.integer = {operator for operator in graph.operators if is_integer(operator)}
        used = {tensor for operator in self.integer for tensor in (*data_of(operator), *_results(operator))}
        self.held = {tensor for tensor in used if tensor.data is None}
        self.floats: dict[Tensor, Tensor] = {}

    def run(self) -> tuple[str, ...]:
        operators = list(self.graph.operators)
        for operator in operators:
            if operator in self.integer:
                self._to_integers(operator)
                self.made += integer_form(self.graph, operator)
            else:
                self._stays_float(operator)
        for tensor in self.held:
            assert tensor.quantization is not None
            tensor.dtype = np.dtype(tensor.quantization.dtype)
        for tensor in {one for operator in self.made for one in (*operator.inputs, *operator.outputs)}:
            if tensor.dtype == _FLOAT:
                tensor.quantization = None
        self.graph.operators = self.made
        return tuple(self.notes)

    def _stays_float(self, operator: Operator) -> None:
        """Reads floats, and what integer operators read of it is quantised."""
        operator.inputs = [self._as_float(tensor) for tensor in operator.inputs]
        self.made.append(operator)
        for index, tensor in enumerate(operator.outputs):
            if tensor in self.held:
                inner = Tensor(f"{tensor.name}/float", tensor.shape, _FLOAT)
                operator.outputs[index] = inner
                self.floats[tensor] = inner
                self.made.append(Operator("QUANTIZE", [inner], [tensor]))
        if any(tensor.dtype == _FLOAT for tensor in (*operator.inputs, *operator.outputs)):
            why = "its weights are float" if operator.keeps_float else _why_float(operator)
            self.notes.append(f"{operator.code} {operator.outputs[0].name!r} stays float: {why}")

    def _as_float(self, tensor: Tensor) -> Tensor:
        if tensor not in self.held:
            return tensor
        if tensor not in self.floats:
            self.floats[tensor] = Tensor(f"{tensor.name}/float", tensor.shape, _FLOAT)
            self.made.append(Operator("DEQUANTIZE", [tensor], [self.floats[tensor]]))
        return self.floats[tensor]

    def _to_integers(self, operator: Operator) -> None:
        rule = RULES[operator.code]
        if rule.kind is Kind.WEIGHTS:
            self._weights(operator, rule)
            return
        results = _results(operator)
        same = results[0].quantization if rule.kind is Kind.SAME else None
        dtype = next(one.quantization.dtype for one in data_of(operator) if one.data is None and one.quantization)
        for index, tensor in enumerate(operator.inputs):
            if tensor.data is not None and tensor.dtype == _FLOAT:
                own = tensor.quantization if tensor.quantization and tensor.quantization.dtype == dtype else None
                operator.inputs[index] = self._constant(tensor, same or own or of_constant(tensor.data, dtype))
        if dtype == "int16" and operator.code in ("ADD", "SUB"):
            operator.options["potScaleInt16"] = False

    def _weights(self, operator: Operator, rule: Rule) -> None:
        data, weight = operator.inputs[rule.data], operator.inputs[1]
        assert data.quantization is not None  # is_integer looked
        assert weight.data is not None
        scales = weight.quantization or of_weights(weight.data, rule.axis)
        operator.inputs[1] = self._constant(weight, scales)
        place = 3 if operator.code == "TRANSPOSE_CONV" else 2
        if len(operator.inputs) > place:
            products = np.array(scales.scale, np.float32) * np.float32(data.quantization.scale[0])
            bias = of_type(_BIAS[data.quantization.dtype], products, 0)
            operator.inputs[place] = self._constant(operator.inputs[place], bias)

    def _constant(self, tensor: Tensor, quantization: Quantization) -> Tensor:
        assert tensor.data is not None
        return self.graph.constant(quantization.quantise(tensor.data), tensor.name, quantization)


def is_integer(operator: Operator) -> bool:
    """Whether a kernel computes the operator in integers, and all that it needs is known."""
    return _why_float(operator) == "" and not operator.keeps_float and bool(data_of(operator))


def _why_float(operator: Operator) -> str:
    rule = RULES.get(operator.code)
    if rule is None:
        return "there is no integer kernel for it"
    tensors = [tensor for tensor in (*data_of(operator), *_results(operator)) if tensor.data is None]
    if any(tensor.quantization is None for tensor in tensors):
        return "the scales of its operands or of its result are not known"
    dtypes = {tensor.quantization.dtype for tensor in tensors if tensor.quantization}
    if operator.code != "QUANTIZE" and (len(dtypes) > 1 or ("int16" in dtypes and not rule.int16)):
        return f"there is no kernel of {' and '.join(sorted(dtypes))} for it"
    if rule.kind is Kind.WEIGHTS and operator.inputs[1].data is None:
        return "its weights are computed"
    return ""


def _float_borders(graph: Graph) -> None:
    """Floats at the inputs and outputs: QUANTIZE after the ones, DEQUANTIZE before the others."""
    first, last = [], []
    for index, tensor in enumerate(graph.inputs):
        if tensor.quantization is not None:
            graph.inputs[index] = _border(tensor)
            first.append(Operator("QUANTIZE", [graph.inputs[index]], [tensor]))
    for index, tensor in enumerate(graph.outputs):
        if tensor.quantization is not None:
            graph.outputs[index] = _border(tensor)
            last.append(Operator("DEQUANTIZE", [tensor], [graph.outputs[index]]))
    graph.operators = [*first, *graph.operators, *last]


def _border(tensor: Tensor) -> Tensor:
    """A float tensor that takes the name of a quantised one."""
    made = Tensor(tensor.name, tensor.shape, _FLOAT, owner=tensor.owner)
    tensor.name, tensor.owner = f"{tensor.name}/quantized", ""
    return made
