"""What both sides of link 3 compute from: a sample's values, and others that reach what these do not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial

import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.traits import Trait, having
from edgeconv.parity.writing._ends import Operands, filled, lowered, mixed, negated, raised, signed
from edgeconv.parity.writing._file import File
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._kinks import LARGER, reach_of_graph
from edgeconv.parity.writing._on_demand import NotComputedError, OnDemand, held_on_demand

_Arrays = Mapping[str, Array]
_MOST_SHARED = 1 << 23  # elements of held values: 64 MB, several times over


def past_kinks(
    inputs: _Arrays, values: _Arrays, reaches: Iterable[float], never_negative: Collection[str]
) -> Iterator[tuple[_Arrays, _Arrays]]:
    """Inputs and held values that pass every kink of both sides: larger ones, then of the other sign and without zeros.

    Each is larger by a power of two, so that nothing is rounded. A slope or a clamp is on one side of a kink alone, and
    a zero on neither; numbers far beyond all kinks would drown what happens between two of them, so that each reach
    has numbers of its own.

    Args:
        inputs: by name.
        values: of what both sides read alike, by name.
        reaches: how far each side asks for, see `reach_of_graph`; `LARGER` is tried, too.
        never_negative: the values that no input makes negative.
    """
    for reach in sorted({LARGER, *reaches}):
        larger = {name: raised(array, reach) for name, array in inputs.items()}
        beyond = OnDemand.of_each(values, partial(_raised, values, reach))
        yield larger, beyond
        others = {name: filled(negated(array)) for name, array in larger.items()}
        yield others, OnDemand.of_each(values, partial(_of_other_sign, beyond, never_negative))


def _raised(values: _Arrays, reach: float, name: str) -> Array:
    return raised(values[name], reach)


def _of_other_sign(values: _Arrays, never_negative: Collection[str], name: str) -> Array:
    """A value of the other sign where it may be negative, and without zeros."""
    return filled(values[name] if name in never_negative else negated(values[name]))


def _one_sided(graph: ir.Graph) -> list[float]:
    """The signs that all numbers must have for the largest of several, or the smallest, to have it, too."""
    kinds = {node.op_type for node in graph}
    signs = ((Trait.LARGEST, -1.0), (Trait.SMALLEST, 1.0))
    return [sign for trait, sign in signs if not kinds.isdisjoint(having(trait))]


class Source:
    """Where the operands come from.

    Args:
        graph: that the file was written from, saturated as the file is.
        file: the file, read back.
        rounded: the graph's constants as the file has them, by name.
    """

    def __init__(self, graph: Graph, file: File, rounded: _Arrays) -> None:
        self._graph, self._file, self._rounded = graph, file, rounded
        self._names = graph.chosen(file.names & graph.named)
        self._moved = graph.moved_from(self._names)

    def operands(self, inputs: Mapping[str, Array]) -> Iterator[Operands]:
        """The sample's; then others, which leave no channel all zero, no two alike, and no clamp unreached.

        Floats are the same numbers in another order, and beyond every kink of both sides; then of the other sign, as a
        slope or clamp is on one side of a kink alone. Where the largest of several is picked, all are below zero once:
        no clamp at zero behind that would be reached otherwise. Integers, which saturate, are in another order, and
        then spread over all that they stand for. There are none where the file computes all as the graph does.
        """
        graph, rounded = self._graph, self._rounded
        values = graph.values(inputs, rounded, self._names)
        yield self._computed(inputs, values, self._alike(values))
        free = sorted(values.keys() & self._file.read - self._moved)  # nothing else has the same elements
        names = self._names - self._alike(free)
        if not names:
            return
        read = {name: values[name] for name in free}
        compute = partial(self._others, inputs, read, names, self._file.reach)
        if graph.shared is None or sum(array.size for array in values.values()) > _MOST_SHARED:
            yield from compute()
            return
        # All that these depend on besides the graph: what of it saturates, inputs, values and constants, and the reach.
        what = (graph.saturates, *map(tuple, (inputs, read, rounded)), names, self._file.reach)
        yield from graph.shared.of(what, [*inputs.values(), *read.values(), *rounded.values()], compute)

    def _others(self, inputs: _Arrays, values: _Arrays, names: Collection[str], reach: float) -> Iterator[Operands]:
        """The operands that do not follow from the sample's inputs: values in another order, and beyond all kinks."""
        others = {name: mixed(array) for name, array in inputs.items()}
        mixed_values = OnDemand.of_each(values, lambda name: mixed(values[name]))
        shapes = {name: array.shape for name, array in values.items()}
        for changed_inputs, changed in self._beyond(others, mixed_values, shapes, reach):
            expected = self._held(changed_inputs, changed, names)
            yield Operands(changed_inputs, changed, expected, all_finite=False)

    def _beyond(
        self, inputs: _Arrays, values: _Arrays, shapes: Mapping[str, tuple[int, ...]], reach: float
    ) -> Iterator[tuple[_Arrays, _Arrays]]:
        """Inputs and held values that pass the kinks which the sample's own numbers do not."""
        graph = self._graph
        integers = [name for name in values if name in graph.quantizers]
        spread = OnDemand.of_each(
            integers,
            lambda name: graph.steps(name).spread(shapes[name], negative=name not in graph.never_negative),
        )
        # What is quantized saturates; a layer that stays float between others is past its kinks as a float graph's is.
        floats = OnDemand.among(values, values.keys() - {*integers})
        free_inputs = {name: array for name, array in inputs.items() if name not in graph.quantized_inputs}
        if graph.quantizers:
            yield inputs, values
        for sign in _one_sided(graph.model.graph):
            one_sided = {name: signed(array, sign) for name, array in free_inputs.items()}
            yield {**inputs, **one_sided}, OnDemand.of_each(values, partial(self._one_sign, values, sign))
        if not floats and not free_inputs:
            yield inputs, spread
            return
        reaches = (reach, reach_of_graph(graph.model.graph))
        for larger, beyond in past_kinks(free_inputs, floats, reaches, graph.never_negative):
            changed = OnDemand.over(beyond, spread)
            yield {**inputs, **larger}, changed
            within = graph.positions & (inputs.keys() | values.keys())
            if within:  # an image is read at no place beyond its border
                own = {name: array for name, array in inputs.items() if name in within}
                yield {**inputs, **larger, **own}, OnDemand.over(changed, OnDemand.among(values, within))

    def _one_sign(self, values: _Arrays, sign: float, name: str) -> Array:
        """A value whose numbers have one sign where they may; integers are the nearest ones."""
        graph = self._graph
        array = values[name] if name in graph.never_negative else signed(values[name], sign)
        return graph.steps(name).nearest(array) if name in graph.quantizers else array

    def small(self, inputs: Mapping[str, Array]) -> Operands:
        """The sample's numbers in another order, and so small that what is added to a variance counts."""
        graph, rounded = self._graph, self._rounded
        values = graph.values(inputs, rounded, self._names)
        free = sorted(values.keys() & self._file.read - self._moved)
        looked_up = self._file.looked_up

        def small(name: str) -> Array:
            array = lowered(mixed(values[name]))
            return looked_up[name].nearest(array) if name in looked_up else array

        changed = OnDemand.of_each(free, small)
        others = {name: lowered(mixed(array)) for name, array in inputs.items()}
        names = self._names - self._alike(free)
        expected = self._held(others, changed, names)
        return Operands(others, changed, expected, all_finite=False)

    def following(self, inputs: Mapping[str, Array]) -> Operands:
        """Those that follow from inputs, each from the ones before it."""
        return self._computed(inputs, self._graph.values(inputs, self._rounded, self._names))

    def _computed(
        self, inputs: Mapping[str, Array], values: Mapping[str, Array], known: Collection[str] = frozenset()
    ) -> Operands:
        """The values that the graph makes of inputs."""
        if not self._graph.quantizers:
            return Operands(inputs, values, values, known=known)
        expected = self._held(inputs, values, values.keys())
        return Operands(inputs, values, expected, known=known)

    def _held(self, inputs: _Arrays, values: _Arrays, names: Collection[str]) -> _Arrays:
        """What the graph computes of operands; one that it cannot compute is no fault of the file."""
        return held_on_demand(self._graph, inputs, values, self._rounded, names, NotComputedError)

    def _alike(self, held: Collection[str]) -> frozenset[str]:
        """What both sides compute alike of held values; of constants that the file has rounded, nothing is."""
        return self._names & self._file.alike(held) if not self._rounded else frozenset()
