"""Convolutions, products of matrices, poolings, norms over channels: channels first in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgeconv.reference.tflite._operators._windows import Axis, axis_of
from edgeconv.reference.tflite.as_onnx._site import Rule, Site

_LEAST_NORM = 1e-6  # epsilon of kernels/l2norm.cc


def _windows(site: Site, kernel: tuple[int, int], *, dilated: bool) -> tuple[Axis, Axis]:
    names = ("h", "w")
    shape = site.shape(0)
    dilation = [site.call.integer(f"dilation_{name}_factor") if dilated else 1 for name in names]
    stride = [site.call.integer(f"stride_{name}") for name in names]
    height, width = (axis_of(site.call, shape[1 + at], kernel[at], stride[at], dilation[at]) for at in (0, 1))
    return height, width


def _pads(axes: Sequence[Axis]) -> list[int]:
    """Before all axes, then behind all."""
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


def _conv(site: Site, operands: Sequence[ir.Value | None], axes: Sequence[Axis], group: int) -> ir.Value:
    """Operands channels first."""
    strides, dilations = [axis.stride for axis in axes], [axis.dilation for axis in axes]
    return site.node("Conv", operands, pads=_pads(axes), strides=strides, dilations=dilations, group=group)


def _convolution(site: Site, axes: tuple[int, ...], group: int) -> None:
    height, width = site.shape(1)[1:3]
    windows = _windows(site, (height, width), dilated=True)
    operands = [site.first(0), site.weights(1, axes), *_bias(site, 2)]
    # Channels stay first: the operators behind read them so, and nothing is transposed between two of them.
    site.give(site.activated(_conv(site, operands, windows, group)), first=True)


def _conv_2d(site: Site) -> None:
    # Weights are OHWI (kernels/conv.cc); the file states no group: it is how often I goes into the input's channels.
    _convolution(site, (0, 3, 1, 2), site.shape(0)[3] // max(1, site.shape(1)[3]))


def _depthwise(site: Site) -> None:
    # Weights are 1HWO (kernels/depthwise_conv.cc), where O is a multiple of the input's channels.
    _convolution(site, (3, 0, 1, 2), site.shape(0)[3])


def _conv_3d(site: Site) -> None:
    """Data are NDHWC and weights DHWIO."""
    letters = ("d", "h", "w")
    axes = [
        axis_of(
            site.call,
            site.shape(0)[1 + at],
            site.shape(1)[at],
            site.call.integer(f"stride_{letter}"),
            site.call.integer(f"dilation_{letter}_factor"),
        )
        for at, letter in enumerate(letters)
    ]
    operands = [site.transposed(site[0], [0, 4, 1, 2, 3]), site.weights(1, (4, 3, 0, 1, 2)), *_bias(site, 2)]
    result = _conv(site, operands, axes, 1)
    site.give(site.activated(site.transposed(result, [0, 2, 3, 4, 1])))


def _transpose_conv(site: Site) -> None:
    # Operands: the shape of the result, weights (OHWI), data, bias (kernels/transpose_conv.cc). The file states the
    # result's size, ONNX what is cut off from the full one: SAME cuts the smaller half in front.
    _, height, width, _ = site.shape(1)
    result, source = site.result, site.shape(2)
    strides = [site.call.integer(f"stride_{name}") for name in ("h", "w")]
    begin, end, more = [], [], []
    for at, kernel in enumerate((height, width)):
        full = (source[1 + at] - 1) * strides[at] + kernel
        excess = full - result[1 + at]
        begin.append(max(0, excess) // 2)
        end.append(max(0, excess) - begin[at])
        more.append(max(0, -excess))  # zeros behind the full size, which no window reaches
    operands = [site.first(2), site.weights(1, (3, 0, 1, 2)), *_bias(site, 3)]
    value = site.node("ConvTranspose", operands, strides=strides, pads=begin + end, output_padding=more)
    site.give(site.activated(value) if len(site.call.operator.options) > 3 else value, first=True)


def _fully_connected(site: Site) -> None:
    if site.call.integer("weights_format"):
        raise site.call.refuse("has shuffled weights, which ONNX has not")
    depth = site.shape(1)[1]
    # All axes together are rows of that length (kernels/fully_connected.cc), whatever axes the data have.
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
        value = _pooled(site, kind, site.first(0))
        site.give(site.activated(value), first=True)

    return pool


def _root_mean_square(site: Site) -> None:
    x = site.first(0)
    mean = _pooled(site, "AveragePool", site.node("Mul", [x, x]))
    site.give(site.activated(site.node("Sqrt", [mean])), first=True)


def _pooled(site: Site, kind: str, x: ir.Value) -> ir.Value:
    """Channels first. A mean is over what lies within the input, which is ONNX's default."""
    kernel = (site.call.integer("filter_height"), site.call.integer("filter_width"))
    windows = _windows(site, kernel, dilated=False)
    strides = [axis.stride for axis in windows]
    return site.node(kind, [x], kernel_shape=kernel, strides=strides, pads=_pads(windows))


def _l2_normalization(site: Site) -> None:
    # Along the last axis alone, and never divided by less than the epsilon, which is no term of the norm.
    norm = site.node("ReduceL2", [site[0], site.sizes([-1])], keepdims=1)
    site.give(site.activated(site.node("Div", [site[0], site.node("Max", [norm, site.number(_LEAST_NORM)])])))


def _local_response(site: Site) -> None:
    """TFLite's alpha is of each square, ONNX's of their mean."""
    size = 2 * site.call.integer("radius") + 1
    names = ("alpha", "beta", "bias")
    alpha, beta, bias = (site.call.number(name) for name in names)
    site.give(site.node("LRN", [site.first(0)], size=size, alpha=alpha * size, beta=beta, bias=bias), first=True)


RULES: Mapping[str, Rule] = {
    "AVERAGE_POOL_2D": _pool("AveragePool"),
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _conv_2d,
    "CONV_3D": _conv_3d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "L2_NORMALIZATION": _l2_normalization,
    "L2_POOL_2D": _root_mean_square,
    "LOCAL_RESPONSE_NORMALIZATION": _local_response,
    "MAX_POOL_2D": _pool("MaxPool"),
    "TRANSPOSE_CONV": _transpose_conv,
}
