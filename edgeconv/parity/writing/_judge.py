"""Holds a file against the graph that it was written from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from edgeconv.core import Array
from edgeconv.core.affine import decibels
from edgeconv.core.precision import to_float32, to_float64
from edgeconv.core.threads import one_thread
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.errors import EdgeconvError, EmitError, RewriteError
from edgeconv.parity.causes import Evidence, cause_in_operators, cause_of
from edgeconv.parity.writing._constants import Matching, all_among, as_integers, in_float32, match
from edgeconv.parity.writing._distances import compared, distance_of
from edgeconv.parity.writing._ends import (
    GAMMA,
    HALF_UNIT,
    NUDGE,
    SECOND_ORDER,
    UNDERFLOW,
    End,
    Operands,
    errors,
    largest_share,
    magnitude,
    nudged,
    shift,
)
from edgeconv.parity.writing._file import File
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._judged import Judged, judged_end
from edgeconv.parity.writing._on_demand import NotComputedError, OnDemand
from edgeconv.parity.writing._operands import Source
from edgeconv.parity.writing._parameters import parameter_faults
from edgeconv.parity.writing._ratios import exact_ratios
from edgeconv.parity.writing._solved import Solved, not_nearest, solve
from edgeconv.parity.writing._telling import told_change

_DOUBT = 0.25  # of half a unit: a solution must be nearer than that to decide which number the file should have
_WIDER = 2.0**16  # times the range of integers: beyond what any operand makes
_ROUNDED = 4.0  # times what rounding moves numbers of its own by, relative: what that may move a mended part by
_MENDED = 0.01  # of an error, that a change may leave which mends it


def matched(graph: Graph, file: File) -> Matching:
    """What became of the graph's constants in the file."""
    return match(graph.real_constants, file.constants, file.half_steps, file.ends, graph.rounded_again)


def writing(
    graph: Graph, file: File, inputs: Mapping[str, Array], sample: str = "", matching: Matching | None = None
) -> LinkResult:
    """Judges link 3 on one sample, and on operands that are larger than the sample's.

    Args:
        graph: that the file was written from.
        file: the file, read back.
        inputs: of the graph, by name, in torch's layout.
        sample: how they are called.
        matching: of the same graph and file, as `matched` gives it, where it is known already.

    Raises:
        RewriteError: the graph cannot be evaluated.
    """
    work = _Writing(graph, file, matching)
    faults = [*work.faults()]
    judged: list[Judged] = []
    cause = ""
    for operands in work.operands(inputs):
        try:
            judged += work.judged(operands)
        except NotComputedError:
            raise
        except (RewriteError, EmitError) as error:
            faults.append((str(error.where), f"the file cannot be evaluated: {error}"))
            break
        faults += dict(item.wrong_number for item in judged if item.wrong_number is not None).items()
        wrong = next((item for item in judged if item.used > 1), None)
        if wrong is not None:
            faults.append(
                (wrong.end.tensor, wrong.told(sample if operands.all_finite or not sample else f"{sample} (enlarged)"))
            )
            cause = work.cause(wrong)
        if faults:
            cause = cause or work.changed_constant() or work.stated_cause
            break
    # A file of integers at its border ends in the integers.
    missing = [name for name in graph.outputs if not {name, graph.dequantized.get(name)} & work.compared]
    faults += [(name, f"the output {name} is not found in the file") for name in missing if not faults]
    # Shown are the first part that is wrong, else the one that is nearest to it; or the first fault without numbers.
    shown = next((item for item in judged if item.used > 1), max(judged, key=lambda item: item.used, default=None))
    where = faults[0][0] if faults else ""
    lines = [text for _, text in faults if text != cause]
    if shown is not None and (shown.used > 1 or not faults):
        where = shown.end.value
    return LinkResult(
        Link.WRITING,
        Verdict.FAIL if faults else Verdict.PASS,
        error=None if shown is None else shown.error,
        bound=None if shown is None else shown.bound,
        used=None if shown is None else shown.used,
        sqnr_db=decibels(*work.energies) if judged else None,
        where=where,
        reason="; ".join([*lines[:3], *([f"cause: {cause}"] if cause else [])]),
    )


