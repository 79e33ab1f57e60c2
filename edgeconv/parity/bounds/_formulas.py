"""Operators that are composed of steps, as plain formulas; both languages of files share them.

Where runtimes take different formulas for one function, the largest errors count (`widest`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded, by_sign, chosen, exact, widest

# Activations


def leaky(x: Bounded, slope: Bounded | float) -> Bounded:
    """The identity above 0, a product below."""
    return x.by_blocks(lambda block: _leaky(block, slope)) if isinstance(slope, float) else _leaky(x, slope)


def _leaky(x: Bounded, slope: Bounded | float) -> Bounded:
    below = x * slope
    above = _spread(x, below)
    return by_sign(above, above, below)


def _spread(x: Bounded, like: Bounded) -> Bounded:
    if x.value.shape == like.value.shape:
        return x
    return x.move(lambda array: np.broadcast_to(array, like.value.shape))


def hard_sigmoid(x: Bounded, alpha: float, beta: float) -> Bounded:
    """A line between 0 and 1."""
    return (x * alpha + beta).clip(0.0, 1.0)


def hard_swish(x: Bounded) -> Bounded:
    """x relu6(x + 3) / 6: either factor may be divided, or the product."""
    gate = (x + 3.0).clip(0.0, 6.0)
    return widest(
        x * (x * (1 / 6) + 0.5).clip(0.0, 1.0),
        x * (x * (1 / 6) + 0.5).clip(0.0, 1.0).stored_inside(),  # by its function body, whose values are results
        x * gate * (1 / 6),
        x * gate / 6.0,
        x * (gate * (1 / 6)),
        x * (1 / 6) * gate,
    )


def elu(x: Bounded, alpha: float = 1.0) -> Bounded:
    """alpha (exp(x) - 1) below 0."""
    below = x.monotone(lambda values: np.minimum(values, 0.0)).function("expm1")
    return by_sign(x, x, below if alpha == 1 else below * alpha)


def celu(x: Bounded, alpha: float) -> Bounded:
    """alpha (exp(x / alpha) - 1) below 0."""
    below = (x / alpha).monotone(lambda values: np.minimum(values, 0.0)).function("expm1") * alpha
    return by_sign(x, x, below)


def selu(x: Bounded, alpha: float, gamma: float) -> Bounded:
    """gamma times an ELU; the factors below 0 may be one."""
    below = x.monotone(lambda values: np.minimum(values, 0.0)).function("expm1")
    return by_sign(x, x * gamma, widest(below * alpha * gamma, below * (alpha * gamma)))


def gelu(x: Bounded, *, approximate: bool) -> Bounded:
    """x (1 + erf(x / sqrt(2))) / 2, or by a tanh of a cubic; kernels end both at 0 and at x for large magnitudes."""
    half = x * 0.5
    if approximate:
        factor = math.sqrt(2 / math.pi)
        inner = widest(
            (x + x * x * x * 0.044715) * factor,
            x * (x * x * (0.044715 * factor) + factor),
            x * (x * x * 0.044715 + 1.0) * factor,
        )
        gate = inner.function("tanh") + 1.0
    else:
        gate = (x * math.sqrt(0.5)).function("erf") + 1.0
    return widest(half * gate, x * (gate * 0.5), x * gate * 0.5)


def swish(x: Bounded, alpha: float) -> Bounded:
    """x sigmoid(alpha x)."""
    return x * (x if alpha == 1 else x * alpha).function("sigmoid")


def mish(x: Bounded) -> Bounded:
    """x tanh(softplus(x)); by its function body, values on the way are results that are stored."""
    body = x * x.function("softplus").stored_inside().function("tanh").stored_inside()
    return widest(x * x.function("softplus").function("tanh"), body)


def softsign(x: Bounded) -> Bounded:
    """x / (1 + |x|)."""
    below = x.absolute() + 1.0
    return widest(x / below, x * (1.0 / below))


def power(base: Bounded, exponent: Bounded, *, factors: float = 1) -> Bounded:
    """Of exact operands: a function of its own, products for small whole exponents, a root for 1/2.

    Args:
        base: x.
        exponent: n.
        factors: of how many x a kernel may multiply the result; off by gamma_(n-1), in any order (see `product`).
    """
    value = np.asarray(np.power(base.value, exponent.value))
    arithmetic = base.arithmetic
    relative = max(arithmetic.accuracy("pow").relative, factors - 1) * arithmetic.unit
    error = np.abs(value) * (relative / (1 - relative) if relative < 1 else np.inf) + arithmetic.least
    # An operand that is read as 0 loses the power of what it was.
    lost = np.where(np.broadcast_to(base.worst, value.shape) > 0, np.inf, 0.0)
    return base.within(value, error + lost, error + lost)


def angle(y: Bounded, x: Bounded) -> Bounded:
    """Of the point (x, y), which an error of length e turns by asin(e / r) at most; by a whole turn at the cut."""
    value, accuracy = np.arctan2(y.value, x.value), y.arithmetic.accuracy("atan2")
    distance, unit = np.hypot(y.value, x.value), y.arithmetic.unit

    def error(of_y: Array, of_x: Array) -> Array:
        reach = np.hypot(of_y, of_x) * np.ones(value.shape)
        share = np.divide(reach, distance, out=np.full(value.shape, np.inf), where=distance > 0)
        turned = np.where(share < 1, np.arcsin(np.minimum(share, 1.0)), 2 * math.pi)
        crosses = (of_y > 0) & (np.abs(y.value) <= of_y) & (x.value - of_x < 0)
        carried = np.where(reach == 0, 0.0, np.where(crosses, 2 * math.pi, turned))
        return np.asarray(carried + accuracy.relative * unit * np.abs(value) + y.arithmetic.smallest_normal)

    return y.within(value, error(y.worst, x.worst), error(y.likely, x.likely))


# Along axes


def softmax(x: Bounded, axis: int, beta: float = 1.0) -> Bounded:
    """Exponentials of what each element lacks to the largest, divided by their sum, or times its reciprocal.

    Args:
        axis: that is added up.
        beta: that the differences are multiplied by.
    """
    powers = _powers(x, axis) if beta == 1 else ((x - _largest(x, axis)) * beta).function("exp")
    total = powers.sum(axis)
    return widest(powers / total, powers * (1.0 / total))


def softmax_of(x: Bounded, is_read: Array, axis: int) -> Bounded:
    """The same over some elements: those that are not read, and all of a row without any, are 0.

    Args:
        is_read: bool, of the shape of the operand.
        axis: that is added up.
    """
    held = chosen(is_read, x, exact(x, np.full(x.value.shape, -np.inf)))
    top = held.value.max(axis, keepdims=True)
    nothing = exact(x, np.zeros(x.value.shape))
    below = chosen(is_read, x, nothing) - exact(x, np.where(np.isneginf(top), 0.0, top))
    powers = chosen(is_read, below.function("exp"), nothing)
    total = powers.sum(axis)
    total = chosen(np.asarray(is_read.any(axis, keepdims=True)), total, exact(total, np.ones(total.value.shape)))
    return chosen(is_read, widest(powers / total, powers * (1.0 / total)), nothing)


def log_softmax(x: Bounded, axis: int) -> Bounded:
    """x - max - log of the sum of the exponentials: in either order."""
    top = exact(x, x.value.max(axis, keepdims=True))
    logarithm = _powers(x, axis).sum(axis).function("log")
    return widest((x - top) - logarithm, x - (logarithm + top))


def _powers(x: Bounded, axis: int) -> Bounded:
    return (x - _largest(x, axis)).function("exp")


def _largest(x: Bounded, axis: int) -> Bounded:
    return exact(x, x.value.max(axis, keepdims=True))


def product(x: Bounded, axes: Sequence[int], *, keepdims: bool) -> Bounded:
    """A product in any order: each factor's rounding, and that of each product."""
    axis = tuple(axes)
    value = np.asarray(x.value.prod(axis=axis, keepdims=keepdims))
    count = math.prod(x.value.shape[at] for at in axis)
    return product_of(x, value, count, lambda array: array.sum(axis=axis, keepdims=keepdims))


