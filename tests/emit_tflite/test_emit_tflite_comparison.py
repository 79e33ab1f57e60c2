"""Comparisons and selections of quantized numbers: right at any scale, and named where they stay float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from crossed import diagonal
from torch import nn
from torch.nn import functional

from edgeconv.core import Emitted
from edgeconv.flow.inspection.integers_tflite import float_parts_of_tflite
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.reference import evaluate

_IMAGE = (1, 4, 6, 6)
_SCALES = (1e-3, 1.0, 150.0)  # of the numbers: the steps of int8 are then 3e-5, 0.03 and 5
_SCHEMES = ("int8", "int16x8")
_IO = {"int8": "int8", "int16x8": "int16"}
_Function = Callable[[torch.Tensor, float], torch.Tensor]

# Of x, whose integers are the same on every runtime, and of its magnitude s. What is filled in is far from x.
_EXACT: dict[str, _Function] = {
    "greater": lambda x, s: x.masked_fill(x > 0.3 * s, 9 * s),
    "greater than zero": lambda x, s: x.masked_fill(x > 0.0, 9 * s),
    "greater or equal": lambda x, s: x.masked_fill(x >= 0.3 * s, 9 * s),
    "less": lambda x, s: x.masked_fill(x < -0.3 * s, 9 * s),
    "less or equal": lambda x, s: x.masked_fill(x <= 0.3 * s, 9 * s),
    "equal": lambda x, s: x.masked_fill(x == 0.0, 9 * s),
    "of each channel": lambda x, s: x.masked_fill(x > s * torch.linspace(-1, 1, 4)[:, None, None], 9 * s),
    "of two": lambda x, s: x.masked_fill(x[:, :2].repeat(1, 2, 1, 1) < x, 9 * s),
    "not and": lambda x, s: x.masked_fill(~((x > -0.3 * s) & (x < 0.3 * s)), 9 * s),
    "or": lambda x, s: x.masked_fill((x > 0.3 * s) | (x < -0.3 * s), 9 * s),
    "sign": lambda x, s: torch.sign(x),
    "mask": lambda x, s: x > 0.3 * s,
    "mask as numbers": lambda x, s: (x > 0.3 * s).float(),
    "threshold": lambda x, s: functional.threshold(x, 0.3 * s, 5.0 * s),
    "maximum": lambda x, s: torch.maximum(x, x[:, [3, 2, 1, 0]]),
    "minimum": lambda x, s: torch.minimum(x, x[:, [3, 2, 1, 0]]),
}


def _quantized(tflite: Any, module: nn.Module, scheme: str, scale: float) -> ir.Model:
    rng = np.random.default_rng(0)
    graph = tflite.graph_of(module, torch.zeros(_IMAGE))
    samples = [{"input0": (rng.standard_normal(_IMAGE) * scale).astype(np.float32)} for _ in range(2)]
    return apply(graph, make_plan(graph, calibrate(graph, samples), scheme=scheme))


def _inputs(scale: float) -> np.ndarray:
    return (np.random.default_rng(1).standard_normal(_IMAGE) * scale).astype(np.float32)


def _exact(tflite: Any, scheme: str, scale: float) -> tuple[Emitted, list[np.ndarray]]:
    """All of them as one file, and what the float64 reference makes of the quantized graph."""
    module = tflite.Function(lambda x: tuple(function(x, scale) for function in _EXACT.values()))
    graph = _quantized(tflite, module, scheme, scale)
    names = [value.name or "" for value in graph.graph.outputs]
    values = evaluate(graph, {"input0": _inputs(scale)}, keep=names)
    return tflite.to_tflite(graph, metadata={}, io=_IO[scheme]), [values[name] for name in names]


def _compare(emitted: Emitted, outputs: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """What is chosen may be one step off, where it is requantized; what is not quantized is exact."""
    for name, spec, actual, other in zip(_EXACT, emitted.outputs, outputs, expected, strict=True):
        np.testing.assert_allclose(actual, other, rtol=1e-5, atol=1.01 * (spec.scale or 0), err_msg=name)


@pytest.mark.parametrize(("scale", "scheme"), diagonal(_SCALES, _SCHEMES))
def test_comparisons_choose_right_at_every_scale(tflite: Any, scheme: str, scale: float) -> None:
    emitted, expected = _exact(tflite, scheme, scale)
    for resolver in ("reference", "xnnpack"):
        _compare(emitted, tflite.run(emitted, [_inputs(scale)], resolver).outputs, expected)


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_old_runtimes_compare_alike(tflite: Any, old_runtime: Any, scheme: str) -> None:
    for scale in _SCALES:
        emitted, expected = _exact(tflite, scheme, scale)
        _compare(emitted, old_runtime(emitted, [_inputs(scale)]), expected)


def test_a_comparison_is_a_float_island_that_notes_and_inspection_name(tflite: Any) -> None:
    emitted = tflite.to_tflite(_quantized(tflite, _Chosen(0.1), "int8", 1.0), metadata={}, io="int8")
    assert [note for note in emitted.notes if note.startswith("GREATER 'gt' stays float: its integer kernels round")]
    assert any(line.startswith("GREATER of 'gt': float") for line in float_parts_of_tflite(emitted.data))


class _Chosen(nn.Module):
    """A choice between what two convolutions give, read by a third."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.other, self.last = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.bound = bound

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.where(x > self.bound, self.first(x), self.other(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("scale", "scheme", "resolver"), diagonal(_SCALES, _SCHEMES, ["reference", "xnnpack"]))
def test_a_selection_between_layers_is_within_a_step(tflite: Any, scheme: str, scale: float, resolver: str) -> None:
    graph = _quantized(tflite, _Chosen(0.1 * scale), scheme, scale)
    emitted = tflite.to_tflite(graph, metadata={}, io=_IO[scheme])
    name = graph.graph.outputs[0].name or ""
    expected = evaluate(graph, {"input0": _inputs(scale)}, keep=[name])[name]
    (actual,) = tflite.run(emitted, [_inputs(scale)], resolver).outputs
    assert np.abs(actual - expected).max() <= 2.01 * (emitted.outputs[0].scale or 0)


@pytest.mark.parametrize("scheme", _SCHEMES)
@pytest.mark.parametrize("scale", [1e-5, *_SCALES])
def test_zeros_do_not_spoil_sums_of_small_numbers(tflite: Any, scheme: str, scale: float) -> None:
    """The kernels of sums take operands of at most so much coarser steps than their result's."""
    module = tflite.Function(lambda x: (-x, x + 0.0 * torch.relu(x), x + torch.zeros(1), 0.0 - x))
    graph = _quantized(tflite, module, scheme, scale)
    names = [value.name or "" for value in graph.graph.outputs]
    values = evaluate(graph, {"input0": _inputs(scale)}, keep=names)
    emitted = tflite.to_tflite(graph, metadata={}, io=_IO[scheme])
    for resolver in ("reference", "xnnpack"):
        for name, spec, actual in zip(
            names, emitted.outputs, tflite.run(emitted, [_inputs(scale)], resolver).outputs, strict=True
        ):
            np.testing.assert_allclose(actual, values[name], rtol=0, atol=1.01 * (spec.scale or 0), err_msg=name)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integers_that_stand_for_themselves_are_compared(tflite: Any, dtype: torch.dtype) -> None:
    """They have no scale, without which the kernels of 8 bits abort the process."""
    module = tflite.Function(lambda x: (x.to(dtype) > 3, x.to(dtype) == (x * 1.5).to(dtype)))
    inputs = np.array([[0, 1, 3, 4, 80]], np.float32)
    emitted = tflite.to_tflite(tflite.graph_of(module, torch.from_numpy(inputs)), metadata={})
    for resolver in ("reference", "xnnpack"):
        greater, equal = tflite.run(emitted, [inputs], resolver).outputs
        np.testing.assert_array_equal(greater, [[False, False, False, True, True]])
        np.testing.assert_array_equal(equal, [[True, True, False, False, False]])
