"""int8 HARD_SWISH, PRELU and clamps as operators that delegates take: on all 256 integers, against real arithmetic.

Members thought of: one slope, slopes up to 1, negative ones, slopes from 1 on, and slopes on both sides of 1, of which
there is no such form; HardSwish of wide and of narrow operands, and of one that never reaches -3, where it is zero;
clamps whose result's steps end at their bounds or do not, of the operand's steps or of others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeconv.emit.tflite.integer import _forms
from edgeconv.quantize import TensorParameters, apply, calibrate, make_plan
from edgeconv.reference.tflite import read

_CHANNELS = 4
_SHAPE = (1, _CHANNELS, 16, 16)
_SLOPES = {
    "one slope": ([0.25] * 4, {"MUL", "MAXIMUM"}),
    "slopes up to one": ([0.0, 0.1, 0.4, 1.0], {"MUL", "MAXIMUM"}),
    "negative slopes": ([-0.5, -0.1, 0.3, 0.9], {"MUL", "MAXIMUM"}),
    "slopes from one on": ([1.0, 1.2, 2.0, 3.0], {"MUL", "MINIMUM"}),
    "slopes on both sides of one": ([0.2, 0.8, 1.5, 2.0], {"PRELU"}),
}
_CLAMPS: dict[str, tuple[nn.Module, tuple[float, float], set[str]]] = {
    "ReLU": (nn.ReLU(), (-3.0, 2.0), {"QUANTIZE"}),
    "ReLU6": (nn.ReLU6(), (-3.0, 9.0), {"QUANTIZE"}),
    "ReLU6 below 6": (nn.ReLU6(), (-3.0, 2.0), {"QUANTIZE"}),
    "clamp to one": (nn.Hardtanh(), (-3.0, 2.0), {"QUANTIZE", "MINIMUM"}),  # 255 steps have no middle
    "ReLU of what is never negative": (nn.ReLU(), (0.0, 2.0), {"QUANTIZE"}),
}
_MOST = 0.63  # of a step: half of one, and an eighth, to which XNNPACK's QUANTIZE rounds before
_RANGES = {"wide": (-6.0, 9.0), "wide above": (-1.0, 20.0), "narrow": (-1.0, 1.5), "never zero": (-2.5, 4.0)}


def _quantized(tflite: Any, module: nn.Module, low: float, high: float) -> ir.Model:
    graph = tflite.graph_of(module, torch.zeros(_SHAPE))
    sample = np.linspace(low, high, 256, dtype=np.float32).repeat(_CHANNELS).reshape(16, 16, _CHANNELS)
    samples = [{"input0": np.ascontiguousarray(sample.transpose(2, 0, 1))[None]}]
    return apply(graph, make_plan(graph, calibrate(graph, samples)))


def _images(tflite: Any, graph: ir.Model, resolver: str) -> tuple[np.ndarray, np.ndarray, float, float, set[str]]:
    """All 256 integers as numbers, what each channel makes of them, the result's step and range, and the operators."""
    emitted = tflite.to_tflite(graph, metadata={}, io="int8")
    source, result = emitted.inputs[0], emitted.outputs[0]
    integers = np.arange(-128, 128).reshape(1, 1, 16, 16).repeat(_CHANNELS, 1)
    x = ((integers - source.zero_point) * np.float64(source.scale)).astype(np.float32)
    ran = tflite.run(emitted, [x], resolver)
    rows = x[0, 0].reshape(-1).astype(np.float64), ran.outputs[0][0].reshape(_CHANNELS, -1).astype(np.float64)
    return *rows, result.scale, (127 - result.zero_point) * result.scale, set(ran.operators)


@pytest.mark.parametrize("resolver", ["reference", "xnnpack"])
@pytest.mark.parametrize("name", _SLOPES)
def test_prelu_is_within_a_step_of_real_arithmetic(tflite: Any, name: str, resolver: str) -> None:
    slopes, operators = _SLOPES[name]
    module = nn.PReLU(_CHANNELS)
    module.weight.data = torch.tensor(slopes)
    graph = _quantized(tflite, module, -3.0, 2.0)
    x, actual, step, highest, found = _images(tflite, graph, resolver)
    assert operators <= found
    assert ("PRELU" in found) == ("PRELU" in operators)
    of_slopes = (max([*slopes, 0.0]) - min([*slopes, 0.0])) / 255 / 2 * 1.01  # half a step of theirs
    real = np.where(x >= 0, x, x * np.array(slopes)[:, None])
    inside = (real < highest) & (real > highest - 255 * step)
    off = np.abs(actual - real) - of_slopes * np.maximum(-x, 0)
    assert off[inside].max() <= 0.76 * step  # kernels round products of few bits to quarters or halves first


