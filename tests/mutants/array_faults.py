"""Faults in numbers: weights, biases, other constants, scales and zero points; the same in both formats."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import numpy as np
from planted import Constant, File, Layer, NoPlaceError, Scale, drawn

from edgeconv.core import Array

ArrayFault = Callable[[File, random.Random], str]
Change = Callable[[Array, random.Random], Array]


def _ulp(values: Array, up: bool) -> Array:
    if values.dtype.kind != "f":
        return values + (1 if up else -1)
    return np.nextafter(values, np.asarray(np.inf if up else -np.inf, values.dtype))


def _element(change: Callable[[Array, random.Random], Array]) -> Change:
    """Changes one element that is not zero."""

    def changed(values: Array, rng: random.Random) -> Array:
        at = drawn(rng, np.flatnonzero(values).tolist())
        result = values.copy().reshape(-1)
        result[at : at + 1] = change(result[at : at + 1].astype(_wide(values)), rng).clip(*_limits(values))
        return result.reshape(values.shape)

    return changed


def _wide(values: Array) -> np.dtype[np.generic]:
    return values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)


def _limits(values: Array) -> tuple[float, float]:
    if values.dtype.kind == "f":
        return -np.inf, np.inf
    limits = np.iinfo(values.dtype)
    return float(max(limits.min, -limits.max)), float(limits.max)


def _step(values: Array, rng: random.Random) -> Array:
    return _ulp(values, rng.random() < 0.5)


def _times(factor: float) -> Change:
    return lambda values, rng: (values * factor).astype(values.dtype)


def _as_float(dtype: str) -> Change:
    def rounded(values: Array, rng: random.Random) -> Array:
        if values.dtype != np.float32:
            raise NoPlaceError
        if dtype == "float16":
            return values.astype(np.float16).astype(np.float32)
        return ((values.view(np.uint32) + 0x8000) & np.uint32(0xFFFF0000)).view(np.float32)

    return rounded


def _small_zeroed(values: Array, rng: random.Random) -> Array:
    return np.where(np.abs(values) < 0.02 * np.abs(values).max(), values.dtype.type(0), values)


def _largest_clipped(values: Array, rng: random.Random) -> Array:
    most = 0.95 * float(np.abs(values).max())
    return np.clip(values, -most, most)


def weights(change: Change, *, integers: bool | None = None) -> ArrayFault:
    """Changes the weights of a layer; those of integers alone, or of floats alone, where ``integers`` is stated."""

    def plant(file: File, rng: random.Random) -> str:
        layers = [layer for layer in file.layers() if integers in (None, not layer.weights.floating)]
        layer = drawn(rng, layers)
        layer.weights.store(change(layer.weights.values, rng))
        return layer.name

    return plant


def bias(change: Change, *, integers: bool | None = None) -> ArrayFault:
    """Changes the bias of a layer."""

    def plant(file: File, rng: random.Random) -> str:
        found = [
            (layer.name, layer.bias)
            for layer in file.layers()
            if layer.bias is not None and integers in (None, not layer.bias.floating)
        ]
        name, constant = drawn(rng, found)
        constant.store(change(constant.values, rng))
        return name

    return plant


def kernels(change: Callable[[Layer, Array, random.Random], Array]) -> ArrayFault:
    """Changes the weights of a layer as (output, input, height, width); the change refuses layers without a place."""

    def plant(file: File, rng: random.Random) -> str:
        layers = list(file.layers())
        rng.shuffle(layers)
        for layer in layers:
            try:
                layer.store(change(layer, layer.kernel, rng))
            except NoPlaceError:
                continue
            return layer.name
        raise NoPlaceError

    return plant


def _require(condition: bool) -> None:
    if not condition:
        raise NoPlaceError


def _channel_scaled(layer: Layer, kernel: Array, rng: random.Random) -> Array:
    changed = kernel.astype(np.float64)
    changed[rng.randrange(len(kernel))] *= 1.02
    return changed


def _outputs_exchanged(layer: Layer, kernel: Array, rng: random.Random) -> Array:
    order = _exchanged(len(kernel), rng)
    if layer.bias is not None and layer.bias.values.size == len(kernel):
        with contextlib.suppress(NoPlaceError):  # equal biases
            layer.bias.store(layer.bias.values.reshape(-1)[order].reshape(layer.bias.values.shape))
    return kernel[order]


def _exchanged(count: int, rng: random.Random) -> list[int]:
    _require(count > 1)
    order = list(range(count))
    first, second = rng.sample(order, 2)
    order[first], order[second] = second, first
    return order


def _inputs_exchanged(layer: Layer, kernel: Array, rng: random.Random) -> Array:
    return kernel[:, _exchanged(kernel.shape[1], rng)]


def _channels_reversed(layer: Layer, kernel: Array, rng: random.Random) -> Array:
    _require(layer.reads_input and kernel.shape[1] == 3)
    return kernel[:, ::-1]


def _rotated(layer: Layer, kernel: Array, rng: random.Random) -> Array:
    return kernel[:, :, ::-1, ::-1]


def _transposed(layer: Layer, kernel: Array, rng: random.Random) -> Array:
    _require(kernel.shape[2] == kernel.shape[3])
    return kernel.transpose(0, 1, 3, 2)


def _mirrored(layer: Layer, kernel: Array, rng: random.Random) -> Array:
    return kernel[:, :, :, ::-1]


def _matrix_transposed(layer: Layer, kernel: Array, rng: random.Random) -> Array:
    _require(kernel.shape[0] == kernel.shape[1])
    return kernel.transpose(1, 0, 2, 3)


def _read_in_another_order(layer: Layer, kernel: Array, rng: random.Random) -> Array:
    """Bytes of (O, H, W, I) taken for (O, I, H, W)."""
    return kernel.transpose(0, 2, 3, 1).reshape(kernel.shape)


def _groups_interleaved(layer: Layer, kernel: Array, rng: random.Random) -> Array:
    _require(layer.groups > 1)
    per_group = len(kernel) // layer.groups
    if per_group == 1:
        return np.roll(kernel, 1, axis=0)
    return kernel.reshape(layer.groups, per_group, *kernel.shape[1:]).swapaxes(0, 1).reshape(kernel.shape)


def _flattened_in_another_order(layer: Layer, kernel: Array, rng: random.Random) -> Array:
    """Columns in the order of (H, W, C) where (C, H, W) is read, or the other way."""
    _require(bool(layer.image))
    columns = kernel.reshape(len(kernel), *layer.image).transpose(0, 2, 3, 1)
    return columns.reshape(kernel.shape)


def _weights_exchanged(file: File, rng: random.Random) -> str:
    """Two layers with weights of one shape and type have each other's; the first of them is where it shows first."""
    layers = list(file.layers())
    pairs = [
        (first, second)
        for at, second in enumerate(layers)
        for first in layers[:at]
        if first.weights.values.shape == second.weights.values.shape
        and first.weights.values.dtype == second.weights.values.dtype
        and first.weights.name != second.weights.name
    ]
    first, second = drawn(rng, pairs)
    first.weights.store(second.weights.values)
    second.weights.store(first.weights.values)
    return first.name


