"""ONNX: sums of products, and images resized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgeconv.graph.windows import pads_by_size, stated_pads
from edgeconv.parity.bounds import _formulas as formulas
from edgeconv.parity.bounds import _resize as resize
from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded, widest
from edgeconv.parity.bounds._site import Rule, Site
from edgeconv.parity.bounds._sums import linear, winograd

# Sums of products


def _convolution(site: Site) -> Bounded:
    x, weight, bias = site.x(), site.x(1), site.maybe(2)
    operands = [x, weight] if bias is None else [x, weight, bias]
    count, terms = math.prod(weight.value.shape[1:]), len(operands) - 2
    direct = linear(operands, site.results[0], site.again, count, terms=terms)
    if not site.arithmetic.winograd or not _is_fast(site, weight.value):
        return direct
    # What the windows read: with its padding, and without a rest that no window reaches.
    high, wide = site.results[0].shape[2] + 2, site.results[0].shape[3] + 2
    pads = [1] * 4 if pads_by_size(site.node) else stated_pads(site.node, 2)
    framed = np.pad(x.value, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])[:, :, :high, :wide]
    return winograd(direct, framed, weight.value, None if bias is None else bias.value)


def _is_fast(site: Site, weight: Array) -> bool:
    """Whether a fast algorithm may compute it: 3 x 3, stride 1, one group."""
    plain = all(set(site.attribute(name, [1])) == {1} for name in ("strides", "dilations"))
    return weight.shape[2:] == (3, 3) and plain and site.attribute("group", 1) == 1


def _transposed(site: Site) -> Bounded:
    """Each result adds up at most all taps of all channels of its group."""
    x, weight, bias = site.x(), site.x(1), site.maybe(2)
    operands = [x, weight] if bias is None else [x, weight, bias]
    count = weight.value.shape[0] // site.attribute("group", 1) * math.prod(weight.value.shape[2:])
    return linear(operands, site.results[0], site.again, count, terms=len(operands) - 2)


def _gemm(site: Site) -> Bounded:
    a, b, c = site.x(), site.x(1), site.maybe(2)
    a = a.move(np.transpose) if site.attribute("transA", 0) else a
    b = b.move(np.transpose) if site.attribute("transB", 0) else b
    alpha, beta = site.number("alpha", 1.0), site.number("beta", 1.0)
    if c is None:
        return a @ b if alpha == 1 else (a @ b) * alpha
    c = c if beta == 1 else c * beta
    if alpha != 1:
        return widest((a @ b) * alpha + c, _product_and_term(a * alpha, b, c))
    return _product_and_term(a, b, c)


def _product_and_term(a: Bounded, b: Bounded, c: Bounded) -> Bounded:
    """A product of matrices and a term, which may be added first, last, or anywhere in between."""
    total = a.value @ b.value + c.value
    outputs = (None, -1, -1)
    return linear(
        [a, b, c], total, lambda parts: parts[0] @ parts[1] + parts[2], a.value.shape[-1], terms=1, outputs=outputs
    )


def _einsum(site: Site) -> Bounded:
    """Sums of products of one factor of each operand; those of three and more go in stages, in any order of these.

    What a stage rounds is multiplied by the operands that follow, so that no partial sum's cancellation counts: each
    product is rounded once for each term and for each factor (gamma_n; Higham, section 3.1).
    """
    operands = [site.x(index) for index in range(len(site.values))]
    count = _summed_over(site.text("equation", "").replace(" ", ""), [item.value.shape for item in operands])
    if len(operands) < 3:
        return linear(operands, site.results[0], site.again, count)
    x, sizes = operands[0], [np.abs(item.value) for item in operands]
    wider = [size + np.broadcast_to(item.worst, size.shape) for size, item in zip(sizes, operands, strict=True)]
    magnitude, whole = site.again(sizes), site.again(wider)
    ratio = (count + len(operands)) * x.arithmetic.unit
    # A product that vanishes takes what it is multiplied by along.
    vanishing = x.arithmetic.least * 2 * count * math.prod(max(1.0, float(size.max(initial=0.0))) for size in wider)
    overflow = np.where(whole < x.arithmetic.largest, 0.0, np.inf)
    worst = whole - magnitude + (ratio / (1 - ratio) if ratio < 1 else np.inf) * whole + vanishing + overflow
    return x.within(site.results[0], worst, worst)


def _summed_over(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """The number of terms of each sum: of all indices that the result lacks."""
    inputs, arrow, output = equation.partition("->")
    sizes: dict[str, int] = {}
    for term, shape in zip(inputs.split(","), shapes, strict=True):
        front, dots, back = term.partition("...")
        behind = len(shape) - len(back)
        named = [*zip(front, shape, strict=False), *zip(back, shape[behind:], strict=True)]
        if dots:
            named.append(("...", math.prod(shape[len(front) : behind])))
        for name, size in named:
            sizes[name] = max(sizes.get(name, 1), size)
    if not arrow:  # those that occur once, and those without a name
        output = "".join(name for name in sizes if name == "..." or inputs.count(name) == 1)
    return math.prod(size for name, size in sizes.items() if name not in output)


def _average(site: Site) -> Bounded:
    """Sums of a window, divided by the number that counts, or times its rounded reciprocal."""
    count, x = math.prod(site.attribute("kernel_shape", [1])), site.x()
    mean = linear([x], site.results[0], site.again, count)
    # `linear` bounds the mean's terms; the sum before the division is larger by the count.
    overflow = np.where(site.again([np.abs(x.value)]) * count < x.arithmetic.largest, 0.0, np.inf)
    return mean.rounded(mean.value, (mean.worst, mean.likely), 2.0).widened(overflow)


def _local_response(site: Site) -> Bounded:
    x, size = site.x().move(lambda array: np.moveaxis(array, 1, -1)), site.attribute("size", 1)
    channels = np.arange(x.value.shape[-1])
    before = (size - 1) // 2  # channels in front; as many behind, and one more where the size is even
    offset = channels[:, None] - channels[None, :]  # from a result's channel to one that is added up
    window = ((offset >= -before) & (offset < size - before)).astype(np.float64)
    alpha, beta, bias = site.number("alpha", 1e-4), site.number("beta", 0.75), site.number("bias", 1.0)
    result = formulas.local_response(x, window, alpha / size, bias, beta)
    return result.move(lambda array: np.moveaxis(array, -1, 1))


def _lp_pool(site: Site) -> Bounded:
    """LpPool of p = 2 or 1: a root of the sum of squares, or a sum of magnitudes."""
    p, x = site.attribute("p", 2), site.x()
    if p not in (1, 2):
        raise site.unknown(f"of p = {p}")
    count = math.prod(site.attribute("kernel_shape", [1]))
    root = linear([x], site.results[0], site.again, count)
    relative = (count + 6) * x.arithmetic.unit * np.abs(site.results[0])
    return root.widened(relative + math.sqrt(count) * math.sqrt(x.arithmetic.least))


# Resizing


def _resize(site: Site) -> Bounded:
    mode, x = site.text("mode", "nearest"), site.x()
    default = "half_pixel" if site.opset >= 11 else "asymmetric"
    convention = site.text("coordinate_transformation_mode", default)
    for name, form in (("antialias", "with antialias"), ("exclude_outside", "that excludes what is outside")):
        if site.attribute(name, 0):
            raise site.unknown(form)
    if convention == "tf_crop_and_resize":
        raise site.unknown("of regions of interest")
    axes = _resized_axes(site, convention)
    if mode == "nearest":
        rounding = site.text("nearest_mode", "round_prefer_floor" if site.opset >= 11 else "floor")
        return resize.nearest(x, axes, rounding, site.results[0])
    if mode == "cubic":
        return resize.cubic(x, axes, site.number("cubic_coeff_a", -0.75))
    return resize.linear(x, axes)


def _resized_axes(site: Site, convention: str) -> list[resize.ResizedAxis]:
    scales = site.optional(2) if site.opset >= 11 else site.optional(1)
    stated = site.attribute("axes", list(range(site[0].ndim)))
    kept_ratio = site.text("keep_aspect_ratio_policy", "stretch") != "stretch"
    axes = []
    for index, axis in enumerate(stated):
        size, out = site[0].shape[axis], site.results[0].shape[axis]
        scale = out / size
        if scales is not None and scales.size:
            scale = float(scales.reshape(-1)[index])
        elif kept_ratio and out != size:
            raise site.unknown("that keeps the ratio of its sides")
        if out != size or scale != 1:
            axes.append(resize.places_of(axis % site[0].ndim, size, out, scale, convention))
    return axes


def _upsample(site: Site) -> Bounded:
    scales = site.optional(1)
    factors = site.attribute("scales", [1.0] * site[0].ndim) if scales is None else scales.reshape(-1).tolist()
    axes = [
        resize.places_of(axis, site[0].shape[axis], site.results[0].shape[axis], float(factor), "asymmetric")
        for axis, factor in enumerate(factors)
        if factor != 1
    ]
    if site.text("mode", "nearest") in ("linear", "bilinear"):
        return resize.linear(site.x(), axes)
    return resize.nearest(site.x(), axes, "floor", site.results[0])


RULES: Mapping[str, Rule] = {
    "AveragePool": _average,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "LRN": _local_response,
    "LpPool": _lp_pool,
    "MatMul": lambda site: site.x() @ site.x(1),
    "Resize": _resize,
    "Upsample": _upsample,
}
