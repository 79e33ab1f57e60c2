"""ONNX: from real numbers to integers and back, and by how many steps kernels may differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded, exact, widest
from edgeconv.parity.bounds._site import Rule, Site
from edgeconv.reference import evaluate_node


def _spread(site: Site, parameter: Array, x: Array) -> Array:
    """A scale or zero point as it broadcasts: for all, along ``axis``, or in blocks along it."""
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    axis = site.axis(x.ndim, 1)
    if parameter.ndim == 1:
        return parameter.reshape([-1 if at == axis else 1 for at in range(x.ndim)])
    # Blocked quantization (opset 21): each number of the parameter is for `block_size` elements along the axis.
    block = site.attribute("block_size", 0) or -(-x.shape[axis] // parameter.shape[axis])
    return np.repeat(parameter, block, axis).take(range(x.shape[axis]), axis)


def _limits(site: Site, number: int = 0) -> tuple[int, int]:
    limits = np.iinfo(site.results[number].dtype)
    return int(limits.min), int(limits.max)


def _point(site: Site, index: int, x: Array) -> Array:
    value = site.optional(index)
    return np.zeros(()) if value is None else _spread(site, value.astype(np.float64), x)


def _quantize(site: Site) -> Bounded:
    """A quotient, or a product by the reciprocal of the scale, rounded to the nearest."""
    x, limits, point = site.x(), _limits(site), _point(site, 2, site[0])
    scale = exact(x, _spread(site, site[1].astype(np.float64), site[0]))
    inverse = 1.0 / scale

    def quantized(x: Bounded) -> Bounded:
        return _quantized(widest(x / scale, x * inverse), limits, point)

    return x.by_blocks(quantized) if scale.value.ndim == point.ndim == 0 else quantized(x)


def _dequantize(site: Site) -> Bounded:
    """Differences of integers are exact up to 24 bits."""
    steps = site[0].astype(np.float64) - _point(site, 2, site[0])
    return exact(site.x(1), steps) * exact(site.x(1), _spread(site, site[1].astype(np.float64), site[0]))


def _linear_operator(site: Site) -> Bounded:
    """QLinearConv, QLinearMatMul: exact sums of integers times a factor of three scales, rounded to the nearest."""
    total = exact(site.x(1), _sums_of_integers(site))
    total = total.widened(2.0**-24 * np.abs(total.value))  # held in float32, before they are multiplied
    x, weight, y = (exact(total, site[index].astype(np.float64)) for index in (1, 4, 6))
    if site.node.op_type == "QLinearConv" and weight.value.size > 1:
        weight = weight.reshape(-1, *[1] * (total.value.ndim - 2))
    x, y = x.reshape(), y.reshape()
    point = site.optional(7)
    # The three scales become one factor in any order.
    steps = total * widest(x * weight / y, x * (weight / y), weight * (x / y))
    return _quantized(steps, _limits(site), 0.0 if point is None else float(point.reshape(-1)[0]))


def _sums_of_integers(site: Site) -> Array:
    """Sums of products, in units of both operands' scales."""
    data, weight = site[0].astype(np.float64), site[3].astype(np.float64)
    if site[2].size > 1:
        raise site.unknown("with a zero point for each row")
    # Less the zero point, the zeros that a Conv pads with stand for what integers are padded with.
    data = data - float(site[2].reshape(-1)[0])
    point = site[5].astype(np.float64)
    if site.node.op_type == "QLinearMatMul":
        return np.asarray(data @ (weight - point))
    weight = weight - (point.reshape(-1, *[1] * (weight.ndim - 1)) if point.size > 1 else point.reshape(()))
    bias = site.optional(8)
    operands = [data, weight] if bias is None else [data, weight, bias.astype(np.float64)]
    kind = ir.TensorType(ir.DataType.DOUBLE)
    values = [ir.Value(name=f"operand{at}", type=kind) for at in range(len(operands))]
    node = ir.Node("", "Conv", values, list(site.node.attributes.values()))
    return evaluate_node(node, operands, opset=site.opset)[0]


def _dynamic(site: Site) -> tuple[Bounded | None, ...]:
    """Scale, zero point and integers of the data's own range: each within one step."""
    x = site.x()
    u = x.arithmetic.unit
    scale = exact(x, site.results[1]).widened(2 * u * np.abs(site.results[1]) + x.arithmetic.least)
    step = np.ones(())
    return exact(x, site.results[0]).widened(step), scale, exact(x, site.results[2]).widened(step)


RULES: Mapping[str, Rule] = {
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "QLinearConv": _linear_operator,
    "QLinearMatMul": _linear_operator,
    "QuantizeLinear": _quantize,
}


def _quantized(steps: Bounded, limits: tuple[int, int], zero_point: Array | float = 0.0) -> Bounded:
    """The nearest integers of real multiples of a scale, held within limits: another one where a tie is within reach.

    Args:
        steps: real numbers over the scale, with a runtime's error of them.
        limits: the smallest and the largest integer.
        zero_point: that is added.
    """

    def held(values: Array) -> Array:
        return np.clip(values + zero_point, *limits)

    value = held(np.rint(steps.value))

    def distance(error: Array) -> Array:
        if not np.isfinite(error.max(initial=0.0)):  # beyond the limits of every integer format
            error = np.where(np.isfinite(error), error, 2.0**40)
        low, high = held(np.ceil(steps.value - error - 0.5)), held(np.floor(steps.value + error + 0.5))
        return np.asarray(np.maximum(np.abs(high - value), np.abs(value - low)))

    worst = distance(steps.worst)
    likely = worst if steps.likely is steps.worst else distance(steps.likely)
    return Bounded(value, worst, likely, steps.arithmetic)
