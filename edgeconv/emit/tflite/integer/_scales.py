"""Parameters for the tensors that lowering made, such that a file rounds where the quantized graph rounds.

1. Backwards: what an operator picks from or clamps may be rounded before as well as after it. What a window averages
   or a resize interpolates may not: numbers may be far beyond the range of their averages.
2. Forwards: what an operator picks has its operand's parameters. Others are invented: as the specification prescribes
   them, or, between the parts of one operator of the graph, by ranges.
3. What was invented beside an operator that is computed in floats, or for an output, is withdrawn: the graph rounds
   nothing there. Of an exact graph all is withdrawn, and what lies between is computed in floats.

What the plan knows is never changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite._quantization import Quantization, of_interval
from edgeconv.emit.tflite.integer._rules import (
    ROUNDED_INSIDE,
    RULES,
    Interval,
    Kind,
    Rule,
    bounds_of,
    clamped,
    computed,
    data_of,
    holds,
    is_integer,
    picks,
    prescribed,
    results_of,
)


def spread(graph: Graph, *, exact: bool = False) -> None:
    """Gives parameters to every tensor between integer operators.

    Args:
        graph: changed in place.
        exact: none are invented; what would read or write such integers is computed in floats.
    """
    _backwards(graph)
    invented = _Forwards(graph).run()
    _withdraw(graph, invented)
    if not exact:
        return
    for operator in graph.operators:
        tensors = (*operator.inputs, *operator.outputs)
        if any(tensor in invented and tensor.quantization is not None for tensor in tensors):
            operator.keeps_float = operator.keeps_float or ROUNDED_INSIDE
    for tensor in invented:
        tensor.quantization = None


def _backwards(graph: Graph) -> None:
    consumers = graph.consumers()
    for operator in reversed(graph.operators):
        parameters = _written(operator)
        for tensor in computed(operator):
            alike = parameters is not None and all(_written(reader) == parameters for reader in consumers[tensor])
            if alike and tensor.quantization is None and tensor not in graph.outputs:
                tensor.quantization, tensor.planned = parameters, False


def _written(operator: Operator) -> Quantization | None:
    """The parameters of all results, where the operator picks or clamps in integers."""
    written = {tensor.quantization for tensor in results_of(operator)}
    passes = picks(operator) or bounds_of(operator) is not None
    return written.pop() if passes and not operator.keeps_float and len(written) == 1 else None


class _Forwards:
    """Walks the graph once.

    Attributes:
        invented: the tensors whose parameters are of no plan and round what the quantized graph does not round.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.invented: set[Tensor] = set()
        self.ranges: dict[Tensor, Interval] = {}
        self.values = _values(graph)

    def run(self) -> set[Tensor]:
        for operator in self.graph.operators:
            rule, operands = RULES.get(operator.code), computed(operator)
            if rule is None or not operands or operator.keeps_float:
                continue
            if any(tensor.quantization is None for tensor in operands):
                continue
            interval = self._range(operator, rule)
            for tensor in results_of(operator):
                if tensor.quantization is None:
                    self._give(operator, rule, tensor, interval)
                if interval is not None:
                    self.ranges[tensor] = interval
        return self.invented

    def _give(self, operator: Operator, rule: Rule, tensor: Tensor, interval: Interval | None) -> None:
        operands = computed(operator)
        parameters = {operand.quantization for operand in operands if operand.quantization is not None}
        shared = next(iter(parameters))
        exact = picks(operator) and all(holds(shared, constant) for constant in data_of(operator))
        if rule.kind is Kind.SAME:
            tensor.quantization = shared if len(parameters) == 1 else None
        elif rule.kind is Kind.FIXED:
            tensor.quantization = prescribed(operator, shared.dtype)
        elif tensor not in self.values and interval is not None:
            tensor.quantization = of_interval(*interval, shared.dtype)
        if not exact or any(source in self.invented for source in operands):
            self.invented.add(tensor)

    def _range(self, operator: Operator, rule: Rule) -> Interval | None:
        """The range of the result by the ranges of the operands, where the operator has a rule for that."""
        if rule.interval is None:
            return None
        operands = [_interval(tensor, self.ranges) for tensor in data_of(operator)]
        interval = clamped(operator, rule.interval(operator, operands))
        return interval if all(map(math.isfinite, interval)) else None


def _values(graph: Graph) -> set[Tensor]:
    """The tensors that hold values of the quantized graph, though perhaps in another order or shape.

    Those that no plan knows are floats there. All others are inner ones of an operator.
    """
    values = {tensor for operator in graph.operators for tensor in operator.outputs if tensor.owner}
    for operator in reversed(graph.operators):
        if picks(operator) and any(tensor in values and tensor.quantization is None for tensor in operator.outputs):
            values.update(computed(operator))
    return values


def _interval(tensor: Tensor, ranges: Mapping[Tensor, Interval]) -> Interval:
    """What the numbers of a tensor lie in: what is known of their making, within what its integers can stand for."""
    if tensor.data is not None:
        return float(tensor.data.min()), float(tensor.data.max())
    assert tensor.quantization is not None  # the caller looked
    low, high = tensor.quantization.interval
    lowest, highest = ranges.get(tensor, (low, high))
    return min(max(low, lowest), high), max(min(high, highest), low)


def _withdraw(graph: Graph, invented: set[Tensor]) -> None:
    while True:
        floats = [operator for operator in graph.operators if not is_integer(operator)]
        beside = {tensor for operator in floats for tensor in (*data_of(operator), *results_of(operator))}
        gone = [tensor for tensor in invented & (beside | set(graph.outputs)) if tensor.quantization is not None]
        if not gone:
            return
        for tensor in gone:
            tensor.quantization = None
