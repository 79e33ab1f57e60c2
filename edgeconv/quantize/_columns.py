"""What a layer multiplies its weight with, as a matrix: one column of taps per output position."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeconv.core import Array
from edgeconv.graph.windows import dilations_of, stated_pads, strides_of
from edgeconv.quantize._graph import static_shape
from edgeconv.quantize._structure import Layer
from edgeconv.quantize._walk import Dequantized, Held, real

_Floats = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]


def taps(layer: Layer, weight: _Floats) -> _Floats:
    """A weight as (groups, output channels of a group, taps)."""
    if layer.node.op_type == "Conv":
        return weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)
    return np.ascontiguousarray(np.moveaxis(weight, layer.axis, 0))[None]


def untaps(layer: Layer, form: _Floats) -> _Floats:
    """The inverse of `taps`."""
    shape = static_shape(layer.weight)
    if layer.node.op_type == "Conv":
        return form.reshape(shape)
    return np.ascontiguousarray(np.moveaxis(form[0], 0, layer.axis))


class Positions:
    """At which of a layer's output positions it is looked at, evenly drawn from all samples.

    Args:
        samples: how many there are.
        most: about so many positions, drawn from a generator of a fixed seed.
    """

    def __init__(self, samples: int, most: int) -> None:
        self._each, self._rng = max(1, -(-most // samples)), np.random.default_rng(0)

    def drawn(self, count: int) -> _Indices:
        """Some of the positions of the next sample, in order."""
        if count <= self._each:
            return np.arange(count)
        return np.sort(self._rng.choice(count, self._each, replace=False))


class Columns:
    """What a layer multiplies its weight with at some of its output positions.

    Args:
        layer: whose inputs they are.
        inputs: what it reads, one per sample.
        positions: of each sample, in order.
    """

    def __init__(self, layer: Layer, inputs: Sequence[Held], positions: Sequence[_Indices]) -> None:
        self._groups, self._inputs, self._positions = layer.groups, inputs, positions
        self._windows = _Windows(layer) if layer.node.op_type == "Conv" else None
        self._taps = int(np.prod(static_shape(layer.weight)[1:])) if self._windows else inputs[0].shape[-1]
        self._count = sum(map(len, positions))
        # Where the columns lie is the same for all groups; they are asked for part after part.
        self._places = [
            self._windows.places(held.shape, chosen) if self._windows else []
            for held, chosen in zip(inputs, positions, strict=True)
        ]

    def parts(self, most_bytes: int) -> list[slice]:
        """The groups, so many at a time that their columns take no more memory; one at least."""
        count = max(1, most_bytes // (4 * max(1, self._count * self._taps)))
        return [slice(start, min(start + count, self._groups)) for start in range(0, self._groups, count)]

    def of(self, part: slice = slice(None)) -> Array:
        """What some groups of the layer read: float32 (groups, positions, taps).

        In memory the positions of a tap lie side by side, as the pixels of an image do.
        """
        gathered = np.empty((len(range(*part.indices(self._groups))), self._taps, self._count), np.float32)
        start = 0
        for held, positions, places in zip(self._inputs, self._positions, self._places, strict=True):
            # Gemm and MatMul: the last axis is what the weight is multiplied with, all others are positions.
            if self._windows is None:
                chosen = _like(held, _stored(held).reshape(-1, self._taps)[positions].T)
                _write_real(chosen, gathered[0, :, start : start + len(positions)])
                start += len(positions)
                continue
            for row, flat in places:
                grouped = _stored(held)[row].reshape(self._groups, -1, *held.shape[2:])
                chosen = self._windows.taken(_like(held, grouped[part]), flat)
                _write_real(chosen, gathered[:, :, start : start + flat.shape[1]])
                start += flat.shape[1]
        return gathered.swapaxes(1, 2)


def _stored(held: Held) -> Array:
    """The integers or floats that are held."""
    return held.integers if isinstance(held, Dequantized) else held


def _like(held: Held, stored: Array) -> Held:
    """Some of what is held."""
    return Dequantized(stored, held.scale, held.zero_point) if isinstance(held, Dequantized) else stored


def _write_real(held: Held, result: Array) -> None:
    if isinstance(held, Dequantized):
        held.write_real(result)
    else:
        result[...] = held


class _Windows:
    """Where the taps of a convolution lie, axis by axis."""

    def __init__(self, layer: Layer) -> None:
        self._kernel = static_shape(layer.weight)[2:]
        axes = len(self._kernel)
        self._strides, self._dilations = strides_of(layer.node, axes), dilations_of(layer.node, axes)
        pads = stated_pads(layer.node, axes)
        self._pads = list(zip(pads[:axes], pads[axes:], strict=True))

    def places(self, shape: Sequence[int], positions: _Indices) -> list[tuple[int, _Indices]]:
        """Where the taps lie: the rows of a batch, and flat places (kernel, positions) in each, its padding included.

        Args:
            shape: of the batch, (batch, channels, ...).
            positions: flat ones of the output, in order.
        """
        sizes, kernel = self._padded_sizes(shape[2:]), np.indices(self._kernel).reshape(len(self._kernel), -1, 1)
        axes = list(zip(sizes, self._kernel, self._strides, self._dilations, strict=True))
        counts = [(size - (length - 1) * dilation - 1) // stride + 1 for size, length, stride, dilation in axes]
        rows, *outputs = np.unravel_index(positions, (shape[0], *counts))
        flat = np.zeros((), np.int64)
        for (size, _, stride, dilation), output, tap in zip(axes, outputs, kernel, strict=True):
            flat = flat * size + (output * stride + tap * dilation)
        bounds = np.searchsorted(rows, np.arange(shape[0] + 1))
        return [(index, flat[:, bounds[index] : bounds[index + 1]]) for index in range(shape[0])]

    def taken(self, held: Held, places: _Indices) -> Held:
        """What lies at the `places` of one row of a batch, (groups, channels, ...): (groups, taps, positions)."""
        # Where windows overlap there are more columns than elements, which then become floats before they are moved.
        if isinstance(held, Dequantized) and places.size > math.prod(held.shape[2:]):
            held = real(held)
        zero = held.zero_point if isinstance(held, Dequantized) else 0.0
        padded = self._padded(_stored(held), zero)
        moved = padded.reshape(*padded.shape[:2], -1).take(places.reshape(-1), axis=2)
        return _like(held, moved.reshape(len(moved), padded.shape[1] * places.shape[0], places.shape[1]))

    def _padded(self, array: Array, zero: Array | float) -> Array:
        """With what stands for zero around it."""
        if not any(before or after for before, after in self._pads):
            return array
        wide = np.full((*array.shape[:2], *self._padded_sizes(array.shape[2:])), zero, array.dtype)
        inside = [slice(before, before + size) for size, (before, _) in zip(array.shape[2:], self._pads, strict=True)]
        wide[(slice(None), slice(None), *inside)] = array
        return wide

    def _padded_sizes(self, sizes: Sequence[int]) -> list[int]:
        return [size + before + after for size, (before, after) in zip(sizes, self._pads, strict=True)]
