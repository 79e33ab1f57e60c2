"""Reductions.

Specification: Reduce* (axes are an input since opset 18, for ReduceSum since 13), ArgMax, ArgMin, CumProd,
CumSum, TopK.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgeconv.reference._call import Call, Operator, Result, Tensor

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _over_axes(function: Reduce) -> Operator:
    """A reduction over the stated axes; without any, over all, or over none with ``noop_with_empty_axes``."""

    def operator(call: Call) -> Tensor:
        x, keepdims = call[0], bool(call.attribute("keepdims", 1))
        axes = [axis % x.ndim for axis in call.ints(1, "axes") or ()]
        if not axes and call.attribute("noop_with_empty_axes", 0):
            return function(x[..., None], [x.ndim], False)  # each element is reduced alone
        return function(x, axes or list(range(x.ndim)), keepdims).to(x.dtype)

    return operator


def _sum(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    return x.sum(axes, keepdims) if axes else x


def _extreme(worst: float, function: Callable[..., Tensor]) -> Reduce:
    """The largest or smallest; of no elements, -infinity or infinity, or the nearest value of an integer dtype."""

    def reduce(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
        if any(x.shape[axis] == 0 for axis in axes):
            return torch.full(x.sum(axes, keepdims).shape, _end(x.dtype, worst), dtype=x.dtype)
        return function(x, axes, keepdims) if axes else x

    return reduce


def _end(dtype: torch.dtype, infinity: float) -> float | int | bool:
    """The dtype's value that is nearest to an infinity."""
    if dtype.is_floating_point:
        return infinity
    if dtype == torch.bool:
        return infinity > 0
    return torch.iinfo(dtype).max if infinity > 0 else torch.iinfo(dtype).min


def _mean(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    if not axes:
        return x
    if x.is_floating_point():
        return x.mean(axes, keepdims)
    total, count = x.sum(axes, keepdims), 1
    for axis in axes:
        count *= x.shape[axis]
    return torch.div(total, count, rounding_mode="trunc")


def _product(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):  # from the back, so that the axes in front keep their numbers
        x = x.prod(axis, keepdims)
    return x


def _log_sum_exp(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdims) if axes else x


def _extreme_index(largest: bool) -> Operator:
    """ArgMax, ArgMin: of equal elements the first (which numpy promises, torch does not), or the last."""

    def operator(call: Call) -> Tensor:
        axis, keepdims = call.axis(call[0].ndim), bool(call.attribute("keepdims", 1))
        last = bool(call.attribute("select_last_index", 0))
        array = (call[0].flip(axis) if last else call[0]).numpy()
        places = torch.as_tensor((array.argmax if largest else array.argmin)(axis, keepdims=keepdims))
        return call[0].shape[axis] - 1 - places if last else places

    return operator


def _running(function: Callable[[Tensor, int], Tensor], neutral: int) -> Operator:
    """CumSum, CumProd: with ``exclusive`` without the element itself, with ``reverse`` from the end."""

    def operator(call: Call) -> Tensor:
        axis, reverse = int(call[1]), bool(call.attribute("reverse", 0))
        x = call[0].flip(axis) if reverse else call[0]
        if call.attribute("exclusive", 0):
            first = torch.full_like(x.narrow(axis, 0, 1), neutral)
            x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        total = function(x, axis).to(x.dtype)
        return total.flip(axis) if reverse else total

    return operator


def _top_k(call: Call) -> Result:
    """TopK: of equal elements the lower index first, as a stable sort gives them."""
    x = call[0]
    axis = call.axis(x.ndim, -1)
    values, indices = torch.sort(x, dim=axis, descending=bool(call.attribute("largest", 1)), stable=True)
    count = int(call[1].reshape(-1)[0]) if call.opset >= 10 else call.attribute("k", 1)
    if count > x.shape[axis]:
        raise call.refuse(f"asks for {count} of {x.shape[axis]} elements")
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


OPERATORS: dict[str, Operator] = {
    "ArgMax": _extreme_index(True),
    "ArgMin": _extreme_index(False),
    "CumProd": _running(torch.cumprod, 1),
    "CumSum": _running(torch.cumsum, 0),
    "ReduceL1": _over_axes(lambda x, axes, keepdims: _sum(x.abs(), axes, keepdims)),
    "ReduceL2": _over_axes(lambda x, axes, keepdims: _sum(x * x, axes, keepdims).sqrt()),
    "ReduceLogSum": _over_axes(lambda x, axes, keepdims: _sum(x, axes, keepdims).log()),
    "ReduceLogSumExp": _over_axes(_log_sum_exp),
    "ReduceMax": _over_axes(_extreme(float("-inf"), torch.amax)),
    "ReduceMean": _over_axes(_mean),
    "ReduceMin": _over_axes(_extreme(float("inf"), torch.amin)),
    "ReduceProd": _over_axes(_product),
    "ReduceSum": _over_axes(_sum),
    "ReduceSumSquare": _over_axes(lambda x, axes, keepdims: _sum(x * x, axes, keepdims)),
    "TopK": _top_k,
}
