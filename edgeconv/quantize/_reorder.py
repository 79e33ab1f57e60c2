"""The order of a value's channels, chosen so that few pairs of weights can overflow.

Which weights are added in 16 bits is the order of a layer's input channels (`edgeconv.quantize._pairs`), and that order
is free inside of a graph: the layers that make a value give their output channels in another one, depthwise layers and
operators that treat channels alike pass it on, and the layers that read it take their input channels so. Nothing else
changes, no operator is added, and in integers not a bit of the outputs.

A matching of the channels is sought in which no two partners have large weights of one sign in the same output channel,
so that scales need not grow for their sums. It is greedy, then improved by exchanges, as long as one helps.
EfficientNet-Lite0's 1x1 convolutions that reduce channels: scales grew by 1.13 to 1.31 on average, and need not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import WEIGHT_LIMITS
from edgeconv.core.threads import in_threads
from edgeconv.errors import QuantizeError
from edgeconv.graph.edit import constant, is_taken, only_reader
from edgeconv.graph.names import unique_name
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._equalize import DISOWNED, by_input, is_own, weight_of
from edgeconv.quantize._graph import is_activation, replace_weight
from edgeconv.quantize._pairs import LARGEST_SUM, partners
from edgeconv.quantize._structure import Layer, layer_of

_Floats = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]


_MOST = 4096  # channels: costs are a matrix of them
_SWEEPS = 20  # over all channels, while an exchange helps
_LEAST = 1e-9  # that an exchange has to gain
_HIGHEST = WEIGHT_LIMITS[1]
_AT_ONCE = 64  # channels, whose costs with all others are added up: 256 KB for 1024 of these


@dataclass
class _Chain:
    """Layers between which the order of channels is theirs alone.

    Attributes:
        first: makes the channels.
        depthwise: the layers between, which take and give them in one order.
        second: reads them.
        values: that hold them.
    """

    first: Layer
    second: Layer
    depthwise: list[Layer] = field(default_factory=list)
    values: list[ir.Value] = field(default_factory=list)


def orders_of(model: ir.Model, *, per_channel: bool = True) -> dict[str, tuple[int, ...]]:
    """The order in which layers are to give their output channels, by the layers' names.

    Args:
        model: float32, NCHW, with the weights that will be rounded; not changed.
        per_channel: whether the weights will have a scale per output channel.

    Returns:
        For `reorder`; without the layers behind which no pair would overflow, or no other order is better.
    """
    orders = {}
    for chain in _chains(model):
        cost = _cost(chain.second, per_channel)
        order = _order(cost)
        if _total(cost, order) < _total(cost, np.arange(len(order))):
            orders[chain.first.name] = tuple(int(channel) for channel in order)
    return orders


def reorder(model: ir.Model, orders: Mapping[str, Sequence[int]]) -> ir.Model:
    """Gives channels another order between layers.

    Args:
        model: float32 or float64; not changed.
        orders: of `orders_of`: which channel comes first, which second, and so on.

    Returns:
        A new model with the same outputs. The values between hold the same numbers in another order, and say so by
        their names, where equalization has not made these others than their modules'.

    Raises:
        QuantizeError: the orders are not those of this graph.
    """
    model = model.clone()
    chains = {chain.first.name: chain for chain in _chains(model)}
    for name, channels in orders.items():
        where = f"plan, channel_orders, {name}"
        if name not in chains:
            hint = "remove it, or export the model that the plan was made for"
            raise QuantizeError("no layer of that name can be reordered", where=where, hint=hint)
        chain, order = chains[name], np.array(channels, np.int64)
        count = _inputs_of(chain.second)
        if sorted(channels) != list(range(count)):
            raise QuantizeError("it is no order of the channels", where=where, hint=f"give 0 to {count - 1}, each once")
        for layer in (chain.first, *chain.depthwise):
            _take(layer.weight, order, layer.axis)
            if layer.bias is not None:
                _take(layer.bias, order, -1)
        _take(chain.second.weight, order, _input_axis(chain.second))
    for value in (value for name in orders for value in chains[name].values):
        if value.name and not value.meta.get(DISOWNED):
            value.name = unique_name(model.graph, f"{value.name}.reordered")
    return model


def _chains(model: ir.Model) -> Iterator[_Chain]:
    """In graph order of the layers that read them."""
    for node in model.graph:
        second = layer_of(node)
        # A grouped layer's channels may only change places within their group, which is not done.
        if second is None or second.groups != 1 or not is_own(second) or partners(second) is None:
            continue
        chain = _chain(second)
        pointwise = node.op_type != "Conv" or int(np.prod(weight_of(second).shape[2:])) == 1
        is_paired = pointwise or _inputs_of(second) % 2 == 0  # else pairs reach over positions
        if chain is not None and is_paired and _inputs_of(second) <= _MOST:
            yield chain


def _chain(second: Layer) -> _Chain | None:
    """The operators before a layer, back to the one that makes its input channels."""
    reader, value = second.node, second.input
    depthwise: list[Layer] = []
    values: list[ir.Value] = []
    while (node := value.producer()) is not None and only_reader(value) is reader:
        values.append(value)
        layer = layer_of(node)
        # It mixes all channels, so the order begins here.
        if layer is not None and is_own(layer) and layer.groups == 1:
            fits = layer.node.op_type != "ConvTranspose" and (node.op_type == "Conv") == (second.node.op_type == "Conv")
            whole = weight_of(layer).shape[layer.axis] == _inputs_of(second)
            return _Chain(layer, second, depthwise, values) if fits and whole else None
        # One filter per channel goes along with its channel.
        if layer is not None and is_own(layer) and _is_depthwise(layer):
            depthwise.append(layer)
        elif not _is_by_channel(node, pools=second.node.op_type == "Conv"):
            return None
        source = node.inputs[0]
        if source is None:
            return None
        reader, value = node, source
    return None


def _is_by_channel(node: ir.Node, *, pools: bool) -> bool:
    """Whether an operator of one value does the same to every channel; pools do, where channels lie on axis 1."""
    operators = having(Trait.FUNCTION) | (having(Trait.BY_CHANNEL) if pools else frozenset())
    alone = not any(map(is_taken, node.outputs[1:]))
    data = [value for value in node.inputs if is_activation(value)]
    return node.op_type in operators and node.domain == "" and alone and len(data) == 1


def _is_depthwise(layer: Layer) -> bool:
    weight = weight_of(layer)
    return layer.node.op_type == "Conv" and weight.shape[1] == 1 and weight.shape[0] == layer.groups


def _input_axis(layer: Layer) -> int:
    return 1 if layer.node.op_type == "Conv" else 1 - layer.axis


def _inputs_of(layer: Layer) -> int:
    return int(weight_of(layer).shape[_input_axis(layer)])


def _take(value: ir.Value, order: _Indices, axis: int) -> None:
    array = constant(value)
    assert array is not None, value.name  # `_chains` looked
    replace_weight(value, np.ascontiguousarray(np.take(array, order, axis=axis)))


def _cost(layer: Layer, per_channel: bool) -> _Floats:
    """How far each two input channels would overflow as partners: squares of the excess, over all that they make."""
    weight = by_input(layer, weight_of(layer))  # (inputs, outputs, positions)
    largest = np.abs(weight).max(axis=(0, 2) if per_channel else None, keepdims=True)
    steps = weight / np.where(largest > 0, largest, 1.0) * (_HIGHEST / LARGEST_SUM)
    # One row per output channel and position: pairs are formed of the input channels within one. To compare costs
    # takes no more digits than float32 has, in half the time.
    rows = np.ascontiguousarray(steps.transpose(1, 2, 0).reshape(-1, len(steps)), np.float32)
    cost = np.zeros((len(steps), len(steps)))
    in_threads(partial(_add_costs, cost, rows), range(0, len(steps), _AT_ONCE))
    np.fill_diagonal(cost, 0)
    return cost


def _add_costs(cost: _Floats, rows: Array, start: int) -> None:
    """Adds what some channels and all behind them cost each other, in both halves of the symmetric matrix.

    So few channels at once that all rows add to what a cache holds: 1280 channels of 1000 rows, all of whose weights
    are as likely, take 1.0 s in place of 14.5 s by whole rows of float64 (CPU time, AMD EPYC).
    """
    end = min(start + _AT_ONCE, len(cost))
    total = np.zeros((end - start, len(cost) - start), rows.dtype)
    excess = np.empty_like(total)
    for row in rows:
        np.add(row[start:end, None], row[start:], out=excess)  # above 1 only where both have one sign
        np.maximum(np.subtract(np.abs(excess, out=excess), 1, out=excess), 0, out=excess)
        total += np.multiply(excess, excess, out=excess)
    cost[start:end, start:] = total
    cost[end:, start:end] = total[:, end - start :].T


def _order(cost: _Floats) -> _Indices:
    """Partners next to one another, by the first of them; the one without a partner last."""
    mate = _mates(cost)
    first = np.flatnonzero((mate > np.arange(len(mate))) & (mate < len(cost)))
    alone = np.flatnonzero(mate[: len(cost)] == len(cost))
    return np.concatenate([np.stack([first, mate[first]], axis=1).reshape(-1), alone])


def _mates(cost: _Floats) -> _Indices:
    """The partner of each channel; of an odd number one more, which costs nothing, is somebody's."""
    cost = np.pad(cost, (0, len(cost) % 2))
    return _exchanged(cost, _greedy(cost))


