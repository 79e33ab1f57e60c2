"""Activations: ONNX's own operator where the opset has one that computes the same, elementary operators otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Operand, Unsupported, sizes_of


def _unary(op_type: str) -> Entry:
    def entry(b: Builder, x: ir.Value) -> ir.Value:
        return b.add(op_type, b.cast(x, b.dtype))

    return entry


def clip(b: Builder, x: ir.Value, low: Operand | None, high: Operand | None) -> ir.Value:
    """Clip by numbers, Max and Min by tensors."""
    x = b.cast(x, b.dtype)
    if not isinstance(low, ir.Value) and not isinstance(high, ir.Value):
        if low is None and high is None:
            raise Unsupported("no bound")
        floor = None if low is None else b.scalar(low)
        ceiling = None if high is None else b.scalar(high)
        return b.add("Clip", x, floor, *([] if ceiling is None else [ceiling]), shape=sizes_of(x))
    if low is not None:
        x = b.add("Max", x, b.tensor(low))
    return x if high is None else b.add("Min", x, b.tensor(high))


def clamp(b: Builder, x: ir.Value, min: Operand | None, max: Operand | None) -> ir.Value:  # noqa: A002 torch's names
    return clip(b, x, min, max)


def clamp_min(b: Builder, x: ir.Value, min: Operand) -> ir.Value:  # noqa: A002 torch's name
    return clip(b, x, min, None)


def clamp_max(b: Builder, x: ir.Value, max: Operand) -> ir.Value:  # noqa: A002 torch's name
    return clip(b, x, None, max)


def hardtanh(b: Builder, x: ir.Value, min_val: float, max_val: float) -> ir.Value:
    return clip(b, x, min_val, max_val)


def relu6(b: Builder, x: ir.Value) -> ir.Value:
    return clip(b, x, 0.0, 6.0)


def hardsigmoid(b: Builder, x: ir.Value) -> ir.Value:
    return b.add("HardSigmoid", x, alpha=1 / 6, beta=0.5)


def silu(b: Builder, x: ir.Value) -> ir.Value:
    return b.add("Mul", x, b.add("Sigmoid", x))


def gelu(b: Builder, x: ir.Value, approximate: str) -> ir.Value:
    if b.opset >= 20:
        return b.add("Gelu", x, approximate=approximate)
    if approximate == "tanh":
        cubic = b.add("Mul", b.scalar(0.044715), b.add("Pow", x, b.scalar(3.0)))
        inner = b.add("Mul", b.scalar(math.sqrt(2 / math.pi)), b.add("Add", x, cubic))
        gate = b.add("Tanh", inner)
    else:
        gate = b.add("Erf", b.add("Div", x, b.scalar(math.sqrt(2))))
    return b.add("Mul", x, b.add("Mul", b.scalar(0.5), b.add("Add", gate, b.scalar(1.0))))


def leaky_relu(b: Builder, x: ir.Value, negative_slope: float) -> ir.Value:
    return b.add("LeakyRelu", x, alpha=float(negative_slope))


def rrelu(b: Builder, x: ir.Value, lower: float, upper: float, **_ignored: object) -> ir.Value:
    """In eval mode; `edgeconv.capture.torch._refused` has seen that it draws no slopes."""
    return leaky_relu(b, x, (lower + upper) / 2)


def prelu(b: Builder, x: ir.Value, weight: ir.Value) -> ir.Value:
    """torch's slopes belong to axis 1, ONNX's broadcast from behind."""
    rank, count = len(sizes_of(x)), math.prod(sizes_of(weight))
    shape = [1] * rank
    if rank > 1:
        shape[1] = count
    elif count != 1:
        raise Unsupported("slopes for an input without channels")
    return b.add("PRelu", x, b.reshape(weight, shape), shape=sizes_of(x))


def elu(b: Builder, x: ir.Value, alpha: float, scale: float, input_scale: float) -> ir.Value:
    if scale != 1 or input_scale != 1:
        raise Unsupported("scales")
    return b.add("Elu", x, alpha=float(alpha))


def celu(b: Builder, x: ir.Value, alpha: float) -> ir.Value:
    return b.add("Celu", x, alpha=float(alpha))


def softplus(b: Builder, x: ir.Value, beta: float, threshold: float) -> ir.Value:
    """torch is linear above the threshold; from 20 on the difference, exp(-20), is below float32's resolution."""
    if beta == 1 and threshold >= 20 and b.dtype is not ir.DataType.DOUBLE:
        return b.add("Softplus", x)
    scaled = b.add("Mul", x, b.scalar(beta))
    soft = b.add("Div", b.add("Softplus", scaled), b.scalar(beta))
    return b.add("Where", b.add("Greater", scaled, b.scalar(threshold), dtype=ir.DataType.BOOL), x, soft, dtype=b.dtype)


