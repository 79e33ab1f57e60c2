"""Resize, padding, and the shuffles between pixels and channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edgeconv.capture.torch._builder import Builder, Entry, Unsupported, renamed, sizes_of

Ints = Sequence[int]
Array = npt.NDArray[np.float64]


def nearest(b: Builder, x: ir.Value, output_size: Ints | None, scale_factors: Sequence[float] | None) -> ir.Value:
    """The element at floor(i · size / out), as torch and OpenCV take it: Resize, asymmetric, ``floor``."""
    return _resize(
        b, x, scale_factors, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


def nearest_exact(b: Builder, x: ir.Value, output_size: Ints | None, scale_factors: Sequence[float] | None) -> ir.Value:
    """The element whose middle is nearest, as Pillow takes it: Resize, half_pixel, ``round_prefer_ceil``."""
    return _resize(
        b, x, scale_factors, mode="nearest", coordinate_transformation_mode="half_pixel",
        nearest_mode="round_prefer_ceil",
    )  # fmt: skip


def linear(
    b: Builder, x: ir.Value, output_size: Ints | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> ir.Value:
    """Linear interpolation along the last 1 to 3 axes: Resize, at half pixels or with aligned corners."""
    return _resize(b, x, scale_factors, mode="linear", coordinate_transformation_mode=_coordinates(align_corners))


def cubic(
    b: Builder, x: ir.Value, output_size: Ints | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> ir.Value:
    """Cubic convolution with torch's coefficient of -0.75: Resize."""
    return _resize(
        b, x, scale_factors, mode="cubic", coordinate_transformation_mode=_coordinates(align_corners),
        cubic_coeff_a=-0.75,
    )  # fmt: skip


def antialiased(kernel: Callable[[Array], Array], support: float) -> Entry:
    """Resizing with antialiasing as what it is: a product with one constant matrix per axis.

    The rule is torch's (and Pillow's): the kernel is stretched by the factor of a reduction, and its weights over
    the elements within reach are divided by their sum.
    """

    def entry(
        b: Builder, x: ir.Value, output_size: Ints | None, align_corners: bool, scale_factors: Sequence[float] | None
    ) -> ir.Value:
        matrices = []
        for size, out, factor in zip(sizes_of(x)[2:], b.shape[2:], scale_factors or (None, None), strict=True):
            scale = (size - 1) / max(out - 1, 1) if align_corners else 1 / factor if factor else size / out
            width = support * max(scale, 1.0)
            centre = scale * (np.arange(out) + 0.5)[:, None]
            places = np.arange(size)[None]
            first = np.maximum(np.trunc(centre - width + 0.5), 0)
            last = np.minimum(np.trunc(centre + width + 0.5), size)
            weights = kernel((places - centre + 0.5) / max(scale, 1.0)) * ((places >= first) & (places < last))
            matrices.append(torch.from_numpy(weights / weights.sum(1, keepdims=True)))
        y = b.matmul(x, b.exactly(matrices[1].T.contiguous(), b.dtype))
        return b.matmul(b.exactly(matrices[0], b.dtype), y)

    return entry


def _triangle(x: Array) -> Array:
    """The kernel of linear interpolation: a tent from -1 to 1."""
    tent: Array = np.maximum(1 - np.abs(x), 0)
    return tent


def _cubic_half(x: Array) -> Array:
    """Keys' kernel with a = -1/2, which torch takes here."""
    x, a = np.abs(x), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    return np.where(x < 1, near, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * a, 0))


def _coordinates(align_corners: bool) -> str:
    return "align_corners" if align_corners else "half_pixel"


