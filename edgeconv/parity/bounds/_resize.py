"""Resizing of images: the error of weights and sums, and of the places themselves, which kernels compute in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded, widest

# Of a place, in units of u (|place| + 1): the scale, which is rounded itself; the product by it, and two terms.
_PLACE_ROUNDINGS = 5.0
_STEEPEST = 1.5  # of Keys' kernel, for coefficients from -0.75 to -0.5
_KERNEL_ROUNDINGS = 12.0  # of one weight, a cubic polynomial of values up to about 1


@dataclass(frozen=True)
class ResizedAxis:
    """One axis, and where its output elements lie in the input.

    Attributes:
        axis: its number.
        size: of the input.
        places: one per output element; not clamped.
    """

    axis: int
    size: int
    places: Array

    def error(self, x: Bounded) -> Array:
        """How far a kernel's places may be off."""
        return _PLACE_ROUNDINGS * x.arithmetic.unit * (np.abs(self.places) + 1)

    def take(self, x: Bounded, index: Array) -> Bounded:
        """Elements along the axis; beyond its ends, those at the ends."""
        inside = np.clip(index, 0, self.size - 1).astype(np.int64)
        return x.move(lambda array: np.take(array, inside, self.axis))

    def column(self, values: Array, x: Bounded) -> Array:
        """One number per output element, as it broadcasts over the result."""
        return values.reshape([-1 if at == self.axis else 1 for at in range(x.value.ndim)])


def places_of(axis: int, size: int, out: int, scale: float, convention: str) -> ResizedAxis:
    """An axis by one of ONNX's conventions (``coordinate_transformation_mode``).

    Args:
        scale: output over input, as stated, or the quotient of the sizes.
    """
    index, length = np.arange(out, dtype=np.float64), size * scale
    if convention == "align_corners":
        places = index * (size - 1) / (length - 1) if length != 1 else index * 0
    elif convention == "asymmetric":
        places = index / scale
    elif convention == "pytorch_half_pixel" and length <= 1:
        places = index * 0
    else:
        shift = size / 2 * (1 - out / length) if convention == "half_pixel_symmetric" else 0.0
        places = shift + (index + 0.5) / scale - 0.5
    return ResizedAxis(axis, size, places)


def linear(x: Bounded, axes: Sequence[ResizedAxis]) -> Bounded:
    """A line between two neighbors, axis by axis: by two weights, or by one and the difference."""
    for axis in axes:
        error = axis.error(x)
        places = np.clip(axis.places, 0, axis.size - 1)
        low = np.floor(places)
        u = x.arithmetic.unit
        weight = Bounded(axis.column(places - low, x), np.asarray(u), np.asarray(u), x.arithmetic)
        a, b = axis.take(x, low), axis.take(x, low + 1)
        result = widest(a * (1.0 - weight) + b * weight, a + (b - a) * weight)
        # The lines to the left and right, where rounding may have moved the place onto these.
        slope = _slope(a, b)
        near = (places - low < error) | (places - low > 1 - error)
        before, behind = _slope(axis.take(x, low - 1), a), _slope(b, axis.take(x, low + 2))
        slope = np.maximum(slope, np.where(axis.column(near, x), np.maximum(before, behind), 0.0))
        x = result.widened(axis.column(error, x) * slope)
    return x


def _slope(a: Bounded, b: Bounded) -> Array:
    return np.asarray(np.abs(b.value - a.value) + a.worst + b.worst)


def cubic(x: Bounded, axes: Sequence[ResizedAxis], coefficient: float) -> Bounded:
    """A sum over four neighbors, axis by axis."""
    for axis in axes:
        error, low = axis.error(x), np.floor(axis.places)
        own = _STEEPEST * error + _KERNEL_ROUNDINGS * x.arithmetic.unit
        total: Bounded | None = None
        for tap in (-1, 0, 1, 2):
            weight = keys_weight(np.abs(axis.places - low - tap), coefficient)
            column = Bounded(axis.column(weight, x), axis.column(own, x), axis.column(own, x), x.arithmetic)
            term = axis.take(x, low + tap) * column
            total = term if total is None else total + term
        assert total is not None  # there are four taps
        # A place across a cell's edge has one tap outside of these four, of which the weight is near 0 there.
        outer = np.maximum(*(np.abs(axis.take(x, low + tap).value) for tap in (-2, 3)))
        near = (axis.places - low < error) | (axis.places - low > 1 - error)
        magnitude = np.zeros(())
        for tap in (-1, 0, 1, 2):  # kernels add the four terms in other orders than the loop above
            magnitude = magnitude + np.abs(axis.take(x, low + tap).value)
        widened = axis.column(np.where(near, own, 0.0), x) * outer + 8 * x.arithmetic.unit * magnitude
        x = total.widened(widened)
    return x


def keys_weight(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel (1981): the weight of a neighbor at a distance from the place."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def nearest(x: Bounded, axes: Sequence[ResizedAxis], mode: str, picked: Array) -> Bounded:
    """The element picked, or another where the place is at a tie, or within its error of one.

    Args:
        mode: ``floor``, ``ceil``, or one that rounds.
        picked: the reference's result.
    """
    own = [np.broadcast_to(part, x.value.shape) for part in (x.worst, x.likely)]
    options = [(x.value, *own)]
    for axis in axes:
        error = axis.error(x)
        # Both ends of where a kernel may compute the place, rounded so that a tie takes in both neighbors.
        ends = axis.places - error, axis.places + error
        if mode in ("floor", "ceil"):
            places = [np.floor(end) if mode == "floor" else np.ceil(end) for end in ends]
        else:
            places = [np.ceil(ends[0] - 0.5), np.floor(ends[1] + 0.5)]
        indices = [np.clip(place, 0, axis.size - 1).astype(np.int64) for place in places]
        same = bool((indices[0] == indices[1]).all())
        options = [
            (np.take(value, index, axis.axis), np.take(worst, index, axis.axis), np.take(likely, index, axis.axis))
            for value, worst, likely in options
            for index in indices[: 1 if same else 2]
        ]
    errors = [np.zeros(picked.shape), np.zeros(picked.shape)]
    for value, *parts in options:
        distance = np.abs(value - picked)
        errors = [np.maximum(error, distance + part) for error, part in zip(errors, parts, strict=True)]
    return Bounded(picked, errors[0], errors[1], x.arithmetic)
