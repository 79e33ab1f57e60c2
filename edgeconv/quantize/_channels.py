"""The channels that a graph ends in: along which axis they lie, and what range each has on the user's data.

Behind the last layers there are only functions of one number, sums and products with constants, and what moves
elements: a detector's boxes and scores are still apart there, and an application reads them so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.divisions import place_after, sizes_at_batch_1, unlike_channels
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.integer_rules import MOVING
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._graph import is_activation, named
from edgeconv.quantize._structure import Structure, layer_of

_RANKS_OF_FEATURES = range(2, 6)  # vectors, series, images and volumes
_RANK_OF_SERIES = 3
_WITH_CONSTANTS = {"Add", "Div", "Mul", "Pow", "Sub"}
_TAIL = MOVING | _WITH_CONSTANTS | {"Exp", "LogSoftmax", "Resize", "Sigmoid", "Softmax", "Softplus", "Tanh"}
"""Not the rectifiers: what they make are features, of which some are rarely above zero; nor a Clip from zero on."""


@dataclass
class Channels:
    """What was seen of each channel of a value.

    Attributes:
        axis: along which they lie.
        low: the smallest number of each: shape (channels,).
        high: the largest.
        sums: of the numbers, and of their squares: shape (2, channels).
        count: of the numbers of one channel.
    """

    axis: int
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    sums: npt.NDArray[np.float64]
    count: int

    @staticmethod
    def of(axis: int, count: int) -> Channels:
        """So many channels of which nothing was seen yet."""
        return Channels(axis, np.full(count, np.inf), np.full(count, -np.inf), np.zeros((2, count)), 0)

    def add(self, array: Array) -> None:
        """Looks at one batch."""
        rows = np.moveaxis(array, self.axis, 0).reshape(len(self.low), -1)
        if not rows.size:
            return
        self.low, self.high = np.minimum(self.low, rows.min(axis=1)), np.maximum(self.high, rows.max(axis=1))
        self.sums += np.stack([rows.sum(axis=1, dtype=np.float64), np.square(rows, dtype=np.float64).sum(axis=1)])
        self.count += rows.shape[1]

    @property
    def widths(self) -> npt.NDArray[np.float64]:
        """The width of each channel's range, which holds zero."""
        return np.asarray(np.maximum(self.high, 0.0) - np.minimum(self.low, 0.0))

    @property
    def spans(self) -> npt.NDArray[np.float64]:
        """How far each channel's numbers lie apart."""
        return self.high - self.low

    @property
    def mean_squares(self) -> npt.NDArray[np.float64]:
        """Of each channel's numbers."""
        return np.asarray(self.sums[1] / max(1, self.count))

    @property
    def variances(self) -> npt.NDArray[np.float64]:
        """The variance of each channel's numbers."""
        means, squares = self.sums / max(1, self.count)
        return np.asarray(np.maximum(squares - np.square(means), 0.0))


class ChannelCounts:
    """`Channels` of the values that the graph ends in, as the batches come.

    Args:
        graph: float32, NCHW.
        structure: of the graph.
        left_out: the names of values that may be infinite.
    """

    def __init__(self, graph: ir.Graph, structure: Structure, left_out: Iterable[str]) -> None:
        known = {**axes_of(graph, structure), **input_axes(graph)}
        axes = {named(value): axis for value, axis in known.items()}
        self._axes = {named(value): axes[named(value)] for value in structure.activations if value.name in axes}
        for name in left_out:
            self._axes.pop(name, None)
        self._seen: dict[str, Channels] = {}

    def add(self, values: Mapping[str, Array]) -> None:
        """Looks at the values of one batch."""
        for name, axis in self._axes.items():
            if name not in self._seen:
                self._seen[name] = Channels.of(axis, values[name].shape[axis])
            self._seen[name].add(values[name])

    def channels(self) -> dict[str, Channels]:
        """The statistics of each value's channels, by the value's name."""
        return self._seen


def tail_of(graph: ir.Graph) -> set[ir.Node]:
    """The last layers, and all nodes between them and the outputs."""
    tail: set[ir.Node] = set()
    waiting = [value for value in graph.outputs if value is not None]
    while waiting:
        node = waiting.pop().producer()
        if node is None or node in tail:
            continue
        if layer_of(node) is not None:
            tail.add(node)
        elif _keeps_channels(node):
            tail.add(node)
            waiting += _computed(node)
    return tail


def _keeps_channels(node: ir.Node) -> bool:
    """Whether a node moves channels, or computes each of their numbers for itself, and is no rectifier."""
    if node.op_type == "Clip":
        least = constant(input_of(node, 1))
        return least is None or bool((least < 0).all())
    return node.op_type in _TAIL and (node.op_type not in _WITH_CONSTANTS or len(_computed(node)) == 1)


