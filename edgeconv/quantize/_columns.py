"""What a layer multiplies its weight with, as a matrix: one column of taps per output position."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgeconv.core import Array
from edgeconv.quantize._graph import static_shape
from edgeconv.quantize._structure import Layer
from edgeconv.quantize._walk import Dequantized, Held

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

    def parts(self, most_bytes: int) -> list[slice]:
        """The groups, so many at a time that their columns take no more memory; one at least."""
        count = max(1, most_bytes // (4 * max(1, self._count * self._taps)))
        return [slice(start, min(start + count, self._groups)) for start in range(0, self._groups, count)]

    def of(self, part: slice = slice(None)) -> Array:
        """What some groups of the layer read: float32 (groups, positions, taps)."""
        gathered = np.empty((len(range(*part.indices(self._groups))), self._count, self._taps), np.float32)
        start = 0
        for held, positions in zip(self._inputs, self._positions, strict=True):
            rows = gathered[:, start : start + len(positions)]
            start += len(positions)
            array = held.integers if isinstance(held, Dequantized) else held
            real = held.real if isinstance(held, Dequantized) else _same
            # Gemm and MatMul: the last axis is what the weight is multiplied with, all others are positions.
            if self._windows is None:
                rows[0] = real(array.reshape(-1, self._taps)[positions])
            else:
                grouped = array.reshape(array.shape[0], self._groups, -1, *array.shape[2:])
                self._windows.gather(grouped[:, part], positions, real, rows)
        return gathered


def _same(array: Array) -> Array:
    return array


class _Windows:
    """Where the taps of a convolution lie, axis by axis."""

    def __init__(self, layer: Layer) -> None:
        attributes, self._kernel = layer.node.attributes, static_shape(layer.weight)[2:]
        axes = len(self._kernel)
        self._strides = attributes.get_ints("strides", (1,) * axes)
        self._dilations = attributes.get_ints("dilations", (1,) * axes)
        pads = attributes.get_ints("pads", (0,) * 2 * axes)
        self._before, self._around = pads[:axes], [pads[axis] + pads[axes + axis] for axis in range(axes)]

    def _counts(self, sizes: Sequence[int]) -> list[int]:
        reaches = [(size - 1) * dilation + 1 for size, dilation in zip(self._kernel, self._dilations, strict=True)]
        lengths = [size + around - reach for size, around, reach in zip(sizes, self._around, reaches, strict=True)]
        return [length // stride + 1 for length, stride in zip(lengths, self._strides, strict=True)]

    def gather(self, grouped: Array, positions: _Indices, real: Callable[[Array], Array], result: Array) -> None:
        """Writes (groups, positions, taps) of (batch, groups, channels, ...); the positions are in order."""
        sizes = grouped.shape[3:]
        # Flat positions of the output as (sample, row, column, …).
        sample, *places = np.unravel_index(positions, (len(grouped), *self._counts(sizes)))
        inside = np.indices(self._kernel).reshape(len(sizes), -1)
        # Flat places in the input of every tap of every position, and which of them lie in the padding.
        indices, padded = np.zeros((), np.int64), np.zeros((), np.bool_)
        for axis, (size, place) in enumerate(zip(sizes, places, strict=True)):
            first = place * self._strides[axis] - self._before[axis]
            at = first[:, None] + inside[axis] * self._dilations[axis]
            padded = padded | (at < 0) | (at >= size)
            indices = indices * size + np.clip(at, 0, size - 1)
        for index in range(len(grouped)):
            start, stop = np.searchsorted(sample, (index, index + 1))
            rows, outside = indices[start:stop], padded[start:stop]
            taken = grouped[index].reshape(*grouped.shape[1:3], -1).take(rows.reshape(-1), axis=2)
            taken = taken.reshape(*grouped.shape[1:3], *rows.shape).transpose(0, 2, 1, 3)
            form = real(np.ascontiguousarray(taken))  # what is moved are integers, where these are held
            if outside.any():
                form = np.where(outside[:, None], np.float32(0), form)
            result[:, start:stop] = form.reshape(len(form), len(rows), -1)
