"""Normalizations by stored statistics (batch) or by those of the input itself (layer, group, instance, RMS)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Unsupported, sizes_of


def batch_norm(
    b: Builder, x: ir.Value, weight: ir.Value | None, bias: ir.Value | None, running_mean: ir.Value | None,
    running_var: ir.Value | None, training: bool, momentum: float, eps: float,
) -> ir.Value:  # fmt: skip
    """x (N, C, *sizes), normalized by the running statistics (C,): BatchNormalization.

    In training, or without running statistics, by the mean and variance of the batch, which is written out.
    """
    if training or running_mean is None or running_var is None:
        return _by_batch(b, x, weight, bias, eps)
    scale, shift = _scale_and_shift(b, sizes_of(x)[1], weight, bias)
    return b.add(
        # ONNX's momentum is the share of the old statistics, torch's the share of the new ones. No effect in eval mode.
        "BatchNormalization", x, scale, shift, running_mean, running_var, shape=b.shape, epsilon=eps,
        momentum=1 - momentum,
    )  # fmt: skip


def _by_batch(b: Builder, x: ir.Value, weight: ir.Value | None, bias: ir.Value | None, eps: float) -> ir.Value:
    """Batch norm in training mode: by the mean and the biased variance of the batch, per channel."""
    sizes = sizes_of(x)
    axes = [axis for axis in range(len(sizes)) if axis != 1]
    centered = b.add("Sub", x, b.reduce("ReduceMean", x, axes, keepdims=True))
    variance = b.reduce("ReduceMean", b.add("Mul", centered, centered), axes, keepdims=True)
    y = b.add("Div", centered, b.add("Sqrt", b.add("Add", variance, b.scalar(eps))))
    return _scaled_and_shifted(b, y, weight, bias)


def _scaled_and_shifted(b: Builder, y: ir.Value, weight: ir.Value | None, bias: ir.Value | None) -> ir.Value:
    """y (N, C, *sizes) times the weight (C,) plus the bias (C,), without those that are absent."""
    by_channel = (sizes_of(y)[1], *(1 for _ in sizes_of(y)[2:]))
    if weight is not None:
        y = b.add("Mul", y, b.reshape(weight, by_channel))
    return y if bias is None else b.add("Add", y, b.reshape(bias, by_channel))


def _scale_and_shift(
    b: Builder, channels: int, weight: ir.Value | None, bias: ir.Value | None
) -> tuple[ir.Value, ir.Value]:
    """Weight and bias (C,), with ones and zeros for those that are absent: ONNX requires both."""
    scale = b.filled(1, channels) if weight is None else weight
    return scale, b.filled(0, channels) if bias is None else bias


def instance_norm(
    b: Builder, x: ir.Value, weight: ir.Value | None, bias: ir.Value | None, running_mean: ir.Value | None,
    running_var: ir.Value | None, use_input_stats: bool, momentum: float, eps: float,
) -> ir.Value:  # fmt: skip
    """Each plane of x (N, C, *sizes) by its own statistics: InstanceNormalization; by running ones as `batch_norm`."""
    if not use_input_stats:
        return batch_norm(b, x, weight, bias, running_mean, running_var, False, momentum, eps)
    scale, shift = _scale_and_shift(b, sizes_of(x)[1], weight, bias)
    return b.add("InstanceNormalization", x, scale, shift, shape=b.shape, epsilon=eps)


def group_norm(
    b: Builder, x: ir.Value, num_groups: int, weight: ir.Value | None, bias: ir.Value | None, eps: float
) -> ir.Value:
    """Groups of channels by their own statistics: InstanceNormalization of (N, groups, rest), then Mul and Add.

    GroupNormalization itself has a scale per group, not per channel, before opset 21.
    """
    batch, channels, *rest = sizes_of(x)
    grouped = b.reshape(x, (batch, num_groups, math.prod((channels // num_groups, *rest))))
    ones, zeros = b.filled(1, num_groups), b.filled(0, num_groups)
    y = b.add("InstanceNormalization", grouped, ones, zeros, shape=sizes_of(grouped), epsilon=eps)
    return _scaled_and_shifted(b, b.reshape(y, b.shape), weight, bias)


def layer_norm(
    b: Builder, x: ir.Value, normalized_shape: Sequence[int], weight: ir.Value | None, bias: ir.Value | None,
    eps: float,
) -> ir.Value:  # fmt: skip
    """Over the last axes, ``normalized_shape`` of them: LayerNormalization, computed in float32 (``stash_type``)."""
    scale = b.filled(1, *normalized_shape) if weight is None else weight
    return b.add(
        "LayerNormalization", x, scale, bias, shape=b.shape, axis=-len(normalized_shape), epsilon=eps, stash_type=1
    )


def rms_norm(
    b: Builder, x: ir.Value, normalized_shape: Sequence[int], weight: ir.Value | None, eps: float | None
) -> ir.Value:
    """x / sqrt(mean(x²) + eps) over the last axes, times the weight, written out: RMSNormalization needs opset 23.

    ``eps=None`` is refused: torch then takes the epsilon of the dtype that it computes in.
    """
    if eps is None:
        raise Unsupported("an epsilon that depends on the dtype")
    axes = range(-len(normalized_shape), 0)
    mean = b.reduce("ReduceMean", b.add("Mul", x, x), axes, keepdims=True)
    y = b.add("Div", x, b.add("Sqrt", b.add("Add", mean, b.scalar(eps))))
    return y if weight is None else b.add("Mul", y, weight)


TABLE: Mapping[str, Entry] = {
    "aten.batch_norm.default": batch_norm,
    "aten.instance_norm.default": instance_norm,
    "aten.group_norm.default": group_norm,
    "aten.layer_norm.default": layer_norm,
    "aten.rms_norm.default": rms_norm,
}