def softmax(b: Builder, x: ir.Value, dim: int, dtype: object) -> ir.Value:
    return b.add("Softmax", b.cast(x, b.dtype), axis=dim)


def log_softmax(b: Builder, x: ir.Value, dim: int, dtype: object) -> ir.Value:
    return b.add("LogSoftmax", b.cast(x, b.dtype), axis=dim)


def glu(b: Builder, x: ir.Value, dim: int) -> ir.Value:
    axis = dim % len(sizes_of(x))
    half = sizes_of(x)[axis] // 2
    value, gate = b.split(x, axis, [half, half])
    return b.add("Mul", value, b.add("Sigmoid", gate))


def threshold(b: Builder, x: ir.Value, threshold: float, value: float) -> ir.Value:
    below = b.add("LessOrEqual", x, b.scalar(threshold), dtype=ir.DataType.BOOL)
    return b.add("Where", below, b.scalar(value), x, dtype=b.dtype)


def hardshrink(b: Builder, x: ir.Value, lambd: float) -> ir.Value:
    inside = b.add("LessOrEqual", b.add("Abs", x), b.scalar(lambd), dtype=ir.DataType.BOOL)
    return b.add("Where", inside, b.scalar(0.0), x, dtype=b.dtype)


def softshrink(b: Builder, x: ir.Value, lambd: float) -> ir.Value:
    return b.add("Shrink", x, lambd=float(lambd), bias=float(lambd))


def log_sigmoid(b: Builder, x: ir.Value) -> ir.Value:
    """-softplus(-x): a logarithm of the sigmoid itself is -inf where the sigmoid underflows."""
    return b.add("Neg", b.add("Softplus", b.add("Neg", x)))


def nan_to_num(b: Builder, x: ir.Value, nan: float | None, posinf: float | None, neginf: float | None) -> ir.Value:
    """What is no number becomes one; the infinities become the largest numbers."""
    if posinf is not None or neginf is not None:
        raise Unsupported("other numbers for the infinities than the largest ones")
    if not b.dtype.is_floating_point():
        return x
    limit = float(np.finfo(b.dtype.numpy()).max)
    finite = b.add("Clip", x, b.scalar(-limit), b.scalar(limit), shape=sizes_of(x))
    missing = b.add("IsNaN", x, dtype=ir.DataType.BOOL)
    return b.add("Where", missing, b.scalar(nan or 0.0), finite, dtype=b.dtype)


def log_add_exp(b: Builder, x: ir.Value, other: ir.Value) -> ir.Value:
    """The larger one, and what the smaller one adds: nothing overflows."""
    distance = b.add("Abs", b.add("Sub", x, other))
    smaller = b.add("Log", b.add("Add", b.add("Exp", b.add("Neg", distance)), b.scalar(1.0)))
    return b.add("Add", b.add("Max", x, other), smaller)


TABLE: Mapping[str, Entry] = {
    "aten.relu.default": _unary("Relu"),
    "aten.sigmoid.default": _unary("Sigmoid"),
    "aten.tanh.default": _unary("Tanh"),
    "aten.hardswish.default": _unary("HardSwish"),
    "aten.mish.default": _unary("Mish"),
    "aten.selu.default": _unary("Selu"),
    "aten.hardtanh.default": hardtanh,
    "aten.relu6.default": relu6,
    "aten.clamp.default": clamp,
    "aten.clamp.Tensor": clamp,
    "aten.clip.default": clamp,
    "aten.clamp_min.default": clamp_min,
    "aten.clamp_min.Tensor": clamp_min,
    "aten.clamp_max.default": clamp_max,
    "aten.clamp_max.Tensor": clamp_max,
    "aten.hardsigmoid.default": hardsigmoid,
    "aten.silu.default": silu,
    "aten.gelu.default": gelu,
    "aten.leaky_relu.default": leaky_relu,
    "aten.rrelu.default": rrelu,
    "aten.prelu.default": prelu,
    "aten.elu.default": elu,
    "aten.celu.default": celu,
    "aten.softplus.default": softplus,
    "aten.softmax.int": softmax,
    "aten.log_softmax.int": log_softmax,
    "aten.glu.default": glu,
    "aten.threshold.default": threshold,
    "aten.hardshrink.default": hardshrink,
    "aten.softshrink.default": softshrink,
    "aten.log_sigmoid.default": log_sigmoid,
    "aten.nan_to_num.default": nan_to_num,
    "aten.logaddexp.default": log_add_exp,
}
