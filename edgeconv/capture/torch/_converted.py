"""Rebuilds modules that torch.ao has converted to integers as float modules with fake quantization.

``convert`` and ``convert_fx`` replace float layers by layers with packed integer weights, whose kernels (FBGEMM,
QNNPACK) cannot be traced. Each such layer states its integers, scales and zero points. A float layer is made of it
again: with the dequantized weight, and a fake quantization at the scale of its result, so that it rounds the same.
The layers of ``convert_to_reference_fx`` round their weights alone, and results are rounded between them.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.capture.torch._torchao import as_float_linear, rounds_its_input
from edgeconv.capture.torch._trained import FixedRounding
from edgeconv.errors import CaptureError

_PACKAGES = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.", "torch.ao.nn.quantizable.dynamic.")
"""Where torch has its converted modules."""
_STATIC_PACKAGES = ("torch.ao.nn.quantized.modules.", "torch.ao.nn.intrinsic.quantized.modules.")
"""Those with fixed scales: `_PARTS` rebuilds most of them. The others scale by each input, or are recurrent."""
_REFERENCE = "torch.ao.nn.quantized.reference.modules."
"""Those of ``convert_to_reference_fx``, which compute in floats on a weight that they round at each call: `_LAYERS`."""
_FLOAT = "export the float module that it was made of, and have edgeconv quantize it: int8 is one of its variants"
_TYPES = {torch.quint8: torch.uint8, torch.qint8: torch.int8}


def is_converted(part: nn.Module) -> bool:
    """Whether a module computes on torch's quantized tensors.

    ``FloatFunctional`` is in the same package, but is the form before conversion.
    """
    kind = type(part)
    return f"{kind.__module__}.".startswith(_PACKAGES) and kind.__name__ not in ("FloatFunctional", "FXFloatFunctional")


def as_floats(module: nn.Module) -> nn.Module:
    """A float module that rounds as a converted one does, with the same submodules under the same names.

    Args:
        module: any module; it is not changed, and returned itself where nothing in it is converted.

    Raises:
        CaptureError: a part, or an operator of a traced graph, has no such form (recurrent, dynamic, of 32 bits).
    """
    is_made = any(is_converted(part) or rounds_its_input(part) for part in module.modules())
    if not is_made and not _is_traced(module):
        return module
    return _copied(module, "", {})


def rounds_between(module: nn.Module) -> bool:
    """Whether `as_floats` has rebuilt parts of a module that gave integers: between them, too, it computed on those."""
    return any(isinstance(part, _Rounded) and part.rounds for part in module.modules())


def _is_traced(module: nn.Module) -> bool:
    """Whether a module has a graph of ``convert_fx`` that makes quantized tensors by itself."""
    graphs = [part.graph for part in module.modules() if isinstance(part, torch.fx.GraphModule)]
    return any(node.target in _FUNCTIONS for graph in graphs for node in graph.nodes)


def _copied(part: nn.Module, path: str, copies: dict[int, nn.Module]) -> nn.Module:
    """A copy of a module in which converted submodules are rebuilt; tensors are shared with the original.

    Args:
        part: the module.
        path: of it, for messages.
        copies: of the modules so far, by ``id``: a module that is used in two places stays one.
    """
    if id(part) in copies:
        return copies[id(part)]
    if is_converted(part):
        make = _maker(part)
        if make is None:
            raise CaptureError(_refusal(part), where=path or type(part).__name__, hint=_FLOAT)
        fresh: nn.Module = make(part)
        fresh.training = part.training
    elif rounds_its_input(part):
        fresh = as_float_linear(part, path or type(part).__name__)
        fresh.training = part.training
    else:
        fresh = nn.Module() if isinstance(part, torch.fx.GraphModule) else copy.copy(part)
        # copy.copy shares these dicts with the original, where the children below must not appear.
        vars(fresh).update({name: dict(vars(part)[name]) for name in ("_parameters", "_buffers", "_modules")})
        for name, child in part.named_children():
            fresh._modules[name] = _copied(child, f"{path}.{name}" if path else name, copies)
        if isinstance(part, torch.fx.GraphModule):
            graph, roundings = _without_quantized_tensors(part, path or "module")
            fresh._modules |= roundings
            fresh = torch.fx.GraphModule(fresh, graph, type(part).__name__)
            fresh.training = part.training
    copies[id(part)] = fresh
    return fresh


def _maker(part: nn.Module) -> Callable[[Any], nn.Module] | None:
    """What rebuilds a converted module; None of one that has no form of floats."""
    package, name = f"{type(part).__module__}.", type(part).__name__
    if package.startswith(_REFERENCE):
        return _reference(_LAYERS[name]) if name in _LAYERS else None
    return _PARTS.get(name) if package.startswith(_STATIC_PACKAGES) else None


def _refusal(part: nn.Module) -> str:
    """What a converted module is, and why it cannot be rebuilt."""
    place = type(part).__module__.removeprefix("torch.ao.").rpartition(".modules")[0]
    what = f"it is a module that torch.ao has converted to integers ({place}.{type(part).__name__})"
    if ".dynamic" in place:
        return f"{what}, which rounds each input by that input's own range, and files have fixed scales"
    return f"{what}, and what that computes on floats is not known"


class _Rounded(nn.Module):
    """A float function whose result is rounded; its roundings have the names that they have in a prepared module.

    Args:
        function: takes the inputs, and then `tensors` in their order.
        by: the rounding of the result; None where it is not rounded.
        tensors: constants, by the names that weights are exported under; None for one that is absent.
        by_weight: the rounding of the tensor ``weight``; None where there is none.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        by: FixedRounding | None,
        tensors: Mapping[str, Tensor | None],
        by_weight: FixedRounding | None = None,
    ) -> None:
        super().__init__()
        self._function, self._names = function, tuple(tensors)
        self.activation_post_process, self.weight_fake_quant = by, by_weight
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @property
    def rounds(self) -> bool:
        """Whether its result is rounded."""
        return self.activation_post_process is not None

    def forward(self, *inputs: Tensor) -> Tensor:
        """The rounded result of the function."""
        tensors = {name: getattr(self, name) for name in self._names}
        if self.weight_fake_quant is not None:
            tensors["weight"] = self.weight_fake_quant(tensors["weight"])
        result = self._function(*inputs, *tensors.values())
        return result if self.activation_post_process is None else self.activation_post_process(result)


