"""Front ends stay float where a steep function makes much of what their integers lose: a spectrogram's filters.

`edgeconv.quantize._steep` keeps a logarithm in float, and what makes its operand back to the next layer. That is not
enough where layers before it filter: a sound of 8 bits is 40 dB of it, and the logarithm of the power in a quiet band
is nothing but rounding. So the operators whose results enter what is float are computed in integers, one by one, on
calibration data, and their errors are carried through to the function's result. What loses too much there, and more
than at the operator itself, stays float, too, and so on upstream, until nothing does. A layer whose errors arrive no
larger than they are made is no front end: a network in front of its log-scores stays integer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeconv.core import Array
from edgeconv.core.affine import decibels, dequantized, quantized
from edgeconv.graph.integer_rules import MOVING
from edgeconv.quantize._apply import apply_only
from edgeconv.quantize._calibrate import mapped, run_float, session_of
from edgeconv.quantize._divisors import GUARDS
from edgeconv.quantize._graph import is_activation, name_of, named
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._steep import ENDS, LEAST_DB, amplifies, reason_of
from edgeconv.quantize._structure import Structure, structure_of
from edgeconv.quantize._walk import chosen

_SAMPLES = 8  # evenly taken from the calibration data
_AMPLIFIED_DB = 3.0  # of the power of errors, beside that of the signal: at the result it is more than doubled
_Samples = Sequence[Mapping[str, Array]]


def fronts(
    model: ir.Model,
    plan: Plan,
    batches: Callable[[], Iterable[Mapping[str, Array]]],
    *,
    stage: Callable[[], AbstractContextManager[Callable[[str], None]]] | None = None,
) -> dict[str, str]:
    """Operators that stay float because a steep function amplifies what their integers lose: their names, and why.

    Args:
        model: the float graph that the plan was made for.
        plan: of `make_plan`, with the steep functions in float.
        batches: calibration data; not read where no function is steep.
        stage: wraps the work where there is any; gives what is told how far it is, in one line.
    """
    bits = "int16" if plan.scheme == "int16x8" else "int8"
    steep = [node for node in model.graph if amplifies(node) and name_of(node) in plan.kept_float]
    if not steep:
        return {}
    found: dict[str, str] = {}
    settled: set[_Zone] = set()
    with stage() if stage is not None else nullcontext(None) as tell:
        samples = _few(model, batches)
        while True:
            trial = dataclasses.replace(plan, kept_float={**plan.kept_float, **found})
            structure = structure_of(model, trial.kept_float)
            zones = [zone for node in steep if (zone := _zone(node, structure)).rounded and zone not in settled]
            if not zones:
                return found
            found |= _lost(_Trial(model, trial, structure, samples, bits), zones)
            settled.update(zones)
            if tell is not None:
                tell(f"{len(found)} operators in float before steep functions")


def _few(model: ir.Model, batches: Callable[[], Iterable[Mapping[str, Array]]]) -> _Samples:
    """Some of the data, evenly taken."""
    samples = chosen(model, batches())
    count = min(len(samples), _SAMPLES)
    return [samples[index * len(samples) // count] for index in range(count)]


@dataclass(frozen=True)
class _Trial:
    """What is measured: a plan with some operators in float, on samples.

    Attributes:
        model: the float graph.
        plan: for it.
        structure: of both.
        samples: inputs of the graph.
        bits: of the integers, ``"int8"`` or ``"int16"``.
    """

    model: ir.Model
    plan: Plan
    structure: Structure
    samples: _Samples
    bits: str


def _lost(trial: _Trial, zones: Sequence[_Zone]) -> dict[str, str]:
    """The operators right before what is float whose integers cost a function's result too much, and why they stay."""
    structure, plan = trial.structure, trial.plan
    makers = {value: _makers(value, structure) for zone in zones for value in zone.rounded}
    # Each maker in integers by itself: its operands, its weight and what it makes.
    around = [value for nodes in makers.values() for node in nodes for value in (*node.inputs, *node.outputs)]
    values = {value.name or "" for value in around if value is not None and is_activation(value)}
    operators = {name_of(node) for nodes in makers.values() for node in nodes}
    coarse = apply_only(trial.model, plan, operators, values)
    read = (values & plan.tensors.keys()) | {named(value) for zone in zones for value in zone.exact}
    exact = list(run_float(trial.model, trial.samples, sorted(read)))
    rounded = list(_run(coarse, trial.samples, [named(value) for value in makers]))
    lost: dict[str, str] = {}
    for zone in zones:
        carried = _Carried(trial.model, zone, trial.samples, exact, rounded)
        for value in carried.worst(LEAST_DB[trial.bits], lambda value: _rounding_db(makers[value], exact, plan)):
            names = [name_of(structure.spelled.get(maker, maker)) for maker in makers[value]]
            lost |= dict.fromkeys(names, reason_of(zone.node, trial.bits))
    return lost


