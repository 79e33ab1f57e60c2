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
    """torch's ``nearest``: the element at floor(i · size / out). Resize, asymmetric, ``floor``."""
    return _resize(
        b, x, scale_factors, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


def nearest_exact(b: Builder, x: ir.Value, output_size: Ints | None, scale_factors: Sequence[float] | None) -> ir.Value:
    """torch's ``nearest-exact``, as Pillow: the element with the nearest center. Half pixels, ``round_prefer_ceil``."""
    return _resize(
        b, x, scale_factors, mode="nearest", coordinate_transformation_mode="half_pixel",
        nearest_mode="round_prefer_ceil",
    )  # fmt: skip


def linear(
    b: Builder, x: ir.Value, output_size: Ints | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> ir.Value:
    """Linear interpolation along the last 1 to 3 axes: Resize, at half pixels or with aligned corners."""
    if x.dtype == ir.DataType.UINT8:
        return _bytes(b, x, _interpolations(b, x, _triangle, 1, align_corners, scale_factors))
    return _resize(b, x, scale_factors, mode="linear", coordinate_transformation_mode=_coordinates(align_corners))


def cubic(
    b: Builder, x: ir.Value, output_size: Ints | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> ir.Value:
    """Cubic convolution with torch's coefficient of -0.75: Resize."""
    if x.dtype == ir.DataType.UINT8:
        kernel = partial(_cubic, a=-0.75)
        return _bytes(b, x, _interpolations(b, x, kernel, 2, align_corners, scale_factors))
    return _resize(
        b, x, scale_factors, mode="cubic", coordinate_transformation_mode=_coordinates(align_corners),
        cubic_coeff_a=-0.75,
    )  # fmt: skip


def antialiased(kernel: Callable[[Array], Array], support: float) -> Entry:
    """Resizing with antialiasing, as a product with one constant matrix per axis.

    As torch and Pillow do: when an axis shrinks, the kernel is stretched by the same factor, and its weights are
    divided by their sum.

    Args:
        kernel: the weight at a distance, in elements of the input (of the output, where that is smaller).
        support: the distance at which the kernel becomes 0.
    """

    def entry(
        b: Builder, x: ir.Value, output_size: Ints | None, align_corners: bool, scale_factors: Sequence[float] | None
    ) -> ir.Value:
        matrices = []
        for size, out, factor in zip(sizes_of(x)[2:], b.shape[2:], scale_factors or (None, None), strict=True):
            scale = _scale_of(size, out, align_corners, factor)
            width = support * max(scale, 1.0)
            center = scale * (np.arange(out) + 0.5)[:, None]
            places = np.arange(size)[None]
            # Elements whose centers are within the support, rounded as in precompute_coeffs (Pillow, Resample.c).
            first = np.maximum(np.trunc(center - width + 0.5), 0)
            last = np.minimum(np.trunc(center + width + 0.5), size)
            weights = kernel((places - center + 0.5) / max(scale, 1.0)) * ((places >= first) & (places < last))
            matrices.append(weights / weights.sum(1, keepdims=True))
        if x.dtype == ir.DataType.UINT8:
            return _bytes(b, x, matrices)
        vertical, horizontal = map(torch.from_numpy, matrices)
        y = b.matmul(x, b.exactly(horizontal.T.contiguous(), b.dtype))
        return b.matmul(b.exactly(vertical, b.dtype), y)

    return entry


def _interpolations(
    b: Builder, x: ir.Value, kernel: Callable[[Array], Array], support: int, align_corners: bool,
    scale_factors: Sequence[float] | None,
) -> list[Array]:  # fmt: skip
    """The matrices (out, size) of interpolation without antialiasing, for height and width; the edge is repeated."""
    matrices = []
    for size, out, factor in zip(sizes_of(x)[2:], b.shape[2:], scale_factors or (None, None), strict=True):
        indices = np.arange(out)
        scale = _scale_of(size, out, align_corners, factor)
        places = indices * scale if align_corners else (indices + 0.5) * scale - 0.5
        # Negative places become 0, except for cubic kernels (area_pixel_compute_source_index, ATen/native/UpSample.h).
        places = places if support > 1 else np.maximum(places, 0)
        first = np.minimum(np.floor(places), size - 1)
        fraction = np.clip(places - first, 0, 1)
        matrix = np.zeros((out, size))
        for offset in range(1 - support, support + 1):
            columns = np.clip(first + offset, 0, size - 1).astype(np.int64)
            np.add.at(matrix, (indices, columns), kernel(offset - fraction))
        matrices.append(matrix)
    return matrices


def _scale_of(size: int, out: int, align_corners: bool, factor: float | None) -> float:
    """Elements of the input from one of the output to the next (area_pixel_compute_scale, ATen/native/UpSample.h)."""
    if align_corners:
        return (size - 1) / (out - 1) if out > 1 else 0.0  # a single output is the first element
    # A factor that was passed counts, not the quotient of the sizes, which were rounded with it.
    return 1 / factor if factor else size / out


def _bytes(b: Builder, x: ir.Value, matrices: Sequence[Array]) -> ir.Value:
    """Resizes an image of uint8 by the matrices of height and width, with the integer arithmetic of torch and Pillow.

    The width comes first. Each axis has weights of 16 bits (``_compute_index_ranges_int16_weights`` in ATen's
    UpSampleKernel.cpp), which float32 holds exactly, and its result is rounded to 0 … 255 before the next.
    """
    b.write_out()  # float16 would round the sums
    y = b.cast(x, ir.DataType.FLOAT)
    for axis in (1, 0):
        # ATen's precision: the largest power of 2 by which the largest weight still fits into int16.
        steps = 2.0 ** min(22, int(np.ceil(np.log2((2**15 - 0.5) / matrices[axis].max()))) - 1)
        weights = np.trunc(matrices[axis] * steps + np.copysign(0.5, matrices[axis])) / steps
        stored = b.constant((weights.T if axis else weights).astype(np.float32))
        y = b.matmul(y, stored) if axis else b.matmul(stored, y)
        half, bounds = b.scalar(0.5, ir.DataType.FLOAT), [b.scalar(end, ir.DataType.FLOAT) for end in (0, 255)]
        whole = b.add("Floor", b.add("Add", y, half, dtype=ir.DataType.FLOAT), dtype=ir.DataType.FLOAT)
        y = b.add("Clip", whole, *bounds, shape=sizes_of(whole), dtype=ir.DataType.FLOAT)
    return b.cast(y, ir.DataType.UINT8)


def _triangle(x: Array) -> Array:
    """The kernel of linear interpolation: a tent from -1 to 1."""
    tent: Array = np.maximum(1 - np.abs(x), 0)
    return tent


def _cubic(x: Array, a: float = -0.5) -> Array:
    """The cubic convolution kernel (Keys, 1981); torch has a = -1/2 with antialiasing, -3/4 without."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    return np.where(x < 1, near, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * a, 0))


def _coordinates(align_corners: bool) -> str:
    return "align_corners" if align_corners else "half_pixel"


def _resize(b: Builder, x: ir.Value, scale_factors: Sequence[float] | None, **attributes: Any) -> ir.Value:
    """Resize by scales if torch was given scales, as its coordinates then follow them; by sizes otherwise.

    With aligned corners they follow the sizes alone, which scales only give where they make whole numbers of elements.
    """
    if attributes["coordinate_transformation_mode"] == "align_corners" and scale_factors is not None:
        lengths = np.array(sizes_of(x)[2:]) * np.array(scale_factors, np.float32).astype(np.float64)
        scale_factors = scale_factors if np.array_equal(lengths, b.shape[2:]) else None
    if scale_factors is None:
        return b.add("Resize", x, None, None, b.ints(*b.shape), shape=b.shape, **attributes)
    # ONNX, Resize: one scale for each axis, batch and channels too.
    scales = b.constant(np.array([1.0, 1.0, *scale_factors], dtype=np.float32))
    return b.add("Resize", x, None, scales, shape=b.shape, **attributes)


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(b: Builder, x: ir.Value, pad: Ints, mode: str = "constant", value: float | None = None) -> ir.Value:
    """Pad. torch states (before, after) of the last axis first; modes: a constant, reflection, the edge, circular.

    Negative amounts crop. ONNX does so before it pads, as torch does but for reflection, which mirrors what it crops.
    """
    if mode not in _MODES:
        raise Unsupported(f"mode={mode!r}")
    grown, cropped = ([pick(0, number) for number in pad] for pick in (max, min))
    if mode == "constant" or not any(cropped):
        return _padded(b, x, pad, mode, value)
    if mode == "reflect":
        return _padded(b, _padded(b, x, grown, mode), cropped, "constant")
    return _padded(b, _padded(b, x, cropped, "constant"), grown, mode)


def _padded(b: Builder, x: ir.Value, pad: Ints, mode: str, value: float | None = None) -> ir.Value:
    sizes = sizes_of(x)
    rank = len(sizes)
    before, after = [0] * rank, [0] * rank
    for index in range(len(pad) // 2):
        before[rank - 1 - index], after[rank - 1 - index] = pad[2 * index], pad[2 * index + 1]
    fill = [b.scalar(value or 0)] if mode == "constant" else []
    shape = [sum(amounts) for amounts in zip(before, sizes, after, strict=True)]
    return b.add("Pad", x, b.ints(*before, *after), *fill, shape=shape, mode=_MODES[mode])


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
    "aten._upsample_nearest_exact3d.vec": nearest_exact,
    "aten.upsample_linear1d.vec": linear,
    "aten.upsample_bilinear2d.vec": linear,
    "aten.upsample_trilinear3d.vec": linear,
    "aten.upsample_bicubic2d.vec": cubic,
    "aten._upsample_bilinear2d_aa.vec": antialiased(_triangle, 1),
    "aten._upsample_bicubic2d_aa.vec": antialiased(_cubic, 2),
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
