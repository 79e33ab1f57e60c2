"""Convolutions, products of matrices, poolings: channels first in ONNX."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeconv.reference.tflite._operators._windows import Axis, axis_of
from edgeconv.reference.tflite.as_onnx._site import Rule, Site


def _windows(site: Site, kernel: tuple[int, int], *, dilated: bool) -> tuple[Axis, Axis]:
    names = ("h", "w")
    shape = site.shape(0)
    dilation = [site.call.integer(f"dilation_{name}_factor") if dilated else 1 for name in names]
    stride = [site.call.integer(f"stride_{name}") for name in names]
    height, width = (axis_of(site.call, shape[1 + at], kernel[at], stride[at], dilation[at]) for at in (0, 1))
    return height, width


def _pads(axes: tuple[Axis, Axis]) -> list[int]:
    """Before both axes, then behind both."""
    behind = [
        max(0, (axis.count - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1 - axis.size - axis.begin)
        for axis in axes
    ]
    return [axis.begin for axis in axes] + behind


def _bias(site: Site, at: int) -> list[ir.Value]:
    """One number a channel, whatever shape it has; nothing where it is left out."""
    if not site.has(at):
        return []
    flat = len(site.shape(at)) == 1
    return [site[at] if flat else site.node("Reshape", [site[at], site.sizes([-1])])]


def _convolution(site: Site, axes: tuple[int, ...], group: int) -> None:
    height, width = site.shape(1)[1:3]
    windows = _windows(site, (height, width), dilated=True)
    operands = [site.first(0), site.weights(1, axes), *_bias(site, 2)]
    result = site.node(
        "Conv",
        operands,
        pads=_pads(windows),
        strides=[axis.stride for axis in windows],
        dilations=[axis.dilation for axis in windows],
        group=group,
    )
    site.give(site.activated(result), first=True)


def _conv_2d(site: Site) -> None:
    _convolution(site, (0, 3, 1, 2), site.shape(0)[3] // max(1, site.shape(1)[3]))


def _depthwise(site: Site) -> None:
    _convolution(site, (3, 0, 1, 2), site.shape(0)[3])


def _transpose_conv(site: Site) -> None:
    _, height, width, _ = site.shape(1)
    result, source = site.result, site.shape(2)
    strides = [site.call.integer(f"stride_{name}") for name in ("h", "w")]
    begin, end, more = [], [], []
    for at, kernel in enumerate((height, width)):
        full = (source[1 + at] - 1) * strides[at] + kernel
        excess = full - result[1 + at]
        begin.append(max(0, excess) // 2)
        end.append(max(0, excess) - begin[at])
        more.append(max(0, -excess))
    operands = [site.first(2), site.weights(1, (3, 0, 1, 2)), *_bias(site, 3)]
    value = site.node("ConvTranspose", operands, strides=strides, pads=begin + end, output_padding=more)
    site.give(site.activated(value) if len(site.call.operator.options) > 3 else value, first=True)


def _fully_connected(site: Site) -> None:
    if site.call.integer("weights_format"):
        raise site.call.refuse("has shuffled weights, which ONNX has not")
    depth = site.shape(1)[1]
    rows = site.node("Reshape", [site[0], site.sizes([-1, depth])])
    operands = [rows, site[1], *_bias(site, 2)]
    value = site.activated(site.node("Gemm", operands, transB=1))
    if len(site.result) != 2:
        value = site.node("Reshape", [value, site.sizes(site.result)])
    site.give(value)


def _batch_matmul(site: Site) -> None:
    operands = []
    for at, name in enumerate(("adj_x", "adj_y")):
        rank = len(site.shape(at))
        swapped = [*range(rank - 2), rank - 1, rank - 2]
        operands.append(site.node("Transpose", [site[at]], perm=swapped) if site.call.flag(name) else site[at])
    site.give(site.node("MatMul", operands))


def _pool(kind: str) -> Rule:
    def pool(site: Site) -> None:
        kernel = (site.call.integer("filter_height"), site.call.integer("filter_width"))
        windows = _windows(site, kernel, dilated=False)
        strides = [axis.stride for axis in windows]
        value = site.node(kind, [site.first(0)], kernel_shape=kernel, strides=strides, pads=_pads(windows))
        site.give(site.activated(value), first=True)

    return pool


RULES: Mapping[str, Rule] = {
    "AVERAGE_POOL_2D": _pool("AveragePool"),
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _pool("MaxPool"),
    "TRANSPOSE_CONV": _transpose_conv,
}