def _makers(value: ir.Value, structure: Structure) -> list[ir.Node]:
    """The operators of integers that make a value, and what only moves it in between.

    A layer and the clamp or bias behind it are one operator: the plan has no numbers for what is between them.
    """
    layers = {layer.output: layer.node for layer in structure.layers.values()}
    makers: dict[ir.Node, None] = {}
    waiting = [value]
    while waiting:
        result = waiting.pop()
        maker = result.producer()
        if maker is None or maker in makers or name_of(structure.spelled.get(maker, maker)) in structure.kept_float:
            continue
        makers[maker] = None
        if result in layers:
            makers[layers[result]] = None
        if maker.op_type in MOVING:
            waiting += [operand for operand in maker.inputs if operand is not None and is_activation(operand)]
    return list(makers)


def _rounding_db(makers: Iterable[ir.Node], exact: Sequence[Mapping[str, Array]], plan: Plan) -> float:
    """What is left of the operand or result that rounding itself costs most: nothing is computed with it yet."""
    names = {value.name or "" for node in makers for value in (*node.inputs, *node.outputs) if value is not None}
    ratios = []
    for name in names & plan.tensors.keys() & exact[0].keys():
        grid = plan.tensors[name].scale, plan.tensors[name].zero_point
        arrays = [sample[name] for sample in exact]
        pairs = [(array, dequantized(quantized(array, *grid, plan.tensors[name].dtype), *grid)) for array in arrays]
        ratios.append(_ratio_db(pairs, centered=False))
    return min(ratios, default=np.inf)


@dataclass(frozen=True)
class _Zone:
    """The float operators up to a steep function.

    Attributes:
        node: the function.
        rounded: what operators of integers make and these read.
        exact: what functions read that take integers whatever follows (`edgeconv.quantize._steep.ENDS`).
    """

    node: ir.Node
    rounded: tuple[ir.Value, ...]
    exact: tuple[ir.Value, ...]


def _zone(steep: ir.Node, structure: Structure) -> _Zone:
    """Walks back from a steep function through what is float."""
    rounded: dict[ir.Value, None] = {}
    exact: dict[ir.Value, None] = {}
    waiting, visited = [steep], {steep}
    while waiting:
        node = waiting.pop()
        for value in node.inputs:
            maker = value.producer() if value is not None and is_activation(value) else None
            if value is None or maker is None:
                continue  # a graph input that float operators read is not rounded
            if node.op_type in ENDS:
                exact[value] = None
            elif name_of(structure.spelled.get(maker, maker)) not in structure.kept_float:
                rounded[value] = None
            elif maker not in visited:
                visited.add(maker)
                waiting.append(maker)
    return _Zone(steep, tuple(value for value in rounded if value not in exact), tuple(exact))


