"""The input positions that onnxruntime's Resize reads, in its own float32 arithmetic.

For a nearest resize of a file this arithmetic defines the meaning: ONNX gives formulas in real numbers, and next to the
borders between elements float32 decides. The facts are from ``upsamplebase.h`` of onnxruntime's CPU kernels, and from
runs of 1.32: sizes are ``int(scale * size)`` in float32; an axis of scale 1 is copied; before opset 11 the nearest
element is the one before the position if the image grows, and the one after it if it shrinks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.graph.constants import resized_axes
from edgeconv.graph.edit import constant
from edgeconv.graph.steps import sizes_of

Array = npt.NDArray[Any]
STATED = "edgeconv.stated_scales"  # Node.meta key: the scales of the file, before `settle_first_size` changed them
BEFORE_11 = ""  # stands for the nearest_mode of opset 10, which had no such attribute


@dataclass(frozen=True)
class Axis:
    """One axis of a Resize.

    Attributes:
        axis: its number.
        size: of the input.
        out: size of the output.
        stated: the scale of the file; None where it follows from the sizes.
        region: ``roi``: start and end, 1 being the whole axis.
    """

    axis: int
    size: int
    out: int
    stated: np.float32 | None
    region: tuple[float, float] = (0.0, 1.0)

    def scale(self, kind: type[np.floating[Any]]) -> Any:
        """The scale, computed in that precision."""
        return kind(self.out) / kind(self.size) if self.stated is None else kind(self.stated)

    @property
    def is_copied(self) -> bool:
        """Whether onnxruntime copies the axis."""
        return self.size == self.out and self.scale(np.float32) == 1


def operand(node: ir.Node, index: int) -> Array | None:
    """A constant operand; None where it is left out, empty, or no constant."""
    array = constant(node.inputs[index]) if len(node.inputs) > index else None
    return None if array is None or not array.size else array


def axes_of(node: ir.Node) -> list[Axis]:
    """The axes of a Resize of opset 11 or newer; its shapes must be static."""
    before, after = (sizes_of(value) for value in (node.inputs[0], node.outputs[0]))
    numbers = resized_axes(node, len(before))
    scales = _one_ratio(node, [before[axis] for axis in numbers], node.meta.get(STATED, operand(node, 2)))
    roi = operand(node, 1)
    regions = [(0.0, 1.0)] * len(numbers)
    if roi is not None and roi.size == 2 * len(numbers):
        regions = [(float(roi[i]), float(roi[len(numbers) + i])) for i in range(len(numbers))]
    stated = [None] * len(numbers) if scales is None else [np.float32(number) for number in scales]
    return [
        Axis(axis, before[axis], after[axis], scale, region)
        for axis, scale, region in zip(numbers, stated, regions, strict=True)
    ]


def _one_ratio(node: ir.Node, sizes: Sequence[int], scales: Array | None) -> Array | None:
    """The scales; with a ``keep_aspect_ratio_policy`` the one scale that all axes get."""
    policy, after = node.attributes.get_string("keep_aspect_ratio_policy", "stretch"), operand(node, 3)
    if policy == "stretch" or after is None:
        return scales
    # ParseScalesDataAndAdjustOutputSize in upsamplebase.h: quotients in float32.
    ratios = np.asarray(after, np.float32) / np.asarray(sizes, np.float32)
    return np.full(len(sizes), ratios.min() if policy == "not_larger" else ratios.max(), np.float32)


def size_of(size: int, scale: np.float32) -> int | None:
    """The output size of an axis; None where the product overflows float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.float32(size) * scale
    # UpsampleBase::ComputeOutputShape casts the product of floats.
    return int(scaled) if np.isfinite(scaled) else None


def places(node: ir.Node, axis: Axis, kind: type[np.floating[Any]] = np.float32) -> Array:
    """The coordinate in the input of each output element, computed in that precision."""
    transformation = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if axis.is_copied and transformation != "tf_crop_and_resize":
        return np.arange(axis.out, dtype=kind)
    return np.asarray(_PLACES[transformation](np.arange(axis.out, dtype=kind), axis, kind), kind)


def picks(node: ir.Node, axis: Axis) -> npt.NDArray[np.int64]:
    """The index of the input element that a nearest Resize picks for each output element."""
    rounded = rounding(node, axis)(places(node, axis))
    return np.array(np.clip(rounded, 0, axis.size - 1), np.int64)


def rounding(node: ir.Node, axis: Axis) -> Callable[[Array], Array]:
    """The function by which a nearest Resize rounds a coordinate to an index."""
    mode = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    if mode == BEFORE_11:
        # ResizeNearestMode::SIMPLE in upsamplebase.h.
        mode = "ceil" if axis.scale(np.float32) < 1 else "floor"
    return _ROUNDINGS[mode]


_Place = Callable[[Array, Axis, type[np.floating[Any]]], Array]


def _half_pixel(x: Array, axis: Axis, kind: type[np.floating[Any]]) -> Array:
    return np.asarray((x + kind(0.5)) / axis.scale(kind) - kind(0.5))


def _pytorch_half_pixel(x: Array, axis: Axis, kind: type[np.floating[Any]]) -> Array:
    return _half_pixel(x, axis, kind) if axis.out > 1 else np.zeros_like(x)


def _for_nn(x: Array, axis: Axis, kind: type[np.floating[Any]]) -> Array:
    return np.asarray((x + kind(0.5)) / axis.scale(kind))


def _asymmetric(x: Array, axis: Axis, kind: type[np.floating[Any]]) -> Array:
    return np.asarray(x / axis.scale(kind))


def _align_corners(x: Array, axis: Axis, kind: type[np.floating[Any]]) -> Array:
    if axis.out == 1:
        return np.zeros_like(x)
    return np.asarray(x * kind(axis.size - 1) / kind(axis.out - 1))


def _symmetric(x: Array, axis: Axis, kind: type[np.floating[Any]]) -> Array:
    """half_pixel_symmetric; the last sum is in double there, as its constant 0.5 has no suffix f."""
    scale = axis.scale(kind)
    offset = kind(axis.size) / kind(2) * (kind(1) - kind(axis.out) / (scale * kind(axis.size)))
    return np.asarray(np.float64(offset) + (x + np.float64(0.5)) / np.float64(scale) - 0.5)


def _crop(x: Array, axis: Axis, kind: type[np.floating[Any]]) -> Array:
    start, end = (kind(edge) for edge in axis.region)
    last = kind(axis.size - 1)
    if axis.out <= 1:
        # 0.5 without the suffix f is a double in C++, and so is the product.
        return np.full_like(x, 0.5 * np.float64(start + end) * np.float64(last))
    return np.asarray(start * last + x * (end - start) * last / kind(axis.out - 1))


_PLACES: Mapping[str, _Place] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "tf_half_pixel_for_nn": _for_nn,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_crop_and_resize": _crop,
}


def _prefer_ceil(x: Array) -> Array:
    lower = np.floor(x)
    return np.where(x - lower < x.dtype.type(0.5) - x.dtype.type(_TIE), lower, lower + 1)


def _prefer_floor(x: Array) -> Array:
    lower = np.floor(x)
    return np.where(x - lower <= x.dtype.type(0.5) + x.dtype.type(_TIE), lower, lower + 1)


_TIE = 1e-6  # onnxruntime's tolerance for the middle between two elements; older releases have none

_ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    "round_prefer_floor": _prefer_floor,
    "round_prefer_ceil": _prefer_ceil,
    "floor": np.floor,
    "ceil": np.ceil,
}
