"""How far the numbers of a value matter: beyond its bounds nothing that reads it can tell one number from another.

A mask of -inf or -1e9 that is added to the scores of an attention is no activation: exp(-30) is nothing beside exp(0),
as exp(-1e9) is. So a softmax needs its scores only as far down as the least of its rows' largest, less the logarithm of
what counts. Likewise a maximum (of a window, of axes, of operands) needs nothing below its least result, and a clamp
nothing beyond its ends. An ArgMax or TopK needs its numbers apart from each other, but of masked ones only that they
come last. A bound is carried backwards through operators that merely add, pick, move, pad and scale, to the mask
itself, whether it is a constant, is computed, or is an input. Beyond the bound the integers saturate.

The ranges of the other operands, and how large the rows' largest are, come from the calibration data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.constants import clip_bounds
from edgeconv.graph.edit import constant, input_of, is_taken
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._calibrate import run_float
from edgeconv.quantize._gates import ALL, COUNTS, LIMITS, Bounds, gated_by, limits, shut_below
from edgeconv.quantize._graph import is_activation, named
from edgeconv.quantize._steep import leads_to_steep

_MASKED = -5e3  # a row whose largest is below it is masked whole; softmax makes it uniform, as it is of equal numbers
_EVIDENT = 3.0  # a range is cut only where it reaches this many times as far as what counts: ordinary ones stay

_MOVES = having(Trait.MOVES) | {"Dropout"}
_LARGEST, _SMALLEST, _PICKS, _RANKING = map(having, (Trait.LARGEST, Trait.SMALLEST, Trait.PICKS, Trait.RANKS))
_CLAMPING, _COMPARING, _ADDING = map(having, (Trait.CLAMPS, Trait.COMPARES, Trait.SIGNED_SUM))
_SUMS_OF_POWERS = frozenset({"Exp", "LogSoftmax", "ReduceLogSumExp", "Softmax"})
"""Whose rows are taken from their operand; a maximum's rows are its own results."""
_SUMS = having(Trait.ADDS_UP | Trait.REDUCES) - _SUMS_OF_POWERS
_SELECTS = _MOVES - {"Concat"}
_ENDS = _PICKS | _RANKING | _SUMS_OF_POWERS | _COMPARING | set(LIMITS) | {"Clip", "HardSigmoid"}
_MONOTONE = _PICKS | _CLAMPING
"""Whose results are numbers of their operands, so that a bound on the result is one on the operands."""

_BETWEEN = _MOVES | _ADDING | {"Cast", "Div", "LeakyRelu", "Mul", "Neg", "Pad", "Where"}
_FILLING = frozenset({"Concat", "Pad", "Where"})
_MASKING = _FILLING | _ADDING
_CLAMPS = (_ENDS - _PICKS - _RANKING - _SUMS_OF_POWERS - {"Sigmoid"}) | {"Exp", "Mul"}
"""Before these an Add is an ordinary bias or residual sum, and no mask; only Concat, Pad and Where count as one."""


@dataclass
class _Seen:
    """Statistics of one value: finite extremes, those without masks, and the distinct numbers while they are few."""

    low: float = 0.0
    high: float = 0.0
    infinite: bool = False
    distinct: set[float] = field(default_factory=set)
    _plain: Bounds = (0.0, 0.0)
    _least_mask: float = math.inf

    @property
    def plain(self) -> Bounds:
        """The extremes but for masks, which stand far from all other numbers."""
        apart = self._least_mask > _EVIDENT * max(self._plain[1], -self._plain[0])
        return self._plain if apart else (self.low, self.high)

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
        if (plain := finite[np.abs(finite) < -_MASKED]).size:
            self._plain = min(self._plain[0], float(plain.min())), max(self._plain[1], float(plain.max()))
        if (masks := finite[np.abs(finite) >= -_MASKED]).size:
            self._least_mask = min(self._least_mask, float(np.abs(masks).min()))
        if len(self.distinct) <= _FEW:
            self.distinct.update(np.unique(array)[: _FEW + 1].tolist())


_APART = 1 / 32  # of the range: eight steps of int8, so that a number masked is less than the least that is not
_FEW = 2  # numbers of a mask of zeros and ones


