"""Folds channel shuffles and constant gathers of channels into the weights of the operators that read them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from edgeconv.core.defaults import MOST_JOINED
from edgeconv.graph.affine_maps import affine
from edgeconv.graph.constants import add_constant, exact, has_constants, is_over_space
from edgeconv.graph.edit import graph_of, rank, remove_unread, tensor_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import disown, insert_like, replace_constant
from edgeconv.graph.traits import Trait, having
from edgeconv.rewrite.algebra._linear import linear
from edgeconv.rewrite.algebra._planes import Numbers, Planes, fresh, moved, moves, sizes

_MIXERS = frozenset({"Transpose", "Gather"})


class AbsorbChannelMovesPass(ir.passes.InPlacePass):
    """Makes operators read the channels of a shuffle from before it, in their order there, with reordered weights.

    1. Requires: operators that move whole channels (Concat, Split, Slice, Gather, Reshape and Transpose as channel
       shuffles are written), a Transpose or Gather among them; and that everything that depends on their results
       either has constant weights over all input channels (Conv and ConvTranspose of one group, Gemm, MatMul), or
       treats each channel by itself (depthwise Conv, BatchNormalization, activations, pooling, spatial means) and
       feeds only such operators, or again moves channels.
    2. Ensures: those operators read the channels that they need in their original order, sliced and concatenated if
       they come from several values; no such Transpose or Gather is left. A value whose channels are not in the order
       of its torch module's output loses the module's name.
    3. Exact: ``W x = (W P') (P x)`` for a permutation P, and what treats each channel by itself commutes with P. A
       channel that is read twice gets the sum of the weights; one that is not read is left out.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Follows the channels in the graph's order."""
        if not any(node.op_type in _MIXERS for node in model.graph):
            return ir.passes.PassResult(model, False)
        walk = _Walk(_absorbed(model.graph))
        for node in tuple(model.graph):
            walk.step(node)
        return ir.passes.PassResult(model, walk.modified)


@dataclass
class _Walk:
    """The planes of all values so far; planes are numbered through the whole graph, value by value.

    Attributes:
        absorbed: values for whose readers rule (1) holds.
        planes: of the values that were looked at.
        mixed: values behind a Transpose or Gather.
        origins: values that no move computes, each with the number of its first plane, in rising order.
        gathered: by runs of planes, the value that concatenates them.
        count: planes that are numbered so far.
        modified: whether the graph was changed.
    """

    absorbed: set[ir.Value]
    planes: dict[ir.Value, Planes | None] = field(default_factory=dict)
    mixed: set[ir.Value] = field(default_factory=set)
    origins: list[tuple[int, ir.Value]] = field(default_factory=list)
    gathered: dict[tuple[tuple[int, int], ...], ir.Value] = field(default_factory=dict)
    count: int = 0
    modified: bool = False

    def of(self, value: ir.Value) -> Planes | None:
        """The planes of a value; new numbers if no move computes it."""
        if value not in self.planes:
            self.planes[value] = planes = fresh(value, self.count)
            if planes is not None:
                self.origins.append((self.count, value))
                self.count += planes.numbers.size
        return self.planes[value]

    def step(self, node: ir.Node) -> None:
        """Follows a move, or makes an operator read from before the moves."""
        if _absorbs_here(node, self.absorbed):
            results = _moved(node, [None if value is None else self.of(value) for value in _operands(node)])
            for value, planes in zip(node.outputs, results or (), strict=False):
                self.planes[value] = planes
                if node.op_type in _MIXERS or any(source in self.mixed for source in _operands(node)):
                    self.mixed.add(value)
        elif node.inputs and node.inputs[0] in self.mixed and (_mixes_all(node) or _carries(node, self.absorbed)):
            self._read_before_the_moves(node, node.inputs[0])

    def _read_before_the_moves(self, node: ir.Node, value: ir.Value) -> None:
        planes = self.of(value)
        channels = None if planes is None else planes.channels
        if planes is None or channels is None:
            return
        # 1. The channels that are read, in runs of neighbors; the new input concatenates them in this order.
        runs = self._runs(np.unique(channels))
        numbers = np.concatenate([np.arange(*run) for run in runs])
        # 2. Where each channel of the old input is in the new one.
        by_number = np.argsort(numbers)
        position = by_number[np.searchsorted(numbers, channels, sorter=by_number)]
        source = self._concatenated(node, value, runs)
        # 3. The weights in that order.
        if _mixes_all(node):
            _sum_columns(node, position, len(numbers))
        else:
            _order(node, np.unique(position, return_index=True)[1])
            self._reorder(node, position)
        node.replace_input_with(0, source)
        remove_unread([value])
        self.modified = True

    def _reorder(self, node: ir.Node, position: Numbers) -> None:
        """Records that channel c of an operator's result is now at ``position[c]``."""
        result, start = node.outputs[0], self.count
        planes = self.of(result)
        if planes is not None:
            self.planes[result] = planes.arranged(start + position.reshape(1, -1))
        self.mixed.add(result)
        disown(result, graph_of(node))

    def _runs(self, numbers: Numbers) -> tuple[tuple[int, int], ...]:
        """Neighboring planes of one origin, as (first number, number after the last); the longest run first."""
        # Neighboring numbers of two origins are no neighbors: a Slice takes channels of one value.
        borders = {first for first, _ in self.origins}
        runs, start = [], int(numbers[0])
        for before, after in itertools.pairwise([*numbers.tolist(), None]):
            if after is None or after != before + 1 or after in borders:
                runs.append((start, before + 1))
                start = after or 0
        return tuple(sorted(runs, key=lambda run: run[0] - run[1]))

    def _concatenated(self, node: ir.Node, value: ir.Value, runs: tuple[tuple[int, int], ...]) -> ir.Value:
        """The runs one after another.

        A Concat takes at most `MOST_JOINED` operands: the short runs at the end are then concatenated first.
        """
        if runs not in self.gathered:
            parts = [self._part(node, start, stop) for start, stop in runs]
            while len(parts) > 1:
                few = parts[-MOST_JOINED:] if len(parts) > MOST_JOINED else parts
                name = unique_name(graph_of(node), f"{value.name}.ordered")
                channels = sum(_channels(part) or 0 for part in few)
                whole = _insert(node, "Concat", few, [ir.AttrInt64("axis", 1)], channels, name)
                parts = [*parts[: len(parts) - len(few)], whole]
            self.gathered[runs] = parts[0]
        return self.gathered[runs]

    def _part(self, node: ir.Node, start: int, stop: int) -> ir.Value:
        """The planes from ``start`` up to ``stop``: a slice of their origin, or the origin itself."""
        first, origin = max((pair for pair in self.origins if pair[0] <= start), key=lambda pair: pair[0])
        channels = origin.shape[1] if origin.shape is not None else None
        if stop - start == channels:
            return origin
        graph = graph_of(node)
        name = unique_name(graph, f"{origin.name}.channels_{start - first}_{stop - first}")
        bounds = [
            add_constant(graph, unique_name(graph, f"{name}.{what}"), np.array([number], np.int64), ir.DataType.INT64)
            for what, number in (("start", start - first), ("end", stop - first), ("axis", 1))
        ]
        return _insert(node, "Slice", [origin, *bounds], [], stop - start, name)


def _insert(
    node: ir.Node, op_type: str, inputs: list[ir.Value], attributes: list[ir.Attr], channels: int, name: str
) -> ir.Value:
    """Inserts a node before ``node`` whose result is like its first input, with another number of channels."""
    like = inputs[0]
    shape = None if like.shape is None else [like.shape[0], channels, *like.shape[2:]]
    return insert_like(node, op_type, inputs, attributes, name, like=like, shape=shape)


def _operands(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The inputs whose planes are moved; the others are parameters."""
    return tuple(node.inputs) if node.op_type == "Concat" else tuple(node.inputs[:1])


def _moved(node: ir.Node, operands: list[Planes | None]) -> list[Planes] | None:
    planes = [operand for operand in operands if operand is not None]
    return moved(node, planes) if planes and len(planes) == len(operands) else None


def _absorbed(graph: ir.Graph) -> set[ir.Value]:
    """The values for whose readers rule (1) holds."""
    # 1. Forwards: which nodes keep planes whole, if all moves were followed.
    trial, followed = _Walk(set()), set()
    for node in graph:
        if not moves(node) or any(value is None or tensor_of(value) is not None for value in _operands(node)):
            continue
        planes = _moved(node, [None if value is None else trial.of(value) for value in _operands(node)])
        if planes is not None and not _flattens(node):
            followed.add(node)
            trial.planes.update(zip(node.outputs, planes, strict=False))
    # 2. Backwards: a value is absorbed if each of its readers absorbs it or passes it to such readers.
    absorbed: set[ir.Value] = set()
    for node in reversed(list(graph)):
        for value in node.outputs:
            channels = _form(trial.planes.get(value))
            if not value.is_graph_output() and all(
                (use.node in followed and _absorbs_here(use.node, absorbed))
                or (channels and use.idx == 0 and _mixes_all(use.node))
                or (channels == "distinct" and use.idx == 0 and _carries(use.node, absorbed))
                for use in value.uses()
            ):
                absorbed.add(value)
    return absorbed


def _form(planes: Planes | None) -> str:
    """Whether a moved value has the form [N, C, spatial…]: "distinct" or "repeated" planes; "" for another form."""
    channels = planes.channels if planes is not None else None
    if channels is None:
        return "distinct" if planes is None else ""
    return "distinct" if len(np.unique(channels)) == len(channels) else "repeated"


def _absorbs_here(node: ir.Node, absorbed: set[ir.Value]) -> bool:
    return moves(node) and not _flattens(node) and all(value in absorbed for value in node.outputs)


def _flattens(node: ir.Node) -> bool:
    """Whether the operator takes [N, C, 1, 1] to [N, C]: each channel by itself."""
    before, after = (sizes(value) for value in (node.inputs[0], node.outputs[0]))
    return (
        before is not None and after is not None and len(after) == 2 and before == (*after, *(1,) * (len(before) - 2))
    )


def _mixes_all(node: ir.Node) -> bool:
    """Whether the operator has constant weights over all channels of its first input."""
    if node.op_type not in having(Trait.LAYER) or not has_constants(node):
        return False
    if node.op_type == "Gemm":
        return node.attributes.get_int("transA", 0) == 0
    if node.op_type == "MatMul":
        return rank(node.inputs[0]) == 2 and rank(node.inputs[1]) == 2
    return node.attributes.get_int("group", 1) == 1


def _carries(node: ir.Node, absorbed: set[ir.Value]) -> bool:
    """Whether the operator treats each channel by itself, and the readers of its result absorb any order."""
    if node.domain != "" or node.outputs[0] not in absorbed or len(node.outputs) > 1:
        return False
    if node.op_type == "Conv":
        channels = node.attributes.get_int("group", 1)
        return has_constants(node) and channels == _channels(node.inputs[0]) == _channels(node.outputs[0])
    if node.op_type == "BatchNormalization":
        return affine(node) is not None
    if node.op_type in ("Flatten", "Reshape", "Squeeze"):
        return _flattens(node)
    if node.op_type in having(Trait.REDUCES):
        return is_over_space(node)
    return node.op_type in _PER_CHANNEL


def _channels(value: ir.Value | None) -> int | None:
    if value is None or value.shape is None or len(value.shape) < 2:
        return None
    size = value.shape[1]
    return size if isinstance(size, int) else None


def _sum_columns(node: ir.Node, position: Numbers, count: int) -> None:
    """Gives each of ``count`` new input channels the sum of the weights of the old channels at its position."""
    operator = linear(node)
    if operator is None:
        raise ir.passes.PreconditionError(f"{node.op_type} {node.outputs[0].name} is not linear")
    weight = np.zeros((count, operator.channels_out, operator.weight.shape[2]))
    np.add.at(weight, position.reshape(-1), operator.weight.swapaxes(0, 1))
    replace(operator, weight=weight.swapaxes(0, 1)).store()


def _order(node: ir.Node, order: Numbers) -> None:
    """Reorders the constants of an operator that treats each channel by itself."""
    for index, value in enumerate(node.inputs[1:], start=1):
        array = exact(value)
        if node.op_type not in ("Conv", "BatchNormalization") or value is None or array is None:
            continue
        dtype, name = value.dtype or ir.DataType.FLOAT, value.name or f"{node.outputs[0].name}.weight"
        replace_constant(node, index, array[order], dtype, name)


# Operators that compute each channel from that channel alone, without constants per channel.
_PER_CHANNEL = having(Trait.FUNCTION) | having(Trait.BY_CHANNEL)
