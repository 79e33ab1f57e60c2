"""Cross-layer equalization: channels of a value take ranges alike, and its makers and readers undo one another.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019, arXiv 1906.04721),
section 4.1. Where y = W₂ f(W₁ x + b₁) and f(s·x) = s·f(x) for s > 0, the channels of W₁ and b₁ can be multiplied by any
s and those of W₂ divided by it. Relu, LeakyRelu, PRelu, max and average pooling and the identity are such f; Clip is
none and ends the search. With s = √(r₁·r₂) / r₁, where r is the range of a channel's weights, both sides end with
√(r₁·r₂).

A SiLU, x·sigmoid(x), is no such f, but s·SiLU(x) is (s·x)·sigmoid(x): with scales that data chose, the Sigmoid reads
the layer's channels divided by s again, and the Mul what it makes and s·x. A depthwise convolution of one tap divides:
in integers it is rounded, which a Sigmoid hardly notices. (Five layers at 104x104 took 1.8 ms on LiteRT and 2.6
on onnxruntime as they were, 2.8 and 3.4 equalized so, and 2.7 and 26 with a Mul by a number per channel; busy cores.)
Nothing is cheaper: the scale of a quantized value is one for all channels, so that no LOGISTIC can divide them as it
reads them, and a second layer that makes its operand takes the layer's own time again.

It is exact in real arithmetic. The scales are powers of two, which floating-point multiplication does not round: the
equalized network computes the same bits but for underflow. Their ranges meet within a factor of √2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.errors import QuantizeError
from edgeconv.graph.edit import add_initializer, constant, graph_of, hand_on, is_taken, only_reader, stated_input
from edgeconv.graph.names import unique_name
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._graph import ADDED, name_of, replace_weight, static_shape
from edgeconv.quantize._structure import Layer, layer_of

_Floats = npt.NDArray[np.float64]

_ROUNDS = 40  # of all pairs, until nothing moves; chains of n layers settle in about n
DISOWNED = "edgeconv.equalized"
"""Value.meta key: the name says already that the value is another than its module's output."""

_WIDEST = 2.0**40  # the largest factor: keeps biases and weights within float32


@dataclass(frozen=True)
class Pair:
    """A layer, and the only layer that reads its channels, through positively homogeneous operators and SiLUs alone.

    Attributes:
        first: makes the channels.
        second: reads them.
        inner: what makes the values between that have the first layer's factors.
        sigmoids: of the SiLUs between; they have to read what they read before.
    """

    first: Layer
    second: Layer
    inner: tuple[ir.Node, ...]
    sigmoids: tuple[ir.Node, ...]


def equalize(model: ir.Model, exponents: Mapping[str, Sequence[int]] | None = None) -> ir.Model:
    """Equalizes the ranges of neighboring layers, depthwise ones among them.

    Args:
        model: float32 or float64; not changed. Constants that several layers share stay as they are.
        exponents: the power of two that each output channel of a layer is multiplied by, by the layer's name, as
            `edgeconv.quantize.exponents_of` chooses them by data. None evens the ranges of the weights alone.

    Returns:
        A new model with the same outputs. Values between the layers of a pair hold multiples of what they held
        before, channel by channel.

    Raises:
        QuantizeError: the exponents are of no pair of this graph.
    """
    model = model.clone()
    pairs = pairs_of(model, gated=exponents is not None)
    if exponents is not None:
        # Powers of two that were chosen by data, or read from a saved plan.
        _scale({pair.first.name: pair for pair in pairs}, exponents)
        return model
    for _ in range(_ROUNDS):
        moved = [_equalize(pair) for pair in pairs]  # all of them: no pair waits for another round
        if not any(moved):
            break
    for pair in pairs:
        _disown(pair)
    return model


def _scale(pairs: Mapping[str, Pair], exponents: Mapping[str, Sequence[int]]) -> None:
    for name, powers in exponents.items():
        where = f"plan, equalization, {name}"
        if name not in pairs:
            hint = "remove it, or export the model that the plan was made for"
            raise QuantizeError("no layer of that name can be equalized", where=where, hint=hint)
        channels = len(out_ranges(pairs[name].first))
        if len(powers) != channels:
            raise QuantizeError(f"there are {len(powers)} exponents", where=where, hint=f"give {channels}")
        factors = 2.0 ** np.array(powers, np.float64)
        scale_outputs(pairs[name].first, factors)
        scale_inputs(pairs[name].second, 1 / factors)
    for name in exponents:
        _disown(pairs[name])
    for name, powers in exponents.items():  # last: it parts a Sigmoid from the Mul behind, by which pairs are told
        for sigmoid in pairs[name].sigmoids:
            _undo_before(sigmoid, 2.0 ** -np.array(powers, np.float64), pairs[name].first)