def bounds_of(model: ir.Model, batches: Callable[[], Iterable[Mapping[str, Array]]]) -> dict[str, Bounds]:
    """The bounds of the values and constants that reach much further than they matter, by name.

    Args:
        model: float32, NCHW.
        batches: calibration data, read once where the graph masks anything.
    """
    # 1. Which values matter at all: those between a mask and an operator that ignores what is far away.
    gated = gated_by(model.graph)
    inner, ends = _region(model.graph, gated)
    shut = dict(shut_below(model.graph, gated))
    if not ends:
        return shut
    # 2. Their extremes, and the least maximum of any row, on the calibration data.
    seen, rows = {value: _Seen() for value in inner}, dict[ir.Node, Bounds]()
    shown = {end: _shown(end) for end in ends}
    looked_at = [*inner, *(value for values in shown.values() for value in values)]
    computed = {named(value): value for value in looked_at if is_activation(value)}
    for values in run_float(model, batches(), computed):
        for name, array in values.items():
            if (value := computed[name]) in seen:
                seen[value].add(array)
            for end in (reader for reader, sources in shown.items() if value in sources):
                _add_rows(rows, end, array)
    for value in inner:
        if (stored := constant(value)) is not None:
            seen[value].add(stored)
    return shut | _Backwards(model.graph, seen, rows, gated).run()


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes of a row; None for all."""
    if node.op_type not in ("Exp", "ReduceLogSumExp"):
        return (node.attributes.get_int("axis", -1),)
    summing = _sum_of(node) if node.op_type == "Exp" else node
    stored = constant(input_of(summing, 1)) if summing is not None else None
    # An attribute up to opset 17, an input from 18 on.
    axes = summing.attributes.get_ints("axes", None) if summing is not None and stored is None else None
    axes = stored.astype(int).tolist() if stored is not None else axes
    return tuple(axes) if axes else None


def _sum_of(node: ir.Node) -> ir.Node | None:
    """The node that adds up the rows of an Exp, where only a steep function of these sums reads it."""
    steep = _steep_readers(node)
    return steep[0] if len(steep) == 1 and steep[0].op_type in _SUMS else None


def _steep_readers(node: ir.Node) -> list[ir.Node]:
    return [use.node for use in node.outputs[0].uses() if leads_to_steep(use.node, use.idx)]


def _shown(end: ir.Node) -> list[ir.Value]:
    """The values that say what rows an operator finds."""
    source = end.inputs[0] if end.op_type in _SUMS_OF_POWERS else None
    if source is not None:
        return [source]
    return _selected(end.outputs[0]) if end.op_type in _PICKS else []


def _hands_on(node: ir.Node, index: int) -> bool:
    """Whether the numbers of an operand appear among the results of an operator that moves or picks by place."""
    if node.op_type == "Cast":
        return node.outputs[0].dtype == ir.DataType.FLOAT
    return index > 0 if node.op_type == "Where" else index == 0 or node.op_type in ("Concat", "Pad")


def _selected(value: ir.Value) -> list[ir.Value]:
    """The values that stand for a result: itself, or the slices of it where nothing else is read."""
    readers = [use.node for use in value.uses()]
    if value.is_graph_output() or not all(node.op_type in _SELECTS and node.inputs[0] is value for node in readers):
        return [value]
    results = [result for node in readers for result in node.outputs if is_taken(result)]
    return [selected for result in results for selected in _selected(result)]


def _region(graph: ir.Graph, gated: Mapping[ir.Node, tuple[ir.Value, float]]) -> tuple[list[ir.Value], list[ir.Node]]:
    """The softmaxes, maxima and the like whose data may hold masks, and the values that lead to them.

    Values are followed back through operators that carry a bound to their operands.
    """
    region: dict[ir.Value, None] = {}
    ends = []
    for node in graph:
        if node not in gated and (node.op_type not in _ENDS or not any(map(is_activation, node.inputs))):
            continue
        # Max, Min and comparisons mask either operand; a softmax or a pool only its first.
        several = node.op_type in having(Trait.BROADCASTS)
        todo: list[ir.Value | None] = list(node.inputs if several else node.inputs[:1])
        todo = [gated[node][0]] if node in gated else todo
        inner, masks = dict[ir.Value, None](), False
        while todo:
            value = todo.pop()
            if value is None or value in inner or value.dtype != ir.DataType.FLOAT:
                continue
            inner[value] = None
            producer = value.producer()
            # An input is rounded before it is clamped: spikes of a sensor would make its steps coarse. What layers and
            # sums make is not, since the clamp is computed with it.
            masks |= value.is_graph_input() and node.op_type == "Clip"
            if value.is_graph_input() or producer is None or producer.op_type not in _BETWEEN | _MONOTONE:
                continue
            masks |= producer.op_type in (_FILLING if node.op_type in _CLAMPS else _MASKING)
            todo += producer.inputs
        if masks:
            ends.append(node)
            region |= inner | (dict.fromkeys(node.outputs[:1]) if node.op_type == "TopK" else {})
    return list(region), ends


def _add_rows(rows: dict[ir.Node, Bounds], end: ir.Node, array: Array) -> None:
    """Notes the least and the most of what an operator finds: of all rows or windows.

    One that is masked whole counts for nothing.
    """
    array = array.max(axis=_axes(end), keepdims=True) if end.op_type in _SUMS_OF_POWERS else array
    numbers = array[np.isfinite(array)]
    if end.op_type != "TopK":  # of few numbers it may have to give a masked one
        numbers = numbers[numbers < -_MASKED] if end.op_type in _SMALLEST else numbers[numbers > _MASKED]
    if numbers.size:
        least, most = rows.get(end, (math.inf, -math.inf))
        rows[end] = min(least, float(numbers.min())), max(most, float(numbers.max()))


class _Backwards:
    """Bounds from the readers to what they read."""

    def __init__(
        self,
        graph: ir.Graph,
        seen: Mapping[ir.Value, _Seen],
        rows: Mapping[ir.Node, Bounds],
        gated: Mapping[ir.Node, tuple[ir.Value, float]],
    ) -> None:
        self.graph, self.seen, self.rows, self.gated = graph, seen, rows, gated
        self.found: dict[ir.Value, Bounds] = {}

    def run(self) -> dict[str, Bounds]:
        for value in self._ordered():
            # What any reader can tell apart has to stay: the union of what all of them need.
            needs = [self._need(use.node, use.idx, value) for use in value.uses()]
            if not needs or value.is_graph_output():
                continue
            low, high = min(low for low, _ in needs), max(high for _, high in needs)
            node = value.producer()
            if node is not None and node.op_type == "TopK":  # of what is ranked, some may be cut away
                least, most = self.rows.get(node, ALL)
                low, high = max(low, least), min(high, most)
            self.found[value] = low, high
        return {named(value): bounds for value, bounds in self.found.items() if self._is_evident(value, bounds)}

    def _ordered(self) -> list[ir.Value]:
        """All values that were seen, readers first."""
        produced = [value for node in self.graph for value in node.outputs if value in self.seen]
        rest = [value for value in self.seen if value not in set(produced)]
        return [*reversed(produced), *rest]

    def _is_evident(self, value: ir.Value, bounds: Bounds) -> bool:
        seen, (low, high) = self.seen[value], bounds
        if bounds == ALL:
            return False
        # Ranges hold zero always (see `Calibration.range_of`), so a range is as wide as what it has on both sides of
        # it.
        reach = max(min(seen.high, high), 0.0) - min(max(seen.low, low), 0.0)
        return seen.infinite or seen.high - seen.low > _EVIDENT * reach

    def _need(self, node: ir.Node, index: int, value: ir.Value) -> Bounds:
        """The bounds beyond which an operator cannot tell a value's numbers apart."""
        results = [self.found.get(output, ALL) for output in node.outputs if is_taken(output)]
        if not results:
            return ALL
        low, high = min(end for end, _ in results), max(end for _, end in results)
        if node.op_type == "TopK" and index == 0:
            return self._of_largest(node, value)
        if node in self.gated and value is self.gated[node][0]:
            return self.gated[node][1], math.inf
        if node.op_type in _ENDS:
            least, most = self._of_end(node, index, value)
            if node.op_type == "LogSoftmax":  # the mask shows, but as far as its own readers can tell
                return min(least, self.rows.get(node, (math.inf, 0.0))[0] + low), math.inf
            return (max(least, low), min(most, high)) if node.op_type in _MONOTONE else (least, most)
        if node.op_type not in _BETWEEN:
            return ALL
        if node.op_type in _MOVES | {"Cast", "Pad", "Where"}:
            return (low, high) if _hands_on(node, index) else ALL
        if node.op_type == "Neg":
            return -high, -low
        if node.op_type == "LeakyRelu":
            slope = node.attributes.get_float("alpha", 0.01)
            return (min(low, low / slope), max(high, 0.0)) if slope > 0 else ALL
        if node.op_type in ("Mul", "Div"):
            return self._of_factor(node, index, low, high)
        return self._of_sum(node, index, low, high)

    def _of_end(self, node: ir.Node, index: int, value: ir.Value) -> Bounds:
        if node.op_type == "Clip":
            return (clip_bounds(node) or ALL) if index == 0 else ALL
        if node.op_type in LIMITS or node.op_type == "HardSigmoid":
            return limits(node)
        if node.op_type in _COMPARING:
            return self._of_comparison(node, index, value)
        if node.op_type in _RANKING:
            return self._of_ranks(value) if index == 0 else ALL
        # An Exp that a sum or a division follows is a softmax that is spelled out; any other has one scale for all
        # results.
        steep = _steep_readers(node) if node.op_type == "Exp" else []
        if node.op_type == "Exp" and not steep:  # its results have one scale
            return self.seen[value].high + 2 * math.log(COUNTS), math.inf
        if node not in self.rows or (steep and _sum_of(node) is None):
            return ALL
        least, most = self.rows[node]
        if node.op_type in _LARGEST | _SMALLEST:
            return (-math.inf, most) if node.op_type in _SMALLEST else (least, math.inf)
        shape = tuple(value.shape) if value.shape is not None else ()
        sizes = shape if (axes := _axes(node)) is None else [shape[axis] for axis in axes]
        whole = [size for size in sizes if isinstance(size, int) and size]
        is_static = bool(shape) and len(whole) == len(sizes)
        return (least + math.log(COUNTS / math.prod(whole)), math.inf) if is_static else ALL

    def _of_largest(self, node: ir.Node, value: ir.Value) -> Bounds:
        """For TopK and the like: the bounds of the largest values, wider where their indices are read too."""
        result = node.outputs[0]
        low, high = self.found.get(result, self.rows.get(node, ALL)) if is_taken(result) else (math.inf, -math.inf)
        if not any(map(is_taken, node.outputs[1:])):
            return low, high
        least, most = self._of_ranks(value)
        return min(low, least), max(high, most)

    def _of_ranks(self, value: ir.Value) -> Bounds:
        """For indices of ranked numbers: all but the masked ones, and a margin that keeps these apart from the rest."""
        seen = self.seen[value]
        low, high = seen.plain
        apart = _APART * (high - low)
        return low - apart if seen.low < low else -math.inf, high + apart if seen.high > high else math.inf

    def _of_comparison(self, node: ir.Node, index: int, value: ir.Value) -> Bounds:
        """For one side of a comparison: as far as either side reaches without masks, unless a mask is compared with."""
        other = node.inputs[1 - index]
        beside = self.seen.get(other) if other is not None else None
        if beside is None or beside.infinite or beside.plain != (beside.low, beside.high):
            return ALL
        own = self.seen[value].plain
        return min(own[0], beside.low), max(own[1], beside.high)

    def _of_sum(self, node: ir.Node, index: int, low: float, high: float) -> Bounds:
        """For an addend, or a side of a difference: the result's bounds, moved by the other operands' extremes."""
        operands = [operand for at, operand in enumerate(node.inputs) if at != index and operand is not None]
        others = [self.seen.get(operand) for operand in operands]
        if any(other is None for other in others):
            return ALL
        least, most = sum(other.low for other in others if other), sum(other.high for other in others if other)
        if node.op_type != "Sub":
            return low - most, high - least
        return (low + least, high + most) if index == 0 else (least - high, most - low)

    def _of_factor(self, node: ir.Node, index: int, low: float, high: float) -> Bounds:
        """For what a constant scales; or for the constant itself where its partner opens and shuts it, as a mask does.

        (1 - m)·-1e9 of a mask of zeros and ones needs no such constant; what opens it needs all its precision.
        """
        operands = [self.seen.get(value) if value is not None else None for value in node.inputs]
        other, factor = operands[1 - index], constant(node.inputs[1 - index])
        if factor is None:
            gate = other.gate if other is not None and node.op_type == "Mul" else None
        else:
            own = operands[index]
            opens = own is not None and own.gate is not None and self._is_wide(float(np.abs(factor).max()), low, high)
            scales = factor.size == 1 and not opens and (index == 0 or node.op_type == "Mul")
            gate = float(factor.reshape(())) if scales else None
            gate = 1 / gate if gate and node.op_type == "Div" else gate
        if not gate or not math.isfinite(gate):
            return ALL
        ends = sorted((low / gate, high / gate))
        return ends[0], ends[1]

    def _is_wide(self, factor: float, low: float, high: float) -> bool:
        """Whether a factor alone takes what it opens beyond the bounds."""
        return factor > min(abs(low), abs(high))
