"""Convolutions: one Conv or ConvTranspose each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Unsupported, sizes_of

Ints = Sequence[int]


def conv(
    b: Builder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, stride: Ints, padding: Ints, dilation: Ints,
    groups: int,
) -> ir.Value:  # fmt: skip
    """``conv1d`` to ``conv3d``: x (N, C, *sizes), weight (O, C / groups, *kernel), padding on both sides alike: Conv.

    An input without a batch axis is refused, here and below.
    """
    pads = spatial(padding, weight)
    return _conv(b, x, weight, bias, stride, (*pads, *pads), dilation, groups)


def conv_padding(
    b: Builder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, stride: Ints, padding: str, dilation: Ints,
    groups: int,
) -> ir.Value:  # fmt: skip
    """`conv` with ``padding="same"`` or ``"valid"``; an odd amount of padding has its larger half at the end."""
    if padding not in ("same", "valid"):
        raise Unsupported(f"padding={padding!r}")
    spans = [d * (k - 1) for d, k in zip(spatial(dilation, weight), sizes_of(weight)[2:], strict=True)]
    if padding == "valid":
        spans = [0] * len(spans)
    pads = [span // 2 for span in spans] + [span - span // 2 for span in spans]
    return _conv(b, x, weight, bias, stride, pads, dilation, groups)


def conv_transpose(
    b: Builder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, stride: Ints, padding: Ints,
    output_padding: Ints, groups: int, dilation: Ints,
) -> ir.Value:  # fmt: skip
    """x (N, C, *sizes), weight (C, O / groups, *kernel): ConvTranspose."""
    _check_batched(x, weight)
    pads = spatial(padding, weight)
    return b.add(
        "ConvTranspose", x, weight, bias, shape=b.shape, group=groups, kernel_shape=list(sizes_of(weight)[2:]),
        strides=spatial(stride, weight), pads=[*pads, *pads], output_padding=spatial(output_padding, weight),
        dilations=spatial(dilation, weight),
    )  # fmt: skip


def convolution(
    b: Builder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, stride: Ints, padding: Ints, dilation: Ints,
    transposed: bool, output_padding: Ints, groups: int, **_switches: object,
) -> ir.Value:  # fmt: skip
    """`conv` or `conv_transpose`, as ``torch.jit.trace`` records both; switches of cuDNN are ignored."""
    if transposed:
        return conv_transpose(b, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(b, x, weight, bias, stride, padding, dilation, groups)


def spatial(numbers: Ints, weight: ir.Value) -> list[int]:
    """One number per spatial axis; a single one stands for all."""
    rank = len(sizes_of(weight)) - 2
    return list(numbers) * rank if len(numbers) == 1 else list(numbers)


def _conv(
    b: Builder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, stride: Ints, pads: Ints, dilation: Ints,
    groups: int,
) -> ir.Value:  # fmt: skip
    _check_batched(x, weight)
    return b.add(
        "Conv", x, weight, bias, shape=b.shape, group=groups, kernel_shape=list(sizes_of(weight)[2:]),
        strides=spatial(stride, weight), pads=list(pads), dilations=spatial(dilation, weight),
    )  # fmt: skip


def _check_batched(x: ir.Value, weight: ir.Value) -> None:
    """ONNX's convolutions require a batch axis, which torch's do not."""
    if len(sizes_of(x)) != len(sizes_of(weight)):
        raise Unsupported("an input without a batch axis")


TABLE: Mapping[str, Entry] = {
    "aten.conv1d.default": conv,
    "aten.conv2d.default": conv,
    "aten.conv3d.default": conv,
    "aten.conv1d.padding": conv_padding,
    "aten.conv2d.padding": conv_padding,
    "aten.conv3d.padding": conv_padding,
    "aten.conv_transpose1d.default": conv_transpose,
    "aten.conv_transpose2d.input": conv_transpose,
    "aten.conv_transpose3d.input": conv_transpose,
    "aten.convolution.default": convolution,
    "aten._convolution.default": convolution,
}