def _total(cost: _Floats, order: _Indices) -> float:
    pairs = len(order) // 2 * 2
    return float(cost[order[:pairs:2], order[1:pairs:2]].sum())


def _greedy(cost: _Floats) -> _Indices:
    """Partners; those that fit with few choose first."""
    free = np.ones(len(cost), bool)
    mate = np.zeros(len(cost), np.int64)
    for channel in np.argsort(-cost.sum(axis=1), kind="stable"):
        if not free[channel]:
            continue
        free[channel] = False
        other = int(np.argmin(np.where(free, cost[channel], np.inf)))
        free[other] = False
        mate[channel], mate[other] = other, channel
    return mate


def _exchanged(cost: _Floats, mate: _Indices) -> _Indices:
    """Two pairs exchange a channel, wherever that costs less."""
    every = np.arange(len(cost))
    for _ in range(_SWEEPS):
        moved = False
        for channel in every:
            other = mate[channel]
            if cost[channel, other] == 0:
                continue
            # (channel, other) and (best, third) become (channel, best) and (other, third).
            gain = cost[channel, other] + cost[every, mate] - cost[channel] - cost[other, mate]
            gain[[channel, other]] = 0
            best = int(np.argmax(gain))
            if gain[best] > _LEAST:
                third = int(mate[best])
                mate[channel], mate[best], mate[other], mate[third] = best, channel, third, other
                moved = True
        if not moved:
            break
    return mate
