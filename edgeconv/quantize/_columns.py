"""What a layer multiplies its weight with, as a matrix: one column of taps per output position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeconv.core import Array
from edgeconv.quantize._graph import static_shape
from edgeconv.quantize._structure import Layer
from edgeconv.quantize._walk import Values

_Floats = npt.NDArray[np.float64]


def groups_of(layer: Layer) -> int:
    """The groups of a convolution; 1 for products."""
    return layer.node.attributes.get_int("group", 1) if layer.node.op_type == "Conv" else 1


def taps(layer: Layer, weight: _Floats) -> _Floats:
    """A weight as (groups, output channels of a group, taps)."""
    if layer.node.op_type == "Conv":
        groups = groups_of(layer)
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    return np.ascontiguousarray(np.moveaxis(weight, layer.axis, 0))[None]


def untaps(layer: Layer, form: _Floats) -> _Floats:
    """The inverse of `taps`."""
    shape = static_shape(layer.weight)
    if layer.node.op_type == "Conv":
        return form.reshape(shape)
    return np.ascontiguousarray(np.moveaxis(form[0], 0, layer.axis))


class Columns:
    """At which of a layer's output positions its inputs are looked at, evenly drawn from all samples.

    Args:
        layer: whose inputs they are.
        arrays: its inputs, one per sample.
        most: about so many positions, drawn from a generator of a fixed seed.
    """

    def __init__(self, layer: Layer, arrays: Values, most: int) -> None:
        rng = np.random.default_rng(0)
        per_array = max(1, -(-most // len(arrays)))
        self._is_conv, self._groups = layer.node.op_type == "Conv", groups_of(layer)
        self._windows = _Windows(layer) if self._is_conv else None
        counts = [self._windows.count(array) if self._windows else array.size // array.shape[-1] for array in arrays]
        self._positions = [_some(count, per_array, rng) for count in counts]
        self.taps = int(np.prod(static_shape(layer.weight)[1:])) if self._windows else arrays[0].shape[-1]

    def of(self, arrays: Values, part: slice = slice(None)) -> Array:
        """What some groups of the layer read: float32 (groups, positions, taps)."""
        groups = len(range(*part.indices(self._groups)))
        gathered = np.empty((groups, sum(map(len, self._positions)), self.taps), np.float32)
        start = 0
        for array, positions in zip(arrays, self._positions, strict=True):
            rows = gathered[:, start : start + len(positions)]
            start += len(positions)
            if self._windows is None:
                rows[0] = array.reshape(-1, self.taps)[positions]
            else:
                grouped = array.reshape(array.shape[0], self._groups, -1, *array.shape[2:])
                self._windows.gather(grouped[:, part], positions, rows)
        return gathered


def _some(count: int, most: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


class _Windows:
    """Where the taps of a convolution lie, axis by axis."""

    def __init__(self, layer: Layer) -> None:
        attributes, self._kernel = layer.node.attributes, static_shape(layer.weight)[2:]
        axes = len(self._kernel)
        self._strides = attributes.get_ints("strides", (1,) * axes)
        self._dilations = attributes.get_ints("dilations", (1,) * axes)
        pads = attributes.get_ints("pads", (0,) * 2 * axes)
        self._before, self._around = pads[:axes], [pads[axis] + pads[axes + axis] for axis in range(axes)]

    def count(self, array: Array) -> int:
        """Output positions of all samples."""
        return int(array.shape[0] * np.prod(self._counts(array.shape[2:])))

    def _counts(self, sizes: Sequence[int]) -> list[int]:
        reaches = [(size - 1) * dilation + 1 for size, dilation in zip(self._kernel, self._dilations, strict=True)]
        lengths = [size + around - reach for size, around, reach in zip(sizes, self._around, reaches, strict=True)]
        return [length // stride + 1 for length, stride in zip(lengths, self._strides, strict=True)]

    def gather(self, grouped: Array, positions: npt.NDArray[np.int64], result: Array) -> None:
        """Writes (groups, positions, taps) of (batch, groups, channels, ...); the positions are in order."""
        sizes = [size + around for size, around in zip(grouped.shape[3:], self._around, strict=True)]
        sample, *places = np.unravel_index(positions, (len(grouped), *self._counts(grouped.shape[3:])))
        first = [place * stride for place, stride in zip(places, self._strides, strict=True)]
        inside = np.indices(self._kernel).reshape(len(sizes), -1) * np.array(self._dilations)[:, None]
        indices = np.ravel_multi_index(first, sizes)[:, None] + np.ravel_multi_index(tuple(inside), sizes)
        for index in np.unique(sample):
            rows = np.flatnonzero(sample == index)
            taken = self._flat(grouped[index], sizes).take(indices[rows].reshape(-1), axis=1)
            form = taken.reshape(*grouped.shape[1:3], len(rows), -1).transpose(0, 2, 1, 3)
            result[:, rows[0] : rows[-1] + 1] = form.reshape(len(form), len(rows), -1)

    def _flat(self, grouped: Array, sizes: Sequence[int]) -> Array:
        """One sample as (channels, positions), with its padding."""
        channels = grouped.shape[0] * grouped.shape[1]
        if not any(self._around):
            return grouped.reshape(channels, -1)
        padded = np.zeros((*grouped.shape[:2], *sizes), np.float32)
        inside = [slice(start, start + size) for start, size in zip(self._before, grouped.shape[2:], strict=True)]
        padded[(slice(None), slice(None), *inside)] = grouped
        return padded.reshape(channels, -1)
