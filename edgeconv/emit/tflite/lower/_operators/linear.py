"""Gemm and MatMul."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite._quantization import Quantization, of_type
from edgeconv.emit.tflite.lower._layout import first, permuted
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._windows import VALID
from edgeconv.graph.edit import input_of


def gemm(low: Lowering, node: ir.Node) -> None:
    """Gemm alpha·A·B + beta·C with constant B and C, as a fully connected layer."""
    x, y = low.input(node), node.outputs[0]
    if low.dtype(x).kind != "f":
        low.refuse(f"its operands are {low.dtype(x)}", hint="cast them to float32, or write it as MatMul and Add")
    weight, alpha = low.constant(node.inputs[1], "weight"), node.attributes.get_float("alpha", 1.0)
    transposed = bool(node.attributes.get_int("transB", 0))
    scales = low.scales_of(node.inputs[1], axis=0 if transposed else 1)
    if alpha != 1:
        weight = weight.astype(np.float64) * alpha
        # Scales are positive; the sign of alpha is in the weights, of which the integers are made anew.
        scales = scales and of_type(scales.dtype, np.array(scales.scale) * abs(alpha), 0, scales.axis)
    weight = weight if transposed else weight.T
    bias = np.zeros(weight.shape[0])
    if (term := input_of(node, 2)) is not None:
        stated = low.constant(term, "bias")
        if stated.ndim > 1 and stated.shape[0] != 1:
            low.refuse("its bias differs from row to row")
        bias = np.broadcast_to(stated.reshape(-1), bias.shape) * node.attributes.get_float("beta", 1.0)
    if node.attributes.get_int("transA", 0):
        tensor = low.transpose(low.tensor(x, first(2)), (1, 0), f"{x.name}/transposed")
    elif x in low.feature_orders:
        # A flattened image: its features lie in the file's order, and the weight's columns follow them.
        tensor, order = low.feature_orders[x]
        weight = weight[:, order]
    else:
        tensor = low.tensor(x, first(2))
    names = (node.inputs[1], input_of(node, 2))
    low.bind(y, first(2), connected(low, tensor, weight, bias, low.shape(y), names, scales))


def connected(
    low: Lowering,
    tensor: Tensor,
    weight: Array,
    bias: Array,
    shape: tuple[int, ...],
    names: tuple[ir.Value | None, ir.Value | None] = (None, None),
    scales: Quantization | None = None,
) -> Tensor:
    """A fully connected layer over the last axis; weight is (out, in), with int8 scales along its outputs.

    Where the scales differ it is a 1x1 convolution: FULLY_CONNECTED takes one scale up to TensorFlow Lite 2.16.
    """
    constants = [
        low.floats(weight, (names[0].name or "") if names[0] else f"{low.base}/weight"),
        low.floats(bias, (names[1].name or "") if names[1] else f"{low.base}/bias"),
    ]
    scales = scales and scales.moved(0)
    if scales is None or len(set(scales.scale)) == 1:
        scales = scales and of_type(scales.dtype, scales.scale[0], 0)
        return low.weighted("FULLY_CONNECTED", [tensor, *constants], shape, scales, keepNumDims=len(shape) > 2)
    # An image stays one: each RESHAPE of int8 copies it (2 % of ConvNeXt's time on LiteRT 2.3, AVX-512 VNNI).
    image = shape[:-1] if len(shape) == len(tensor.shape) == 4 else (shape[0], 1, int(np.prod(shape[1:-1])))
    pixels = low.reshape(tensor, (*image, weight.shape[1]), f"{low.base}/pixels")
    kernel = low.reshape(constants[0], (weight.shape[0], 1, 1, weight.shape[1]))
    options = {"padding": VALID, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    wide = (*image, weight.shape[0])
    return low.reshape(low.weighted("CONV_2D", [pixels, kernel, constants[1]], wide, scales, **options), shape)


def matmul(low: Lowering, node: ir.Node) -> None:
    """MatMul: a fully connected layer when the right side is a constant matrix, else a batched product."""
    a, b = low.input(node), low.input(node, 1)
    shape = low.shape(node.outputs[0])
    weight = low.array(b)
    if weight is not None and weight.ndim == 2 and len(low.shape(a)) >= 2:
        rank = len(shape)
        # Flattened images keep their NHWC order: the rows of the weight move instead of the data.
        if a in low.feature_orders:
            tensor, order = low.feature_orders[a]
            weight, form = weight[order], first(rank)
        else:
            form = low.form(a)
            form = form if form[-1] == rank - 1 else first(rank)
            tensor = low.tensor(a, form)
        bias, scales = np.zeros(weight.shape[1]), low.scales_of(b, axis=1)
        product = connected(low, tensor, weight.T, bias, permuted(shape, form), (b, None), scales)
        low.bind(node.outputs[0], form, product)
        return
    if min(len(low.shape(a)), len(low.shape(b))) < 2:
        low.refuse("one side is a vector")
    operands, flips = zip(*(_side(low, value) for value in (a, b)), strict=True)
    product = low.emit("BATCH_MATMUL", operands, shape, adjX=flips[0], adjY=flips[1])
    low.bind(node.outputs[0], first(len(shape)), product)


def _side(low: Lowering, value: ir.Value) -> tuple[Tensor, bool]:
    """A factor, and whether its last two axes lie swapped."""
    rank = len(low.shape(value))
    torch_order = first(rank)
    swapped = (*torch_order[:-2], rank - 1, rank - 2)
    if low.array(value) is None and torch_order not in low.forms[value] and swapped in low.forms[value]:
        return low.tensor(value, swapped), True
    return low.tensor(value, torch_order), False


LOWERINGS: dict[str, Lower] = {
    "Gemm": gemm,
}