def _cut_off(values: Array, rng: random.Random) -> Array:
    """Every other number one unit nearer to zero, as where numbers are not rounded to the nearest."""
    chosen = np.random.default_rng(rng.randrange(2**32)).random(values.shape) < 0.5
    if values.dtype.kind == "f":
        return np.where(chosen, np.nextafter(values, values.dtype.type(0)), values)
    return np.where(chosen, values - np.sign(values), values)


def constants(change: Change) -> ArrayFault:
    """Changes a real constant that is no layer's: factors, summands, slopes, bounds."""

    def plant(file: File, rng: random.Random) -> str:
        constant = drawn(rng, [item for item in file.constants() if np.isfinite(item.values).all()])
        constant.store(change(constant.values, rng))
        return constant.name

    return plant


def _eps(file: File, rng: random.Random) -> str:
    small = [item for item in file.constants() if item.values.size == 1 and 0 < abs(float(item.values.item())) < 2e-3]
    constant = drawn(rng, small)
    constant.store(constant.values * constant.values.dtype.type(10))
    return constant.name


def activation_scale(factor: float | None, *, final: bool = False) -> ArrayFault:
    """Changes the scale of an activation by a factor, or by one unit in the last place."""

    def plant(file: File, rng: random.Random) -> str:
        scale = drawn(rng, [scale for scale in file.activation_scales() if scale.final or not final])
        return _rescaled(scale, factor, rng)

    return plant