def axes_of(graph: ir.Graph, structure: Structure) -> dict[ir.Value, int]:
    """The axis of the channels of what the last layers make and of what functions of one number make of it."""
    tail, axes = tail_of(graph), dict[ir.Value, int]()
    for node in graph:
        if node not in tail:
            continue
        if (layer := layer_of(node)) is not None:
            rank = len(node.outputs[0].shape or ())
            # The value before a fused clamp has no parameters of its own and is not counted; nor have vectors channels.
            fused = structure.layers[layer.name].output if layer.name in structure.layers else node.outputs[0]
            if rank > 1 and (fused is node.outputs[0] or fused.producer() in tail):
                axes[fused] = rank - 1 if node.op_type == "MatMul" else 1
            continue
        axis = _axis_behind(node, axes)
        if axis is not None and not axes.keys() & set(node.outputs):
            axes |= dict.fromkeys(node.outputs, axis)
    makers = {value: value.producer() for value in axes}
    return {value: axes[value] for value, maker in makers.items() if maker is not None and maker.op_type not in MOVING}


def readers_of_input(source: ir.Value) -> Iterator[ir.Node]:
    """From a value to the first layers, or to what makes its features alike."""
    visited: set[ir.Node] = set()
    waiting = [source]
    while waiting:
        for use in waiting.pop().uses():
            node = use.node
            if node in visited:
                continue
            visited.add(node)
            yield node
            if _goes_on(node) and unlike_channels(node) is None:
                waiting += node.outputs


def _goes_on(node: ir.Node) -> bool:
    """Whether a node moves its operand, or computes it with constants."""
    if layer_of(node) is not None:
        return False
    return node.op_type in MOVING or (node.op_type in having(Trait.AFFINE) and len(_computed(node)) == 1)


def input_axes(graph: ir.Graph) -> dict[ir.Value, int]:
    """The axis of the features of each input of up to five axes that a layer reads, or a product by such constants."""
    axes = {}
    for source in graph.inputs:
        if source.dtype != ir.DataType.FLOAT or len(sizes_at_batch_1(source)) not in _RANKS_OF_FEATURES:
            continue
        for node in readers_of_input(source):
            axis = _axis_read(node, source)
            if axis is not None:
                axes[source] = axis
                break
    return axes


def _axis_read(node: ir.Node, source: ir.Value) -> int | None:
    """The axis of an input whose places a reader, a layer or a product by unlike constants, takes for features."""
    before = sizes_at_batch_1(source)
    read = unlike_channels(node)
    if read is None and layer_of(node) is not None:
        read = len(sizes_at_batch_1(node.inputs[0])) - 1 if node.op_type == "MatMul" else 1
    if read is None:
        return None
    # Back through what moves the axis: another order of axes, and reshapes that leave it whole.
    shape = sizes_at_batch_1(node.inputs[0])
    for axis in range(1, len(before)):
        if _axis_after(axis, source, node) == read:
            return axis
    if len(shape) >= len(before):
        return None
    # A layer of the flattened input: series have fewer sensors than places in time, images their channels first.
    return 1 if len(before) > _RANK_OF_SERIES else min(range(1, len(before)), key=lambda axis: before[axis])


def _axis_after(axis: int, source: ir.Value, reader: ir.Node) -> int | None:
    """Where an axis of a value is in what a node reads of it through moves; None where it is no axis any more."""
    path = [reader]
    while source not in path[-1].inputs:
        maker = next((node for value in path[-1].inputs if value and (node := value.producer()) is not None), None)
        if maker is None:
            return None
        path.append(maker)
    place: int | None = axis
    for node in path[:0:-1]:
        before, after = sizes_at_batch_1(node.inputs[0]), sizes_at_batch_1(node.outputs[0])
        if place is not None and node.op_type in having(Trait.REARRANGES):
            place = place_after(node, place, before, after)
    return place


def _axis_behind(node: ir.Node, axes: Mapping[ir.Value, int]) -> int | None:
    """Where the channels are in a node's results; None where that is not known."""
    sources = _computed(node)
    before = {axes.get(source) for source in sources}
    axis = before.pop() if len(before) == 1 else None
    if axis is None:
        return unlike_channels(node)
    # Transposes and reshapes move the axis; what keeps the rank keeps it; where dimensions merge nothing is known.
    shape, result = sizes_at_batch_1(sources[0]), sizes_at_batch_1(node.outputs[0])
    if node.op_type in having(Trait.REARRANGES):
        return place_after(node, axis, shape, result)
    return axis if len(result) == len(shape) else None


def _computed(node: ir.Node) -> list[ir.Value]:
    """The activations that a node reads."""
    return [value for value in node.inputs if value is not None and is_activation(value) and constant(value) is None]
