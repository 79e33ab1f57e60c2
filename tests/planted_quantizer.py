"""Faults that tests plant into the quantizer: what it decides, and what it makes of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.core import Array
from edgeconv.quantize import _absorb, _apply, _equalize, _make_plan, _observers, _pairs, _reorder, _rounding, _tune

Plant = Callable[[pytest.MonkeyPatch], None]


def _numbers(dtype: str, change: Callable[[Array, Array], tuple[Array, Callable[[Array], Array]]]) -> Plant:
    """Changes the real numbers (and how they are rounded) of constants that become integers of a type."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = _apply.quantized

        def wrong(real: Array, scale: Any, zero_point: Any, kind: Any, *rest: Any) -> Array:
            if np.dtype(kind) != np.dtype(dtype):
                return right(real, scale, zero_point, kind, *rest)
            real, rounded = change(real, np.asarray(scale))
            steps = rounded(real.astype(np.float64) / scale) + zero_point
            info = np.iinfo(dtype)
            return np.asarray(np.clip(steps, info.min, info.max).astype(dtype))

        patch.setattr(_apply, "quantized", wrong)

    return plant


def _weights(change: Callable[[Array], Array]) -> Plant:
    """Changes the integers of weights, (output channels, …)."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = _apply.quantized_weight
        patch.setattr(_apply, "quantized_weight", lambda *args: np.ascontiguousarray(change(right(*args))))

    return plant


def _real_weights(change: Callable[[Array], Array]) -> Plant:
    """Changes the real numbers that weights are rounded from."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = _apply.quantized_weight
        patch.setattr(_apply, "quantized_weight", lambda layer, array, *rest: right(layer, change(array), *rest))

    return plant


def _replaced(module: Any, name: str, wrong: Callable[[Any], Any]) -> Plant:
    """Puts another function in the place of one of a module's, or of a method of a class."""
    return lambda patch: patch.setattr(module, name, wrong(getattr(module, name)))


