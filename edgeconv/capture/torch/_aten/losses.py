"""Losses of classes: ``cross_entropy`` and ``nll_loss``, by LogSoftmax, GatherElements and sums; of two, by Softplus.

torch's own exporter writes one operator for the first two, which TFLite has not, and for the other a logarithm of a
sigmoid, which is -inf where that is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Unsupported, sizes_of

_INT64, _BOOL = ir.DataType.INT64, ir.DataType.BOOL
_NONE, _MEAN, _SUM = range(3)  # torch's numbers of the reductions


def cross_entropy(
    b: Builder, x: ir.Value, target: ir.Value, weight: ir.Value | None, reduction: int, ignore_index: int,
    label_smoothing: float,
) -> ir.Value:  # fmt: skip
    """The loss of logits x (N, C, …) or (C): `nll_loss` of their LogSoftmax; of probabilities as targets too.

    `label_smoothing` moves that share of each target evenly to all C classes.
    """
    axis = _class_axis(x)
    logarithms = b.add("LogSoftmax", x, axis=axis)
    if sizes_of(target) == sizes_of(x) and target.dtype is not None and target.dtype.is_floating_point():
        return _of_probabilities(b, logarithms, target, weight, reduction, label_smoothing)
    loss = nll_loss(b, logarithms, target, weight, reduction, ignore_index)
    if not label_smoothing:
        return loss
    classes = sizes_of(x)[axis]
    _, counted = _chosen(b, logarithms, target, weight, ignore_index)
    weighted = logarithms if weight is None else b.add("Mul", logarithms, _along(b, weight, x))
    every = b.add("Neg", b.reduce("ReduceSum", weighted, [axis], keepdims=False))
    is_counted = b.cast(_is_counted(b, target, ignore_index), b.dtype)
    evenly = _reduced(b, b.add("Mul", every, is_counted), counted, reduction)
    share = b.add("Mul", evenly, b.scalar(label_smoothing / classes))
    return b.add("Add", b.add("Mul", loss, b.scalar(1 - label_smoothing)), share)


def nll_loss(
    b: Builder, x: ir.Value, target: ir.Value, weight: ir.Value | None, reduction: int, ignore_index: int
) -> ir.Value:
    """Minus the logarithm of each target's class, x (N, C, …) or (C), times the weight of the class.

    A target of `ignore_index` counts nothing; the mean is over the weights of the targets that count.
    """
    picked, counted = _chosen(b, x, target, weight, ignore_index)
    return _reduced(b, b.add("Neg", b.add("Mul", picked, counted)), counted, reduction)


def binary_cross_entropy(
    b: Builder, x: ir.Value, target: ir.Value, weight: ir.Value | None, pos_weight: ir.Value | None, reduction: int
) -> ir.Value:
    """The loss of logits x of any shape: (1 - target) · x + softplus(-x) · (1 + (pos_weight - 1) · target)."""
    target = b.cast(target, b.dtype)
    near = b.add("Softplus", b.add("Neg", x))
    if pos_weight is not None:
        more = b.add("Mul", b.add("Sub", pos_weight, b.scalar(1)), target)
        near = b.add("Mul", near, b.add("Add", more, b.scalar(1)))
    loss = b.add("Add", b.add("Mul", b.add("Sub", b.scalar(1), target), x), near)
    loss = loss if weight is None else b.add("Mul", loss, weight)
    return _reduced(b, loss, b.filled(1, *sizes_of(loss)), reduction)


def _chosen(
    b: Builder, x: ir.Value, target: ir.Value, weight: ir.Value | None, ignore_index: int
) -> tuple[ir.Value, ir.Value]:
    """The element of each target's class, and what it counts: the weight of the class or 1, and 0 where ignored."""
    axis = _class_axis(x)
    is_counted = _is_counted(b, target, ignore_index)
    target = b.cast(target, _INT64)
    places = b.add("Where", is_counted, target, b.scalar(0, _INT64), dtype=_INT64)
    shape = (*sizes_of(target)[:axis], 1, *sizes_of(target)[axis:])
    picked = b.add("GatherElements", x, b.reshape(places, shape), shape=shape, axis=axis)
    counted = b.cast(is_counted, b.dtype)
    if weight is not None:
        factors = b.add("Gather", weight, places, shape=sizes_of(places), axis=0)
        counted = b.add("Mul", factors, counted)
    return b.reshape(picked, sizes_of(target)), counted


def _of_probabilities(
    b: Builder, logarithms: ir.Value, target: ir.Value, weight: ir.Value | None, reduction: int, smoothing: float
) -> ir.Value:
    """Minus the sum over classes of target · weight · logarithm; the mean is over all but the class axis."""
    axis = _class_axis(logarithms)
    classes = sizes_of(logarithms)[axis]
    if smoothing:
        target = b.add("Add", b.add("Mul", target, b.scalar(1 - smoothing)), b.scalar(smoothing / classes))
    factors = target if weight is None else b.add("Mul", target, _along(b, weight, logarithms))
    loss = b.add("Neg", b.reduce("ReduceSum", b.add("Mul", logarithms, factors), [axis], keepdims=False))
    return _reduced(b, loss, b.filled(1, *sizes_of(loss)), reduction)


def _is_counted(b: Builder, target: ir.Value, ignore_index: int) -> ir.Value:
    is_ignored = b.add("Equal", b.cast(target, _INT64), b.scalar(ignore_index, _INT64), dtype=_BOOL)
    return b.add("Not", is_ignored)


def _reduced(b: Builder, loss: ir.Value, counted: ir.Value, reduction: int) -> ir.Value:
    """The losses, their sum, or their sum divided by that of what they count."""
    if reduction == _NONE:
        return loss
    axes: Sequence[int] = range(len(sizes_of(loss)))
    total = b.reduce("ReduceSum", loss, axes, keepdims=False)
    return total if reduction == _SUM else b.add("Div", total, b.reduce("ReduceSum", counted, axes, keepdims=False))


def _along(b: Builder, weight: ir.Value, x: ir.Value) -> ir.Value:
    """The weights of the classes, to be broadcast over x."""
    return b.reshape(weight, (sizes_of(x)[_class_axis(x)], *(1 for _ in sizes_of(x)[_class_axis(x) + 1 :])))


def _class_axis(x: ir.Value) -> int:
    rank = len(sizes_of(x))
    if not rank:
        raise Unsupported("a scalar")
    return 0 if rank == 1 else 1


TABLE: Mapping[str, Entry] = {
    "aten.cross_entropy_loss.default": cross_entropy,
    "aten.nll_loss_nd.default": nll_loss,
    "aten.nll_loss.default": nll_loss,
    "aten.nll_loss2d.default": nll_loss,
    "aten.binary_cross_entropy_with_logits.default": binary_cross_entropy,
}
