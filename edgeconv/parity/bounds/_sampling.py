"""Interpolation of an image at places that are operands (GridSample), and the places themselves (AffineGrid).

A result is a sum of taps, the pixels around a place, with weights that are functions of the place; outside of the image
there are zeros, the pixels of its edge, or its reflections: one infinite image. A place that a kernel computes is off
by d, and so each weight by at most d times the steepest slope of the weights' function. As the weights of every place
have the sum 1, a pixel counts there by its difference to another one: of constant pixels a wrong place takes nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded
from edgeconv.parity.bounds._resize import keys_weight

# ((x + 1) * size - 1) / 2, or (x + 1) / 2 * (size - 1): GsDenormalize of onnxruntime/core/providers/cpu/tensor/
# grid_sample.cc, and grid_sampler_unnormalize of torch. x + 1, its product and the difference are rounded, relative to
# at most |place| + 1/2 each.
_PLACE_ROUNDINGS = 4.0
_CUBIC = -0.75  # GsGetCubicCoeffs, likewise; torch's too


@dataclass(frozen=True)
class Interpolation:
    """What the weight of a tap is, by its distance from the place.

    Attributes:
        radius: taps further away have the weight 0.
        steepest: the largest slope of the weight.
        roundings: absolute error of a weight of an exact place, in units of u.
        weight: the function.
    """

    radius: int
    steepest: float
    roundings: float
    weight: Callable[[Array], Array]


LINEAR = Interpolation(1, 1.0, 2.0, lambda distance: np.maximum(1.0 - distance, 0.0))
CUBIC = Interpolation(2, 1.5, 12.0, lambda distance: keys_weight(distance, _CUBIC))  # see `_resize`


@dataclass(frozen=True)
class SampledAxis:
    """One spatial axis, and the places of all samples on it.

    Attributes:
        size: of the image.
        places: where the samples lie, in pixels; any number.
        errors: how far a kernel's places may be off.
        padding: ``zeros``, ``border`` or ``reflection``.
        corners: whether reflections are about the outer pixels' centers, and not about their outer edges.
    """

    size: int
    places: Array
    errors: Array
    padding: str
    corners: bool

    def pixel(self, index: Array) -> tuple[Array, Array]:
        """Which pixel stands at an index of the infinite image, and whether any does."""
        if self.padding == "zeros":
            return np.clip(index, 0, self.size - 1), (index >= 0) & (index < self.size)
        if self.padding == "border":
            return np.clip(index, 0, self.size - 1), np.ones(index.shape, np.bool_)
        turns = max(self.size - 1, 1) if self.corners else self.size
        inside = np.mod(index, 2 * turns)
        mirrored = np.where(inside < turns + self.corners, inside, 2 * turns - (not self.corners) - inside)
        return np.clip(mirrored, 0, self.size - 1), np.ones(index.shape, np.bool_)


def axis_of(x: Bounded, size: int, *, padding: str, corners: bool) -> SampledAxis:
    """An axis of the image.

    Args:
        x: coordinates, from -1 to 1: of the centers of the outer pixels (``corners``), or of their outer edges.
    """
    half = (size - 1) / 2 if corners else size / 2
    places = (x.value + 1) * half - (0.0 if corners else 0.5)
    unit = x.arithmetic.unit
    errors = half * x.worst + _PLACE_ROUNDINGS * unit * (np.abs(places) + 1)
    if padding == "reflection":  # of the place, as torch has it, or of the pixels
        errors = errors + _PLACE_ROUNDINGS * unit * (np.abs(places) + size)
    else:
        # Beyond three pixels outside of it, the image is the same everywhere.
        low, high = (np.clip(places + end * errors, -3.0, size + 2.0) for end in (-1, 1))
        places = np.clip(places, -3.0, size + 2.0)
        errors = np.maximum(places - low, high - places)
    unsure = ~np.isfinite(x.value) | ~(errors < 0.5)  # of further neighbors, or no place at all
    return SampledAxis(size, np.where(unsure, 0.0, places), np.where(unsure, np.inf, errors), padding, corners)


def interpolated(image: Bounded, axes: Sequence[SampledAxis], form: Interpolation, result: Array) -> Bounded:
    """The sum over the taps around each place.

    Args:
        image: (N, C, size, ...).
        axes: in the order of the image's, with places (N, ...).
        form: of every axis.
        result: the exact one, (N, C, ...).
    """
    u, least = image.arithmetic.unit, image.arithmetic.least
    reach = range(-form.radius, form.radius + 2)  # one more at either end, where the place may be in the next cell
    columns = [[_tap(axis, tap, form, u) for tap in reach] for axis in axes]
    center, _ = _taken(image, [column[form.radius] for column in columns], axes)
    moved = magnitude = carried = np.zeros(())
    for taps in itertools.product(*columns):
        pixel, error = _taken(image, taps, axes)
        weight, placed, held = (
            np.asarray(math.prod(getattr(tap, name) for tap in taps))[:, None] for name in ("weight", "placed", "held")
        )
        moved = moved + _times(placed - weight, np.abs(pixel - center)) + _times(held - placed, np.abs(pixel))
        magnitude, carried = magnitude + _times(held, np.abs(pixel)), carried + _times(held, error)
    count = (2 * form.radius) ** len(axes)
    # Each product of weights and a pixel, and each addition (gamma_n; Higham, section 3.1).
    ratio = (len(axes) + count) * u
    unsure = np.zeros(())
    for axis in axes:
        unsure = unsure + np.where(np.isinf(axis.errors), np.inf, 0.0)[:, None]
    unsure = unsure + np.where(magnitude + carried < image.arithmetic.largest, 0.0, np.inf)
    worst = moved + carried + ratio / (1 - ratio) * (magnitude + carried) + (2 * count * least + unsure)
    return image.within(result, worst, worst)


def nearest(image: Bounded, axes: Sequence[SampledAxis], result: Array) -> Bounded:
    """The pixel nearest to each place, or another one where the place is within its error of a tie."""
    worst = np.zeros(result.shape)
    ends = []
    for axis in axes:
        errors = np.where(np.isinf(axis.errors), 0.0, axis.errors)
        ends.append((np.ceil(axis.places - errors - 0.5), np.floor(axis.places + errors + 0.5)))
    for chosen in itertools.product((0, 1), repeat=len(axes)):
        taps = [_Tap(pair[end], *[np.ones(())] * 3) for pair, end in zip(ends, chosen, strict=True)]
        pixel, error = _taken(image, taps, axes)
        worst = np.maximum(worst, np.where(pixel == result, 0.0, np.abs(pixel - result)) + error)
    for axis in axes:
        worst = worst + np.where(np.isinf(axis.errors), np.inf, 0.0)[:, None]
    return Bounded(result, worst, worst, image.arithmetic)


@dataclass(frozen=True)
class _Tap:
    """A neighbor of each place: its index; the magnitude of its weight at the place, at any place that a kernel may
    have, and that as a kernel holds it."""

    index: Array
    weight: Array
    placed: Array
    held: Array


def _tap(axis: SampledAxis, offset: int, form: Interpolation, unit: float) -> _Tap:
    index = np.floor(axis.places) + offset
    distance = np.abs(axis.places - index)
    errors = np.where(np.isinf(axis.errors), 0.0, axis.errors)
    is_read = distance - errors < form.radius
    weight = np.abs(form.weight(distance))
    placed = np.where(is_read, weight + form.steepest * errors, 0.0)
    return _Tap(index, weight, placed, np.where(is_read, placed + form.roundings * unit, 0.0))


def _taken(image: Bounded, taps: Sequence[_Tap], axes: Sequence[SampledAxis]) -> tuple[Array, Array]:
    """The pixels of a tap of each axis, and their errors: (N, C, ...)."""
    sizes = [axis.size for axis in axes]
    flat, inside = np.zeros((), np.int64), np.ones((), np.bool_)
    for axis, tap in zip(axes, taps, strict=True):
        pixel, is_there = axis.pixel(tap.index.astype(np.int64))
        flat, inside = flat * axis.size + pixel, inside & is_there
    batch = np.arange(len(flat)).reshape(-1, *[1] * (flat.ndim - 1))
    taken = []
    for part in (image.value, image.worst):
        rows = np.broadcast_to(part, image.value.shape).reshape(*image.value.shape[:2], math.prod(sizes))
        taken.append(np.where(inside[:, None], np.moveaxis(rows[batch, :, flat], -1, 1), 0.0))
    return taken[0], taken[1]


def _times(weight: Array, size: Array) -> Array:
    """Products, of which those with a weight of 0 are 0 whatever the pixel is."""
    return np.asarray(np.where(weight == 0, 0.0, weight * size))


def affine_places(theta: Bounded, sizes: Sequence[int], result: Array, *, corners: bool) -> Bounded:
    """Coordinates of every pixel, turned and moved: sums of products of each pixel's own and a matrix.

    A pixel's own coordinates are -1 + 2 i / (size - 1), and times (size - 1) / size without ``corners``: by the
    quotient, the product, the sum, and another product and quotient, each rounded relative to at most 2.

    Args:
        theta: (N, rank, rank + 1), of which the last column is added.
        sizes: of the image, as many as the rank; the last is that of the first coordinate.
        result: the exact one, (N, size, ..., rank).
        corners: whether the outer pixels' centers are at -1 and 1, and not their outer edges.
    """
    lines = []
    for size in sizes:
        index = np.arange(size, dtype=np.float64)
        ends = np.where(size > 1, 2 * index / max(size - 1, 1) - 1, 0.0)
        lines.append(ends if corners else ends * (size - 1) / size)
    grid = np.stack([*np.meshgrid(*lines, indexing="ij")[::-1], np.ones(tuple(sizes))], -1).reshape(-1, len(sizes) + 1)
    error = np.zeros(grid.shape)
    error[:, :-1] = 8 * theta.arithmetic.unit
    own = Bounded(grid, error, error, theta.arithmetic)
    turned = own @ theta.move(lambda array: np.swapaxes(array, -1, -2))
    return theta.within(result, turned.worst.reshape(result.shape), turned.likely.reshape(result.shape))
