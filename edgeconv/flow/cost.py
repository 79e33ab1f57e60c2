"""What a network costs, layer by layer, beside the same network with ordinary convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from edgeconv.errors import DECLARED, CaptureError

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Amounts:
    """Sums of what is counted.

    Attributes:
        parameters: elements of all parameters (not of buffers).
        macs: multiply-adds of convolutions and linear layers; what BatchNorm and activations add is not counted, as
            is usual (and BatchNorm is folded away).
        activation_bytes: bytes of the outputs in float32; an output in its input's memory (views, in place) has none.
    """

    parameters: int = 0
    macs: int = 0
    activation_bytes: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.activation_bytes + other.activation_bytes,
        )


@dataclass(frozen=True)
class LayerCost:
    """One call of one layer.

    Attributes:
        name: its path in the network.
        kind: its class's name, or ``"Conv2d depthwise"`` / ``"Conv2d pointwise"`` / ``"Conv2d grouped"``.
        output_shape: as torch has it.
        own: what it costs as it is.
        ordinary: what stands in its place in the ordinary network. Of a depthwise-pointwise pair, the pointwise
            convolution's row holds the ordinary convolution; the rows before it in the pair are all zero.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    own: Amounts
    ordinary: Amounts


@dataclass(frozen=True)
class Cost:
    """The layers in the order of execution, and their sums.

    Attributes:
        layers: modules without children or with parameters of their own.
        pairs: how many depthwise-pointwise pairs were found.
        own: the sum over the network as it is.
        ordinary: the sum over the network with an ordinary convolution for every depthwise-pointwise pair.
    """

    layers: tuple[LayerCost, ...]
    pairs: int
    own: Amounts
    ordinary: Amounts


@dataclass(frozen=True)
class _Call:
    name: str
    module: nn.Module
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: int
    view: bool = False


def cost(module: nn.Module, args: tuple[Tensor, ...]) -> Cost:
    """Counts a forward pass in eval mode; the module's mode, gradients and buffers are left as they were.

    A depthwise-pointwise pair is a Conv2d with one filter per input channel, and the next convolution, when that is
    1x1 with stride 1 and one group and only BatchNorm and activations lie between. Its ordinary convolution has the
    depthwise one's kernel, stride and dilation, both ends' channels, and a bias if the pointwise one has it;
    BatchNorm and activation after it stay. Functional operations are not seen. Every parameter counts once, with the
    first layer that holds it; layers that hold some but are never called come last, without a shape.
    """
    # A pair ends in its pointwise call, whose row shows the ordinary convolution; the calls before it are dropped.
    calls = _calls(module, args)
    replaced = _pairs(calls)
    dropped = {index for start, end in replaced.items() for index in range(start, end)}
    ends = {end: calls[start] for start, end in replaced.items()}
    layers = []
    for index, call in enumerate(calls):
        own = _own(call)
        ordinary = own
        if index in dropped:
            ordinary = Amounts()
        elif index in ends:
            ordinary = _ordinary(ends[index], call)
        layers.append(LayerCost(call.name, _kind(call.module), call.outputs, own, ordinary))
    return Cost(
        layers=tuple(layers),
        pairs=len(replaced),
        own=sum((layer.own for layer in layers), Amounts()),
        ordinary=sum((layer.ordinary for layer in layers), Amounts()),
    )


