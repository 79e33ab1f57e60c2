"""Pools and reductions, with torch's padding, ceil_mode and divisors.

Members of pads before pools: averages that count padding or do not, maxima, roots of sums; pads of zeros and of other
numbers, on one side or on both, as wide as the window and wider; sizes rounded up. Averages of integers whose windows
hang over an edge are rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from crossed import diagonal
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from edgeconv.emit.onnx import to_onnx
from edgeconv.reference import evaluate

_FEW = settings(deadline=None, max_examples=25)
_SHAPE = {
    "kernel": st.tuples(st.integers(1, 4), st.integers(1, 4)),
    "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "padding": st.tuples(st.integers(0, 2), st.integers(0, 2)),
    "size": st.tuples(st.integers(7, 12), st.integers(7, 12)),
    "ceil": st.booleans(),
}
Pair = tuple[int, int]


def _sound(kernel: Pair, padding: Pair) -> bool:
    return all(2 * pad <= size for pad, size in zip(padding, kernel, strict=True))


def _check(tflite: Any, operator: str, pool: Any, size: Pair, ceil: bool, **more: Any) -> None:
    image = torch.zeros((1, 3, *size))
    model = tflite.node_of(
        operator,
        {"input": image.numpy()},
        [],
        pool(image).shape,
        kernel_shape=list(pool.kernel_size),
        strides=list(pool.stride),
        pads=[*pool.padding, *pool.padding],
        ceil_mode=int(ceil),
        **more,
    )
    runs = tflite.check(pool, tuple(image.shape), model=model, layouts=("nhwc",))
    strides_within = all(stride <= side for stride, side in zip(pool.stride, pool.kernel_size, strict=True))
    assert runs["nhwc"].partitions == 1 or not strides_within  # XNNPACK leaves out pools that skip elements


@_FEW
@given(**_SHAPE)
def test_max_pools_of_any_window_run_on_every_runtime(
    tflite: Any, kernel: Pair, stride: Pair, padding: Pair, size: Pair, ceil: bool
) -> None:
    assume(_sound(kernel, padding))
    pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    _check(tflite, "MaxPool", pool, size, ceil)


@_FEW
@given(**_SHAPE, counted=st.booleans())
def test_average_pools_of_any_window_run_on_every_runtime(
    tflite: Any, kernel: Pair, stride: Pair, padding: Pair, size: Pair, ceil: bool, counted: bool
) -> None:
    assume(_sound(kernel, padding))
    pool = nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil, count_include_pad=counted)
    _check(tflite, "AveragePool", pool, size, ceil, count_include_pad=int(counted))


def test_max_pool_after_relu_pads_with_zeros(tflite: Any) -> None:
    runs = tflite.check(nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)), (1, 3, 8, 8))
    assert runs["nhwc"].operators == ["RELU", "PAD", "MAX_POOL_2D"]


def test_negative_inputs_lose_against_no_padding(tflite: Any) -> None:
    tflite.check(tflite.Function(lambda x: nn.functional.max_pool2d(-x.abs() - 1, 3, 2, 1)), (1, 3, 8, 8))


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.AdaptiveAvgPool2d((2, 4))])
def test_global_and_adaptive_pools_are_one_operator(tflite: Any, pool: nn.Module) -> None:
    runs = tflite.check(pool, (2, 3, 6, 8))
    assert len(runs["nhwc"].operators) == 1
    assert runs["nhwc"].partitions == 1


_REDUCTIONS = {
    "mean over space": lambda x: x.mean((2, 3)),
    "mean over space, kept": lambda x: x.mean((2, 3), keepdim=True),
    "mean over channels": lambda x: x.mean(1),
    "mean of everything": lambda x: x.mean(),
    "max over space": lambda x: x.amax((2, 3)),
    "max over channels, kept": lambda x: x.amax(1, keepdim=True),
    "sum over rows": lambda x: x.sum(2),
    "Euclidean norm": nn.functional.normalize,
    "index of the maximum": lambda x: x.argmax(1),
}


@pytest.fixture(scope="module")
def reductions(tflite: Any) -> Any:
    return tflite.check_all(_REDUCTIONS, (2, 6, 5, 4))


@pytest.mark.parametrize("name", _REDUCTIONS)
def test_reductions_run_on_every_runtime(reductions: Any, name: str) -> None:
    reductions(name)


def test_mean_over_space_feeds_a_linear_layer_without_reshape(tflite: Any) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.mean((2, 3)))

    assert tflite.check(Head(), (1, 6, 5, 4))["nhwc"].operators == ["MEAN", "FULLY_CONNECTED"]


@settings(deadline=None, max_examples=30)
@given(
    size=st.integers(1, 3), pads=st.tuples(*[st.integers(0, 4)] * 4), stride=st.integers(1, 3), ceil=st.booleans(),
    own=st.integers(0, 1), counted=st.booleans(), fill=st.sampled_from([0.0, 0.0, 1.5, -2.0]),
    mode=st.sampled_from(["average", "maximum", "root"]),
)  # fmt: skip
@example(2, (2, 2, 2, 2), 2, False, 0, True, 0.0, "average")
@example(2, (2, 3, 4, 2), 2, True, 1, False, 0.0, "average")
@example(2, (3, 2, 0, 4), 2, True, 0, False, 0.0, "maximum")
def test_a_pad_as_wide_as_the_window(
    tflite: Any,
    size: int, pads: tuple[int, ...], stride: int, ceil: bool, own: int, counted: bool, fill: float, mode: str,
) -> None:  # fmt: skip
    """onnxsim folded any Pad into the pool behind it, and onnxruntime takes no pads as wide as a window."""
    own = min(own, size // 2)

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = functional.pad(x, pads, value=fill)
        if mode == "average":
            return functional.avg_pool2d(y, size, stride, own, ceil, counted)
        if mode == "maximum":
            return functional.max_pool2d(y, size, stride, own, 1, ceil)
        return functional.lp_pool2d(y, 2, size, stride, ceil)

    x = torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    module = tflite.Function(forward)
    model = tflite.graph_of(module, x)
    session = onnxruntime.InferenceSession(to_onnx(model, metadata={}).data)
    (pooled,) = session.run(None, {"input0": x.numpy()})
    np.testing.assert_allclose(pooled, forward(x).numpy(), atol=1e-5)
    tflite.check(module, (1, 3, 6, 7), layouts=("nhwc",), model=model)


_PARTIAL = {  # what windows over an edge divide by is not what the whole window has
    "last of one element": ((1, 4, 11, 11), nn.AvgPool2d(5, 5, ceil_mode=True)),
    "both ends": ((1, 4, 9, 9), nn.AvgPool2d(3, 3, 1, ceil_mode=True, count_include_pad=False)),
    "padding counts, what hangs over does not": ((1, 4, 11, 11), nn.AvgPool2d(5, 4, 2, ceil_mode=True)),
    "unlike axes": ((1, 4, 8, 11), nn.AvgPool2d((3, 5), (2, 5), (1, 0), ceil_mode=True, count_include_pad=False)),
    "several at an end": ((1, 4, 12, 12), nn.AvgPool2d(7, 2, 3, count_include_pad=False)),
    "one axis": ((1, 4, 11), nn.AvgPool1d(5, 5, ceil_mode=True)),
    "three axes": ((1, 2, 7, 6, 11), nn.AvgPool3d(5, 5, ceil_mode=True)),
}


@pytest.mark.parametrize(("name", "scheme"), diagonal([*_PARTIAL], ["int8", "int16x8"]))
def test_integer_averages_of_partial_windows_are_rounded_once(tflite: Any, name: str, scheme: str) -> None:
    shape, pool = _PARTIAL[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    graph = tflite.quantized(nn.Sequential(nn.ReLU(), pool), x, scheme)
    emitted = tflite.in_integers(graph, "int8" if scheme == "int8" else "int16")
    expected = next(iter(evaluate(graph, {"input0": x}, keep=[graph.graph.outputs[0].name or ""]).values()))
    for resolver in ("xnnpack", "reference"):
        (actual,) = tflite.run(emitted, [x], resolver).outputs
        steps = np.abs(actual - expected) / emitted.outputs[0].scale
        assert steps.max() < (1.01 if len(shape) < 5 else 2.01), "rounded once; a volume's twice"
