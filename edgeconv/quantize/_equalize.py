"""Cross-layer equalization: channels of a value take ranges alike, and its makers and readers undo one another.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019, arXiv 1906.04721),
section 4.1. Where y = W₂ f(W₁ x + b₁) and f(s·x) = s·f(x) for s > 0, the channels of W₁ and b₁ can be multiplied by any
s and those of W₂ divided by it. Relu, LeakyRelu, PRelu, max and average pooling and the identity are such f; Clip is
none and ends the search. With s = √(r₁·r₂) / r₁, where r is the range of a channel's weights, both sides end with
√(r₁·r₂).

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
from edgeconv.graph.edit import constant, is_taken, only_reader
from edgeconv.graph.names import unique_name
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._graph import name_of, replace_weight, static_shape
from edgeconv.quantize._structure import Layer, layer_of

_Floats = npt.NDArray[np.float64]

_ROUNDS = 40  # of all pairs, until nothing moves; chains of n layers settle in about n
DISOWNED = "edgeconv.equalized"
"""Value.meta key: the name says already that the value is another than its module's output."""

_WIDEST = 2.0**40  # the largest factor: keeps biases and weights within float32


@dataclass(frozen=True)
class Pair:
    """A layer, and the only layer that reads its channels, through positively homogeneous operators alone."""

    first: Layer
    second: Layer


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
    pairs = pairs_of(model)
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


def pairs_of(model: ir.Model) -> list[Pair]:
    """The pairs of layers that can be equalized, in graph order."""
    pairs = []
    for node in model.graph:
        first = layer_of(node)
        # A MatMul has no bias of its own; the Add behind it is no homogeneous operator.
        if first is None or not is_own(first) or node.op_type == "MatMul":
            continue
        second = _reader(first)
        if second is not None and is_own(second) and _fit(first, second):
            pairs.append(Pair(first, second))
    return pairs


def between(pair: Pair) -> list[ir.Node]:
    """The operators from the first layer, itself included, to the second."""
    nodes = [pair.first.node]
    while (after := only_reader(nodes[-1].outputs[0])) is not None and after is not pair.second.node:
        nodes.append(after)
    return nodes


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


def _reader(layer: Layer) -> Layer | None:
    """The layer behind homogeneous operators that alone reads a layer."""
    value: ir.Value = layer.node.outputs[0]
    while (node := only_reader(value)) is not None:
        if node.op_type not in having(Trait.HOMOGENEOUS):
            return layer_of(node) if node.inputs[0] is value else None
        # The value is a slope, or MaxPool's indices are read, too: neither can be scaled along.
        if node.inputs[0] is not value or any(map(is_taken, node.outputs[1:])):
            return None
        # A slope of either sign is homogeneous, but one that is computed may depend on the value itself.
        if node.op_type == "PRelu" and constant(node.inputs[1]) is None:
            return None
        value = node.outputs[0]
    return None


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