def _calls(module: nn.Module, args: tuple[Tensor, ...]) -> list[_Call]:
    calls: list[_Call] = []
    counted: set[int] = set()

    def new_parameters(layer: nn.Module) -> int:
        new = [item for item in layer.parameters(recurse=False) if id(item) not in counted]
        counted.update(id(item) for item in new)
        return sum(item.numel() for item in new)

    def record(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            # The same memory: nothing is allocated for the output.
            view = _storage(output) is not None and _storage(inputs) == _storage(output)
            calls.append(_Call(name, layer, _shape(inputs), _shape(output), new_parameters(layer), view))

        return hook

    layers = [(name, layer) for name, layer in module.named_modules() if _is_layer(layer)]
    modes = {layer: layer.training for layer in module.modules()}
    handles = [layer.register_forward_hook(record(name)) for name, layer in layers]
    try:
        with torch.no_grad():
            module.eval()(*args)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # torch's words on shapes; others are the code's
        message = " ".join(str(error).split())[:200]
        what = f"forward failed with {type(error).__name__}: {message}"
        raise CaptureError(what, where=type(module).__name__, hint=DECLARED) from error
    finally:
        for handle in handles:
            handle.remove()
        for layer, training in modes.items():
            layer.training = training
    # Parameters of layers that forward never reached still take space in the files.
    uncalled = [(name, layer, new_parameters(layer)) for name, layer in layers]
    return calls + [_Call(name, layer, (), (), count) for name, layer, count in uncalled if count]


def _is_layer(module: nn.Module) -> bool:
    """Whether a module counts as a layer: it has no children, or parameters of its own beside them."""
    return not list(module.children()) or bool(list(module.parameters(recurse=False)))


def _shape(value: Any) -> tuple[int, ...]:
    tensor = _first(value)
    return () if tensor is None else tuple(tensor.shape)


def _storage(value: Any) -> int | None:
    tensor = _first(value)
    return None if tensor is None else tensor.untyped_storage().data_ptr()


def _first(value: Any) -> Tensor | None:
    """A tensor, or the first one of a tuple or list."""
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


def _own(call: _Call) -> Amounts:
    if not call.outputs:
        return Amounts(call.parameters)
    macs = _macs(call)
    # The output of a container with parameters (a layer scale, say) is its last child's.
    has_output = (macs or not list(call.module.children())) and not call.view
    return Amounts(call.parameters, macs, math.prod(call.outputs) * FLOAT32_BYTES if has_output else 0)


def _macs(call: _Call) -> int:
    layer = call.module
    if isinstance(layer, _ConvTransposeNd):  # each input element meets a whole filter
        return math.prod(call.inputs) * layer.weight[0].numel()
    if isinstance(layer, _ConvNd):
        return math.prod(call.outputs) * layer.weight[0].numel()
    if isinstance(layer, nn.Linear):
        return math.prod(call.outputs) * layer.in_features
    return 0


def _pairs(calls: Sequence[_Call]) -> Mapping[int, int]:
    """Index of the depthwise call -> index of its pointwise call."""
    pairs: dict[int, int] = {}
    depthwise: int | None = None
    for index, call in enumerate(calls):
        layer = call.module
        # Called in a row is not connected in a row; equal shapes are what a hook can see of that.
        if depthwise is not None and _is_pointwise(layer) and call.inputs == calls[index - 1].outputs:
            pairs[depthwise] = index
        if isinstance(layer, _ConvNd):
            depthwise = index if _is_depthwise(layer) else None
        elif not isinstance(layer, _BETWEEN) and not call.view:
            depthwise = None
    return pairs


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1


def _is_pointwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.kernel_size == (1, 1) and layer.stride == (1, 1)


def _ordinary(depthwise: _Call, pointwise: _Call) -> Amounts:
    first, last = depthwise.module, pointwise.module
    if not isinstance(first, nn.Conv2d) or not isinstance(last, nn.Conv2d):
        raise TypeError(f"{depthwise.name} and {pointwise.name} are not a pair of Conv2d")
    weights = first.in_channels * math.prod(first.kernel_size) * last.out_channels
    elements = math.prod(pointwise.outputs)
    parameters = weights + (last.out_channels if last.bias is not None else 0)
    return Amounts(
        parameters if pointwise.parameters else 0,
        elements * weights // last.out_channels,
        elements * FLOAT32_BYTES,
    )


def _kind(layer: nn.Module) -> str:
    name = type(layer).__name__
    if _is_depthwise(layer):
        return f"{name} depthwise"
    if isinstance(layer, _ConvNd) and layer.groups > 1:
        return f"{name} grouped"
    return f"{name} pointwise" if _is_pointwise(layer) else name


_BETWEEN = (
    _BatchNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
)
"""Layers that may stand between the convolutions of a pair, beside views of their input."""