def weight_scale(factor: float | None) -> ArrayFault:
    """The same for one scale of a constant."""
    return lambda file, rng: _rescaled(drawn(rng, list(file.weight_scales())), factor, rng)


def _rescaled(scale: Scale, factor: float | None, rng: random.Random) -> str:
    values = scale.scales.values.copy()
    at = rng.randrange(values.size)
    flat = values.reshape(-1)
    flat[at : at + 1] = _step(flat[at : at + 1], rng) if factor is None else flat[at : at + 1] * np.float32(factor)
    scale.scales.store(values)
    return scale.name


def _channel_scales_permuted(file: File, rng: random.Random) -> str:
    scale = drawn(rng, [scale for scale in file.weight_scales() if len(np.unique(scale.scales.values)) > 1])
    scale.scales.store(np.roll(scale.scales.values, 1))
    return scale.name


def _zero_point(file: File, rng: random.Random) -> str:
    found = [(scale.name, scale.zero_points) for scale in file.activation_scales() if scale.zero_points is not None]
    name, constant = drawn(rng, found)
    up = 1 if rng.random() < 0.5 else -1
    try:
        constant.store(constant.values.astype(np.int64) + up)
    except NoPlaceError:  # at the end of the range
        constant.store(constant.values.astype(np.int64) - up)
    return name


def of_shape(constant: Constant, change: Change, rng: random.Random) -> None:
    """Changes one constant."""
    constant.store(change(constant.values, rng))


def rolled(values: Array, rng: random.Random) -> Array:
    """Each element in the place of the next."""
    return np.roll(values.reshape(-1), 1).reshape(values.shape)


def _zeroed(values: Array, rng: random.Random) -> Array:
    return np.zeros_like(values)


ARRAY_FAULTS: dict[str, ArrayFault] = {
    "weight-ulp": weights(_element(_step), integers=False),
    "weight-permille": weights(_element(_times(1.001)), integers=False),
    "weight-double": weights(_element(_times(2.0))),
    "weight-sign": weights(_element(_times(-1.0))),
    "weight-zero": weights(_element(_times(0.0))),
    "weights-in-fp16": weights(_as_float("float16"), integers=False),
    "weights-in-bf16": weights(_as_float("bfloat16"), integers=False),
    "small-weights-zeroed": weights(_small_zeroed),
    "weights-clipped": weights(_largest_clipped),
    "weights-cut-off": weights(_cut_off),
    "weights-exchanged": _weights_exchanged,
    "int-weight-step": weights(_element(_step), integers=True),
    "filter-scaled": kernels(_channel_scaled),
    "bias-missing": bias(_zeroed),
    "bias-rolled": bias(rolled),
    "bias-ulp": bias(_element(_step), integers=False),
    "bias-in-fp16": bias(_as_float("float16"), integers=False),
    "int-bias-step": bias(_element(_step), integers=True),
    "output-channels-exchanged": kernels(_outputs_exchanged),
    "input-channels-exchanged": kernels(_inputs_exchanged),
    "rgb-bgr": kernels(_channels_reversed),
    "kernel-rotated": kernels(_rotated),
    "kernel-transposed": kernels(_transposed),
    "kernel-mirrored": kernels(_mirrored),
    "matrix-transposed": kernels(_matrix_transposed),
    "weights-misread": kernels(_read_in_another_order),
    "groups-interleaved": kernels(_groups_interleaved),
    "flatten-order": kernels(_flattened_in_another_order),
    "constant-ulp": constants(_element(_step)),
    "constant-permille": constants(_element(_times(1.001))),
    "eps": _eps,
    "scale-ulp": activation_scale(None),
    "scale-percent": activation_scale(1.01),
    "last-layer-saturated": activation_scale(0.5, final=True),
    "weight-scale-ulp": weight_scale(None),
    "weight-scale-percent": weight_scale(1.01),
    "channel-scales-rolled": _channel_scales_permuted,
    "zero-point": _zero_point,
}