def _observer(name: str, change: Callable[[float, float, Any], tuple[float, float]]) -> Plant:
    """Changes the ranges that an observer chooses; the third argument is what was seen."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = _observers.OBSERVERS[name]
        patch.setitem(
            _observers.OBSERVERS, name, lambda seen, levels, percent: change(*right(seen, levels, percent), seen)
        )

    return plant


def _one_sign(integers: Array) -> Array:
    integers = integers.copy()
    integers[0] = -integers[0]
    return integers


def _one_step(integers: Array) -> Array:
    integers = integers.copy()
    first = integers.reshape(-1)
    first[0] += 1 if first[0] < 100 else -1
    return integers


def _with_zero_points(change: int) -> Plant:
    def wrong(right: Any) -> Any:
        def asymmetric(low: float, high: float, dtype: str) -> tuple[float, int]:
            scale, zero_point = right(low, high, dtype)
            return scale, int(np.clip(zero_point + change, -128, 127))

        return asymmetric

    return _replaced(_make_plan, "asymmetric", wrong)


def _of_254_steps(right: Any) -> Any:
    def asymmetric(low: float, high: float, dtype: str) -> tuple[float, int]:
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / 254 or 1.0))
        return scale, int(np.rint(-127 - low / scale))

    return asymmetric


def _other_axis(right: Any) -> Any:
    def dequantized(*args: Any, axis: int | None = None) -> ir.Value:
        result: ir.Value = right(*args, axis=axis)
        shape = args[3].shape
        if axis == 0 and len(shape) > 1 and shape[0] == shape[1]:
            producer = result.producer()
            assert producer is not None
            producer.attributes["axis"] = ir.AttrInt64("axis", 1)
        return result

    return dequantized


def _rolled(parameters: Any) -> Any:
    return replace(parameters, scales=(*parameters.scales[1:], parameters.scales[0]))


def _slope(right: Any) -> Any:
    def applied(*args: Any) -> ir.Model:
        model: ir.Model = right(*args)
        for node in model.graph:
            if node.op_type == "LeakyRelu":
                node.attributes["alpha"] = ir.AttrFloat32("alpha", node.attributes.get_float("alpha", 0.01) * 1.05)
        return model

    return applied


def _by_channel(node: ir.Node, shape: tuple[int, ...], axis: int) -> Array | None:
    """Partners as if kernels took all positions of one channel, then those of the next."""
    if node.op_type == "ConvTranspose" or (node.op_type == "Conv" and shape[1] == 1):
        return None
    count = int(np.prod(shape)) // shape[axis]
    partner = np.arange(count) ^ 1
    partner[partner >= count] = -1
    return partner


def _scaled(factor: float) -> Callable[[Any], Any]:
    return lambda right: lambda graph, layer, shift: right(graph, layer, factor * shift)


def _second_only(right: Any) -> Any:
    """Absorbed parts are taken off the first layer alone."""
    return lambda graph, layer, shift: right(graph, layer, np.minimum(shift, 0.0) if (shift <= 0).all() else 0 * shift)


def _changed_scale(right: Any) -> Any:
    return lambda low, high, dtype: replace(
        right(low, high, dtype), scale=float(np.float32(right(low, high, dtype).scale * 1.1))
    )


FAULTS: dict[str, tuple[Plant, dict[str, Any]]] = {
    # What is made of the plan.
    "bias cut off": (_numbers("int32", lambda real, scale: (real, np.trunc)), {}),
    "bias rounded down": (_numbers("int32", lambda real, scale: (real, np.floor)), {}),
    "bias times 1.02": (_numbers("int32", lambda real, scale: (real * 1.02, np.rint)), {}),
    "bias of the next channel": (_numbers("int32", lambda real, scale: (np.roll(real, 1), np.rint)), {}),
    "scale of biases times 1.02": (
        _replaced(_apply, "bias_scales", lambda right: lambda *args: (right(*args) * 1.02).astype(np.float32)),
        {},
    ),
    "constants cut off": (_numbers("int8", lambda real, scale: (real, np.trunc)), {}),
    "weights cut off": (_replaced(_apply, "nearest_safe", lambda right: lambda steps, _: np.trunc(steps)), {}),
    "weights a percent small": (_real_weights(lambda array: array * 0.99), {"rounding": "nearest"}),
    "filters in another order": (_weights(lambda integers: np.roll(integers, 1, axis=0)), {}),
    "one filter's sign": (_weights(_one_sign), {}),
    "one weight a step off": (_weights(_one_step), {}),
    "kernels turned": (_weights(lambda integers: integers[..., ::-1] if integers.ndim > 2 else integers), {}),
    "weights to -128": (_weights(lambda integers: np.where(integers == -127, -128, integers).astype(np.int8)), {}),
    "scales along another axis": (_replaced(_apply._Work, "_dequantized", _other_axis), {}),
    "a scale of the next channel": (
        _replaced(_apply._Work, "_weight", lambda right: lambda self, layer, item: right(self, layer, _rolled(item))),
        {},
    ),
    "zero points one off, as applied": (
        _replaced(
            _apply._Work,
            "_parameters",
            lambda right: (
                lambda self, name, item: right(
                    self, name, replace(item, zero_point=min(item.zero_point + 1, 127) if item.dtype == "int8" else 0)
                )
            ),
        ),
        {},
    ),
    "slope of LeakyRelu": (_replaced(_apply, "_applied", _slope), {}),
    "joined by other scales": (
        _replaced(
            _apply._Work,
            "requantize",
            lambda right: (
                lambda self, node, index, item: right(
                    self, node, index, replace(item, scale=float(np.float32(item.scale * 1.05)))
                )
            ),
        ),
        {},
    ),
    "joined without the same scale": (_replaced(_apply._Work, "requantize", lambda right: lambda *args: None), {}),
    # The plan.
    "zero points one up": (_with_zero_points(1), {}),
    "zero points one down": (_with_zero_points(-1), {}),
    "integers from -127": (_replaced(_make_plan, "asymmetric", _of_254_steps), {}),
    "scales times 1.1": (_replaced(_make_plan, "parameters_of", _changed_scale), {}),
    "a planned scale of the next channel": (
        _replaced(_make_plan, "weight_parameters", lambda right: lambda *args: _rolled(right(*args))),
        {},
    ),
    "pairs in another order": (_replaced(_pairs, "_partners", lambda right: _by_channel), {}),
    # The float graph before.
    "equalized on one side": (_replaced(_equalize, "scale_inputs", lambda right: lambda *args: None), {}),
    "reordered on one side": (
        _replaced(
            _reorder,
            "_take",
            lambda right: lambda value, order, axis: None if axis == 1 else right(value, order, axis),
        ),
        {},
    ),
    "absorbed on one side": (
        _replaced(_absorb, "add_to_bias", _second_only),
        {"absorb_biases": True, "equalize": False},
    ),
    # Ranges of values.
    "ranges halved": (_observer("mse", lambda low, high, seen: (low / 2, high / 2)), {}),
    "ranges a tenth wide": (_observer("mse", lambda low, high, seen: (1.1 * low, 1.1 * high)), {}),
    "ranges of the outermost, a percent short": (
        _observer("min-max", lambda low, high, seen: (low, 0.99 * high)),
        {"observer": "min-max"},
    ),
    "ranges of the outermost on both sides": (
        _observer("min-max", lambda low, high, seen: (min(low, -high), max(high, -low))),
        {"observer": "min-max"},
    ),
    "a percentile of the upper end alone": (
        _observer("percentile", lambda low, high, seen: (seen.low, high)),
        {"observer": "percentile", "percentile": 99.0},
    ),
    "another percentile": (
        _observer("percentile", lambda low, high, seen: (0.9 * low, 0.9 * high)),
        {"observer": "percentile"},
    ),
    "entropy of one side": (
        _observer("entropy", lambda low, high, seen: (seen.low, 0.9 * high)),
        {"observer": "entropy"},
    ),
    # Rounding of weights.
    "corrected twice": (_replaced(_tune, "add_to_bias", _scaled(2.0)), {}),
    "corrected the wrong way": (_replaced(_tune, "add_to_bias", _scaled(-1.0)), {"rounding": "corrected"}),
    "corrections of the next channel": (
        _replaced(
            _tune, "add_to_bias", lambda right: lambda graph, layer, shift: right(graph, layer, np.roll(shift, 1))
        ),
        {},
    ),
    "not corrected": (_replaced(_tune, "add_to_bias", _scaled(0.0)), {}),
    "feedback in another order of filters": (
        _replaced(_rounding, "rounded_with_feedback", lambda right: lambda *args: np.roll(right(*args), 1, axis=1)),
        {},
    ),
}
