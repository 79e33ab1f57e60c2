"""Convolutions, in real numbers and in integers.

Specification: CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV, CONV_3D; tensorflow/lite/kernels/conv.cc and the like. Data
are NHWC, weights OHWI (depthwise 1HWO, 3-D DHWIO); what lies outside of the input counts as the number 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgeconv.core.moved import contiguous
from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._graph import Array
from edgeconv.reference.tflite._operators._requantize import requantized
from edgeconv.reference.tflite._operators._windows import Axis, axis_of, transposed_axis

_FEW_CHANNELS = 8


def _convolve(call: Call) -> Array:
    """CONV_2D; the number of groups follows from the weights' input channels."""
    x, weight = _operands(call, 0, 1, rank=4)
    if weight.shape[3] < 1 or x.shape[3] % weight.shape[3] or weight.shape[0] % (x.shape[3] // weight.shape[3]):
        raise call.refuse(f"has weights {list(weight.shape)} for an input {list(x.shape)}")
    axes = _axes(call, x.shape[1:3], weight.shape[1:3])
    total = _sums(call, x, np.moveaxis(weight, 0, 2), axes)
    return _finished(call, total, x=0, bias=2)


def _convolve_3d(call: Call) -> Array:
    x, weight = _operands(call, 0, 1, rank=5)
    if weight.shape[3] != x.shape[4]:
        raise call.refuse(f"has weights {list(weight.shape)} for an input {list(x.shape)}")
    axes = _axes(call, x.shape[1:4], weight.shape[:3])
    return _finished(call, _sums(call, x, np.moveaxis(weight, 3, 4), axes), x=0, bias=2)


def _sums(call: Call, x: Array, weight: Array, axes: Sequence[Axis]) -> Array:
    """Sums of products, tap by tap as products of matrices. ``weight`` is (taps..., output, input / groups)."""
    *_, outputs, depth = weight.shape
    shape = call.sized((x.shape[0], *(axis.count for axis in axes), outputs))
    groups = x.shape[-1] // depth
    if groups == 1 and math.prod(weight.shape[:-2]) == 1 and x.shape[:-1] == shape[:-1]:
        return np.asarray(x @ weight.reshape(outputs, depth).T)  # a pixel by itself: nothing is added up in parts
    total = np.zeros(shape)
    for taps in itertools.product(*(axis.taps() for axis in axes)):
        to = (slice(None), *(windows for _, windows, _ in taps))
        seen = x[(slice(None), *(inputs for _, _, inputs in taps))]
        matrix = weight[tuple(number for number, _, _ in taps)]
        for group in range(groups):
            channels = slice(group * outputs // groups, (group + 1) * outputs // groups)
            total[(*to, channels)] += seen[..., group * depth : (group + 1) * depth] @ matrix[channels].T
    return total


def _depthwise(call: Call) -> Array:
    """DEPTHWISE_CONV_2D; the channel multiplier follows from the weights, the option is ignored, as in the kernel."""
    x, weight = _operands(call, 0, 1, rank=4)
    if weight.shape[0] != 1 or x.shape[3] < 1 or weight.shape[3] % x.shape[3]:
        raise call.refuse(f"has weights {list(weight.shape)} for an input {list(x.shape)}")
    axes = _axes(call, x.shape[1:3], weight.shape[1:3])
    repeats = weight.shape[3] // x.shape[3]
    total = np.zeros(call.sized((x.shape[0], axes[0].count, axes[1].count, weight.shape[3])))
    x = np.repeat(x, repeats, axis=3) if repeats > 1 else x
    if weight.shape[3] < _FEW_CHANNELS:  # numpy's loop is along what lies together in memory: columns, then
        x, total = (contiguous(array.swapaxes(2, 3)).swapaxes(2, 3) for array in (x, total))
    for (row, rows, y), (column, columns, z) in itertools.product(axes[0].taps(), axes[1].taps()):
        total[:, rows, columns] += x[:, y, z] * weight[0, row, column]
    return _finished(call, contiguous(total), x=0, bias=2)


def _transpose(call: Call) -> Array:
    """TRANSPOSE_CONV: every input pixel adds its weighted kernel to the result, whose shape is input 0."""
    shape = call.sized(call.ints(0))
    x, weight = _operands(call, 2, 1, rank=4)
    if len(shape) != 4 or weight.shape[3] != x.shape[3] or shape[0] != x.shape[0] or shape[3] != weight.shape[0]:
        raise call.refuse(f"has weights {list(weight.shape)} for an input {list(x.shape)} and a result {list(shape)}")
    strides = (call.integer("stride_h"), call.integer("stride_w"))
    sizes = list(zip(x.shape, weight.shape, shape, strict=True))[1:3]
    high, wide = (transposed_axis(call, *size, stride) for size, stride in zip(sizes, strides, strict=True))
    total = np.zeros(shape)
    for (row, rows, y), (column, columns, z) in itertools.product(high.taps(), wide.taps()):
        total[:, y, z] += x[:, rows, columns] @ weight[:, row, column].T
    return _finished(call, total, x=2, bias=3)


def _operands(call: Call, x: int, weight: int, *, rank: int) -> tuple[Array, Array]:
    """Data and weights, as real numbers, or, if the result is quantized, as integers minus their zero points."""
    if call[x].ndim != rank or call[weight].ndim != rank:
        raise call.refuse(f"has operands of {call[x].ndim} and {call[weight].ndim} axes where it takes {rank}")
    if not call.quantized:
        return call.real(x), call.real(weight)
    quantization = call.source(weight).quantization
    if call.source(weight).dtype != "uint8" and quantization is not None and any(quantization.zero_points):
        raise call.refuse("has signed weights with a zero point, which kernels ignore")
    return call.centered(x), call.centered(weight)


def _axes(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> list[Axis]:
    letters = "dhw"[-len(sizes) :]
    return [
        axis_of(call, size, taps, call.integer(f"stride_{letter}"), call.integer(f"dilation_{letter}_factor"))
        for size, taps, letter in zip(sizes, kernel, letters, strict=True)
    ]


def _finished(call: Call, total: Array, *, x: int, bias: int) -> Array:
    """A sum of products with its bias and activation, in real numbers or as the output's integers."""
    terms = call.optional(bias)
    channels = total.shape[-1]
    if terms is not None and terms.size != channels:  # kernels count its elements, whatever its shape
        raise call.refuse(f"has a bias of shape {list(terms.shape)} for {channels} channels")
    if call.quantized:
        return requantized(call, total, x=x, weight=1, bias=bias)
    if terms is not None:
        total += call.real(bias).reshape(-1)
    return call.activated(total)


OPERATORS: Mapping[str, Kernel] = {
    "CONV_2D": _convolve,
    "CONV_3D": _convolve_3d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transpose,
}