class _Sums(nn.Module):
    """``QFunctional`` on floats: the operations that a module calls on it."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.activation_post_process = _by(part.scale, part.zero_point)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Rounds the sum."""
        return self.activation_post_process(x + y)  # type: ignore[no-any-return]

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """Rounds the rectified sum."""
        return self.activation_post_process(functional.relu(x + y))  # type: ignore[no-any-return]

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """Rounds the product."""
        return self.activation_post_process(x * y)  # type: ignore[no-any-return]

    def cat(self, x: list[Tensor], dim: int = 0) -> Tensor:
        """Rounds the concatenation."""
        return self.activation_post_process(torch.cat(x, dim))  # type: ignore[no-any-return]

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """The sum with a number, which torch computes by a change of the zero point: nothing is rounded."""
        return x + y

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """The product with a number, which torch computes by a change of the scale: nothing is rounded."""
        return x * y


def _by(scale: Any, zero_point: Any, dtype: torch.dtype = torch.quint8, axis: int | None = None) -> FixedRounding:
    """Rounding to all integers of the type: quint8 has 0 to 255, qint8 -128 to 127."""
    if dtype not in _TYPES:
        what = f"it rounds to {str(dtype).removeprefix('torch.')}, and files have integers of 8 bits there"
        raise CaptureError(what, where="module", hint=_FLOAT)
    limits = torch.iinfo(_TYPES[dtype])
    return FixedRounding(torch.as_tensor(scale), torch.as_tensor(zero_point), axis, (limits.min, limits.max))


def _weight(packed: Tensor) -> tuple[Tensor, FixedRounding]:
    """The dequantized weight, and its rounding.

    That rounding changes no value of it; it carries the scales into the graph, from which quantization takes the
    integers back.
    """
    limits = (-128, 127)
    if packed.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
        scales, zeros = packed.q_per_channel_scales().float(), packed.q_per_channel_zero_points()
        return packed.dequantize(), FixedRounding(scales, zeros, packed.q_per_channel_axis(), limits)
    scale, zero = torch.tensor(packed.q_scale()), torch.tensor(packed.q_zero_point())
    return packed.dequantize(), FixedRounding(scale, zero, None, limits)


