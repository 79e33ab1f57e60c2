"""Link 1: the module, the graph that was captured of it, and the graph that the rewrites made of that."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import decibels
from edgeconv.core.threads import one_thread
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.errors import EdgeconvError, RewriteError
from edgeconv.graph.edit import constant
from edgeconv.graph.traits import Trait, having_any
from edgeconv.parity.causes import Evidence, cause_of
from edgeconv.parity.rewriting._jumps import jumping_values
from edgeconv.parity.rewriting._operands import Operands, other_operands
from edgeconv.parity.rewriting._place import Place, worst_of
from edgeconv.parity.rewriting._signs import Signs, is_short
from edgeconv.parity.writing import (
    GAMMA,
    HALF_UNIT,
    Beside,
    Graph,
    errors,
    half_steps,
    magnitude,
)

_DRAWS = 8  # of signs: two evaluations that fall on different sides of a jump are told apart by one draw in two
_MOST_DRAWS = 128  # as long as more of them explain more: where many elements lie on a jump, some are missed by a few
_SAFETY = 4.0  # times the largest of these, element by element
# An error of more half units than this is explained, too, by a hypothesis that leaves a few of them.
_MOST_EXPLAINED = 2.0**12
# Each element of the result is computed from few numbers, which are rounded a few times; and it does not jump.
_ELEMENTWISE = having_any((Trait.FUNCTION, Trait.BROADCASTS)) - having_any((Trait.PIECEWISE_CONSTANT, Trait.COMPARES))
_FEW = 2.0**-7  # of GAMMA: 64 roundings
_OF_CAPTURE = "what the graph computes that was captured of the module"
_OF_REWRITES = "what the graph computed of the same before it was rewritten"
_AT_CAPTURE = "{} of the captured graph is {:.3g} from the module's, as capture rounds numbers of its own to float32"
_Allowance = Callable[[], Array]
_At = tuple[Mapping[str, Array], Array]
_Computed = tuple[Mapping[str, Array], Mapping[str, Array]]


@dataclass(frozen=True)
class _Broken:
    """A value that the rewritten graph computes wrongly: its operands, and the wrong result."""

    after: Graph
    operands: Operands
    place: Place
    actual: Array

    @property
    def has_right_shape(self) -> bool:
        """Whether only its numbers are wrong."""
        return bool(np.isfinite(self.place.error))


def rewriting(
    captured: ir.Model | None,
    rewritten: ir.Model,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    larger: Callable[[], Sequence[_Computed]] = tuple,
) -> LinkResult:
    """Judges link 1 on one sample.

    Args:
        captured: before any rewrite; None where it cannot be compared, and then outputs alone are.
        rewritten: after all of them, with what its constants were rounded from (`optimize`'s ``keep_exact``).
        inputs: by name, in torch's layout.
        outputs: what the module computes of them in float64, by name.
        larger: gives other inputs, which pass the clamps and kinks that the sample does not reach, and what the module
            computes of them. It is asked only where these can be judged, and where nothing else differs.

    Raises:
        RewriteError: a graph cannot be evaluated.
    """
    work = _Rewriting(Graph(rewritten if captured is None else captured, unrounded=True), inputs)
    places = [*work.of_module(outputs)]
    if captured is not None:
        places += work.of_rewrites(Graph(rewritten, unrounded=True))
    # What larger inputs use of their bound says nothing of the user's, and is told where it is too much alone.
    broken = next((place for place in chain(places, work.of_module_beyond(larger)) if place.used > 1), None)
    why = work.cause() if broken else ""
    shown = broken or max(places, key=lambda place: place.used, default=None)
    return LinkResult(
        Link.REWRITES,
        Verdict.FAIL if broken else Verdict.PASS,
        error=None if shown is None else shown.error,
        bound=None if shown is None else shown.bound,
        used=None if shown is None else shown.used,
        sqnr_db=decibels(*work.energies) if places else None,
        where="" if shown is None else shown.value,
        reason=f"{broken.reason}{f'; cause: {why}' if why else ''}" if broken else work.note,
    )


class _Rewriting:
    def __init__(self, before: Graph, inputs: Mapping[str, Array]) -> None:
        self.before, self.inputs = before, inputs
        self.energies = (0.0, 0.0)
        self.note = ""
        self._broken: _Broken | None = None
        self.values = before.values(inputs, {}, before.chosen(before.named))

    def of_module(self, outputs: Mapping[str, Array]) -> Iterator[Place]:
        """The module's outputs beside those of the captured graph."""
        for name, actual in outputs.items():
            expected, array = self.values[name], np.asarray(actual)
            allowances = (partial(self._carried_to, name), partial(self._rounded_at_capture, name, array))
            yield self._place((name, _OF_CAPTURE), array, expected, GAMMA * magnitude(expected), allowances)

    def of_module_beyond(self, larger: Callable[[], Sequence[_Computed]]) -> Iterator[Place]:
        """The module's outputs of larger inputs beside the captured graph's: a clamp that it lacks shows here alone.

        Whether numbers that large are finite is no question of the user's. A graph of integers saturates on them. What
        jumps does so anywhere on them: scores that are all 1 behind a sigmoid are ties, and any may be the largest.
        """
        jumping = jumping_values(self.before.model.graph)
        smooth = [name for name in self.before.outputs if name not in jumping]
        if self.before.quantizers or not smooth:
            return
        for inputs, outputs in larger():
            values = self.before.values(inputs, {}, smooth)
            for name in smooth:
                expected, array = values[name], np.asarray(outputs[name])
                at = inputs, expected
                allowances = (partial(self._carried_to, name, at), partial(self._rounded_at_capture, name, array, at))
                sentence = name, f"{_OF_CAPTURE}, on inputs beyond the sample's"
                yield self._place(sentence, array, expected, GAMMA * magnitude(expected), allowances, all_finite=False)

    def of_rewrites(self, after: Graph) -> Iterator[Place]:
        """The values of the rewritten graph beside those of the captured one, up to the first that differs."""
        held = {name: array for name, array in self.values.items() if name in after.named}
        beside = Beside(self.before.model, after.model, held)
        for operands in self._operands(after, beside, held):
            if not operands.names:
                continue
            expected = self._expected(operands)
            actual = after.held(operands.inputs, operands.held, {}, operands.names)
            for name in operands.names:
                few = _FEW if beside.operators(name) <= _ELEMENTWISE else 1.0
                size = np.abs(expected[name]) if few < 1 else magnitude(expected[name])
                allowances = (
                    partial(_carried_by_part, (self.before, after), operands, name, few),
                    partial(_of_lost_numbers, self.before, after, operands, name),
                )
                sides = actual[name], expected[name]
                place = self._place(
                    (name, _OF_REWRITES), *sides, few * GAMMA * size, allowances, all_finite=operands.all_finite
                )
                yield place
                if place.used > 1:
                    self._broken = _Broken(after, operands, place, actual[name])
                    return

    def cause(self) -> str:
        """What the rewrites did to the broken value, in words; empty where no hypothesis explains it."""
        if self._broken is None or not self._broken.has_right_shape:
            return ""
        broken = self._broken
        name, operands = broken.place.value, broken.operands
        try:
            piece = self.before.piece(name, operands.inputs, operands.held, {})
        except EdgeconvError:  # it has subgraphs
            return ""
        stored = {
            of: broken.after.constants[of]
            for of in broken.after.constants_before(name, operands.held) & broken.after.constants.keys()
        }
        others = {of: array for of, array in self.values.items() if of != name}
        size = magnitude(piece.expected)
        bounds = [broken.place.bound]
        # Weights that were rounded besides would hide the cause from the narrow bound.
        if broken.place.error > _MOST_EXPLAINED * HALF_UNIT * size:
            bounds.append(4 * HALF_UNIT * size)
        with one_thread():
            causes = (
                cause_of(
                    piece,
                    Evidence(broken.actual, bound, bound / (size or 1.0)),
                    stored=stored,
                    others=others,
                    elsewhere=self.before.constants,
                )
                for bound in bounds
            )
            return next(filter(None, causes), "")

    def _operands(self, after: Graph, beside: Beside, held: Mapping[str, Array]) -> Iterator[Operands]:
        """The sample's; of a float graph then others, for what these do not reach."""
        changed = beside.changed()
        yield Operands(self.inputs, held, changed)
        if not self.before.quantizers:
            yield from other_operands(self.before, after, self.inputs, held, changed)

    def _expected(self, operands: Operands) -> Mapping[str, Array]:
        """What the captured graph computes of operands; of a graph of integers before it is rounded."""
        if operands.all_finite and not self.before.quantizers:
            return self.values
        again = _repeated(self.before, operands.held)
        held = {**operands.held, **again} if again else operands.held
        return self.before.held(operands.inputs, held, {}, operands.names)

    def _place(
        self,
        sentence: tuple[str, str],
        actual: Array,
        expected: Array,
        least: float | Array,
        allowances: Sequence[_Allowance],
        *,
        all_finite: bool = True,
    ) -> Place:
        """Judges a value by a bound, and by as many further allowances as it needs: each costs several evaluations.

        Args:
            sentence: the value's name, and what it is compared with, in words.
            actual: the judged array.
            expected: the right one.
            least: the bound that is known without an evaluation.
            allowances: what is added to it, one after another, while the value is beyond.
            all_finite: see `Operands`.
        """
        if actual.shape != expected.shape:
            return Place(sentence[0], float("inf"), 0.0, f"the shape {list(expected.shape)} that it should have")
        distance = errors(actual, expected)
        if all_finite:
            finite = np.isfinite(distance) & np.isfinite(expected)
            of_finite = slice(None) if finite.all() else finite.reshape(-1)
            signal, noise = (
                float(np.square(array.reshape(-1)[of_finite], dtype=np.float64).sum()) for array in (expected, distance)
            )
            self.energies = (self.energies[0] + signal, self.energies[1] + noise)
        else:
            distance = np.where(np.isfinite(actual) & np.isfinite(expected), distance, 0.0)
        bound = np.asarray(least)
        place = worst_of(sentence, distance, bound)
        for allowance in allowances:
            if place.used > 1:
                bound = bound + allowance()
                place = worst_of(sentence, distance, bound)
        return place

    def _carried_to(self, name: str, at: _At | None = None) -> Array:
        """What the captured graph makes of a relative change of `GAMMA` in every number on the way.

        Args:
            name: of the output.
            at: inputs, and the output there; the sample's by default. `_rounded_at_capture` has the same.
        """
        inputs, unmoved = at or (self.inputs, self.values[name])

        def compute(signs: Signs) -> Array:
            return self.before.values(signs.on_arrays(inputs), {}, [name], signs.on_tensor)[name]

        return _largest(compute, unmoved, GAMMA)

    def _rounded_at_capture(self, name: str, actual: Array, at: _At | None = None) -> Array:
        """What float32 would make of the captured graph, whose constants and functions are of that precision."""
        inputs, unmoved = at or (self.inputs, self.values[name])

        def compute(signs: Signs) -> Array:
            return self.before.values(inputs, signs.on_rounded(self.before.constants), [name], signs.on_tensor)[name]

        distance = errors(actual, unmoved)
        if at is None:
            self.note = _AT_CAPTURE.format(name, magnitude(distance))
        return _largest(compute, unmoved, HALF_UNIT, distance)


def _repeated(graph: Graph, held: Mapping[str, Array]) -> dict[str, Array]:
    """What a graph quantizes as a held value is, a second time: a rewrite may have made one of the two.

    Only held values are rounded, so that the second one would be read as it is before that.
    """
    known: dict[Hashable, Array] = {}
    again: dict[str, Array] = {}
    for wanted in (True, False):
        for name, node in graph.quantizers.items():
            numbers = [constant(value) for value in node.inputs[1:]]
            key = (
                node.inputs[0],
                *(None if array is None else (array.dtype.str, array.tobytes()) for array in numbers),
            )
            if wanted and name in held:
                known.setdefault(key, held[name])
            elif not wanted and name not in held and key in known:
                again[name] = known[key]
    return again


def _carried_by_part(graphs: Sequence[Graph], operands: Operands, name: str, few: float) -> Array:
    """What both graphs make of relative changes in the operands of a value and all numbers on the way: a part of it."""
    total = np.zeros(())
    sides = (operands.inputs, operands.held)
    for graph in graphs:
        read = sorted(graph.operands(name, operands.held))
        own = [{of: array[of] for of in read if of in array} for array in sides]

        def compute(signs: Signs, graph: Graph = graph, own: Sequence[Mapping[str, Array]] = own) -> Array:
            inputs, held = ({**whole, **signs.on_arrays(part)} for whole, part in zip(sides, own, strict=True))
            return graph.held(inputs, held, {}, [name], signs.on_tensor)[name]

        (unmoved,) = graph.held(operands.inputs, operands.held, {}, [name]).values()
        total = total + _largest(compute, unmoved, GAMMA)
    return few * total


def _of_lost_numbers(before: Graph, after: Graph, operands: Operands, name: str) -> Array:
    """What half a unit of float32 makes of numbers that the rewrites took for others: 0.16666667 is a sixth.

    Each is one number, which the captured graph has before a value and the rewritten one has not.
    """
    read, left = (graph.constants_before(name, operands.held) for graph in (before, after))
    total = np.zeros(())
    (unmoved,) = before.held(operands.inputs, operands.held, {}, [name]).values()
    for lost in sorted((read - left) & before.constants.keys()):
        number = before.constants[lost].astype(np.float64)
        if number.size == 1 and not is_short(number).all():
            half = half_steps(number.astype(np.float32))
            ends = [
                before.held(operands.inputs, operands.held, {lost: number + sign * half}, [name])[name]
                for sign in (-1, 1)
            ]
            total = total + np.maximum(*(errors(end, unmoved) for end in ends)) * (1 + HALF_UNIT)
    return total


def _largest(compute: Callable[[Signs], Array], unmoved: Array, change: float, distance: Array | None = None) -> Array:
    """How far a value may move, element by element: the most over several draws of signs, times a safety factor.

    Args:
        compute: the value with the changes of a draw.
        unmoved: the value.
        change: relative.
        distance: what is to be explained, of the same shape: draws go on as long as they explain more of its elements.
    """
    total, left = np.zeros(unmoved.shape), unmoved.size + 1
    for seed in range(_DRAWS if distance is None else _MOST_DRAWS):
        # After each eight draws: whether they have explained anything that those before had not.
        if distance is not None and seed and seed % _DRAWS == 0:
            before, left = left, int(np.count_nonzero(distance > _SAFETY * total))
            if left in (0, before):
                break
        try:
            moved = compute(Signs(change, seed))
        except RewriteError:  # a size is decided by these numbers
            continue
        if moved.shape == unmoved.shape:
            total = np.maximum(total, errors(moved, unmoved))
    return _SAFETY * total