def _resize(b: Builder, x: ir.Value, scale_factors: Sequence[float] | None, **attributes: Any) -> ir.Value:
    """By scales where torch was given scales: its coordinates then follow them and not the sizes."""
    if scale_factors is None:
        return b.add("Resize", x, None, None, b.ints(*b.shape), shape=b.shape, **attributes)
    scales = b.constant(np.array([1.0, 1.0, *scale_factors], dtype=np.float32))
    return b.add("Resize", x, None, scales, shape=b.shape, **attributes)


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(b: Builder, x: ir.Value, pad: Ints, mode: str = "constant", value: float | None = None) -> ir.Value:
    """Pads of the last axes, pair by pair from behind, by a number, reflection, the edge or round about: Pad.

    Negative amounts crop; with other modes than a constant they are refused.
    """
    if mode not in _MODES:
        raise Unsupported(f"mode={mode!r}")
    if any(number < 0 for number in pad) and mode != "constant":
        raise Unsupported("cropping by negative pads")
    rank = len(sizes_of(x))
    before, after = [0] * rank, [0] * rank
    for index in range(len(pad) // 2):
        before[rank - 1 - index], after[rank - 1 - index] = pad[2 * index], pad[2 * index + 1]
    fill = [b.scalar(value or 0)] if mode == "constant" else []
    return b.add("Pad", x, b.ints(*before, *after), *fill, shape=b.shape, mode=_MODES[mode])


_REFLECTED = renamed(partial(pad, mode="reflect"), padding="pad")
_REPLICATED = renamed(partial(pad, mode="replicate"), padding="pad")


def pixel_shuffle(b: Builder, x: ir.Value, upscale_factor: int) -> ir.Value:
    """(N, C · r², H, W) to (N, C, H · r, W · r): DepthToSpace in torch's order, CRD; other ranks are refused."""
    if len(sizes_of(x)) != 4:
        raise Unsupported("a rank other than 4")
    return b.add("DepthToSpace", x, shape=b.shape, blocksize=upscale_factor, mode="CRD")


def pixel_unshuffle(b: Builder, x: ir.Value, downscale_factor: int) -> ir.Value:
    """(…, C, H · r, W · r) to (…, C · r², H, W): not SpaceToDepth, whose channels come in another order."""
    *lead, channels, height, width = sizes_of(x)
    factor, rank = downscale_factor, len(lead)
    blocks = b.reshape(x, (*lead, channels, height // factor, factor, width // factor, factor))
    order = [*range(rank + 1), *(rank + index for index in (2, 4, 1, 3))]
    return b.reshape(b.transpose(blocks, order), b.shape)


def channel_shuffle(b: Builder, x: ir.Value, groups: int) -> ir.Value:
    """Channels (groups, each) to (each, groups): Reshape, Transpose, Reshape."""
    batch, channels, *rest = sizes_of(x)
    grouped = b.reshape(x, (batch, groups, channels // groups, *rest))
    return b.reshape(b.transpose(grouped, (0, 2, 1, *range(3, 3 + len(rest)))), b.shape)


TABLE: Mapping[str, Entry] = {
    "aten.upsample_nearest1d.vec": nearest,
    "aten.upsample_nearest2d.vec": nearest,
    "aten.upsample_nearest3d.vec": nearest,
    "aten._upsample_nearest_exact1d.vec": nearest_exact,
    "aten._upsample_nearest_exact2d.vec": nearest_exact,
    "aten.upsample_linear1d.vec": linear,
    "aten.upsample_bilinear2d.vec": linear,
    "aten.upsample_trilinear3d.vec": linear,
    "aten.upsample_bicubic2d.vec": cubic,
    "aten._upsample_bilinear2d_aa.vec": antialiased(_triangle, 1),
    "aten._upsample_bicubic2d_aa.vec": antialiased(_cubic_half, 2),
    "aten.pad.default": pad,
    "aten.constant_pad_nd.default": pad,
    "aten.reflection_pad1d.default": _REFLECTED,
    "aten.reflection_pad2d.default": _REFLECTED,
    "aten.replication_pad1d.default": _REPLICATED,
    "aten.replication_pad2d.default": _REPLICATED,
    "aten.pixel_shuffle.default": pixel_shuffle,
    "aten.pixel_unshuffle.default": pixel_unshuffle,
    "aten.channel_shuffle.default": channel_shuffle,
    "aten.native_channel_shuffle.default": channel_shuffle,
}
