"""Activations: ONNX's own operator where the opset has one that computes the same, elementary operators otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx_ir as ir

from edgeconv.capture.torch._aten.arithmetic import unary
from edgeconv.capture.torch._builder import Builder, Entry, Operand, Unsupported, renamed, sizes_of


def clip(b: Builder, x: ir.Value, low: Operand | None = None, high: Operand | None = None) -> ir.Value:
    """``clamp``, ``hardtanh``, ``relu6``: Clip if the bounds are numbers, Max and Min if one is a tensor.

    Clip takes scalar bounds only (ONNX specification).
    """
    x = b.cast(x, b.dtype)
    if not isinstance(low, ir.Value) and not isinstance(high, ir.Value):
        if low is None and high is None:
            raise Unsupported("no bound")
        floor = None if low is None else b.scalar(low)
        ceiling = None if high is None else b.scalar(high)
        return b.add("Clip", x, floor, *([] if ceiling is None else [ceiling]), shape=sizes_of(x))
    # torch.clamp: where min is above max, every element becomes max, so that Min comes last (as in ONNX's Clip).
    if low is not None:
        x = b.add("Max", x, b.tensor(low))
    return x if high is None else b.add("Min", x, b.tensor(high))


def hardsigmoid(b: Builder, x: ir.Value) -> ir.Value:
    """HardSigmoid with torch's slope of 1/6 (ONNX's default is 0.2): relu6(x + 3) / 6."""
    return b.add("HardSigmoid", x, alpha=1 / 6, beta=0.5)


def silu(b: Builder, x: ir.Value) -> ir.Value:
    """x · sigmoid(x), as Sigmoid and Mul: ONNX has Swish from opset 24 only."""
    return b.add("Mul", x, b.add("Sigmoid", x))


def gelu(b: Builder, x: ir.Value, approximate: str) -> ir.Value:
    """GELU, exact by Erf or by torch's approximation with tanh; one Gelu from opset 20, elementary operators before.

    Hendrycks and Gimpel, Gaussian Error Linear Units (2016): x · Φ(x).
    """
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
    """x where it is positive, slope · x elsewhere: LeakyRelu."""
    return b.add("LeakyRelu", x, alpha=float(negative_slope))


def rrelu(b: Builder, x: ir.Value, lower: float, upper: float, **_ignored: object) -> ir.Value:
    """Leaky ReLU with the mean slope, as in eval mode; `check_deterministic` has refused random slopes."""
    return leaky_relu(b, x, (lower + upper) / 2)


def prelu(b: Builder, x: ir.Value, weight: ir.Value) -> ir.Value:
    """PRelu; torch's slopes belong to axis 1 and get axes of 1 behind, as ONNX broadcasts from the last axis."""
    rank, count = len(sizes_of(x)), math.prod(sizes_of(weight))
    shape = [1] * rank
    if rank > 1:
        shape[1] = count
    elif count != 1:
        raise Unsupported("slopes for an input without channels")
    return b.add("PRelu", x, b.reshape(weight, shape), shape=sizes_of(x))


def elu(b: Builder, x: ir.Value, alpha: float, scale: float, input_scale: float) -> ir.Value:
    """x where it is positive, alpha · (exp(x) - 1) elsewhere: Elu.

    torch's schema serves SELU and CELU as well and has two more scales, which ONNX's Elu lacks; other values than 1
    are refused.
    """
    if scale != 1 or input_scale != 1:
        raise Unsupported("scales")
    return b.add("Elu", x, alpha=float(alpha))


def celu(b: Builder, x: ir.Value, alpha: float) -> ir.Value:
    """max(0, x) + min(0, alpha · (exp(x / alpha) - 1)): Celu."""
    return b.add("Celu", x, alpha=float(alpha))


def softplus(b: Builder, x: ir.Value, beta: float, threshold: float) -> ir.Value:
    """ln(1 + exp(beta · x)) / beta, and x itself where beta · x is above the threshold: Softplus, scaled, in a Where.

    With torch's defaults Softplus alone: from 20 on the difference, exp(-20), is below float32's resolution.
    """
    if beta == 1 and threshold >= 20 and b.dtype is not ir.DataType.DOUBLE:
        return b.add("Softplus", x)
    scaled = b.add("Mul", x, b.scalar(beta))
    soft = b.add("Div", b.add("Softplus", scaled), b.scalar(beta))
    return b.add("Where", b.add("Greater", scaled, b.scalar(threshold), dtype=ir.DataType.BOOL), x, soft, dtype=b.dtype)


def softmax(b: Builder, x: ir.Value, dim: int, dtype: object) -> ir.Value:
    """Softmax over one axis, in the dtype that torch computes it in."""
    return b.add("Softmax", b.cast(x, b.dtype), axis=dim)


