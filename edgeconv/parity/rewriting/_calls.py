"""Link 1, call by call: each call of torch's in float64, and what was captured of it, on the same operands.

A graph is captured of a traced program, a list of calls of ATen operators. torch computes any of them by itself. Both
sides are held at every value that a call became in the graph: a part of the graph between such values answers for one
call, on operands that are the same to the last bit, so that nothing adds up and no comparison, rank or clamp behind it
hides a fault. These are the sample's values for all calls, and then operands that look for trouble, for the smallest
of those that do the same: one operator, the same arguments, captured as the same nodes.

The bound is float64's rounding, `GAMMA` of the largest magnitude; or what such a relative change of every operand
and number on the way makes of the part (eight draws, times four). Capture rounds numbers that a forward states to
float32, and may take functions that float32 cannot tell apart. So torch's result with its numbers rounded to float32
is right, too, and a change of half a unit of float32 in each number on the way within the part is allowed: of one
call, not of the network.

Left out is what has no one answer: the indices of a sort or top-k among equal numbers; and a resize, whose scale may
be a float32 number beside the nearest one, which moves every place by more than the bound knows.
On operands that no user gave, so is what torch does not make finite, and what either side cannot compute; what the
graph alone makes infinite of them, a user's float32 makes infinite far sooner.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.threads import one_thread
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.errors import EdgeconvError
from edgeconv.parity.causes import Evidence, cause_of
from edgeconv.parity.rewriting._call_operands import troubling_operands
from edgeconv.parity.rewriting._call_sides import Arrays, CallSides, On, Program
from edgeconv.parity.rewriting._place import Place, worst_of
from edgeconv.parity.rewriting._signs import Signs
from edgeconv.parity.writing import GAMMA, HALF_UNIT, Graph, errors, magnitude, reach_of_graph

_DRAWS = 8
_MOST_DRAWS = 128  # as long as they explain more
_SAFETY = 4.0
# Operators of which torch does not say in which order equal numbers come.
_UNORDERED = ("sort", "topk", "kthvalue", "median", "mode", "max_pool", "cummax", "cummin")
_SCALES = 2  # operand of Resize; capture takes the next float32 number where the nearest gives another size
_IN_ORDER = ("searchsorted", "bucketize")  # they take boundaries in rising order


def capturing(captured: ir.Model, program: Program, names: Mapping[str, str], inputs: Arrays) -> LinkResult | None:
    """Judges what was captured of each call of a program; None where all of it is right.

    Args:
        captured: the graph, before any rewrite.
        program: that it was captured of.
        names: by call or input of the program, the graph's value that stands for its result.
        inputs: a sample, by name, of the shapes that were captured.

    Raises:
        RewriteError: the graph cannot be evaluated on the sample.
    """
    work = _Calls(captured, program, names, inputs)
    for call, on in work.judged():
        place = work.places[call]
        if place.used > 1:
            reason = f"{place.reason}; cause: {work.cause(call, on)}"
            return LinkResult(
                Link.REWRITES,
                Verdict.FAIL,
                error=place.error,
                bound=place.bound,
                used=place.used,
                where=place.value,
                reason=reason,
            )
    return None


class _Calls:
    def __init__(self, captured: ir.Model, program: Program, names: Mapping[str, str], inputs: Arrays) -> None:
        self._model, self._program = captured, program
        self._sides = CallSides(captured, program, names, inputs)
        self.places: dict[str, Place] = {}

    def judged(self) -> Iterator[tuple[str, On]]:
        """Every call on the sample's values, and some on others: each has a place of its own then."""
        sides = self._sides
        yield from self._on([*sides.results], sides.sample)
        few = sides.smallest()
        numbers: dict[str, set[float]] = defaultdict(set)
        for call in few:
            for name in sides.operands(call):
                numbers[name].update(self._program.calls[call].numbers)
        reaches = [reach_of_graph(self._model.graph)]
        of_sample = sides.sample.inputs, sides.sample.values
        for inputs, values in troubling_operands(*of_sample, reaches, numbers, sides.never_negative):
            yield from self._on(few, On(inputs, values))

    def _on(self, calls: Sequence[str], on: On) -> Iterator[tuple[str, On]]:
        right = self._sides.of_torch(calls, on)
        actual = self._sides.of_graph([call for call in calls if call in right], on)
        beyond = []
        for call in actual:
            if not self._is_open(call, right[call], on):
                self.places[call] = self._place(call, actual[call], right[call], np.zeros(()), on)
                if self.places[call].used > 1:
                    beyond.append(call)
                else:
                    yield call, on
        if not beyond:
            return
        other = self._sides.of_torch(beyond, on, rounded=True)
        nearer = {call: _nearer(actual[call], right[call], other.get(call, right[call])) for call in beyond}
        bounds = self._moved(beyond, on, GAMMA, actual, nearer)
        left = [call for call in beyond if self._place(call, actual[call], nearer[call], bounds[call], on).used > 1]
        bounds |= {
            call: bounds[call] + moved for call, moved in self._moved(left, on, HALF_UNIT, actual, nearer).items()
        }
        for call in beyond:
            self.places[call] = self._place(call, actual[call], nearer[call], bounds[call], on)
            yield call, on

    def _is_open(self, call: str, right: Array, on: On) -> bool:
        """Whether torch leaves the result open: the order of equal numbers, places in what is not in order."""
        operator = self._program.calls[call].operator
        if any(node.op_type == "Resize" and len(node.inputs) > _SCALES for node in self._sides.nodes(call)):
            return True
        operands = [on.array(name) for name in self._sides.operands(call)]
        if any(kind in operator for kind in _IN_ORDER) and len(operands) > 1:
            return not on.is_sample
        if right.dtype.kind not in "iu" or not any(kind in operator for kind in _UNORDERED):
            return False
        return any(np.unique(array).size < array.size for array in operands)

    def _place(self, call: str, actual: Array, right: Array, more: Array, on: On) -> Place:
        name = self._sides.names[call]
        what = f"what torch computes of the same operands by {self._program.calls[call]}"
        if actual.shape != right.shape:
            return Place(name, float("inf"), 0.0, what)
        distance = errors(actual, right)
        if not on.is_sample and right.dtype.kind == "f":
            distance = np.where(np.isfinite(right), distance, 0.0)
        return worst_of((name, what), distance, GAMMA * magnitude(right) + more)

    def _moved(self, calls: Sequence[str], on: On, change: float, actual: Arrays, right: Arrays) -> dict[str, Array]:
        """How far changes of numbers on the way move each call's part of the graph, element by element."""
        total = {call: np.zeros(actual[call].shape) for call in calls}
        distances = {
            call: errors(actual[call], right[call]) for call in calls if actual[call].shape == right[call].shape
        }
        left, before = dict.fromkeys(calls, -1), dict.fromkeys(calls, -2)
        for seed in range(_MOST_DRAWS):
            if seed % _DRAWS == 0 and seed:
                before, left = (
                    left,
                    {call: int(np.count_nonzero(distances[call] > _SAFETY * total[call])) for call in distances},
                )
                if change == GAMMA:
                    break
            asked = [call for call in distances if left.get(call, -1) not in (0, before.get(call, -2))]
            if not asked:
                break
            for call, moved in self._sides.of_graph(asked, on, Signs(change, seed)).items():
                if moved.shape == total[call].shape:
                    # What is not finite has no response: any would excuse a NaN in place of a number.
                    response = np.where(np.isfinite(actual[call]), errors(moved, actual[call]), 0.0)
                    total[call] = np.maximum(total[call], response)
        return {call: _SAFETY * array for call, array in total.items()}

    def cause(self, call: str, on: On) -> str:
        """What a call was captured as, and in words what torch computes instead, where a hypothesis says so."""
        nodes = self._sides.nodes(call)
        if not nodes:
            return "capture leaves it out"
        told = f"capture translates it to {', '.join(dict.fromkeys(node.op_type for node in nodes[::-1]))}"
        right = self._sides.of_torch([call], on)[call]
        try:
            piece = Graph(self._model, unrounded=True).piece(self._sides.names[call], on.inputs, on.values, {})
        except EdgeconvError:  # it has subgraphs
            return told
        if piece.expected.shape != right.shape:
            return f"{told} of another shape"
        bound = self.places[call].bound
        with one_thread():
            why = cause_of(piece, Evidence(right, bound, bound / (magnitude(right) or 1.0)))
        return f"{told}, and torch computes what that does where {why}" if why else told


def _nearer(actual: Array, right: Array, other: Array) -> Array:
    """Of two right results, element by element the one that is nearer."""
    if not actual.shape == right.shape == other.shape:
        return right
    return np.where(errors(actual, other) < errors(actual, right), other, right)
