"""Integer operators whose result has far finer steps than their operands: the kernels cannot rescale to it.

Members thought of: HARD_SWISH of int8 (just above -3, where its result is small) and of int16 (an operand of 1e5 and
more), PRELU of int16 (slopes of 1e-6 on negative numbers); each also just coarse enough. (Sums are tested elsewhere.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgeconv.flow.inspection.integers_tflite import float_parts_of_tflite
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.reference import evaluate

_SHAPE = (1, 4, 5, 5)


def _above_minus_three(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: functional.hardswish(x * factor - 3)


def _sloped(slope: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: functional.prelu(-torch.relu(x) - 1, torch.full((4,), slope))


_CASES: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor], bool]] = {
    "hard swish of int8, too fine": ("int8", _above_minus_three(0.001), False),
    "hard swish of int8, coarse enough": ("int8", _above_minus_three(0.1), True),
    "hard swish of int16, too large": ("int16x8", lambda x: functional.hardswish(x * 3e5), False),
    "hard swish of int16, small enough": ("int16x8", lambda x: functional.hardswish(x * 1e4), True),
    "PReLU of int16, too fine": ("int16x8", _sloped(1e-6), False),
    "PReLU of int16, coarse enough": ("int16x8", _sloped(1e-3), True),
}


@pytest.mark.parametrize("name", _CASES)
def test_it_stays_float_where_kernels_cannot_rescale(tflite: Any, old_runtime: Any, name: str) -> None:
    scheme, function, in_integers = _CASES[name]
    graph = tflite.graph_of(tflite.Function(function), torch.zeros(_SHAPE))
    samples = [{"input0": np.random.default_rng(seed).standard_normal(_SHAPE, np.float32)} for seed in range(4)]
    quantized = apply(graph, make_plan(graph, calibrate(graph, samples), scheme=scheme))
    emitted = tflite.to_tflite(quantized, metadata={})
    assert ("too fine" not in " ".join(emitted.notes)) is in_integers
    assert (float_parts_of_tflite(emitted.data) == []) is in_integers
    output = graph.graph.outputs[0].name or ""
    expected = evaluate(quantized, samples[0], keep=[output])[output]
    step = float(quantized.graph.outputs[0].producer().inputs[1].const_value.numpy())
    runs = [*(tflite.run(emitted, [samples[0]["input0"]], kernels).outputs[0] for kernels in ("reference", "xnnpack"))]
    for actual in (*runs, old_runtime(emitted, [samples[0]["input0"]])[0]):
        assert np.abs(actual - expected).max() <= 2.01 * step