def log_softmax(b: Builder, x: ir.Value, dim: int, dtype: object) -> ir.Value:
    """LogSoftmax over one axis, in the dtype that torch computes it in."""
    return b.add("LogSoftmax", b.cast(x, b.dtype), axis=dim)


def glu(b: Builder, x: ir.Value, dim: int) -> ir.Value:
    """The first half of an axis times the sigmoid of its second: Split, Sigmoid, Mul."""
    axis = dim % len(sizes_of(x))
    half = sizes_of(x)[axis] // 2
    value, gate = b.split(x, axis, [half, half])
    return b.add("Mul", value, b.add("Sigmoid", gate))


def threshold(b: Builder, x: ir.Value, threshold: float, value: float) -> ir.Value:
    """x above the threshold, the value elsewhere: Where."""
    # Not Greater(x, threshold) with x first: a comparison with NaN is false, and NaN has to pass through, as in ATen's
    # threshold_kernel.
    below = b.add("LessOrEqual", x, b.scalar(threshold), dtype=ir.DataType.BOOL)
    return b.add("Where", below, b.scalar(value), x, dtype=b.dtype)


def hardshrink(b: Builder, x: ir.Value, lambd: float) -> ir.Value:
    """Zero within [-lambd, lambd], x elsewhere: Where."""
    # LessOrEqual and not Greater, so that NaN passes through, as in ATen; see `threshold`.
    inside = b.add("LessOrEqual", b.add("Abs", x), b.scalar(lambd), dtype=ir.DataType.BOOL)
    return b.add("Where", inside, b.scalar(0.0), x, dtype=b.dtype)


def softshrink(b: Builder, x: ir.Value, lambd: float) -> ir.Value:
    """Zero within [-lambd, lambd], x moved towards zero by lambd elsewhere: Shrink."""
    return b.add("Shrink", x, lambd=float(lambd), bias=float(lambd))


def log_sigmoid(b: Builder, x: ir.Value) -> ir.Value:
    """ln(sigmoid(x)) as -softplus(-x): a logarithm of the sigmoid itself is -inf where the sigmoid underflows."""
    return b.add("Neg", b.add("Softplus", b.add("Neg", x)))


def nan_to_num(b: Builder, x: ir.Value, nan: float | None, posinf: float | None, neginf: float | None) -> ir.Value:
    """NaN becomes ``nan``, the infinities the largest finite numbers of the dtype: Clip, IsNaN and Where.

    Other numbers for the infinities are refused.
    """
    if posinf is not None or neginf is not None:
        raise Unsupported("other numbers for the infinities than the largest ones")
    if not b.dtype.is_floating_point():
        return x
    limit = float(np.finfo(b.dtype.numpy()).max)
    finite = b.add("Clip", x, b.scalar(-limit), b.scalar(limit), shape=sizes_of(x))
    missing = b.add("IsNaN", x, dtype=ir.DataType.BOOL)
    return b.add("Where", missing, b.scalar(nan or 0.0), finite, dtype=b.dtype)


def log_add_exp(b: Builder, x: ir.Value, other: ir.Value) -> ir.Value:
    """ln(exp(x) + exp(other)) as the larger plus ln(1 + exp(-|x - other|)): nothing overflows.

    Equal operands count as a difference of 0, as inf - inf is NaN.
    """
    is_equal = b.add("Equal", x, other, dtype=ir.DataType.BOOL)
    difference = b.add("Where", is_equal, b.scalar(0.0), b.add("Sub", x, other), dtype=b.dtype)
    smaller = b.add("Softplus", b.add("Neg", b.add("Abs", difference)))
    return b.add("Add", b.add("Max", x, other), smaller)


TABLE: Mapping[str, Entry] = {
    "aten.relu.default": unary("Relu"),
    "aten.sigmoid.default": unary("Sigmoid"),
    "aten.tanh.default": unary("Tanh"),
    "aten.hardswish.default": unary("HardSwish"),
    "aten.mish.default": unary("Mish"),
    "aten.selu.default": unary("Selu"),
    "aten.hardtanh.default": renamed(clip, min_val="low", max_val="high"),
    "aten.relu6.default": partial(clip, low=0.0, high=6.0),
    "aten.clamp.default": renamed(clip, min="low", max="high"),
    "aten.clamp.Tensor": renamed(clip, min="low", max="high"),
    "aten.clip.default": renamed(clip, min="low", max="high"),
    "aten.clamp_min.default": renamed(clip, min="low"),
    "aten.clamp_min.Tensor": renamed(clip, min="low"),
    "aten.clamp_max.default": renamed(clip, max="high"),
    "aten.clamp_max.Tensor": renamed(clip, max="high"),
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