def both_sides(graph: Graph, file: File, inputs: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
    """By the file's tensor, in its layout: what the layers behind it read, in float32, and what the graph computes.

    The layers of both sides between two such tensors are the parts that `writing` judges; the graph computes of what is
    read. Real numbers, for quantized tensors too.

    Args:
        graph: that the file was written from.
        file: the file, read back.
        inputs: of the graph, by name, in torch's layout.

    Raises:
        RewriteError: the graph cannot be evaluated.
        EmitError: the file cannot be.
    """
    work = _Writing(graph, file)
    first = next(work.source.operands(inputs))
    values = {name: to_float64(to_float32(array)) for name, array in first.values.items()}
    expected = graph.held(inputs, values, work.matching.rounded, list(first.expected))
    ends = [end for end in file.compare(inputs, values, expected) if end.fits]
    read = {**expected, **values}
    return {end.tensor: (end.arranged(read[end.value]), end.expected) for end in ends}


class _Writing:
    def __init__(self, graph: Graph, file: File, matching: Matching | None = None) -> None:
        self.graph, self.file = graph.saturating(file.names | file.saturated), file
        self.matching = matched(graph, file) if matching is None else matching
        self.source = Source(self.graph, file, self.matching.rounded)
        self.energies = (0.0, 0.0)
        self.compared: set[str] = set()
        self.settled: set[str] = set()  # tensors whose numbers of the writer's own were solved
        self.told: set[str] = set()  # these numbers' constants

    def faults(self) -> Iterator[tuple[str, str]]:
        """Tensor and one line, of what needs no evaluation."""
        yield from self.matching.faults.items()
        yield from self.parameters
        for name in self.file.unused:
            yield name, f"constant {name} is read by no operator"

    @cached_property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """The same of scales, zero points and types, whose line says why as well."""
        return parameter_faults(self.graph, self.file, self.matching)

    def operands(self, inputs: Mapping[str, Array]) -> Iterator[Operands]:
        """What both sides compute from; of small numbers, where others do not tell a number of the writer's own."""
        yield from self.source.operands(inputs)
        if self.matching.own - self.matching.gates - self.told:
            yield self.source.small(inputs)

    def judged(self, operands: Operands) -> list[Judged]:
        """Every end with its numbers, in the file's order.

        Operands that were changed do not follow from each other. Where a part of the file reads others of them than the
        graph does (x, where the graph reads the 1 + x that is computed of it), it is judged on what does follow. So is
        one whose own integers, which hold what can follow, end before what it makes of them.
        """
        judged = self._judged(operands)
        apart = set()
        if not operands.all_finite:
            wrong = [item for item in judged if item.used > 1]
            apart = {
                item.end.tensor for item in wrong if self._reads_others(item.end, operands) or self._is_cut_off(item)
            }
        if not apart:
            return judged
        following = self._judged(replace(self.source.following(operands.inputs), all_finite=False))
        by_tensor = {item.end.tensor: item for item in following}
        return [by_tensor.get(item.end.tensor, item) if item.end.tensor in apart else item for item in judged]

    def _reads_others(self, end: End, operands: Operands) -> bool:
        held = self._held(operands)
        known = held.keys() | operands.inputs.keys()
        return bool(self.file.operands(end.tensor) ^ (self.graph.operands(end.value, held) & known))

    def _is_cut_off(self, item: Judged) -> bool:
        """Whether a part is right but for ends of integers that the graph does not have."""
        end = item.end
        ranges = dict.fromkeys(self.file.own_ranges(end.tensor), _WIDER)
        if not ranges or not end.fits:
            return False
        endless = replace(end, actual=self.file.again(end.tensor, {}, ranges))
        return judged_end(endless, end.expected, self._bound(end, item.operands), item.operands).used <= 1

    def _judged(self, operands: Operands) -> list[Judged]:
        judged = []
        signal, noise = self.energies
        for end in self.file.compare(operands.inputs, operands.values, operands.expected, operands.known):
            self.compared.add(end.value)
            if not end.fits:
                judged.append(Judged(end, operands, float("inf"), 0.0))
                continue
            is_known = end.value in operands.known
            of = compared(end.actual, end.expected, operands, is_known=is_known)
            least = max(GAMMA * of.magnitude, UNDERFLOW) if end.expected.dtype.kind == "f" else 0.0
            signal, noise = signal + of.signal, noise + of.noise
            judged.append(Judged(end, operands, of.distance, least).settled())
        self.energies = (signal, noise)
        for at, item in enumerate(judged):  # one by one: what holds needs its arrays no longer
            judged[at] = self._closer(item).settled() if item.used > 1 else item
        return judged

    def _closer(self, item: Judged) -> Judged:
        """With the bound that needs more evaluations."""
        end, operands = item.end, item.operands
        if end.expected.dtype.kind != "f" or not end.fits:
            return item
        if not np.isfinite(item.error):  # an exponent of 2 that is 2.0000001 as integers makes NaN of what is negative
            ends = (replace(end, expected=due) for due in self._readings(end, operands))
            finite = (other for other in ends if np.isfinite(distance_of(end.actual, other.expected, operands)).all())
            other = next(finite, None)
            if other is None:
                return item
            end = other
        bound = self._bound(end, operands)
        readings = (judged_end(end, due, bound, operands) for due in self._readings(end, operands))
        best = min(readings, key=lambda judged: judged.used)
        if best.used > 1 and (due := self._of_exact_attributes(end, operands)) is not None:
            best = min(best, judged_end(end, due, bound, operands), key=lambda judged: judged.used)
        return replace(best, wrong_number=self._wrong_number(best.end, operands)) if best.used <= 1 else best

    def _bound(self, end: End, operands: Operands) -> Array:
        """With the response to its operands, and to the constants that one side alone has: element by element.

        What moves elements of a result of another shape moves none of those that were expected.
        """
        least = GAMMA * (magnitude(end.expected) + self._response(end, operands))
        if not end.fits:
            return np.full(end.expected.shape, least)
        return least + self._of_constants(end, operands) + self._of_approximations(end, operands) + self._of_ranges(end)

    def _wrong_number(self, end: End, operands: Operands) -> tuple[str, str] | None:
        """A constant of the writer's own that is not the nearest to what the graph demands, and one line."""
        if end.tensor in self.settled:
            return None
        solved = self._solved(end, operands)
        wrong = not_nearest(solved, self.file.constants, self.file.is_stored)
        if wrong is not None and (due := self._of_exact_attributes(end, operands)) is not None:
            of_products = self._solved(replace(end, expected=due), operands)
            if of_products and not_nearest(of_products, self.file.constants, self.file.is_stored) is None:
                solved, wrong = of_products, None
        if wrong is not None:
            return wrong.name, wrong.told(self.file.constants[wrong.name].shape)
        if solved and all(number.doubt <= _DOUBT * self._least_rounding(number) for number in solved):
            self.settled.add(end.tensor)
            self.told.update(self._own(end, operands))
        return None

    def _solved(self, end: End, operands: Operands) -> list[Solved]:
        """The numbers of the writer's own with which the file computes what the graph does; none where none do."""
        own = [name for name in self._own(end, operands) if name not in self.matching.gates]
        if not own:
            return []
        constants = {name: self.file.constants[name].astype(np.float64) for name in own}
        noise = GAMMA * (magnitude(end.expected) + self._response(end, operands))
        # Elements that may saturate are no equations, nor is a polynomial in place of a function; the others are.
        exact_at = self._of_ranges(end) + self._of_approximations(end, operands) <= noise
        return solve(
            lambda numbers: self.file.again(end.tensor, numbers)[exact_at], constants, end.expected[exact_at], noise
        )

    def _least_rounding(self, number: Solved) -> float:
        return float(self.file.own_half_steps(number.name).reshape(-1)[number.places].min())

    def _of_approximations(self, end: End, operands: Operands) -> Array:
        """How far functions that the format has no operator for may be off, element by element.

        A file has a polynomial in their place, which is as near to the function as the nearest float32 number.
        """
        total, held = np.zeros(end.expected.shape), self._held(operands)
        compute = partial(self.graph.held, operands.inputs, changed=self.matching.rounded)
        for name in sorted(self.graph.results_between(end.value, held, self.file.approximated)):
            if name == end.value:
                total += HALF_UNIT * np.abs(end.expected)
                continue
            value = compute(held, names=[name])[name] * (1 + HALF_UNIT)
            (moved,) = compute(OnDemand.over(held, {name: value}), names=[end.value]).values()
            total += errors(end.arranged(moved), end.expected)
        return total

    def _of_ranges(self, end: End) -> Array:
        """How far integers of the writer's own may move the result where they saturate, element by element.

        Their scale was rounded to a float32 once, and the ends of their range with it.
        """
        total = np.zeros(end.expected.shape)
        for name in sorted(self.file.own_ranges(end.tensor)):
            moved = [self.file.again(end.tensor, {}, {name: 1 + sign * HALF_UNIT}) for sign in (-1, 1)]
            total += np.maximum(*(errors(array, end.actual) for array in moved)) * (1 + SECOND_ORDER)
        return total

    def _readings(self, end: End, operands: Operands) -> Iterator[Array]:
        """What the graph computes; then with constants rounded otherwise than other parts of the file read them.

        A constant of several readers may be in the file as it is, and as integers of several scales; scales of a Resize
        as the sizes whose quotient they are.
        """
        yield end.expected
        before = self.graph.constants_before(end.value, self._held(operands)) & self.graph.constants.keys()
        for name in sorted(self.matching.rounded.keys() & before):
            yield self._graph_again(end, operands, {name: self.graph.constants[name].astype(np.float64)})
        nearest = ((name, self._as_integers(end, name)) for name in sorted(before))
        if others := {name: array for name, array in nearest if array is not None}:
            yield self._graph_again(end, operands, others)
        integers = before & self.graph.constant_steps.keys() - self.matching.rounded.keys() - self.matching.without
        if singles := in_float32({name: self.graph.constants[name] for name in integers}):
            yield self._graph_again(end, operands, singles)
        if ratios := {name: array for name, array in exact_ratios(self.graph.model).items() if name in before}:
            yield self._graph_again(end, operands, ratios)

    def _of_exact_attributes(self, end: End, operands: Operands) -> Array | None:
        """What the graph computes with attributes that are not rounded to float32, where one is another number then.

        A writer that makes a constant of an eps and a variance rounds once, and the eps never.
        """
        graph = self.graph.with_exact_attributes(end.value, self._held(operands))
        return None if graph is None else self._graph_again(end, operands, {}, graph)

    def _as_integers(self, end: End, name: str) -> Array | None:
        """A constant of the graph as the nearest integers that this part of the file reads, if there are any."""
        due = self.graph.constants[name]
        read = sorted(self.file.constants_before(end.tensor))
        near = [as_integers(self.file.constants[of], due, self.file.half_steps(of), self.file.ends(of)) for of in read]
        arrays = [array for array in near if array is not None]
        return min(arrays, key=lambda array: float(np.abs(array - due).max(initial=0.0)), default=None)

    def _response(self, end: End, operands: Operands) -> float:
        """What a relative change of 1 in each operand would make of a value, by its slope: the largest."""
        generator = np.random.default_rng(0)
        held = self._held(operands)
        read = sorted(self.graph.operands(end.value, held))
        held = OnDemand.over(held, {name: nudged(held[name], generator) for name in read if name in held})
        inputs = {name: nudged(array, generator) for name, array in operands.inputs.items() if name in read}
        (result,) = self.graph.held(inputs, held, self.matching.rounded, [end.value]).values()
        return magnitude(errors(result, operands.expected[end.value])) / NUDGE

    def _of_constants(self, end: End, operands: Operands) -> Array:
        """How far constants that one side alone has may have moved the result by being rounded, element by element."""
        total = np.zeros(end.expected.shape)
        before = self.graph.constants_before(end.value, self._held(operands))
        for name in self._own(end, operands):
            compute = partial(self._again, end, name)
            array = self.file.constants[name].astype(np.float64)
            total += shift(compute, end.actual, array, self.file.own_half_steps(name))
        for name in sorted(self.matching.without & before & self.graph.constants.keys()):
            compute = partial(self._with_constant, end, operands, name)
            used = self.matching.rounded.get(name, self.graph.constants[name]).astype(np.float64)
            total += shift(compute, end.expected, used, self.graph.half_steps(name))
        return total

    def _own(self, end: End, operands: Operands) -> list[str]:
        """The file's constants that a value is computed from whose numbers are not those that the graph has for it."""
        before = self.graph.constants_before(end.value, self._held(operands)) & self.graph.constants.keys()
        read = self.file.constants_before(end.tensor)
        sources = [(self.graph.constants[name], self.matching.rounded.get(name)) for name in before]
        # Another layer's may serve for a number that only the writer knows: the eps of a normalization, in float16.
        elsewhere = {name for name, other in self.matching.partners.items() if other not in before}
        among = (self.matching.rearranged | elsewhere) & read
        loose = {name for name in among if not all_among(self.file.constants[name], sources)}
        return sorted(self.matching.own & read | loose)

    def cause(self, item: Judged) -> str:
        """Why a part of the file computes something else, in words, where a hypothesis explains it."""
        end, operands = item.end, item.operands
        bound = magnitude(self._bound(end, operands))
        bound = bound if bound < item.error else item.bound  # where a nearest cell may jump, it is wide there alone
        if not end.fits and end.axes != (*range(len(end.axes)),) and end.actual.ndim != len(end.axes):
            return self._mended(item, bound)  # whose axes they are cannot be told
        if end.fits:
            actual = end.moved_back(operands.expected[end.value])
        else:
            actual = end.actual.transpose(np.argsort(end.axes)) if end.actual.ndim == len(end.axes) else end.actual
        held = self._held(operands)
        try:
            piece = self.graph.piece(end.value, operands.inputs, held, self.matching.rounded)
        except EdgeconvError:  # it has subgraphs, or no node
            return self._mended(item, bound)
        relative = bound / (magnitude(end.expected) or 1.0)
        stored = {name: self.file.constants[name] for name in self.file.constants_before(end.tensor)}
        others = OnDemand.among(operands.expected, operands.expected.keys() - {end.value})
        with one_thread():
            steps, unread = self.graph.constant_steps, {*self.file.unused}
            evidence = Evidence(actual, bound, relative)
            more = {"steps": steps, "others": others, "elsewhere": self.graph.constants}
            mended = partial(self._mended, item, bound)
            return cause_of(
                piece, evidence, stored=stored, unread=unread, stated=self.file.stated, mended=mended, **more
            )

    def _mended(self, item: Judged, bound: float) -> str:
        """Why a part computes something else, by the change of the file's own operators that mends it.

        Its own constants are rounded; how far that moves a right file's result, a wrong one's bound does not tell.
        """
        end = item.end
        own = {name: self.file.constants[name] for name in self._own(end, item.operands)}
        rounded = [HALF_UNIT, *(largest_share(self.file.own_half_steps(name), array) for name, array in own.items())]
        bound = min(max(bound, _ROUNDED * max(rounded) * magnitude(end.expected)), _MENDED * item.error)
        try:
            part = self.file.part(end.tensor)
        except EdgeconvError:  # it has subgraphs
            return self.stated_cause
        readings = self._readings(end, item.operands) if end.fits else [end.expected]
        told = (cause_in_operators(part, Evidence(due, bound), end.actual) for due in readings)
        return next(filter(None, told), self.stated_cause)

    @property
    def stated_cause(self) -> str:
        """The first line on a parameter, if there is one: it needs no hypothesis."""
        return next((line for _, line in self.parameters), "")

    def changed_constant(self) -> str:
        """How a constant of the graph's was altered, in words."""
        names = self.matching.faults.keys() & self.graph.constants.keys()
        return told_change(names, self.graph.constants, self.file.constants, self.graph.constant_steps)

    def _again(self, end: End, name: str, array: Array) -> Array:
        result = self.file.again(end.tensor, {name: array})
        return result if result.shape == end.actual.shape else end.actual  # it decides on a size

    def _with_constant(self, end: End, operands: Operands, name: str, array: Array) -> Array:
        return self._graph_again(end, operands, {name: array})

    def _graph_again(
        self, end: End, operands: Operands, constants: Mapping[str, Array], graph: Graph | None = None
    ) -> Array:
        changed = {**self.matching.rounded, **constants}
        try:
            result = (graph or self.graph).held(operands.inputs, self._held(operands), changed, [end.value])[end.value]
        except RewriteError:  # it decides on a size
            return end.expected
        return end.arranged(result) if result.size == end.expected.size else end.expected

    def _held(self, operands: Operands) -> Mapping[str, Array]:
        """The values that both sides read in place of what they compute."""
        return OnDemand.among(operands.values, self.compared)
