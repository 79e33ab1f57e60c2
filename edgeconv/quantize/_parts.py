"""The parts that values are joined of, up to the outputs: what was seen of each on the user's data.

What only functions of one number, moves, products and sums of elements, and pools come between is still read apart: by
an application behind the outputs, or by what takes one part out again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.divisions import Divisions, divisions_of, of_parts
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._channels import Channels
from edgeconv.quantize._graph import named
from edgeconv.quantize._structure import Structure

_MIXES = having(Trait.LAYER) | {"Attention", "Einsum", "GRU", "LSTM", "RNN"}
"""Each of their numbers is a sum over channels."""
_RANK_OF_VECTORS = 2


class Tail:
    """The nodes from which an output, or a part that is taken out again, is reached without sums over channels.

    Args:
        graph: float32, NCHW.

    Attributes:
        nodes: those, in the graph's order.
        divisions: the parts of each value.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.divisions = divisions_of(graph)
        read_apart: set[ir.Node] = set()
        for node in reversed(graph):
            if node.op_type not in _MIXES and (self._takes_out(node) or _leads_on(node, read_apart)):
                read_apart.add(node)
        self.nodes = [node for node in graph if node in read_apart]

    def parts_of(self, value: ir.Value) -> Divisions:
        """The parts of a value, by axis; none where it is of a single one."""
        return of_parts(self.divisions.get(value, {}))

    def _takes_out(self, node: ir.Node) -> bool:
        """Whether a node makes a single part of several that it reads."""
        read = {axis for value in node.inputs if value is not None for axis in self.parts_of(value)}
        return any(len(self.divisions[value].get(axis, ())) == 1 for value in node.outputs for axis in read)


def _leads_on(node: ir.Node, read_apart: Set[ir.Node]) -> bool:
    """Whether what a node makes is an output, or read by one of the others."""
    return any(value.is_graph_output() or any(use.node in read_apart for use in value.uses()) for value in node.outputs)


@dataclass(frozen=True)
class Joined:
    """What was seen of a value along an axis along which it is joined.

    Attributes:
        sizes: of the parts.
        channels: what was seen at each place of the axis.
        holds_channels: whether these are channels, and no positions: there are as many numbers of each at least.
    """

    sizes: tuple[int, ...]
    channels: Channels
    holds_channels: bool

    @property
    def widths(self) -> npt.NDArray[np.float64]:
        """The width of each part's range, which holds zero: shape (parts,)."""
        starts = np.cumsum([0, *self.sizes[:-1]])
        low = np.minimum.reduceat(np.minimum(self.channels.low, 0.0), starts)
        return np.asarray(np.maximum.reduceat(np.maximum(self.channels.high, 0.0), starts) - low)


class PartCounts:
    """What is seen along the axes along which the values in a graph's tail are joined, as the batches come.

    Args:
        graph: float32, NCHW.
        structure: of the graph.
        left_out: the names of values that may be infinite.
    """

    def __init__(self, graph: ir.Graph, structure: Structure, left_out: Iterable[str]) -> None:
        tail = Tail(graph)
        made = [value for node in tail.nodes for value in node.outputs]
        joined = {named(value): parts for value in made if (parts := tail.parts_of(value))}
        counted = {named(value) for value in structure.activations} - set(left_out)
        self._divisions = {name: parts for name, parts in joined.items() if name in counted}
        self._seen: dict[str, dict[int, Joined]] = {}

    def add(self, values: Mapping[str, Array]) -> None:
        """Looks at the values of one batch."""
        for name, divisions in self._divisions.items():
            array = values[name]
            for axis, sizes in divisions.items():
                if axis >= array.ndim or sum(sizes) != array.shape[axis] or not array.size:
                    continue  # an open batch that is joined
                holds_channels = array.ndim <= _RANK_OF_VECTORS or array.size >= array.shape[axis] ** 2
                fresh = Joined(sizes, Channels.of(axis, sum(sizes)), holds_channels)
                self._seen.setdefault(name, {}).setdefault(axis, fresh).channels.add(array)

    def joined(self) -> dict[str, dict[int, Joined]]:
        """What was seen, by the value's name and the axis."""
        return self._seen