class _Carried:
    """Errors of what enters a zone, carried through it to the function's result.

    Args:
        model: the float graph.
        zone: of it.
        samples: inputs of the graph.
        exact: what enters, of the float graph, sample by sample.
        rounded: the same of integers.
    """

    def __init__(
        self,
        model: ir.Model,
        zone: _Zone,
        samples: _Samples,
        exact: Sequence[Mapping[str, Array]],
        rounded: Sequence[Mapping[str, Array]],
    ) -> None:
        entering = [named(value) for value in (*zone.rounded, *zone.exact)]
        self._zone, self._exact, self._rounded = zone, exact, rounded
        self._result = named(zone.node.outputs[0])
        self._is_centered = not _is_factor(zone.node.outputs[0])
        self._session = session_of(_cut(model, entering, self._result), (), optimized=False)
        read = {item.name for item in self._session.get_inputs()}
        self._others = [{name: array for name, array in sample.items() if name in read} for sample in samples]
        self._names = [name for name in entering if name in read]
        self._expected = self._results(())

    def worst(self, least_db: float, rounding_db: Callable[[ir.Value], float]) -> Iterator[ir.Value]:
        """The values without whose errors the function's result has so many decibels: the fewest, the worst first.

        Of those alone whose errors are larger there than where they are rounded.
        """
        reached = {value: self._result_db(value) for value in self._zone.rounded}
        amplified = [value for value in reached if reached[value] < rounding_db(value) - _AMPLIFIED_DB]
        for value in sorted(amplified, key=reached.__getitem__):
            errors = sum(10 ** (-ratio / 10) for ratio in reached.values())  # of unit signals; small errors add up
            if errors <= 10 ** (-least_db / 10):
                return
            del reached[value]
            yield value

    def _result_db(self, value: ir.Value) -> float:
        """The function's result where this value alone is of integers."""
        pairs = list(zip(self._expected, self._results({named(value)}), strict=True))
        return _ratio_db(pairs, centered=self._is_centered)

    def _results(self, rounded: Collection[str]) -> list[Array]:
        results = []
        for others, exact, coarse in zip(self._others, self._exact, self._rounded, strict=True):
            entering = {name: (coarse if name in rounded else exact)[name] for name in self._names}
            with mapped(f"operator {self._result}"):
                results += self._session.run([self._result], {**others, **entering})
        return results


def _is_factor(result: ir.Value) -> bool:
    """Whether all that is done with a function's result is to multiply or to divide by it, as by a norm.

    Of a factor the size counts. Of what is filtered or added only differences do: a normalization takes the rest.
    """
    if result.is_graph_output():
        return False
    for use in result.uses():
        node = use.node
        is_last = node.op_type == "Mul" or (node.op_type == "Div" and use.idx == 1)
        is_passed = node.op_type in GUARDS | MOVING | {"Pow", "Reciprocal", "Sqrt"} or is_last
        others = [value for value in node.inputs if value is not result and is_activation(value)]
        if not is_passed or (others and not is_last) or not (others or _is_factor(node.outputs[0])):
            return False
    return True


def _ratio_db(pairs: Sequence[tuple[Array, Array]], *, centered: bool) -> float:
    """Signal over error of all arrays together, decibels; about the signal's mean where only differences count."""
    exact, rounded = (np.concatenate([pair[side].reshape(-1) for pair in pairs]).astype(np.float64) for side in (0, 1))
    defined = np.isfinite(exact)
    exact, rounded = exact[defined], rounded[defined]
    if not np.isfinite(rounded).all():
        return -np.inf
    signal = exact - exact.mean() if centered and exact.size else exact
    if not signal.any():
        return np.inf  # a result that is always the same tells nothing apart
    return decibels(float(np.sum(np.square(signal))), float(np.sum(np.square(rounded - exact))))


def _run(model: ir.Model, samples: _Samples, names: Sequence[str]) -> Iterator[dict[str, Array]]:
    """The named values of a quantized graph, sample by sample, as it says."""
    session = session_of(model, names, optimized=False)
    for sample in samples:
        with mapped("steep functions"):
            yield dict(zip(names, session.run(list(names), dict(sample)), strict=True))


def _cut(model: ir.Model, entering: Iterable[str], result: str) -> ir.Model:
    """The part of a graph from some values to one, which are its inputs now; other inputs stay where it reads them."""
    part = model.clone()
    values = {value.name: value for node in part.graph for value in node.outputs}
    part.graph.outputs[:] = [values[result]]  # before any value is replaced: what enters may be an output itself
    for name in entering:
        old = values[name]
        new = ir.Value(name=f"{name}.entering", shape=old.shape, type=old.type)
        ir.convenience.replace_all_uses_with(old, new)
        part.graph.inputs.append(new)
    RemoveUnusedNodesPass()(part)
    part.graph.inputs[:] = [value for value in part.graph.inputs if value.uses()]
    for value in part.graph.inputs:
        value.name = (value.name or "").removesuffix(".entering")
    return part
