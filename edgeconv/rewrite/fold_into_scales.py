"""Folds affine maps behind layers with integer weights into their scales and biases, and transposes of such weights.

For modules and files that were trained for int8: `_behind` folds into float weights, and would lose the integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core.affine import are_scales, limits_of
from edgeconv.graph.affine_maps import affine
from edgeconv.graph.constants import Float64, exact, holds, permutation_of
from edgeconv.graph.each_node import Change, EachNodePass
from edgeconv.graph.edit import dims, input_of, only_reader, producer_of, tensor_of
from edgeconv.graph.replace import replace_constant, take_over
from edgeconv.graph.traits import Trait, having

_KINDS = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16})


class FoldIntoScalesPass(EachNodePass):
    """Folds affine maps into scales and bias of the linear operator before them, whose weight is of integers.

    A Transpose of such a weight is applied to the integers.

    1. Requires: Conv, ConvTranspose of one group, Gemm or MatMul whose weight is DequantizeLinear of a constant that
       nobody else reads, a constant bias or none, and behind it an affine map along its output channels (a
       BatchNormalization, arithmetic with constants) that alone reads its result.
    2. Ensures: no such map and no such Transpose is left. The operator's result takes the name of the map's.
    3. Exact: ``k * (s q) x + t`` is ``(k s) q x + t``. The integers stay as they were trained. A scale is positive, so
       in a channel with a negative k they and their zero point change sign; if the type cannot hold the result, the map
       stays. Scales are rounded once, to float32, when they are stored: what they were rounded from stays beside them.
    """

    ensured = True

    def change_at(self, node: ir.Node) -> Change | None:
        """The transposition of a weight, or the fold of a map."""
        fold = _transposed(node) or _folded(node)
        return None if fold is None else fold.apply


@dataclass(frozen=True)
class _Weight:
    """``scale * (integers - zero_point)``, by DequantizeLinear.

    Attributes:
        node: the DequantizeLinear.
        integers: its constant.
        scales: float64, one, or one per element of `axis`.
        zeros: as many integers.
        axis: along which they differ.
    """

    node: ir.Node
    integers: npt.NDArray[np.integer]
    scales: Float64
    zeros: npt.NDArray[np.int64]
    axis: int

    def store(self) -> None:
        """Writes the numbers into the DequantizeLinear."""
        kind = ir.DataType.from_numpy(self.integers.dtype)
        name, is_one = self.node.outputs[0].name or "weight", self.scales.size == 1
        shape = () if is_one else (-1,)
        replace_constant(self.node, 0, self.integers, kind, f"{name}.quantized")
        replace_constant(self.node, 1, self.scales.reshape(shape), ir.DataType.FLOAT, f"{name}.scale")
        replace_constant(self.node, 2, self.zeros.reshape(shape), kind, f"{name}.zero_point")
        self.node.attributes.pop("axis", None)
        if not is_one:
            self.node.attributes["axis"] = ir.AttrInt64("axis", self.axis)


@dataclass(frozen=True)
class _Fold:
    """A possible fold of the node that gives `outer` from `inner`; nothing is changed before `apply`."""

    weight: _Weight
    outer: ir.Value
    inner: ir.Value
    bias: Float64 | None = None

    def apply(self) -> None:
        """Stores the numbers, and replaces `outer` by `inner`."""
        operator = self.inner.producer()
        if self.bias is not None and operator is not None:
            name = f"{(self.weight.node.outputs[0].name or 'weight').removesuffix('.weight')}.bias"
            replace_constant(operator, 2, self.bias, ir.DataType.FLOAT, name)
        self.weight.store()
        take_over(self.outer, self.inner)


def _weight(value: ir.Value | None) -> _Weight | None:
    """Reads a weight of integers with a single reader; None for any other value."""
    node = producer_of(value)
    if node is None or node.op_type != "DequantizeLinear" or only_reader(node.outputs[0]) is None:
        return None
    tensor, scales = tensor_of(node.inputs[0]), exact(node.inputs[1])
    zero = tensor_of(input_of(node, 2))
    if tensor is None or scales is None or scales.ndim > 1 or node.attributes.get_int("block_size", 0) != 0:
        return None
    if input_of(node, 2) is not None and zero is None:
        return None
    if tensor.dtype not in _KINDS:
        return None
    integers = np.asarray(tensor.numpy())
    zeros = np.zeros(scales.size, np.int64) if zero is None else zero.numpy().astype(np.int64).reshape(-1)
    axis = node.attributes.get_int("axis", 1) % max(integers.ndim, 1)
    return _Weight(node, integers, scales.reshape(-1), zeros, axis)


def _transposed(node: ir.Node) -> _Fold | None:
    """The fold of a Transpose of such a weight."""
    weight = _weight(node.inputs[0]) if node.op_type == "Transpose" and node.domain == "" else None
    if weight is None:
        return None
    order = permutation_of(node, weight.integers.ndim)
    transposed = _Weight(
        weight.node, np.ascontiguousarray(weight.integers.transpose(order)), weight.scales, weight.zeros,
        order.index(weight.axis),
    )  # fmt: skip
    return _Fold(transposed, node.outputs[0], weight.node.outputs[0])


def _folded(node: ir.Node) -> _Fold | None:
    """The fold of an affine map behind an operator with such a weight."""
    # 1. The map, the operator before it, and its weight.
    outer = affine(node)
    operator = outer.source.producer() if outer is not None else None
    if outer is None or operator is None or operator.op_type not in having(Trait.LAYER) or operator.domain != "":
        return None
    if only_reader(outer.source) is not node or not all(operator.attributes.get_float(x, 1.0) == 1 for x in _FACTORS):
        return None
    weight, result = _weight(operator.inputs[1]), dims(outer.source)
    axes = _axes(operator, weight, len(result)) if weight is not None and result is not None else None
    if weight is None or result is None or axes is None:
        return None
    # 2. A constant bias or none; the map along the output channels.
    bias = exact(input_of(operator, 2))
    if bias is None and input_of(operator, 2) is not None:
        return None
    channels = result[axes[1]]
    coefficients = outer.along(axes[1], channels)
    if coefficients is None or (bias is not None and bias.shape not in ((), (1,), (channels,), (1, channels))):
        return None
    # 3. The new numbers.
    factors, shift = coefficients
    new_bias = (0.0 if bias is None else bias.reshape(-1)) * factors + shift
    if operator.op_type == "MatMul" and new_bias.any():
        return None  # it takes no bias
    scaled = _scaled(weight, factors, axes[0])
    if scaled is None or not holds(ir.DataType.FLOAT, new_bias):
        return None
    has_bias = bias is not None or bool(new_bias.any())
    return _Fold(scaled, outer.result, outer.source, np.array(new_bias) if has_bias else None)


_FACTORS = ("alpha", "beta")


def _axes(operator: ir.Node, weight: _Weight, dimensions: int) -> tuple[int, int] | None:
    """The axis of the output channels in the weight and in the result; None if scales differ along another one."""
    ndim = weight.integers.ndim
    if operator.op_type == "Conv":
        axes = (0, 1)
    elif operator.op_type == "ConvTranspose":
        axes = (1, 1)
        if operator.attributes.get_int("group", 1) != 1:  # output channels are then spread over two axes of the weight
            return None
    elif operator.op_type == "Gemm":
        axes = (0 if operator.attributes.get_int("transB", 0) else 1, 1)
    else:
        axes = (1, dimensions - 1)
    if (operator.op_type in ("Gemm", "MatMul") and ndim != 2) or (weight.scales.size > 1 and weight.axis != axes[0]):
        return None
    return axes


def _scaled(weight: _Weight, factors: Float64, axis: int) -> _Weight | None:
    """The weight times a factor per output channel; None if an integer or scale would be out of range."""
    least, greatest = limits_of(weight.integers.dtype)
    scales, zeros = np.broadcast_to(weight.scales, factors.shape), np.broadcast_to(weight.zeros, factors.shape)
    signs = np.where(factors < 0, -1, 1)
    along = [-1 if index == axis else 1 for index in range(weight.integers.ndim)]
    integers = weight.integers.astype(np.int64) * signs.reshape(along)
    zeros = zeros * signs
    numbers = np.concatenate([integers.reshape(-1), zeros])
    scaled = np.asarray(scales * np.abs(factors))
    stored = scaled.astype(np.float32)
    if numbers.min(initial=0) < least or numbers.max(initial=0) > greatest or not are_scales(stored).all():
        return None
    if len(set(scaled.tolist())) == 1 and len(set(zeros.tolist())) == 1:  # one scale stays one
        scaled, zeros = scaled[:1], zeros[:1]
    return _Weight(weight.node, integers.astype(weight.integers.dtype), scaled, zeros, axis)
