"""Conv, ConvTranspose, Gemm and MatMul with constant weights, in one form that is read and written back.

Whatever the operator, its weight becomes ``[Cout, Cin/groups, taps]`` and its bias ``[Cout]``, float64: arithmetic on
weights is written once, for that form. The layouts of the operators are those of the ONNX specification:
Conv ``[Cout, Cin/g, k…]``, ConvTranspose ``[Cin, Cout/g, k…]``, Gemm ``[K, N]`` (``[N, K]`` with transB), MatMul
``[K, N]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgeconv.graph.affine_maps import affine
from edgeconv.graph.constants import Float64, exact, holds
from edgeconv.graph.edit import graph_of, input_of, only_reader, rank, tensor_of
from edgeconv.graph.replace import disown, replace_constant
from edgeconv.graph.windows import may_pad


@dataclass(frozen=True)
class Linear:
    """``y = W x + b``.

    Attributes:
        node: the operator.
        weight: [Cout, Cin/groups, taps].
        bias: [Cout]; zeros where the node has none.
        groups: output channels ``[q * Cout/groups, …)`` read input channels ``[q * Cin/groups, …)``.
        axis_in: x's channel axis.
        axis_out: y's channel axis.
        uniform: an input that is constant per channel gives an output that is constant per channel, at the borders too:
            there is no zero padding, and every output sees every tap.
        takes_bias: the node can hold a bias.
        bias_node: the Add that holds the bias of a MatMul of rank above 2.
    """

    node: ir.Node
    weight: Float64
    bias: Float64
    groups: int = 1
    axis_in: int = 1
    axis_out: int = 1
    uniform: bool = True
    takes_bias: bool = True
    bias_node: ir.Node | None = None

    @property
    def channels_out(self) -> int:
        """Cout."""
        return len(self.weight)

    @property
    def channels_in(self) -> int:
        """Cin."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def source(self) -> ir.Value | None:
        """x."""
        return self.node.inputs[0]

    def then(self, scale: Float64, shift: Float64) -> Linear:
        """``scale * (W x + b) + shift``; ``scale`` and ``shift`` are [Cout]."""
        with np.errstate(over="ignore", invalid="ignore"):  # `fits` refuses what is not finite
            return replace(self, weight=self.weight * scale[:, None, None], bias=self.bias * scale + shift)

    def of(self, scale: Float64, shift: Float64) -> Linear:
        """``W (scale * x + shift) + b``; ``scale`` and ``shift`` are [Cin]. A non-zero shift needs ``uniform``."""
        with np.errstate(over="ignore", invalid="ignore"):
            bias = self.bias + (self.weight * self._per_input(shift)).sum(axis=(1, 2))
            return replace(self, weight=self.weight * self._per_input(scale), bias=bias)

    def _per_input(self, numbers: Float64) -> Float64:
        """[Cin] -> [Cout, Cin/groups, 1]: the number of the input channel that each weight multiplies."""
        grouped = numbers.reshape(self.groups, -1)
        return np.repeat(grouped, self.channels_out // self.groups, axis=0)[:, :, None]

    def fits(self) -> bool:
        """Whether the node can hold these numbers: it takes a bias if there is one, and its dtype has the range."""
        dtype = _dtype(self.node)
        if not (holds(dtype, self.weight) and holds(dtype, self.bias)):
            return False
        return self.takes_bias or self.bias_node is not None or not self.bias.any()

    def store(self) -> None:
        """Writes weight and bias into the node, rounded once to its dtype."""
        _WRITERS[self.node.op_type](self)


def linear(node: ir.Node | None) -> Linear | None:
    """Reads a node; None if it is not linear with constant weights and a constant bias per output channel."""
    if node is None or node.domain != "" or node.op_type not in _READERS:
        return None
    weight = exact(node.inputs[1])
    bias = input_of(node, 2)
    if weight is None or (bias is not None and exact(bias) is None):
        return None
    return _READERS[node.op_type](node, weight)


def linear_behind(value: ir.Value) -> Linear | None:
    """The linear operator that gives a value, with the Add of its bias if it is a MatMul; None if there is none."""
    node = value.producer()
    if node is None or node.op_type != "Add":
        return linear(node)
    # A MatMul has no bias: the Add behind it is one, if nothing else reads the product.
    addition = affine(node)
    if addition is None or only_reader(addition.source) is not node:
        return None
    product = linear(addition.source.producer())
    if product is None or product.takes_bias or not (addition.scale == 1.0).all():
        return None
    coefficients = addition.along(product.axis_out, product.channels_out)
    return None if coefficients is None else replace(product, bias=coefficients[1], bias_node=node)


def _dtype(node: ir.Node) -> ir.DataType:
    tensor = tensor_of(node.inputs[1])
    return ir.DataType.FLOAT if tensor is None else tensor.dtype


def _bias(node: ir.Node, channels: int) -> Float64:
    bias = exact(input_of(node, 2))
    return np.zeros(channels) if bias is None else np.broadcast_to(bias.reshape(-1), (channels,))


def _no_padding(node: ir.Node) -> bool:
    return not may_pad(node) and not any(node.attributes.get_ints("output_padding", ()))


def _read_convolution(node: ir.Node, weight: Float64) -> Linear:
    form = weight.reshape(weight.shape[0], weight.shape[1], -1)
    groups = node.attributes.get_int("group", 1)
    return Linear(node, form, _bias(node, len(form)), groups, uniform=_no_padding(node))


def _read_transposed_convolution(node: ir.Node, weight: Float64) -> Linear:
    groups = node.attributes.get_int("group", 1)
    channels_in, per_group = weight.shape[:2]
    # ONNX, ConvTranspose: the weight has the input channels first, and the outputs of one group behind them.
    grouped = weight.reshape(groups, channels_in // groups, per_group, -1).swapaxes(1, 2)
    form = grouped.reshape(groups * per_group, channels_in // groups, -1)
    # With several taps or a stride, neighboring outputs see different taps: a constant input gives no constant output.
    single = form.shape[2] == 1 and all(step == 1 for step in node.attributes.get_ints("strides", ()))
    uniform = single and _no_padding(node)
    return Linear(node, form, _bias(node, len(form)), groups, uniform=uniform)


def _read_gemm(node: ir.Node, weight: Float64) -> Linear | None:
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    form = weight if node.attributes.get_int("transB", 0) else weight.T
    addend = exact(input_of(node, 2))
    if addend is not None and (addend.size not in (1, len(form)) or addend.shape[-1:] not in ((), (addend.size,))):
        return None  # differs from row to row
    axis_in = 0 if node.attributes.get_int("transA", 0) else 1
    # alpha and beta go into the numbers; `_write_gemm` takes them off the node.
    return Linear(node, alpha * form[:, :, None], beta * _bias(node, len(form)), axis_in=axis_in)


def _read_matmul(node: ir.Node, weight: Float64) -> Linear | None:
    dimensions = rank(node.inputs[0])
    if weight.ndim != 2 or dimensions is None:
        return None
    # With rank 2 it can become a Gemm, which takes a bias.
    form, axis = weight.T[:, :, None], dimensions - 1
    return Linear(node, form, np.zeros(len(form)), axis_in=axis, axis_out=axis, takes_bias=dimensions == 2)


def _write_convolution(operator: Linear) -> None:
    taps = _shape_of_weight(operator.node)[2:]
    _put(operator.node, operator.weight.reshape(*operator.weight.shape[:2], *taps), operator.bias)


def _write_transposed_convolution(operator: Linear) -> None:
    taps = _shape_of_weight(operator.node)[2:]
    groups, per_group = operator.groups, operator.channels_out // operator.groups
    form = operator.weight.reshape(groups, per_group, operator.channels_in // groups, -1).swapaxes(1, 2)
    _put(operator.node, form.reshape(operator.channels_in, per_group, *taps), operator.bias)


def _write_gemm(operator: Linear) -> None:
    node, weight = operator.node, operator.weight[:, :, 0]
    _put(node, weight if node.attributes.get_int("transB", 0) else weight.T, operator.bias)
    for name in ("alpha", "beta"):  # `_read_gemm` multiplied them into the numbers
        node.attributes.pop(name, None)


def _write_matmul(operator: Linear) -> None:
    node, holder = operator.node, operator.bias_node
    bias = operator.bias if operator.takes_bias else np.zeros(operator.channels_out)
    if bias.any():
        node.op_type = "Gemm"  # whose weight has the same layout without transB
    _put(node, operator.weight[:, :, 0].T, bias)
    if holder is not None:
        disown(node.outputs[0], graph_of(node))
        index = 0 if tensor_of(holder.inputs[0]) is not None else 1
        replace_constant(holder, index, np.array(operator.bias), _dtype(node), f"{holder.outputs[0].name}.bias")


def _shape_of_weight(node: ir.Node) -> tuple[int, ...]:
    tensor = tensor_of(node.inputs[1])
    return () if tensor is None else tuple(tensor.shape.numpy())


def _put(node: ir.Node, weight: Float64, bias: Float64) -> None:
    """Sets weight and bias of a node; a bias of zeros is left out."""
    dtype, name = _dtype(node), (node.inputs[1] and node.inputs[1].name) or f"{node.outputs[0].name}.weight"
    replace_constant(node, 1, np.ascontiguousarray(weight), dtype, name)
    if bias.any():
        replace_constant(node, 2, np.array(bias), dtype, f"{name.removesuffix('.weight')}.bias")
    elif len(node.inputs) > 2:
        node.resize_inputs(2)


_READERS: dict[str, Callable[[ir.Node, Float64], Linear | None]] = {
    "Conv": _read_convolution,
    "ConvTranspose": _read_transposed_convolution,
    "Gemm": _read_gemm,
    "MatMul": _read_matmul,
}

_WRITERS: dict[str, Callable[[Linear], None]] = {
    "Conv": _write_convolution,
    "ConvTranspose": _write_transposed_convolution,
    "Gemm": _write_gemm,
    "MatMul": _write_matmul,
}