def product_of(x: Bounded, value: Array, count: Array | float, add: Callable[[Array], Array]) -> Bounded:
    """Products in any order.

    Args:
        x: the factors.
        value: the exact products.
        count: of the factors of each.
        add: sums, of something of every factor, over those of each product.
    """
    u, flushed = x.arithmetic.unit, add(np.broadcast_to(x.worst > 0, x.value.shape).astype(np.float64)) > 0
    exponents = np.log2(np.abs(np.where(x.value == 0, 1.0, x.value)))
    # A partial product may leave the range of numbers where the factors of one are of very different sizes.
    reach = [add(np.maximum(sign * exponents, 0)) for sign in (-1, 1)]
    unsure = flushed | (np.maximum(*reach) > math.log2(x.arithmetic.largest) - 2)
    # gamma_n (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., lemma 3.1).
    error = np.where(unsure, np.inf, count * u / (1 - count * u) * np.abs(value) + x.arithmetic.least)
    return x.within(value, error, error)


def log_sum_exp(x: Bounded, axes: Sequence[int], *, keepdims: bool) -> Bounded:
    """The logarithm of the sum of exponentials: as it is written, or of the differences to the largest."""
    axes = tuple(axes)
    top, wide = (exact(x, x.value.max(axes, keepdims=keep)) for keep in (keepdims, True))
    written = x.function("exp").sum(axes, keepdims=keepdims).function("log")
    shifted = (x - wide).function("exp").sum(axes, keepdims=keepdims).function("log") + top
    return chosen(np.isfinite(written.worst), widest(shifted, written), shifted)  # no kernel may overflow here


