"""Poolings of any number of spatial axes.

Specification: MaxPool, AveragePool, LpPool and their global forms. Each of them is separable: it is computed one axis
after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F  # noqa: N812

from edgeconv.reference._call import Call, Operator, Result, Tensor
from edgeconv.reference._operators._windows import Axis, axes_of, frame, lowest

_MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def _windows(call: Call) -> tuple[Axis, ...]:
    return axes_of(call, call[0].shape[2:], call.attribute("kernel_shape", [1] * (call[0].ndim - 2)))


def _slide(framed: Tensor, axes: Sequence[Axis], combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combines the taps of every window, axis by axis."""
    for number, axis in enumerate(axes):
        framed = functools.reduce(combine, axis.taps(framed, 2 + number))
    return framed


def _max(call: Call) -> Result:
    axes, x = _windows(call), call[0]
    framed = frame(x, axes, lowest(x))
    if len(call.node.outputs) < 2:
        return _slide(framed, axes, torch.maximum)
    return _max_with_indices(call, axes, framed)


def _max_with_indices(call: Call, axes: Sequence[Axis], framed: Tensor) -> Result:
    """MaxPool with indices into the whole input, without its padding; column-major with ``storage_order`` 1."""
    kernel, strides, dilations = ([getattr(axis, name) for axis in axes] for name in ("kernel", "stride", "dilation"))
    pooled, flat = _MAX[len(axes) - 1](framed, kernel, strides, 0, dilations, False, True)
    places = []
    for axis, size in zip(reversed(axes), reversed(framed.shape[2:]), strict=True):
        places.append(flat % size - axis.begin)
        flat = flat // size
    places, sizes = places[::-1], list(call[0].shape[2:])
    if call.attribute("storage_order", 0):
        places, sizes = places[::-1], sizes[::-1]
    index = torch.zeros_like(flat)
    for place, size in zip(places, sizes, strict=True):
        index = index * size + place
    planes = torch.arange(call[0].shape[0] * call[0].shape[1]) * call[0][0, 0].numel()
    return pooled, index + planes.reshape(*call[0].shape[:2], *[1] * len(axes))


def _average(call: Call) -> Tensor:
    axes = _windows(call)
    total = _slide(frame(call[0], axes, 0.0), axes, torch.add)
    for number, axis in enumerate(axes):
        shape = [1] * number + [-1] + [1] * (len(axes) - number - 1)
        total = total / _counted(axis, bool(call.attribute("count_include_pad", 0))).reshape(shape)
    return total


def _counted(axis: Axis, include_pad: bool) -> Tensor:
    """The divisor of each window: its taps in the input, or in the input and the stated padding."""
    starts = torch.arange(axis.count)[:, None] * axis.stride - axis.begin
    places = starts + torch.arange(axis.kernel)[None, :] * axis.dilation
    low, high = (-axis.begin, axis.size + axis.end) if include_pad else (0, axis.size)
    return ((places >= low) & (places < high)).sum(1).to(torch.float64)


def _lp(call: Call) -> Tensor:
    axes, p = _windows(call), call.attribute("p", 2)
    return _slide(frame(call[0].abs() ** p, axes, 0.0), axes, torch.add) ** (1 / p)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def _global_lp(call: Call) -> Tensor:
    p = call.attribute("p", 2)
    return (call[0].abs() ** p).sum(_spatial(call[0]), keepdim=True) ** (1 / p)


def _unpool(call: Call) -> Tensor:
    """MaxUnpool: each value at its index, zeros elsewhere; of ``output_shape``, or the shape that a pool would undo."""
    x, kernel = call[0], call.attribute("kernel_shape", [1])
    rank = len(kernel)
    strides, pads = call.attribute("strides", [1] * rank), call.attribute("pads", [0] * 2 * rank)
    natural = [(x.shape[2 + i] - 1) * strides[i] - pads[i] - pads[rank + i] + kernel[i] for i in range(rank)]
    natural = [*x.shape[:2], *natural]
    shape = call.ints(2, "output_shape") or natural
    flat = torch.zeros(int(torch.tensor(natural).prod()), dtype=x.dtype)
    flat = flat.scatter(0, call[1].reshape(-1), x.reshape(-1)).reshape(natural)
    return F.pad(flat, [pad for i in reversed(range(len(shape))) for pad in (0, shape[i] - natural[i])])


OPERATORS: dict[str, Operator] = {
    "AveragePool": _average,
    "GlobalAveragePool": lambda call: call[0].mean(_spatial(call[0]), keepdim=True),
    "GlobalLpPool": _global_lp,
    "GlobalMaxPool": lambda call: call[0].amax(_spatial(call[0]), keepdim=True),
    "LpPool": _lp,
    "MaxPool": _max,
    "MaxUnpool": _unpool,
}