@pytest.mark.parametrize("slopes", [[-1.5, -0.5, 0.3, 1.0], [1.0, 1.2, 2.0, 3.0], [1.0, 1.1, 1.3, 2.9]])
def test_a_slope_of_one_is_not_rounded_beyond_one(tflite: Any, slopes: list[float]) -> None:
    """102 times 2.5 / 255, of float32, is 1.00000004: the greater of x and that times x is no PReLU."""
    module = nn.PReLU(_CHANNELS)
    module.weight.data = torch.tensor(slopes)
    file = read(tflite.to_tflite(_quantized(tflite, module, -3.0, 2.0), metadata={}, io="int8").data)
    (stored,) = (tensor for tensor in file.tensors if tensor.data is not None and tensor.data.size == _CHANNELS)
    assert stored.quantization is not None
    (scale,), (zero_point,) = stored.quantization.scales, stored.quantization.zero_points
    numbers = (stored.data.astype(np.float64) - zero_point) * scale
    assert numbers.max() <= 1 if max(slopes) == 1 else numbers.min() >= 1
    np.testing.assert_allclose(numbers.reshape(-1), slopes, atol=0.51 * scale)


@pytest.mark.parametrize("resolver", ["reference", "xnnpack"])
@pytest.mark.parametrize("name", _RANGES)
def test_hard_swish_is_within_a_step_of_its_rounding(tflite: Any, name: str, resolver: str) -> None:
    graph = _quantized(tflite, nn.Hardswish(), *_RANGES[name])
    x, actual, step, _, found = _images(tflite, graph, resolver)
    assert "HARD_SWISH" not in found
    rounded = np.rint(functional.hardswish(torch.from_numpy(x)).numpy() / step)
    assert np.abs(np.rint(actual / step) - rounded).max() <= 1


def test_hard_swish_is_a_chain_of_which_xnnpack_makes_one_table(tflite: Any) -> None:
    graph = _quantized(tflite, nn.Hardswish(), *_RANGES["wide"])
    file = read(tflite.to_tflite(graph, metadata={}, io="int8").data)
    (x,), before = file.inputs, None
    for operator in file.operators:
        varying = {index for index in operator.inputs if file.tensors[index].data is None}
        assert before is None or before in varying
        assert varying <= {x, before}
        (before,) = operator.outputs
    assert [operator.name for operator in file.operators] == ["ADD", "MUL", "MUL"]


def test_hard_swish_stays_where_the_gate_is_coarser_than_the_result(tflite: Any) -> None:
    graph = _quantized(tflite, nn.Hardswish(), -4.5, 0.05)
    _, _, _, _, found = _images(tflite, graph, "reference")
    assert "HARD_SWISH" in found


def test_the_gate_is_off_by_half_of_its_step_times_a_sixth_of_the_operand_at_most() -> None:
    parameters, gates = _forms.of_interval(-4.0, 8.0, "int8"), _forms.of_interval(0.0, 6.0, "int8")
    assert 0 < _forms._off_by(gates, parameters) <= gates.scale[0] / 2 * 4 / 6 * 1.01


@pytest.mark.parametrize("resolver", ["reference", "xnnpack"])
@pytest.mark.parametrize("name", _CLAMPS)
def test_clamps_are_within_half_a_step_of_real_arithmetic(tflite: Any, name: str, resolver: str) -> None:
    module, (low, high), operators = _CLAMPS[name]
    graph = _quantized(tflite, module, low, high)
    x, actual, step, highest, found = _images(tflite, graph, resolver)
    assert found == operators
    real = module(torch.from_numpy(x)).numpy().clip(highest - 255 * step, highest)
    assert np.abs(actual - real).max() <= _MOST * step


@pytest.mark.parametrize("resolver", ["reference", "xnnpack"])
@pytest.mark.parametrize("name", ["ReLU", "ReLU6", "clamp to one"])
@pytest.mark.parametrize("steps", [(0.07, -10), (0.05, 3)])
def test_bounds_inside_of_the_steps_are_kept(tflite: Any, name: str, steps: tuple[float, int], resolver: str) -> None:
    module, (low, high), _ = _CLAMPS[name]
    graph = tflite.graph_of(module, torch.zeros(_SHAPE))
    calibration = calibrate(graph, [{"input0": np.full(_SHAPE, end, np.float32)} for end in (low, high)])
    plan = make_plan(graph, calibration)
    wide = {graph.graph.inputs[0].name: TensorParameters("int8", 0.07, -10)}
    wide[graph.graph.outputs[0].name] = TensorParameters("int8", *steps)
    graph = apply(graph, replace(plan, tensors={**plan.tensors, **wide}))
    x, actual, step, highest, found = _images(tflite, graph, resolver)
    assert found <= {"QUANTIZE", "MAXIMUM", "MINIMUM"}
    assert ("QUANTIZE" in found) == (step != np.float32(0.07))
    real = module(torch.from_numpy(x)).numpy().clip(highest - 255 * step, highest)
    assert np.abs(actual - real).max() <= _MOST * step
    bounds = module(torch.tensor([-100.0, 100.0])).numpy()
    assert actual.min() >= bounds[0] - step / 2
    assert actual.max() <= bounds[1] + step / 2
