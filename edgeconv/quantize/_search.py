"""As many of the worst layers in float as a target needs: with one fewer it does not hold.

The layers are ordered by the noise that goes with them, each rounding measured once; then the number of those that stay
float is doubled until the target holds, and bisected. Every step is measured on the whole quantized graph, with weights
that are rounded for it. How rounded weights make up for each other noises of single roundings do not say: another
choice may do with fewer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice

import onnx_ir as ir

from edgeconv.core.search_target import Measured, Target
from edgeconv.errors import TargetError
from edgeconv.quantize._apply import apply
from edgeconv.quantize._graph import name_of
from edgeconv.quantize._kept_float import keep_in_float
from edgeconv.quantize._meter import Meter
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._sensitivity import Batches, Sensitivity, float_costs, sensitivity

Tell = Callable[[str], None]
ORDERED_BY = 8  # batches that give the order of the layers
TARGET = "the target asks for it"
"""Why a plan has a layer in float."""


@dataclass(frozen=True)
class Step:
    """A number of layers in float.

    Attributes:
        kept: the layers, the worst first.
        plan: with them in float.
        rounded: the float graph whose numbers it quantizes, weights on the plan's grid.
        model: the quantized graph.
        measured: on the data that the target is about.
    """

    kept: tuple[str, ...]
    plan: Plan
    rounded: ir.Model
    model: ir.Model
    measured: Measured


@dataclass(frozen=True)
class Search:
    """The result of a search for a target.

    Attributes:
        steps: that were measured, from the fewest layers in float to all operators.
        best: the one that reaches the target, and with one layer fewer in float does not.
        layers: all that can be kept, the worst first.
    """

    steps: tuple[Step, ...]
    best: Step
    layers: tuple[Sensitivity, ...]


def search(
    model: ir.Model,
    plan: Plan,
    target: Target,
    *,
    tuned: Callable[[Plan], ir.Model],
    batches: Batches,
    judged: Batches,
    reference: ir.Model | None = None,
    confirmed: Callable[[Step], bool] | None = None,
    beside: Batches | None = None,
    changed: bool = False,
    by_cost: bool = False,
    progress: Tell | None = None,
) -> Search:
    """Finds how many of the worst layers have to stay float for the target to hold.

    Args:
        model: the float graph that the plan was made for.
        plan: with all its layers in integers.
        target: the SQNR or agreement to reach.
        tuned: gives the float model with the weights that a plan rounds to.
        batches: calibration data; the first few give the order of the layers.
        judged: data that neither ranges nor rounding nor the order were chosen by: the target is about these. They are
            read anew for each step and never held.
        reference: the float graph that the target compares with; `model` by default.
        confirmed: has the last word on a step that reaches the target: what kernels make of it. Where it refuses the
            first that the graph says is enough, it is asked about everything in float next.
        beside: data that the target has to hold on as well, where `judged` are few (below 30); a target's confidence is
            about all of them in any case. Some of them are read, evenly taken. None for none.
        changed: whether the float graph was changed on purpose before it was quantized (ReLU6 written as ReLU).
        by_cost: orders the layers by the noise that they take away for each millisecond that they take longer in float,
            and not by the noise alone.
        progress: is told how far it is, in one line.

    Raises:
        TargetError: the target does not hold with all operators in float either, in the graph or where it is confirmed.
        QuantizeError: there is no data, or no output has classes to agree on.
    """
    tell = progress or (lambda _: None)
    meter = Meter(reference or model, judged, target, beside)
    # 1. Everything in float: what that misses, no search reaches.
    whole = _everything_in_float(model, plan, meter.measure)
    if target.confidence is not None and not target.holds(whole.measured):
        target = dataclasses.replace(target, confidence=None)  # no layer in float would make it sure
    if not target.holds(whole.measured):
        raise _unreachable(target, whole.measured, changed=changed)
    # 2. The order of the layers.
    rounded = tuned(plan)
    # not of the rounded model, whose weights lie on the grid already: quantizing them again loses nothing
    costs = float_costs(model, plan) if by_cost else None
    layers = sensitivity(model, plan, first(batches, ORDERED_BY), costs=costs, progress=tell)
    ladder = _Ladder(model, plan, rounded, tuple(item.layer for item in layers), whole, meter.measure)
    sure = confirmed and _Confirmed(confirmed, lambda: _unreachable(target, None, changed=changed))

    @cache
    def reaches(count: int) -> bool:
        tell(f"rounding with {count} of {len(layers)} layers in float")
        step = ladder.step(count, tuned)
        if count == ladder.top:
            return True
        return target.holds(step.measured) and (sure is None or sure(step, ladder.step(ladder.top, tuned)))

    # 3. From few upwards, each with weights that were rounded for it: those that were rounded for all layers in
    # integers also make up for what the layers in float do not lose any more.
    best = _least(ladder.top, reaches)
    if best == ladder.top and sure is not None:
        sure.ask_of(ladder.step(best, tuned))
    return Search(ladder.steps(), ladder.step(best, tuned), layers)  # the steps that `_least` made, too


class _Confirmed:
    """Asks what kernels make of a step, and where they refuse the first, of everything in float."""

    def __init__(self, confirmed: Callable[[Step], bool], refusal: Callable[[], TargetError]) -> None:
        self._confirmed, self._refusal = confirmed, refusal
        self._reachable = False

    def __call__(self, step: Step, whole: Step) -> bool:
        if self._confirmed(step):
            return True
        self.ask_of(whole)
        return False

    def ask_of(self, whole: Step) -> None:
        """Raises TargetError where everything in float is refused."""
        if not self._reachable and not self._confirmed(whole):
            raise self._refusal()
        self._reachable = True


def _least(top: int, reaches: Callable[[int], bool]) -> int:
    """The count that reaches while the one below does not; sought from zero on, as each is dear. `top` reaches."""
    if reaches(0):
        return 0
    missed, stride = 0, 1
    while missed + stride < top:
        if reaches(missed + stride):
            return _between(missed, missed + stride, reaches)
        missed, stride = missed + stride, 2 * stride
    return _between(missed, top, reaches)


def _between(missed: int, reached: int, reaches: Callable[[int], bool]) -> int:
    """Bisects until one more than is missed is reached."""
    while reached - missed > 1:
        middle = (missed + reached) // 2
        missed, reached = (missed, middle) if reaches(middle) else (middle, reached)
    return reached


def _unreachable(target: Target, measured: Measured | None, *, changed: bool) -> TargetError:
    """What a graph with nothing quantized misses: of what was measured, or where that is None, on the devices."""
    asked = f"an SQNR of {target.sqnr_db:g} dB" if target.agreement is None else f"an agreement of {target.agreement:g}"
    if measured is None:
        reached = "the files miss it on the devices"
    elif target.agreement is not None and (measured.agreement or 0.0) < target.agreement:
        reached = f"it is {measured.agreement or 0.0:.4g}"
    elif target.sqnr_db is not None and measured.sqnr_db < target.sqnr_db:
        reached = f"it is {measured.sqnr_db:.1f} dB"
    elif target.lost_parts is not None and measured.lost_parts > target.lost_parts:
        reached = f"{measured.lost_parts} parts or channels of an output say nothing"
    else:
        reached = f"{measured.index_agreement or 0.0:.4g} of an output's indices agree"
    why = "its outputs turn on differences that float32 rounds away (choices among equal scores, say)"
    hint = "leave such outputs out of the model, or judge them by other thresholds"
    if changed:
        why = "the graph was changed before it was quantized (ReLU6 written as ReLU)"
        hint = "ask for less, or leave out relu6_as_relu"
    what = f"{asked} cannot be reached: with every layer in float {reached}, as {why}"
    return TargetError(what, where="target", hint=hint)


def first(batches: Batches, count: int) -> Batches:
    """So many of them at most."""
    return lambda: islice(batches(), count)


class _Ladder:
    """The steps from no layer in float to all of them, each made and measured once.

    At the top everything is float, operators without weights as well: what such a graph misses, none reaches.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        rounded: ir.Model,
        order: tuple[str, ...],
        whole: Step,
        measure: Callable[[ir.Model], Measured],
    ) -> None:
        self._model, self._plan, self._rounded = model, plan, rounded
        self._order, self._measure = order, measure
        self._steps = {self.top: dataclasses.replace(whole, kept=order)}

    @property
    def top(self) -> int:
        """Its last step."""
        return max(1, len(self._order))

    def step(self, count: int, tuned: Callable[[Plan], ir.Model]) -> Step:
        """The step with so many layers in float, the other weights rounded for its plan, as if that were fed back."""
        if count not in self._steps:
            in_float = self._order[:count]
            plan = keep_in_float(self._model, self._plan, in_float, TARGET)
            plan = dataclasses.replace(plan, scheme=self._plan.scheme)
            rounded = tuned(plan) if count else self._rounded
            graph = apply(rounded, plan)
            self._steps[count] = Step(in_float, plan, rounded, graph, self._measure(graph))
        return self._steps[count]

    def steps(self) -> tuple[Step, ...]:
        """All that were made, the fewest in float first."""
        return tuple(self._steps[count] for count in sorted(self._steps))


def _everything_in_float(model: ir.Model, plan: Plan, measure: Callable[[ir.Model], Measured]) -> Step:
    float_plan = Plan(plan.scheme, kept_float={name_of(node): TARGET for node in model.graph})
    graph = apply(model, float_plan)
    return Step((), float_plan, model, graph, measure(graph))
