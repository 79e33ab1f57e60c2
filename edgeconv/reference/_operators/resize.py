"""Resampling.

Specification: Resize (every mode of opsets 10 to 19), Upsample, GridSample, AffineGrid. Resize is separable: along
each axis an output element is a weighted sum of a few input elements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812

from edgeconv.graph.versions import GRID_MODES
from edgeconv.reference._call import Call, Operator, Tensor


@dataclass(frozen=True)
class _Axis:
    """One axis of a Resize.

    Attributes:
        axis: its number.
        size: of the input.
        out: size of the output.
        scale: stated, or the quotient of the sizes.
        stated: whether the node states scales.
        roi: start and end of the region, 1 being the whole axis.
    """

    axis: int
    size: int
    out: int
    scale: float
    stated: bool
    roi: tuple[float, float] = (0.0, 1.0)

    @property
    def length(self) -> float:
        """The size of the output before rounding, as the specification's formulas have it."""
        return self.size * self.scale if self.stated else float(self.out)

    def per_scale(self, places: Tensor) -> Tensor:
        """Output coordinates divided by the scale; a quotient of sizes is not rounded before."""
        return places / self.scale if self.stated else places * self.size / self.out


def _resize(call: Call) -> Tensor:
    x, mode = call[0], call.text("mode", "nearest")
    for axis in _axes(call, x):
        where = _origins(axis, _transformation(call))
        if mode == "nearest":
            y = x.index_select(axis.axis, _nearest(call, where).clamp(0, axis.size - 1))
        else:
            y = _weighted(call, x, axis, where, mode)
        # ONNX, Resize: extrapolation_value for whatever lies outside of the image, in this one mode.
        if _transformation(call) == "tf_crop_and_resize":
            shape = [-1 if i == axis.axis else 1 for i in range(x.ndim)]
            outside = ((where < 0) | (where > axis.size - 1)).reshape(shape)
            y = torch.where(outside, torch.tensor(call.attribute("extrapolation_value", 0.0), dtype=y.dtype), y)
        x = y
    return x


def _transformation(call: Call) -> str:
    default = "half_pixel" if call.opset >= 11 else "asymmetric"
    return call.text("coordinate_transformation_mode", default)


def _axes(call: Call, x: Tensor) -> list[_Axis]:
    """The axes that a Resize changes, or crops by its region."""
    # Opset 10 has scales as operand 1; opset 11 puts roi before them and sizes behind.
    scales, sizes = (call.optional(2), call.ints(3, "")) if call.opset >= 11 else (call.optional(1), None)
    factors = [] if scales is None else scales.tolist()
    axes = [axis % x.ndim for axis in call.attribute("axes", list(range(x.ndim)))]
    if not factors and not sizes:
        raise call.refuse("states neither scales nor sizes")
    stated = bool(factors) or call.text("keep_aspect_ratio_policy", "stretch") != "stretch"
    if sizes:
        sizes, factors = _kept_ratio(call, [x.shape[axis] for axis in axes], sizes)
    crops = _transformation(call) == "tf_crop_and_resize"
    roi = call[1].tolist() if crops else [0.0] * len(axes) + [1.0] * len(axes)
    resized_axes = []
    for i, axis in enumerate(axes):
        size = x.shape[axis]
        out = sizes[i] if sizes else math.floor(size * factors[i])
        region = (roi[i], roi[len(axes) + i])
        # A factor of 1.01 may leave a size as it is, and yet moves the places that are read.
        if out != size or factors[i] != 1 or region != (0.0, 1.0):
            resized_axes.append(_Axis(axis, size, out, factors[i], stated, region))
    return resized_axes


def _kept_ratio(call: Call, before: list[int], sizes: list[int]) -> tuple[list[int], list[float]]:
    """Sizes and scales under ``keep_aspect_ratio_policy``."""
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    factors = [out / size for out, size in zip(sizes, before, strict=True)]
    if policy == "stretch":
        return sizes, factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [math.floor(size * factor + 0.5) for size in before], [factor] * len(before)


