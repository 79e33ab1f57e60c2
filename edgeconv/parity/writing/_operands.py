"""What both sides of link 3 compute from: a sample's values, and others that reach what these do not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.traits import Trait, having
from edgeconv.parity.writing._ends import Operands, filled, lowered, mixed, negated, raised
from edgeconv.parity.writing._file import File
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._kinks import LARGER, reach_of_graph

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
        beyond = {name: raised(array, reach) for name, array in values.items()}
        yield larger, beyond
        signs = {name: array if name in never_negative else negated(array) for name, array in beyond.items()}
        yield (
            {name: filled(negated(array)) for name, array in larger.items()},
            {name: filled(array) for name, array in signs.items()},
        )


def _one_sided(graph: ir.Graph) -> list[float]:
    """The signs that all numbers must have for the largest of several, or the smallest, to have it, too."""
    kinds = {node.op_type for node in graph}
    signs = ((Trait.LARGEST, -1.0), (Trait.SMALLEST, 1.0))
    return [sign for trait, sign in signs if not kinds.isdisjoint(having(trait))]


def _signed(array: Array, sign: float) -> Array:
    """Real numbers of one sign; others as they are."""
    return filled(np.abs(array)) * sign if array.dtype.kind == "f" else array


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
        mixed_values = {name: mixed(array) for name, array in values.items()}
        for changed_inputs, changed in self._beyond(others, mixed_values, reach):
            expected = self._graph.held(changed_inputs, changed, self._rounded, names)
            yield Operands(changed_inputs, changed, expected, all_finite=False)

    def _beyond(self, inputs: _Arrays, values: _Arrays, reach: float) -> Iterator[tuple[_Arrays, _Arrays]]:
        """Inputs and held values that pass the kinks which the sample's own numbers do not."""
        graph = self._graph
        spread = {
            name: graph.steps(name).spread(array.shape, negative=name not in graph.never_negative)
            for name, array in values.items()
            if name in graph.quantizers
        }
        # What is quantized saturates; a layer that stays float between others is past its kinks as a float graph's is.
        floats = {name: array for name, array in values.items() if name not in spread}
        free_inputs = {name: array for name, array in inputs.items() if name not in graph.quantized_inputs}
        if graph.quantizers:
            yield inputs, values
        for sign in _one_sided(graph.model.graph):
            one_sided = {name: _signed(array, sign) for name, array in free_inputs.items()}
            changed = {
                name: array if name in graph.never_negative else _signed(array, sign) for name, array in values.items()
            }
            changed |= {name: graph.steps(name).nearest(changed[name]) for name in spread}
            yield {**inputs, **one_sided}, changed
        if not floats and not free_inputs:
            yield inputs, spread
            return
        reaches = (reach, reach_of_graph(graph.model.graph))
        for larger, beyond in past_kinks(free_inputs, floats, reaches, graph.never_negative):
            yield {**inputs, **larger}, {**beyond, **spread}
            within = graph.positions & (inputs.keys() | values.keys())
            if within:  # an image is read at no place beyond its border
                places = {name: array for name, array in values.items() if name in within}
                own = {name: array for name, array in inputs.items() if name in within}
                yield {**inputs, **larger, **own}, {**beyond, **spread, **places}

    def small(self, inputs: Mapping[str, Array]) -> Operands:
        """The sample's numbers in another order, and so small that what is added to a variance counts."""
        graph, rounded = self._graph, self._rounded
        values = graph.values(inputs, rounded, self._names)
        free = sorted(values.keys() & self._file.read - self._moved)
        changed = {name: lowered(mixed(values[name])) for name in free}
        changed |= {name: of.nearest(changed[name]) for name, of in self._file.looked_up.items() if name in changed}
        others = {name: lowered(mixed(array)) for name, array in inputs.items()}
        names = self._names - self._alike(free)
        return Operands(others, changed, graph.held(others, changed, rounded, names), all_finite=False)

    def following(self, inputs: Mapping[str, Array]) -> Operands:
        """Those that follow from inputs, each from the ones before it."""
        return self._computed(inputs, self._graph.values(inputs, self._rounded, self._names))

    def _computed(
        self, inputs: Mapping[str, Array], values: Mapping[str, Array], known: Collection[str] = frozenset()
    ) -> Operands:
        """The values that the graph makes of inputs."""
        if not self._graph.quantizers:
            return Operands(inputs, values, values, known=known)
        return Operands(inputs, values, self._graph.held(inputs, values, self._rounded, list(values)), known=known)

    def _alike(self, held: Collection[str]) -> frozenset[str]:
        """What both sides compute alike of held values; of constants that the file has rounded, nothing is."""
        return self._names & self._file.alike(held) if not self._rounded else frozenset()
