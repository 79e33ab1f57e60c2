"""What a layer multiplies its weight with, as a matrix: one column of taps per output position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeconv.core import Array
from edgeconv.quantize._graph import static_shape
from edgeconv.quantize._structure import Layer

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


def columns(layer: Layer, arrays: Sequence[Array], most: int) -> Array:
    """The inputs of the layer as (groups, positions, taps), float32, of at most about ``most`` positions.

    The positions are drawn evenly from all samples, from a generator of a fixed seed.
    """
    rng = np.random.default_rng(0)
    per_array = max(1, -(-most // len(arrays)))
    parts = [_columns(layer, array, per_array, rng) for array in arrays]
    return np.concatenate(parts, axis=1)


def _columns(layer: Layer, array: Array, most: int, rng: np.random.Generator) -> Array:
    if layer.node.op_type != "Conv":
        rows = array.reshape(-1, array.shape[-1])
        return rows[_some(len(rows), most, rng)][None]
    windows = _windows(layer, array)
    batch, _, *counts = windows.shape[: array.ndim]
    positions = np.unravel_index(_some(batch * int(np.prod(counts)), most, rng), (batch, *counts))
    where: tuple[Any, ...] = (positions[0], slice(None), *positions[1:])
    picked = windows[where]  # (positions, channels, taps...)
    groups = groups_of(layer)
    form = picked.reshape(len(picked), groups, -1)
    return np.ascontiguousarray(form.transpose(1, 0, 2))


def _some(count: int, most: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


def _windows(layer: Layer, array: Array) -> Array:
    """A view (batch, channels, output positions..., taps...) of a convolution's padded input."""
    attributes, kernel = layer.node.attributes, static_shape(layer.weight)[2:]
    axes = len(kernel)
    strides = attributes.get_ints("strides", (1,) * axes)
    dilations = attributes.get_ints("dilations", (1,) * axes)
    pads = attributes.get_ints("pads", (0,) * 2 * axes)
    padding = [(pads[axis], pads[axes + axis]) for axis in range(axes)]
    padded = np.pad(array, [(0, 0), (0, 0), *padding])
    reach = tuple((size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
    steps = (slice(None), slice(None), *(slice(None, None, stride) for stride in strides))
    return np.asarray(windows[(*steps, *(slice(None, None, dilation) for dilation in dilations))])
