"""Normalizations that are computed at run time, and BatchNormalization that could not be folded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import Form, last
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.activation import read
from edgeconv.emit.tflite.lower._operators.convolution import convolved
from edgeconv.emit.tflite.lower._operators.elementwise import aligned
from edgeconv.emit.tflite.lower._operators.reduction import norm_of, reduced
from edgeconv.emit.tflite.lower._windows import Window
from edgeconv.graph.edit import input_of
from edgeconv.graph.windows import neighbors


def batch_normalization(low: Lowering, node: ir.Node) -> None:
    """BatchNormalization as x·scale + shift, both computed in float64 and rounded once."""
    x, form = read(low, node)
    gamma, beta, mean, variance = (low.constant(value, "statistic").astype(np.float64) for value in node.inputs[1:5])
    # One factor and one term per channel, in float64: a kernel would round four numbers and their differences.
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    scaled = _scaled(low, x, form, _per_channel(scale, form), _per_channel(beta - mean * scale, form))
    low.bind(node.outputs[0], form, scaled)


def instance_normalization(low: Lowering, node: ir.Node) -> None:
    """InstanceNormalization: over all axes but batch and channels."""
    x, form = read(low, node)
    gamma, beta = (low.constant(value, "parameter") for value in node.inputs[1:3])
    axes = [form.index(axis) for axis in range(2, len(form))]
    normal = normalized(low, x, axes, node.attributes.get_float("epsilon", 1e-5))
    scaled = _scaled(low, normal, form, _per_channel(gamma, form), _per_channel(beta, form))
    low.bind(node.outputs[0], form, scaled)


def layer_normalization(low: Lowering, node: ir.Node) -> None:
    """LayerNormalization: over the axes from ``axis`` on."""
    x, form = read(low, node)
    rank = len(form)
    axis = node.attributes.get_int("axis", -1) % rank
    axes = [form.index(index) for index in range(axis, rank)]
    normal, *statistics = standardized(low, x, axes, node.attributes.get_float("epsilon", 1e-5))
    for value, tensor in zip(node.outputs[1:], statistics, strict=False):
        if value.uses() or value.is_graph_output():
            low.bind(value, form, tensor)
    gamma = low.constant(node.inputs[1], "scale")
    beta = np.zeros(1) if input_of(node, 2) is None else low.constant(node.inputs[2], "bias")
    low.bind(node.outputs[0], form, _scaled(low, normal, form, gamma, beta))


def lp_normalization(low: Lowering, node: ir.Node) -> None:
    """LpNormalization: divided by the norm along an axis; where that is 0, the elements are."""
    x, form = read(low, node)
    axis = node.attributes.get_int("axis", -1) % len(form)
    norm = norm_of(low, x, [form.index(axis)], node.attributes.get_int("p", 2))
    # 0 / 0 is not a number, and ONNX (LpNormalization) says that zeros stay zeros.
    zero = low.emit("EQUAL", [norm, low.floats(0.0)], norm.shape, dtype=np.dtype(np.bool_))
    norm = low.emit("SELECT_V2", [zero, low.floats(1.0), norm], norm.shape, dtype=norm.dtype)
    low.bind(node.outputs[0], form, low.emit("DIV", [x, norm], x.shape))


def local_response(low: Lowering, node: ir.Node) -> None:
    """LRN: divided by a power of what the squares of neighboring channels add up to, which is a 1x1 convolution."""
    x, shape = low.input(node), low.shape(low.input(node))
    size, alpha = node.attributes.get_int("size"), node.attributes.get_float("alpha", 1e-4)
    form = last(len(shape))
    tensor = low.tensor(x, form)
    squares = low.emit("SQUARE", [tensor], tensor.shape)
    weight = neighbors(shape[1], size) * (alpha / size)
    count = int(np.prod(squares.shape[1:-1]))
    image = low.reshape(squares, (squares.shape[0], 1, count, shape[1]))
    # Pixels in one row, whatever the rank: a 1x1 convolution, whose weights add up the neighbors of each channel.
    point = [Window(1, 1, 1, 0, 0, 1, 1), Window(1, 1, 1, 0, 0, count, count)]
    bias = np.full(shape[1], node.attributes.get_float("bias", 1.0))
    total = low.reshape(convolved(low, image, weight[:, :, None, None], bias, 1, point, named=False), tensor.shape)
    power = low.emit("POW", [total, low.floats(node.attributes.get_float("beta", 0.75))], tensor.shape)
    low.bind(node.outputs[0], form, low.emit("DIV", [tensor, power], tensor.shape))


def normalized(low: Lowering, x: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) over axes of the tensor."""
    return standardized(low, x, axes, epsilon)[0]


def standardized(low: Lowering, x: Tensor, axes: Sequence[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) / sqrt(variance + epsilon) over axes of the tensor, the mean, and what the difference is times.

    The variance is the mean square of the centered values (two passes), which does not cancel; the division is done
    once per mean and not once per element.
    """
    mean = reduced(low, "MEAN", x, axes)
    centered = low.emit("SUB", [x, mean], x.shape)
    variance = reduced(low, "MEAN", low.emit("SQUARE", [centered], x.shape), axes)
    shifted = low.emit("ADD", [variance, low.floats(epsilon)], variance.shape)
    deviation = low.emit("SQRT", [shifted], variance.shape)
    factor = low.emit("DIV", [low.floats(1.0), deviation], variance.shape)
    return low.emit("MUL", [centered, factor], x.shape), mean, factor


def _per_channel(array: Array, form: Form) -> Array:
    return array.reshape(-1, *(1,) * (len(form) - 2))


def _scaled(low: Lowering, x: Tensor, form: Form, scale: Array, shift: Array) -> Tensor:
    """x·scale + shift for constants that broadcast to the value in torch's order; neutral ones cost nothing."""
    if np.any(scale != 1):
        x = low.emit("MUL", [x, low.floats(aligned(scale, form), f"{low.base}/scale")], x.shape)
    if np.any(shift != 0):
        x = low.emit("ADD", [x, low.floats(aligned(shift, form), f"{low.base}/shift")], x.shape)
    return x


LOWERINGS: dict[str, Lower] = {
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "LRN": local_response,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
}
