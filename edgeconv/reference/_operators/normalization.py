"""Normalizations.

Specification: BatchNormalization, InstanceNormalization, GroupNormalization (scales per group in opset 18, per
channel since 21), LayerNormalization, RMSNormalization, LpNormalization, MeanVarianceNormalization, LRN, Dropout.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional as F  # noqa: N812

from edgeconv.reference._call import Call, Operator, Result, Tensor


def _batch(call: Call) -> Result:
    x, scale, bias, mean, variance = (call[index] for index in range(5))
    epsilon, momentum = call.attribute("epsilon", 1e-5), call.attribute("momentum", 0.9)
    if not call.attribute("training_mode", 0):
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    # ONNX, BatchNormalization: the variance of the population, for the result and for the running one.
    now, spread = x.mean(axes), x.var(axes, correction=0)
    y = F.batch_norm(x, now, spread, scale, bias, False, 0.0, epsilon)
    return y, mean * momentum + now * (1 - momentum), variance * momentum + spread * (1 - momentum)


def _standardized(x: Tensor, axes: list[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) / sqrt(variance + epsilon) over the axes, the mean, and the factor."""
    mean = x.mean(axes, keepdim=True)
    centered = x - mean
    # The mean square of the centered numbers, and not E[x²] - E[x]², which cancels where the mean is large.
    factor = torch.rsqrt((centered * centered).mean(axes, keepdim=True) + epsilon)
    return centered * factor, mean, factor


def _column(x: Tensor, rank: int) -> Tensor:
    """Numbers per channel, in a shape that broadcasts over (N, C, …)."""
    return x.reshape(-1, *[1] * (rank - 2))


def _instance(call: Call) -> Tensor:
    x = call[0]
    y = _standardized(x, list(range(2, x.ndim)), call.attribute("epsilon", 1e-5))[0]
    return y * _column(call[1], x.ndim) + _column(call[2], x.ndim)


def _group(call: Call) -> Tensor:
    x, groups = call[0], call.attribute("num_groups", 1)
    # The channels of a group lie next to each other, so that a group and its pixels are one row.
    y = _standardized(x.reshape(x.shape[0], groups, -1), [2], call.attribute("epsilon", 1e-5))[0].reshape(x.shape)
    scale, bias = (
        item if item.numel() == x.shape[1] else item.repeat_interleave(x.shape[1] // groups)
        for item in (call[1], call[2])
    )
    return y * _column(scale, x.ndim) + _column(bias, x.ndim)


def _layer(call: Call) -> Result:
    x, bias = call[0], call.optional(2)
    axes = list(range(call.axis(x.ndim, -1), x.ndim))
    y, mean, factor = _standardized(x, axes, call.attribute("epsilon", 1e-5))
    y = y * call[1]
    return y if bias is None else y + bias, mean, factor


def _root_mean_square(call: Call) -> Tensor:
    x = call[0]
    axes = list(range(call.axis(x.ndim, -1), x.ndim))
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + call.attribute("epsilon", 1e-5)) * call[1]


def _lp(call: Call) -> Tensor:
    """LpNormalization; where the norm is 0 the result is 0."""
    x, p = call[0], call.attribute("p", 2)
    norm = torch.linalg.vector_norm(x, p, call.axis(x.ndim, -1), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def _mean_variance(call: Call) -> Tensor:
    """MeanVarianceNormalization: the specification's function adds 1e-9 to the standard deviation."""
    axes = [axis % call[0].ndim for axis in call.attribute("axes", [0, 2, 3])]
    centered = call[0] - call[0].mean(axes, keepdim=True)
    return centered / ((centered * centered).mean(axes, keepdim=True).sqrt() + 1e-9)


def _local_response(call: Call) -> Tensor:
    """LRN: over ``size`` channels around each; of an even ``size``, one more after it than before it."""
    x, size = call[0], call.attribute("size", 1)
    before, channels = (size - 1) // 2, x.shape[1]
    padded = F.pad(x * x, [0, 0] * (x.ndim - 2) + [before, size - 1 - before])
    total = functools.reduce(torch.add, [padded.narrow(1, start, channels) for start in range(size)])
    alpha, beta, bias = call.attribute("alpha", 1e-4), call.attribute("beta", 0.75), call.attribute("bias", 1.0)
    return x / (bias + alpha / size * total) ** beta


def _dropout(call: Call) -> Result:
    """Dropout at inference: the identity, and a mask that is all true."""
    training, ratio = call.optional(2), call.optional(1)
    if training is not None and bool(training) and (ratio is None or float(ratio) > 0):
        raise call.refuse("draws random numbers in training mode")
    return call[0], torch.ones_like(call[0], dtype=torch.bool)


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": _batch,
    "Dropout": _dropout,
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LRN": _local_response,
    "LayerNormalization": _layer,
    "LpNormalization": _lp,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _root_mean_square,
}
