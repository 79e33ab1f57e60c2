"""Resize, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import last, permuted
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.convolution import as_image
from edgeconv.graph.constants import resized_axes
from edgeconv.graph.resize_kernels import (
    MODES,
    MOST_STEPS,
    agrees_with_linear,
    integer_steps,
    nearest_elements,
)

_MOST_WEIGHTS = 2**26  # of a matrix, 0.5 GiB in float64; three of them are held at a time
_WEIGHS, _CAST = "it weighs integers", "cast them to float32 before, and back"
_OPSET = 18  # the first with axes and keep_aspect_ratio_policy


def resize(low: Lowering, node: ir.Node) -> None:
    """Resize by any of ONNX's modes: of the spatial axes of a value of rank 3 or 4, of any others axis by axis.

    TFLite's own operators serve where their kernels sample at the same places (the places are compared, not the names
    of the modes); nearest by whole factors is a broadcast, which delegates take; whatever else is separable is two
    products with constant matrices, or two gathers when it only picks.
    """
    x, y = low.input(node), node.outputs[0]
    before, after = low.shape(x), low.shape(y)
    if before[:2] != after[:2] or len(before) not in (3, 4):
        _axis_by_axis(low, node)
        return
    image = as_image(low, x)
    weights = [_weights(low, node, axis) for axis in range(2, len(before))]
    if len(weights) == 1:
        weights.insert(0, np.ones((1, 1)))
    low.bind(y, last(len(after)), _resized(low, image, weights))


def _axis_by_axis(low: Lowering, node: ir.Node) -> None:
    """A gather for each axis that changes, or a product with its matrix (volumes, channels): resizes are separable."""
    value = low.input(node)
    form = low.form(value)
    resized = low.tensor(value, form)
    for axis in range(len(form)):
        weights, place = _weights(low, node, axis), form.index(axis)
        # A square one: [1 0 0; 0 1 0] cuts the axis off.
        if np.array_equal(weights, np.eye(low.shape(value)[axis])):
            continue
        if _picks(weights):
            elements = np.argmax(weights, axis=1)
            shape = [*resized.shape[:place], len(elements), *resized.shape[place + 1 :]]
            resized = low.emit("GATHER", [resized, low.integers(elements)], shape, axis=place, batchDims=0)
        else:
            resized = _weighed(low, resized, weights, place)
    if resized is low.tensor(value, form):
        low.alias(node.outputs[0], value)
    else:
        low.bind(node.outputs[0], form, resized)


def _weighed(low: Lowering, value: Tensor, weights: Array, axis: int) -> Tensor:
    """The product of the (output, input) matrix with one axis of a value of any rank."""
    if value.dtype != np.float32:
        low.refuse(_WEIGHS, hint=_CAST)
    ahead, behind = math.prod(value.shape[:axis]), math.prod(value.shape[axis + 1 :])
    count, size = weights.shape
    flat = low.reshape(value, (ahead, size, behind))
    product = low.emit("BATCH_MATMUL", [_stacked(low, weights), flat], (ahead, count, behind))
    return low.reshape(product, (*value.shape[:axis], count, *value.shape[axis + 1 :]))


def _weights(low: Lowering, node: ir.Node, axis: int) -> Array:
    """The (output, input) matrix of the resize along one axis, by the float64 reference.

    Not by ONNX's own: from 20 to 28 it weighs the wrong neighbors (onnx 1.23), as for every 150th pair of sizes.
    """
    from edgeconv.reference import evaluate_node  # torch is its engine, and is loaded when it is needed

    rank = len(low.shape(low.input(node)))
    size, count = low.shape(low.input(node))[axis], low.shape(node.outputs[0])[axis]
    optional = [low.array(value) if value is not None else None for value in (*node.inputs, None, None, None)]
    scales = optional[2] if optional[2] is not None and optional[2].size else None
    axes = resized_axes(node, rank)
    if size * count > _MOST_WEIGHTS:
        low.refuse(f"the matrix that resizes {size} elements to {count} is too large")
    if axis not in axes:
        return np.eye(size)
    # The sizes that the policy makes are not those that the node states: the scale is one for all of its axes.
    ratio = _kept_ratio(node, optional, [low.shape(low.input(node))[at] for at in axes])
    if ratio is not None:
        return _in_ratio(node, size, ratio)
    factor = None if scales is None else scales[axes.index(axis)].reshape(1)
    sizes = np.array([count], np.int64) if scales is None else None
    (resized,) = evaluate_node(_of_axes(node, 1), [np.eye(size), None, factor, sizes], opset=_OPSET)
    return np.array(resized.T)


def _of_axes(node: ir.Node, *axes: int) -> ir.Node:
    """The Resize of these axes alone, in no graph: row i of an identity matrix becomes what output i weighs."""
    single = ir.node("Resize", [ir.val(name) for name in ("x", "roi", "scales", "sizes")], version=node.version)
    single.attributes.update(node.attributes)
    single.attributes["axes"] = ir.AttrInt64s("axes", axes)
    return single


def _kept_ratio(node: ir.Node, optional: Sequence[Array | None], before: Sequence[int]) -> Fraction | None:
    """The one scale of all axes, where ``keep_aspect_ratio_policy`` makes one of the sizes; None where it does not."""
    sizes, policy = optional[3], _policy(node)
    if policy == "stretch" or sizes is None or not sizes.size:
        return None
    ratios = [Fraction(int(after), size) for after, size in zip(sizes, before, strict=True)]
    return min(ratios) if policy == "not_larger" else max(ratios)


def _policy(node: ir.Node) -> str:
    return node.attributes.get_string("keep_aspect_ratio_policy", "stretch")


def _in_ratio(node: ir.Node, size: int, ratio: Fraction) -> Array:
    """The matrix of one axis in that scale, which another axis beside it prescribes; by the float64 reference."""
    from edgeconv.reference import evaluate_node  # torch is its engine, and is loaded when it is needed

    # A second axis of `denominator` elements that becomes `numerator`, and a size for the first that does not bind:
    # the policy then takes the ratio for both.
    image = np.broadcast_to(np.eye(size)[:, :, None], (size, size, ratio.denominator))
    free = size * (ratio.numerator + 1) if _policy(node) == "not_larger" else 1
    sizes = np.array([free, ratio.numerator], np.int64)
    (resized,) = evaluate_node(_of_axes(node, 1, 2), [image, None, None, sizes], opset=_OPSET)
    return np.array(resized[:, :, 0].T)


def _resized(low: Lowering, image: Tensor, weights: list[Array]) -> Tensor:
    rows, columns = weights
    shape = (image.shape[0], rows.shape[0], columns.shape[0], image.shape[3])
    if shape == image.shape and all(np.array_equal(matrix, np.eye(len(matrix))) for matrix in weights):
        return image
    if all(_picks(matrix) for matrix in weights):
        return _picked(low, image, [np.argmax(matrix, axis=1) for matrix in weights])
    if image.dtype != np.float32:
        low.refuse(_WEIGHS, hint=_CAST)
    kind = "" if not low.integer else "int16" if low.is_int16 else "int8"
    for align, half in MODES:
        agrees = all(agrees_with_linear(matrix, align, half) for matrix in weights)
        if agrees and (not kind or integer_steps(weights, align, half, kind) <= MOST_STEPS[kind]):
            size = low.integers(shape[1:3])
            return low.emit("RESIZE_BILINEAR", [image, size], shape, alignCorners=align, halfPixelCenters=half)
    return _weighed(low, _weighed(low, image, rows, 1), columns, 2)


def _stacked(low: Lowering, matrix: Array) -> Tensor:
    return low.floats(matrix[None], f"{low.base}/matrix")


def _picks(weights: Array) -> bool:
    return bool(np.all(np.isin(weights, (0.0, 1.0))) and np.all(weights.sum(axis=1) == 1))


def _picked(low: Lowering, image: Tensor, indices: list[Array]) -> Tensor:
    """Every output element is one input element."""
    batch, height, width, channels = image.shape
    rows, columns = indices
    shape = (batch, len(rows), len(columns), channels)
    floats = image.dtype == np.float32
    factors = [len(index) // size for index, size in zip(indices, (height, width), strict=True)]
    is_whole = all(
        factor and np.array_equal(index, np.repeat(np.arange(size), factor))
        for index, size, factor in zip(indices, (height, width), factors, strict=True)
    )
    if floats and not low.integer and is_whole:
        return repeated(low, image, factors[0], factors[1])
    for align, half in MODES[::-1] if floats else ():  # integers of 32 bits the kernels do not all take
        if all(
            np.array_equal(nearest_elements(size, len(index), align, half), index)
            for index, size in zip(indices, (height, width), strict=True)
        ):
            size = low.integers(shape[1:3])
            return low.emit("RESIZE_NEAREST_NEIGHBOR", [image, size], shape, alignCorners=align, halfPixelCenters=half)
    for axis, index in enumerate(indices, start=1):
        picked_shape = (*shape[: axis + 1], *image.shape[axis + 1 :])
        image = low.emit("GATHER", [image, low.integers(index)], picked_shape, axis=axis, batchDims=0)
    return image


def repeated(low: Lowering, image: Tensor, tall: int, wide: int) -> Tensor:
    """Each pixel as a block of tall x wide."""
    batch, height, width, channels = image.shape
    lines = low.reshape(image, (batch * height, 1, width, 1, channels))
    ones = low.floats(np.ones((1, tall, 1, wide, 1)), f"{low.base}/ones")
    blocks = low.emit("MUL", [lines, ones], (batch * height, tall, width, wide, channels))
    return low.reshape(blocks, (batch, height * tall, width * wide, channels))


def depth_to_space(low: Lowering, node: ir.Node) -> None:
    """DepthToSpace; TFLite's takes the block from the slowest part of the channels, which is ONNX's DCR."""
    x, y = low.input(node), node.outputs[0]
    block = node.attributes.get_int("blocksize")
    image = low.tensor(x, last(4))
    if node.attributes.get_string("mode", "DCR") == "CRD":
        batch, height, width, channels = image.shape
        # ONNX, DepthToSpace: CRD counts the block fastest, DCR slowest.
        order = np.arange(channels).reshape(-1, block * block).T.reshape(-1)
        if not _reorder_producer(low, x, image, order):
            split = low.reshape(image, (batch * height * width, channels // block**2, block**2))
            image = low.reshape(
                low.transpose(split, (0, 2, 1), f"{low.base}/blocks"), image.shape, f"{low.base}/ordered"
            )
    low.bind(y, last(4), low.emit("DEPTH_TO_SPACE", [image], permuted(low.shape(y), last(4)), blockSize=block))


def _reorder_producer(low: Lowering, value: ir.Value, image: Tensor, order: Array) -> bool:
    """Gives the channels another order in the weights of the convolution that makes them, if nobody else reads it."""
    producer = low.graph.operators[-1] if low.graph.operators else None
    if producer is None or producer.code != "CONV_2D" or producer.outputs[0] is not image:
        return False
    if len(value.uses()) != 1 or value.is_graph_output():
        return False
    kernel, bias = producer.inputs[1], producer.inputs[2]
    if kernel.data is None or bias.data is None or kernel.shape[-1] != producer.inputs[0].shape[-1]:
        return False
    producer.inputs[1:] = [
        low.graph.constant(
            constant.data[order], constant.name, constant.quantization and constant.quantization.picked(order)
        )
        for constant in (kernel, bias)
        if constant.data is not None
    ]
    # The tensor no longer holds what the module's value does, so it must not have its name in reports.
    image.name, image.owner = f"{image.name}/ordered", ""
    low.reordered.add(image)
    return True


def space_to_depth(low: Lowering, node: ir.Node) -> None:
    """SpaceToDepth; the block becomes the slowest part of the channels in both formats."""
    x, y = low.input(node), node.outputs[0]
    block = node.attributes.get_int("blocksize")
    shape = permuted(low.shape(y), last(4))
    low.bind(y, last(4), low.emit("SPACE_TO_DEPTH", [low.tensor(x, last(4))], shape, blockSize=block))


LOWERINGS: dict[str, Lower] = {
    "Resize": resize,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