def _origins(axis: _Axis, transformation: str) -> Tensor:
    """The input coordinate of each output element."""
    places, length, last = torch.arange(axis.out, dtype=torch.float64), axis.length, axis.size - 1
    if transformation == "align_corners":
        return places * last / (length - 1) if length != 1 else places * 0
    if transformation == "asymmetric":
        return axis.per_scale(places)
    if transformation == "tf_crop_and_resize":
        start, end = axis.roi
        if length == 1:
            return places * 0 + 0.5 * (start + end) * last
        return start * last + places * (end - start) * last / (length - 1)
    if transformation == "pytorch_half_pixel" and length <= 1:
        return places * 0
    shift = 0.0
    # ONNX, Resize: the output is centered on the input, although its size was rounded from `length`.
    if transformation == "half_pixel_symmetric":
        shift = axis.size / 2 * (1 - axis.out / length)
    elif transformation not in ("half_pixel", "pytorch_half_pixel"):
        raise ValueError(f"coordinate_transformation_mode {transformation!r}")
    return shift + axis.per_scale(places + 0.5) - 0.5


def _nearest(call: Call, where: Tensor) -> Tensor:
    # Opset 10 has no nearest_mode: it rounds down.
    mode = call.text("nearest_mode", "round_prefer_floor" if call.opset >= 11 else "floor")
    rounded = {
        # ceil(x - 1/2) takes halves down, floor(x + 1/2) up; torch.round would take them to even numbers.
        "round_prefer_floor": torch.ceil(where - 0.5),
        "round_prefer_ceil": torch.floor(where + 0.5),
        "floor": torch.floor(where),
        "ceil": torch.ceil(where),
    }
    return rounded[mode].to(torch.int64)


def _weighted(call: Call, x: Tensor, axis: _Axis, where: Tensor, mode: str) -> Tensor:
    """Interpolation: a weighted sum over the taps around each coordinate.

    Taps outside of the input read the edge, or do not count (``exclude_outside``).
    """
    radius = {"linear": 1, "cubic": 2}[mode]
    # With antialias the kernel is widened by the factor by which the image shrinks.
    squeeze = min(axis.scale, 1.0) if call.attribute("antialias", 0) else 1.0
    reach = math.ceil(radius / squeeze)
    floor = torch.floor(where)
    offsets = torch.arange(1 - reach, reach + 1, dtype=torch.float64)
    taps = floor[:, None] + offsets[None, :]
    distances = ((taps - where[:, None]) * squeeze).abs()
    weights = (
        1 - distances.clamp(max=1.0) if mode == "linear" else _cubic(distances, call.attribute("cubic_coeff_a", -0.75))
    )
    if call.attribute("exclude_outside", 0):
        weights = weights * ((taps >= 0) & (taps < axis.size))
    # Taps of a widened kernel do not sum to 1, nor do those that are left inside of the image.
    if squeeze < 1 or call.attribute("exclude_outside", 0):
        weights = weights / weights.sum(1, keepdim=True)
    inside = taps.clamp(0, axis.size - 1).to(torch.int64)
    shape = [-1 if i == axis.axis else 1 for i in range(x.ndim)]
    used = [number for number in range(taps.shape[1]) if bool((weights[:, number] != 0).any())]
    parts = [x.index_select(axis.axis, inside[:, number]) * weights[:, number].reshape(shape) for number in used]
    return torch.stack(parts).sum(0) if len(parts) != 2 else parts[0] + parts[1]


def _cubic(distance: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel (Keys, 1981, formula 15 for any ``a``)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


def _upsample(call: Call) -> Tensor:
    """Upsample (up to opset 9): coordinates are asymmetric, nearest is rounded down."""
    x, scales = call[0], call.optional(1)
    factors: list[float] = call.attribute("scales", []) if scales is None else scales.tolist()
    linear = call.text("mode", "nearest") in ("linear", "bilinear")
    for number, factor in enumerate(factors):
        axis = _Axis(number, x.shape[number], math.floor(x.shape[number] * factor), factor, True)
        where = _origins(axis, "asymmetric")
        if factor != 1:
            x = _weighted(call, x, axis, where, "linear") if linear else x.index_select(number, where.floor().long())
    return x


def _grid_sample(call: Call) -> Tensor:
    mode = call.text("mode", "bilinear")
    padding, corners = call.text("padding_mode", "zeros"), bool(call.attribute("align_corners", 0))
    return F.grid_sample(call[0], call[1], GRID_MODES.get(mode, mode), padding, corners)


def _affine_grid(call: Call) -> Tensor:
    return F.affine_grid(call[0], call.ints(1, "") or [], align_corners=bool(call.attribute("align_corners", 0)))


OPERATORS: dict[str, Operator] = {
    "AffineGrid": _affine_grid,
    "GridSample": _grid_sample,
    "Resize": _resize,
    "Upsample": _upsample,
}