def _layer(part: Any, compute: Callable[..., Tensor], behind: Callable[[Tensor], Tensor]) -> nn.Module:
    """A rebuilt layer with packed weights.

    Args:
        part: the converted layer.
        compute: the result from input, weight and bias.
        behind: the activation that the layer has fused.
    """
    weight, by_weight = _weight(part.weight())
    bias = part.bias()

    def function(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return behind(compute(x, weight, bias))

    tensors = {"weight": weight, "bias": None if bias is None else bias.detach()}
    return _Rounded(function, _by(part.scale, part.zero_point), tensors, by_weight)


def _reference(compute: Callable[[Any], Callable[..., Tensor]]) -> Callable[[Any], nn.Module]:
    """The rebuilding of a layer of ``torch.ao.nn.quantized.reference``: only its weight is rounded.

    Args:
        compute: gives, of the layer, its result from input, weight and bias.
    """

    def make(part: Any) -> nn.Module:
        if part.weight_qscheme not in (torch.per_tensor_affine, torch.per_channel_affine):
            what = f"its weight is rounded by {part.weight_qscheme}, whose zero points are no integers"
            raise CaptureError(what, where=type(part).__name__, hint=_FLOAT)
        axis = part.weight_axis_int if part.weight_qscheme == torch.per_channel_affine else None
        scales = part.weight_scale.float()
        # The integers are torch's own; to round what they stand for once more changes none.
        by_weight = _by(scales, part.weight_zero_point, part.weight_dtype, axis)
        bias = None if part.bias is None else part.bias.detach()
        return _Rounded(compute(part), None, {"weight": part.get_weight().detach(), "bias": bias}, by_weight)

    return make


def _convolution(convolve: Callable[..., Tensor]) -> Callable[[Any], Callable[..., Tensor]]:
    def of(part: Any) -> Callable[..., Tensor]:
        options = (part.stride, part.padding, part.dilation, part.groups)
        return lambda x, weight, bias: convolve(x, weight, bias, *options)

    return of


def _transposition(convolve: Callable[..., Tensor]) -> Callable[[Any], Callable[..., Tensor]]:
    def of(part: Any) -> Callable[..., Tensor]:
        options = (part.stride, part.padding, part.output_padding, part.groups, part.dilation)
        return lambda x, weight, bias: convolve(x, weight, bias, *options)

    return of


_LAYERS: Mapping[str, Callable[[Any], Callable[..., Tensor]]] = {
    "Conv1d": _convolution(functional.conv1d),
    "Conv2d": _convolution(functional.conv2d),
    "Conv3d": _convolution(functional.conv3d),
    "ConvTranspose1d": _transposition(functional.conv_transpose1d),
    "ConvTranspose2d": _transposition(functional.conv_transpose2d),
    "ConvTranspose3d": _transposition(functional.conv_transpose3d),
    "Linear": lambda _: functional.linear,
}
"""Of a layer, the function of its input, weight and bias; a padding of zeros, as all of the reference modules have."""


def _conv(convolve: Callable[..., Tensor], behind: Callable[[Tensor], Tensor] = lambda x: x) -> Callable[[Any], Any]:
    def make(part: Any) -> nn.Module:
        pads = [pad for pad in reversed(part.padding) for _ in range(2)]  # F.pad's order: last axis first, both ends
        is_zeros = part.padding_mode == "zeros"

        def compute(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            padded = x if is_zeros else functional.pad(x, pads, mode=part.padding_mode)
            padding = part.padding if is_zeros else 0
            return convolve(padded, weight, bias, part.stride, padding, part.dilation, part.groups)

        return _layer(part, compute, behind)

    return make


def _transposed(convolve: Callable[..., Tensor]) -> Callable[[Any], Any]:
    return lambda part: _layer(part, _transposition(convolve)(part), lambda x: x)


def _linear(behind: Callable[[Any], Callable[[Tensor], Tensor]]) -> Callable[[Any], Any]:
    return lambda part: _layer(part, functional.linear, behind(part))


def _function(compute: Callable[[Any], Callable[..., Tensor]], *names: str) -> Callable[[Any], Any]:
    """The rebuilding of a module without packed weights.

    Args:
        compute: gives, of the module, the function of its input and of the tensors.
        names: of its float tensors.
    """

    def make(part: Any) -> nn.Module:
        attributes = {name: getattr(part, name) for name in names}
        tensors = {name: None if tensor is None else tensor.detach() for name, tensor in attributes.items()}
        scale = getattr(part, "output_scale", None)  # newer modules have scale and zero_point alone
        by = _by(part.scale, part.zero_point) if scale is None else _by(scale, part.output_zero_point)
        return _Rounded(compute(part), by, tensors)

    return make


def _normed(behind: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    def compute(part: Any) -> Callable[..., Tensor]:
        return lambda x, weight, bias, mean, var: behind(
            functional.batch_norm(x, mean, var, weight, bias, eps=part.eps)
        )

    return _function(compute, "weight", "bias", "running_mean", "running_var")


def _instances(part: Any) -> Callable[..., Tensor]:
    return lambda x, weight, bias: functional.instance_norm(x, weight=weight, bias=bias, eps=part.eps)


_PARTS: Mapping[str, Callable[[Any], nn.Module]] = {
    "Quantize": lambda part: _Rounded(lambda x: x, _by(part.scale, part.zero_point, part.dtype), {}),
    "DeQuantize": lambda _: nn.Identity(),
    "Dropout": lambda _: nn.Identity(),
    "QFunctional": _Sums,
    **{
        f"Conv{n}d": _conv(convolve)
        for n, convolve in enumerate((functional.conv1d, functional.conv2d, functional.conv3d), 1)
    },
    **{
        f"ConvReLU{n}d": _conv(convolve, functional.relu)
        for n, convolve in enumerate((functional.conv1d, functional.conv2d, functional.conv3d), 1)
    },
    "ConvTranspose1d": _transposed(functional.conv_transpose1d),
    "ConvTranspose2d": _transposed(functional.conv_transpose2d),
    "ConvTranspose3d": _transposed(functional.conv_transpose3d),
    "Linear": _linear(lambda _: lambda x: x),
    "LinearReLU": _linear(lambda _: functional.relu),
    "LinearLeakyReLU": _linear(lambda part: lambda x: functional.leaky_relu(x, part.negative_slope)),
    "LinearTanh": _linear(lambda _: torch.tanh),
    **{f"BatchNorm{n}d": _normed(lambda x: x) for n in (2, 3)},
    **{f"BNReLU{n}d": _normed(functional.relu) for n in (2, 3)},
    **{f"InstanceNorm{n}d": _function(_instances, "weight", "bias") for n in (1, 2, 3)},
    "LayerNorm": _function(
        lambda part: lambda x, weight, bias: functional.layer_norm(x, part.normalized_shape, weight, bias, part.eps),
        "weight",
        "bias",
    ),
    "GroupNorm": _function(
        lambda part: lambda x, weight, bias: functional.group_norm(x, part.num_groups, weight, bias, part.eps),
        "weight",
        "bias",
    ),
    "ReLU6": lambda _: nn.ReLU6(),
    "LeakyReLU": _function(lambda part: lambda x: functional.leaky_relu(x, part.negative_slope)),
    "Hardswish": _function(lambda _: functional.hardswish),
    "ELU": _function(lambda part: lambda x: functional.elu(x, part.alpha)),
    "Sigmoid": _function(lambda _: torch.sigmoid),
    "Softmax": _function(lambda part: lambda x: functional.softmax(x, part.dim)),
}


_NUMBERS = ("scale", "zero_point", "dtype")
_QUANTIZED = torch.ops.quantized
_FUNCTIONS: Mapping[Any, tuple[Callable[..., Any], int]] = {
    torch.quantize_per_tensor: (lambda x: x, 1),
    _QUANTIZED.add: (operator.add, 2),
    _QUANTIZED.add_relu: (lambda x, y: functional.relu(x + y), 2),
    _QUANTIZED.mul: (operator.mul, 2),
    _QUANTIZED.mul_relu: (lambda x, y: functional.relu(x * y), 2),
    _QUANTIZED.cat: (torch.cat, 2),
    _QUANTIZED.hardswish: (functional.hardswish, 1),
    _QUANTIZED.sigmoid: (torch.sigmoid, 1),
    _QUANTIZED.leaky_relu: (lambda x, slope, _: functional.leaky_relu(x, slope), 3),
    _QUANTIZED.matmul: (torch.matmul, 2),
}
"""Of functions on quantized tensors: what they compute on floats, and of how many operands; scale and zero point of the
result, and perhaps its type, are the arguments behind those."""


def _without_quantized_tensors(part: Any, where: str) -> tuple[torch.fx.Graph, dict[str, FixedRounding]]:
    """A copy of a graph of ``convert_fx`` with float forms of its operators on quantized tensors.

    Args:
        part: the module whose graph it is.
        where: its path, for messages.

    Returns:
        The graph, and the roundings that it calls, by name: of the node that they stand for.
    """
    graph, roundings = copy.deepcopy(part.graph), dict[str, FixedRounding]()
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target == "dequantize":
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.op == "call_function" and node.target in _FUNCTIONS:
            compute, operands = _FUNCTIONS[node.target]
            stated = [*node.args[operands:], *(node.kwargs[key] for key in _NUMBERS if key in node.kwargs)]
            others = {key: item for key, item in node.kwargs.items() if key not in _NUMBERS}
            if not stated:  # with a number, which torch computes by a change of scale or zero point
                node.target = compute
                continue
            name = f"{node.name}_rounding" if hasattr(part, node.name) else node.name
            roundings[name] = _by(*(_stated(part, argument) for argument in stated))
            with graph.inserting_before(node):
                computed = graph.call_function(compute, node.args[:operands], others)
                rounded = graph.call_module(name, (computed,))
            node.replace_all_uses_with(rounded)
            graph.erase_node(node)
        elif node.op == "call_function" and str(node.target).startswith("quantized."):
            what = f"it calls {node.target}, and what that computes on floats is not known"
            raise CaptureError(what, where=where, hint=_FLOAT)
    return graph, roundings


def _stated(part: Any, argument: Any) -> Any:
    """A number, or the tensor that a node reads; a rounding with a scale that is computed is refused.

    Raises:
        CaptureError: it is computed.
    """
    if not isinstance(argument, torch.fx.Node):
        return argument
    if argument.op != "get_attr":
        raise CaptureError("it rounds by a scale that is computed anew for each input", where="module", hint=_FLOAT)
    return operator.attrgetter(str(argument.target))(part)
