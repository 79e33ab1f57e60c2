"""How far the numbers of a value matter: beyond its bounds nothing that reads it can tell one number from another.

A mask of -inf or -1e9 that is added to the scores of an attention is no activation: exp(-30) is nothing beside exp(0),
as exp(-1e9) is. So a softmax needs its scores only as far down as the least of its rows' largest, less the logarithm of
what counts. So does a maximum (of a window, of axes, of operands) need nothing below its least result, and a clamp
nothing beyond its ends. That bound goes backwards through what merely adds, picks, moves, pads and scales, to the mask
itself, whether it is a constant, is computed, or is an input. Saturation there is then what quantisation does anyway.

The ranges of the other operands, and how large the rows' largest are, come from the calibration data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.quantize._calibrate import run_float
from edgeconv.quantize._graph import constant, is_activation, named
from edgeconv.quantize._structure import clip_bounds

Bounds = tuple[float, float]
ALL: Bounds = (-math.inf, math.inf)

_COUNTS = 2.0**-12  # of a softmax's or sigmoid's result: a sixteenth of a step of int8
_MASKED = -5e3  # a row whose largest is below it is masked whole; softmax makes it uniform, as it is of equal numbers
_EVIDENT = 3.0  # what was seen must reach that many times as far as what counts: no other range is touched

_MOVES = frozenset(
    {
        "Concat",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
_LARGEST = frozenset({"GlobalMaxPool", "Max", "MaxPool", "ReduceMax"})
_SMALLEST = frozenset({"Min", "ReduceMin"})
_LIMITS: Mapping[str, Bounds] = {
    "HardSwish": (-3.0, math.inf),
    "Relu": (0.0, math.inf),
    "Sigmoid": (math.log(_COUNTS), -math.log(_COUNTS)),
    "Tanh": (math.log(_COUNTS) / 2, -math.log(_COUNTS) / 2),
}
"""Beyond which an operator's results do not change, or not by what counts."""

_ENDS = _LARGEST | _SMALLEST | set(_LIMITS) | {"Clip", "Softmax"}
_MONOTONE = _LARGEST | _SMALLEST | {"Clip", "Relu"}
"""Whose results are numbers that they read, and so have bounds to hand on."""

_BETWEEN = _MOVES | {"Add", "Cast", "Div", "Mul", "Pad", "Sub", "Sum", "Where"}
_FILLING = frozenset({"Concat", "Pad", "Where"})
_MASKING = _FILLING | {"Add", "Sub", "Sum"}
_CLAMPS = frozenset({"Clip", "HardSwish", "Relu", "Tanh"})
"""Before which a sum is no mask but what layers end with."""


@dataclass
class _Seen:
    """Of one value: finite extremes, and the distinct numbers while they are few."""

    low: float = 0.0
    high: float = 0.0
    infinite: bool = False
    distinct: set[float] = field(default_factory=set)

    @property
    def gate(self) -> float | None:
        """The one number beside zero, of a mask."""
        others = self.distinct - {0.0}
        return next(iter(others)) if len(others) == 1 and len(self.distinct) <= _FEW else None

    def add(self, array: Array) -> None:
        finite = array[np.isfinite(array)]
        self.infinite |= finite.size < array.size
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        if len(self.distinct) <= _FEW:
            self.distinct.update(np.unique(array)[: _FEW + 1].tolist())


_FEW = 2  # numbers of a mask of zeros and ones


def bounds_of(model: ir.Model, batches: Callable[[], Iterable[Mapping[str, Array]]]) -> dict[str, Bounds]:
    """The bounds of the values and constants that reach much further than they matter, by name.

    Args:
        model: float32, NCHW.
        batches: calibration data, read once where the graph masks anything.
    """
    inner, ends = _region(model.graph)
    if not ends:
        return {}
    seen, rows = {value: _Seen() for value in inner}, dict[ir.Node, float]()
    shown = {end: end.inputs[0] if end.op_type == "Softmax" else end.outputs[0] for end in ends}
    computed = {
        named(value): value for value in (*inner, *shown.values()) if value is not None and is_activation(value)
    }
    for values in run_float(model, batches(), computed):
        for name, array in values.items():
            if (value := computed[name]) in seen:
                seen[value].add(array)
            for end in (each for each, source in shown.items() if source is value):
                _add_rows(rows, end, array)
    for value in inner:
        if (stored := constant(value)) is not None:
            seen[value].add(stored)
    return _Backwards(model.graph, seen, rows).run()


def _region(graph: ir.Graph) -> tuple[list[ir.Value], list[ir.Node]]:
    """What reaches a softmax, a maximum and the like through operators that a bound passes, where one may mask."""
    found: dict[ir.Value, None] = {}
    ends = []
    for node in graph:
        if node.op_type not in _ENDS or not is_activation(node.outputs[0]):
            continue
        todo = list(node.inputs if node.op_type in ("Max", "Min") else node.inputs[:1])
        inner, masks = dict[ir.Value, None](), False
        while todo:
            value = todo.pop()
            if value is None or value in inner or value.dtype != ir.DataType.FLOAT:
                continue
            inner[value] = None
            producer = value.producer()
            if value.is_graph_input() or producer is None or producer.op_type not in _BETWEEN | _MONOTONE:
                continue
            masks |= producer.op_type in (_FILLING if node.op_type in _CLAMPS else _MASKING)
            todo += producer.inputs
        if masks:
            ends.append(node)
            found |= inner
    return list(found), ends