def _undo_before(sigmoid: ir.Node, factors: _Floats, layer: Layer) -> None:
    """Multiplies the channels that a Sigmoid reads of a layer, by a depthwise convolution of one tap."""
    value, graph, like = stated_input(sigmoid), graph_of(sigmoid), constant(layer.weight)
    assert like is not None, name_of(layer.node)  # it is a layer
    array = factors.reshape(-1, *[1] * (like.ndim - 1)).astype(like.dtype)
    weight = add_initializer(graph, unique_name(graph, f"{name_of(sigmoid)}.factors"), array)
    undone = ir.Value(name=unique_name(graph, f"{name_of(sigmoid)}.operand"), type=value.type, shape=value.shape)
    groups = [ir.AttrInt64("group", len(factors))]
    node = ir.Node("", "Conv", [value, weight], groups, outputs=[undone], name=undone.name)
    node.meta[ADDED] = True
    hand_on(sigmoid, node)
    graph.insert_before(sigmoid, node)
    sigmoid.replace_input_with(0, undone)


def pairs_of(model: ir.Model, *, gated: bool = False) -> list[Pair]:
    """The pairs of layers that can be equalized, in graph order; `gated` ones, with a SiLU between, among them."""
    pairs = []
    for node in model.graph:
        first = layer_of(node)
        # A MatMul has no bias of its own; the Add behind it is no homogeneous operator.
        if first is None or not is_own(first) or node.op_type == "MatMul":
            continue
        inner, second = _behind(first, gated and node.op_type in having(Trait.LAYER | Trait.WINDOWS))
        if second is not None and is_own(second) and _fit(first, second):
            gates = [_silu_of(node.outputs[0]) for node in (first.node, *inner[:-1])] if gated else []
            pairs.append(Pair(first, second, tuple(inner), tuple(gate[0] for gate in gates if gate is not None)))
    return pairs


def between(pair: Pair) -> list[ir.Node]:
    """The operators from the first layer, itself included, to the second, that make what has the layer's factors."""
    return [pair.first.node, *pair.inner]


def out_ranges(layer: Layer) -> _Floats:
    """The largest weight of each output channel."""
    weight = weight_of(layer)
    ranges = np.abs(np.moveaxis(weight, layer.axis, 0)).reshape(weight.shape[layer.axis], -1).max(axis=1)
    groups = layer.groups
    if layer.node.op_type == "ConvTranspose" and groups > 1:
        # A ConvTranspose's output channels are (groups, weight axis 1): one range for each of both.
        split = np.abs(weight).reshape(groups, -1, *weight.shape[1:]).max(axis=(1, *range(3, weight.ndim + 1)))
        return np.asarray(split.reshape(-1))
    return np.asarray(ranges)


def in_ranges(layer: Layer) -> _Floats:
    """The largest weight that each input channel meets."""
    return np.asarray(by_input(layer, np.abs(weight_of(layer))).max(axis=(1, 2)))


def scale_outputs(layer: Layer, factors: _Floats) -> None:
    """Multiplies the weights and the bias of each output channel."""
    weight, groups = weight_of(layer), layer.groups
    if layer.node.op_type == "ConvTranspose":
        # (groups, input channels of a group, output channels of a group, taps …)
        per_group = factors.reshape(groups, 1, -1, *([1] * (weight.ndim - 2)))
        scaled = (weight.reshape(groups, -1, *weight.shape[1:]) * per_group).reshape(weight.shape)
    else:
        scaled = weight * factors.reshape([-1 if axis == layer.axis else 1 for axis in range(weight.ndim)])
    replace_weight(layer.weight, scaled)
    bias = constant(layer.bias)
    if bias is not None and layer.bias is not None:
        replace_weight(layer.bias, (bias.astype(np.float64).reshape(-1) * factors).reshape(bias.shape))


def scale_inputs(layer: Layer, factors: _Floats) -> None:
    """Multiplies the weights that each input channel meets."""
    weight = weight_of(layer)
    if layer.node.op_type == "Conv":
        groups, per_group = layer.groups, weight.shape[1]
        # A Conv's input channels are (groups, weight axis 1), read by the output channels of their group alone.
        spread = factors.reshape(groups, 1, per_group, *([1] * (weight.ndim - 2)))
        scaled = (weight.reshape(groups, -1, *weight.shape[1:]) * spread).reshape(weight.shape)
    else:
        axis = 0 if layer.node.op_type == "ConvTranspose" else 1 - layer.axis
        scaled = weight * factors.reshape([-1 if index == axis else 1 for index in range(weight.ndim)])
    replace_weight(layer.weight, scaled)