def added_up(value: Array, magnitude: Array, spread: Array, count: Array | float, like: Bounded) -> Bounded:
    """Sums in any order, of so many terms each.

    Args:
        value: the exact sums.
        magnitude: the same sums of the terms' magnitudes.
        spread: likewise of the terms' errors.
        count: of the terms.
        like: of which arithmetic it is.
    """
    worst, likely = like.arithmetic.summed(value, magnitude + spread, count, spread)
    reaches = np.where(magnitude + spread < like.arithmetic.largest, 0.0, np.inf)
    return like.within(value, worst + spread + reaches, likely + spread + reaches)


def steps_from(start: Bounded, delta: Bounded, value: Array) -> Bounded:
    """start + i delta: by a product, or by adding delta i times, as ONNX Runtime and TFLite do (`ComputeRange` of
    core/providers/cpu/generator/range.cc, `GetRange` of kernels/range.cc): sums of i + 1 terms."""
    index = np.arange(len(value), dtype=np.float64)
    magnitude, spread = (
        first + index * second
        for first, second in ((np.abs(start.value), np.abs(delta.value)), (start.worst, delta.worst))
    )
    return added_up(value, magnitude, spread, index + 1, start)


def floored_quotient(a: Bounded, b: Bounded, value: Array, *, doubled: bool) -> Bounded:
    """floor(a / b): of the rounded quotient, which may have reached the next integer.

    As an integer is a float, rounding never takes a quotient from one to below it (it is monotone; Higham, section
    2.1): only errors that the operands have already do. In float64 no quotient of float32 numbers below 2^24 reaches an
    integer n > a / b: n b - a is a multiple of the last places of both, and so at least 2^-48 n b.

    Args:
        value: the exact result.
        doubled: whether the quotient is one of float64.
    """
    quotient, size, u = a.value / b.value, np.abs(b.value), a.arithmetic.unit
    carried = np.where(size > b.worst, (a.worst + np.abs(quotient) * b.worst) / (size - b.worst), np.inf)
    least = np.where(a.value == 0, 0.0, a.arithmetic.least)
    own = np.zeros(()) if doubled else u * (np.abs(quotient) + carried) + least
    low, high = np.floor(quotient - carried), np.floor(quotient + carried + own)
    # Beyond 1 / u not every integer is a number, and beyond 1 / (2 u) a kernel's is the rounded quotient itself.
    beyond = np.where(np.abs(value) > 0.5 / u, 2 * u * np.abs(value), 0.0)
    worst = np.maximum(np.abs(value - low), np.abs(high - value)) + beyond
    return a.within(value, worst, worst)


