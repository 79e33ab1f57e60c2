"""Activations: element by element, and the softmaxes.

Specification: the pages of the operators, all of them functions of the body that their page states.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F  # noqa: N812

from edgeconv.reference._call import Call, Operator, Tensor, each


def _clip(call: Call) -> Tensor:
    """Clip: bounds are inputs since opset 11; if min is above max, the result is max."""
    low, high = (
        call.optional(index) if call.opset >= 11 else _bound(call, name) for index, name in ((1, "min"), (2, "max"))
    )
    x = call[0]
    x = x if low is None else torch.maximum(x, low.to(x.dtype))
    return x if high is None else torch.minimum(x, high.to(x.dtype))


def _bound(call: Call, name: str) -> Tensor | None:
    return torch.tensor(call.attribute(name, 0.0), dtype=torch.float64) if call.has(name) else None


def _gelu(call: Call) -> Tensor:
    return F.gelu(call[0], approximate=call.text("approximate", "none"))


def _hard_sigmoid(call: Call) -> Tensor:
    return torch.clamp(call.attribute("alpha", 0.2) * call[0] + call.attribute("beta", 0.5), 0.0, 1.0)


def _leaky_relu(call: Call) -> Tensor:
    alpha = call.attribute("alpha", 0.01)
    if 0 < alpha < math.inf:  # else a zero would change its sign, or be none
        return F.leaky_relu(call[0], alpha)
    return torch.where(call[0] < 0, alpha * call[0], call[0])


def _prelu(call: Call) -> Tensor:
    """PRelu: the slope broadcasts to the input, aligned at the last axis."""
    return torch.where(call[0] < 0, call[0] * call[1], call[0])


def _selu(call: Call) -> Tensor:
    # The defaults are the float32 numbers that the specification prints.
    alpha = call.attribute("alpha", 1.67326319217681884765625)
    gamma = call.attribute("gamma", 1.05070102214813232421875)
    return gamma * torch.where(call[0] > 0, call[0], alpha * torch.expm1(call[0]))


def _elu(call: Call) -> Tensor:
    return torch.where(call[0] < 0, call.attribute("alpha", 1.0) * torch.expm1(call[0]), call[0])


def _celu(call: Call) -> Tensor:
    alpha = call.attribute("alpha", 1.0)
    return call[0].clamp(min=0.0) + (alpha * torch.expm1(call[0] / alpha)).clamp(max=0.0)


def _shrink(call: Call) -> Tensor:
    bias, bound, x = call.attribute("bias", 0.0), call.attribute("lambd", 0.5), call[0]
    return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, torch.zeros_like(x)))


def _thresholded_relu(call: Call) -> Tensor:
    return torch.where(call[0] > call.attribute("alpha", 1.0), call[0], torch.zeros_like(call[0]))


def _swish(call: Call) -> Tensor:
    return call[0] * torch.sigmoid(call.attribute("alpha", 1.0) * call[0])


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))  # F.softplus would return x above its threshold of 20


def _along_axis(function: Callable[[Tensor, int], Tensor]) -> Operator:
    """A function along ``axis``; before opset 13 over all axes from ``axis`` on (1 by default), as if they were one."""

    def operator(call: Call) -> Tensor:
        if call.opset >= 13:
            return function(call[0], call.axis(call[0].ndim, -1))
        axis = call.axis(call[0].ndim, 1)
        flat = call[0].reshape(*call[0].shape[:axis], -1)
        return function(flat, -1).reshape(call[0].shape)

    return operator


def _hardmax(x: Tensor, axis: int) -> Tensor:
    first = torch.from_numpy(x.numpy().argmax(axis, keepdims=True))  # of equal elements the first, which numpy promises
    return torch.zeros_like(x).scatter(axis, first, 1.0)


OPERATORS: dict[str, Operator] = {
    "Celu": _celu,
    "Clip": _clip,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": each(lambda x: x * torch.clamp(x / 6 + 0.5, 0.0, 1.0)),
    "Hardmax": _along_axis(_hardmax),
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _along_axis(torch.log_softmax),
    "Mish": each(lambda x: x * torch.tanh(_softplus(x))),
    "PRelu": _prelu,
    "Relu": each(torch.relu),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": each(torch.sigmoid),
    "Softmax": _along_axis(torch.softmax),
    "Softplus": each(_softplus),
    "Softsign": each(lambda x: x / (1 + x.abs())),
    "Swish": _swish,
    "Tanh": each(torch.tanh),
    "ThresholdedRelu": _thresholded_relu,
}