def _equalize(pair: Pair) -> bool:
    """Evens the ranges of one pair; says whether anything moved."""
    first, second = out_ranges(pair.first), in_ranges(pair.second)
    used = (first > 0) & (second > 0)  # a channel that is dead on either side has nothing to give
    ratio = np.where(used, second / np.where(used, first, 1.0), 1.0)
    # √(r₂ / r₁), rounded to a power of two: the module docstring's s.
    factors = 2.0 ** np.rint(np.log2(np.clip(ratio, 1 / _WIDEST, _WIDEST)) / 2)
    if np.all(factors == 1.0):
        return False
    scale_outputs(pair.first, factors)
    scale_inputs(pair.second, 1 / factors)
    return True


def _disown(pair: Pair) -> None:
    """Values that hold multiples of their modules' outputs say so by their names."""
    for node in between(pair):
        value = node.outputs[0]
        if value.name and isinstance(node.graph, ir.Graph) and not value.meta.get(DISOWNED):
            value.name = unique_name(node.graph, f"{value.name}.equalized")
            value.meta[DISOWNED] = True


def _behind(layer: Layer, gated: bool) -> tuple[list[ir.Node], Layer | None]:
    """The homogeneous operators and SiLUs behind a layer, and the layer that alone reads them."""
    value: ir.Value = layer.node.outputs[0]
    inner: list[ir.Node] = []
    while True:
        gate = _silu_of(value) if gated else None
        node = only_reader(value) if gate is None else gate[1]
        if node is None:
            return inner, None
        if gate is None and node.op_type not in having(Trait.HOMOGENEOUS):
            return inner, layer_of(node) if node.inputs[0] is value else None
        if gate is None and not _passes_on(node, value):
            return inner, None
        inner.append(node)
        value = node.outputs[0]


def _passes_on(node: ir.Node, value: ir.Value) -> bool:
    """Whether a homogeneous operator takes the value as its data, and gives all of it on in its first result."""
    # The value is a slope, or MaxPool's indices are read, too: neither can be scaled along.
    if node.inputs[0] is not value or any(map(is_taken, node.outputs[1:])):
        return False
    # A slope of either sign is homogeneous, but one that is computed may depend on the value itself.
    return node.op_type != "PRelu" or constant(node.inputs[1]) is not None


def _silu_of(value: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """The Sigmoid and the Mul that alone read a value and make its SiLU."""
    readers = {use.node for use in value.uses()}
    sigmoid = next((node for node in readers if node.op_type == "Sigmoid"), None)
    mul = only_reader(sigmoid.outputs[0]) if sigmoid is not None else None
    if sigmoid is None or mul is None or mul.op_type != "Mul" or value.is_graph_output() or readers != {sigmoid, mul}:
        return None
    return (sigmoid, mul) if value in mul.inputs else None


def _fit(first: Layer, second: Layer) -> bool:
    """Whether the output channels of one are the input channels of the other, on the same axis."""
    # A convolution's channels lie on axis 1, a product's on the last: with a Flatten between them they would not match.
    convolutions = having(Trait.LAYER | Trait.WINDOWS)
    if (first.node.op_type in convolutions) != (second.node.op_type in convolutions):
        return False
    return len(out_ranges(first)) == len(in_ranges(second))


def is_own(layer: Layer) -> bool:
    """Whether the layer's constants are read by nobody else and can be replaced."""
    for value in (layer.weight, layer.bias):
        if value is not None and (not value.is_initializer() or len(tuple(value.uses())) > 1):
            return False
        array = constant(value)
        if value is not None and (array is None or array.dtype not in (np.float32, np.float64)):
            return False
    bias = constant(layer.bias)
    weight = static_shape(layer.weight)
    channels = weight[layer.axis] * (layer.groups if layer.node.op_type == "ConvTranspose" else 1)
    return bias is None or bias.size == channels


def by_input(layer: Layer, weight: _Floats) -> _Floats:
    """A weight as (input channels, their output channels, taps)."""
    if layer.node.op_type == "Conv":
        groups, per_group = layer.groups, weight.shape[1]
        form = weight.reshape(groups, weight.shape[0] // groups, per_group, -1).swapaxes(1, 2)
        return np.asarray(form.reshape(groups * per_group, weight.shape[0] // groups, -1))
    if layer.node.op_type == "ConvTranspose":
        return weight.reshape(weight.shape[0], weight.shape[1], -1)
    return np.moveaxis(weight, 1 - layer.axis, 0)[:, :, None]


def weight_of(layer: Layer) -> _Floats:
    array = constant(layer.weight)
    assert array is not None, name_of(layer.node)  # it is a layer
    return array.astype(np.float64)