def _add_rows(rows: dict[ir.Node, float], end: ir.Node, array: Array) -> None:
    """Notes the least of the largest numbers that an operator finds (of the smallest, the largest).

    A row, or a window, that is masked whole counts for nothing.
    """
    if end.op_type == "Softmax":
        array = array.max(axis=end.attributes.get_int("axis", -1))
    elif end.op_type not in _LARGEST | _SMALLEST:
        return
    sign = -1 if end.op_type in _SMALLEST else 1
    found = sign * array[np.isfinite(array)]
    found = found[found > _MASKED]
    if found.size:
        rows[end] = sign * min(sign * rows.get(end, sign * math.inf), float(found.min()))


class _Backwards:
    """Bounds from the readers to what they read."""

    def __init__(self, graph: ir.Graph, seen: Mapping[ir.Value, _Seen], rows: Mapping[ir.Node, float]) -> None:
        self.graph, self.seen, self.rows = graph, seen, rows
        self.found: dict[ir.Value, Bounds] = {}

    def run(self) -> dict[str, Bounds]:
        for value in self._ordered():
            needs = [self._need(use.node, use.idx, value) for use in value.uses()]
            if needs and not value.is_graph_output():
                self.found[value] = min(low for low, _ in needs), max(high for _, high in needs)
        return {named(value): bounds for value, bounds in self.found.items() if self._is_evident(value, bounds)}

    def _ordered(self) -> list[ir.Value]:
        """What was looked at, readers first."""
        produced = [value for node in self.graph for value in node.outputs if value in self.seen]
        rest = [value for value in self.seen if value not in set(produced)]
        return [*reversed(produced), *rest]

    def _is_evident(self, value: ir.Value, bounds: Bounds) -> bool:
        seen, (low, high) = self.seen[value], bounds
        if bounds == ALL:
            return False
        reach = max(min(seen.high, high), 0.0) - min(max(seen.low, low), 0.0)
        return seen.infinite or seen.high - seen.low > _EVIDENT * reach

    def _need(self, node: ir.Node, index: int, value: ir.Value) -> Bounds:
        """What of a value an operator can tell apart."""
        results = [self.found.get(output, ALL) for output in node.outputs if output.uses() or output.is_graph_output()]
        if not results:
            return ALL
        low, high = min(one for one, _ in results), max(one for _, one in results)
        if node.op_type in _ENDS:
            least, most = self._of_end(node, index, value)
            return (max(least, low), min(most, high)) if node.op_type in _MONOTONE else (least, most)
        if node.op_type not in _BETWEEN:
            return ALL
        if node.op_type in _MOVES or node.op_type == "Pad":
            return (low, high) if index == 0 or node.op_type in ("Concat", "Pad") else ALL
        if node.op_type == "Where":
            return (low, high) if index > 0 else ALL
        if node.op_type == "Cast":
            return (low, high) if node.outputs[0].dtype == ir.DataType.FLOAT else ALL
        if node.op_type in ("Mul", "Div"):
            return self._of_factor(node, index, low, high)
        return self._of_sum(node, index, low, high)

    def _of_end(self, node: ir.Node, index: int, value: ir.Value) -> Bounds:
        if node.op_type == "Clip":
            return (clip_bounds(node) or ALL) if index == 0 else ALL
        if node.op_type in _LIMITS:
            return _LIMITS[node.op_type]
        found = self.rows.get(node)
        if found is None:
            return ALL
        if node.op_type in _SMALLEST:
            return -math.inf, found
        if node.op_type in _LARGEST:
            return found, math.inf
        size = value.shape[node.attributes.get_int("axis", -1)] if value.shape else None
        return (found + math.log(_COUNTS / size), math.inf) if isinstance(size, int) and size else ALL

    def _of_sum(self, node: ir.Node, index: int, low: float, high: float) -> Bounds:
        """Of an addend, or of either side of a difference; by what the others can bring."""
        others = [self.seen.get(one) for at, one in enumerate(node.inputs) if at != index and one is not None]
        if any(one is None for one in others):
            return ALL
        least, most = sum(one.low for one in others if one), sum(one.high for one in others if one)
        if node.op_type != "Sub":
            return low - most, high - least
        return (low + least, high + most) if index == 0 else (least - high, most - low)

    def _of_factor(self, node: ir.Node, index: int, low: float, high: float) -> Bounds:
        """Of what a constant scales; or of the constant itself where what it meets opens and shuts it, as a mask does.

        (1 - m)·-1e9 of a mask of zeros and ones needs no such constant; what opens it needs all its precision.
        """
        operands = [self.seen.get(value) if value is not None else None for value in node.inputs]
        other, factor = operands[1 - index], constant(node.inputs[1 - index])
        if factor is None:
            gate = other.gate if other is not None and node.op_type == "Mul" else None
        else:
            own = operands[index]
            opens = own is not None and own.gate is not None and self._is_wide(float(np.abs(factor).max()), low, high)
            known = factor.size == 1 and not opens and (index == 0 or node.op_type == "Mul")
            gate = float(factor.reshape(())) if known else None
            gate = 1 / gate if gate and node.op_type == "Div" else gate
        if not gate or not math.isfinite(gate):
            return ALL
        ends = sorted((low / gate, high / gate))
        return ends[0], ends[1]

    def _is_wide(self, factor: float, low: float, high: float) -> bool:
        """Whether a factor alone takes what it opens beyond the bounds."""
        return factor > min(abs(low), abs(high))