# Normalizations


def moments(x: Bounded, axes: Sequence[int]) -> tuple[Bounded, Bounded]:
    """Mean and variance over axes.

    The variance is taken in two passes, or as the mean of the squares less the square of the mean, which cancels, as
    ONNX Runtime does (core/providers/cpu/nn/layer_norm_impl.cc).
    """
    mean = x.mean(axes)
    centered = x - mean
    return mean, widest((centered * centered).mean(axes), (x * x).mean(axes) - mean * mean)


def normalized(
    x: Bounded, mean: Bounded, variance: Bounded, epsilon: float, scale: Bounded | None, bias: Bounded | None
) -> Bounded:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias: step by step, or folded into one factor and one term."""
    spread = variance + epsilon
    root, inverse = spread.root(), spread.inverse_root()
    centered = x - mean
    steps = [affine(centered / root, scale, bias), affine(centered * inverse, scale, bias)]
    for factor in (inverse, 1.0 / root) if scale is None else (scale * inverse, scale / root):
        shift = mean * factor
        steps += [affine(centered * factor, None, bias)]
        steps += [x * factor - shift if bias is None else x * factor + (bias - shift)]
    return widest(*steps)


def affine(x: Bounded, scale: Bounded | None, bias: Bounded | None) -> Bounded:
    """x scale + bias."""
    x = x if scale is None else x * scale
    return x if bias is None else x + bias


def root_mean_square(x: Bounded, axes: Sequence[int], epsilon: float) -> Bounded:
    """x / sqrt(mean of squares + epsilon)."""
    spread = (x * x).mean(axes) + epsilon
    return widest(x / spread.root(), x * spread.inverse_root())


def norm(x: Bounded, axes: Sequence[int], p: int, *, keepdims: bool = True) -> Bounded:
    """The p-norm; p of 1 or 2."""
    if p == 1:
        return x.absolute().sum(axes, keepdims=keepdims)
    return (x * x).sum(axes, keepdims=keepdims).root()


def unit_length(x: Bounded, axis: int, p: int, least: float = 0.0) -> Bounded:
    """x over its norm, which is at least a number."""
    length = norm(x, [axis], p).clip(least, np.inf)
    shorter = x / length
    zero = np.broadcast_to(length.value == 0, shorter.value.shape)
    return chosen(zero, _spread(x, shorter), widest(shorter, x * (1.0 / length)))


def local_response(x: Bounded, window: Array, alpha: float, bias: float, beta: float) -> Bounded:
    """x / (bias + alpha * sum of squares) ^ beta, channels last.

    Args:
        x: channels last.
        window: 1 where a channel's square (row) is in the sum of another (column), and 0 elsewhere.
    """
    squares = x * x
    total = squares @ exact(x, window)
    # ONNX Runtime's window slides (core/providers/cpu/nn/lrn.cc): a square is added, and subtracted behind it, and all
    # before it leave a trace.
    running = np.cumsum(squares.value, axis=-1)[..., -1:]
    total = total.widened(2 * len(window) * x.arithmetic.unit * running)
    base = (total * alpha + bias).widened(2 * len(window) * x.arithmetic.unit * abs(bias))
    size = np.abs(base.value)
    raised = np.power(base.value, beta)
    errors = []
    for error in (base.worst, base.likely):
        ends = np.maximum(size - error, 0.0), size + error
        slope = abs(beta) * np.maximum(*(np.power(end, beta - 1) for end in ends))
        own = base.arithmetic.accuracy("pow").relative * base.arithmetic.unit * raised
        errors.append(error * slope + own + base.arithmetic.least)
    return x / base.within(raised, errors[0], errors[1])
