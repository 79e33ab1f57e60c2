"""Pools of torch, whatever their kernel, stride, padding and size, through the file formats against torch."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.errors import CaptureError

Pair = tuple[int, int]
_PAIR = {
    "kernel": st.tuples(st.integers(1, 4), st.integers(1, 4)),
    "stride": st.tuples(st.integers(1, 4), st.integers(1, 4)),
    "padding": st.tuples(st.integers(0, 2), st.integers(0, 2)),
    "size": st.tuples(st.integers(5, 13), st.integers(5, 13)),
}
_FEW = settings(deadline=None, max_examples=20)


def _fits(kernel: Pair, padding: Pair) -> bool:
    return all(2 * pad <= taps for pad, taps in zip(padding, kernel, strict=True))


def _captured(module: nn.Module, x: Tensor, path: str = "auto") -> ir.Model:
    return capture(module, (x,), input_names=["input"], output_names=["output"], path=path)  # type: ignore[arg-type]


def _check(module: nn.Module, size: Pair, path: str = "auto", *, tflite: bool = True) -> ir.Model:
    torch.manual_seed(0)
    x = torch.randn(1, 3, *size)
    model = _captured(module, x, path)
    expected = copy.deepcopy(module).double()(x.double()).numpy()
    session = onnxruntime.InferenceSession(to_onnx(model, metadata={}).data, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": x.numpy()})
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    if tflite:
        got = _on_litert(model, x)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    return model


def _on_litert(model: ir.Model, x: Tensor) -> np.ndarray:
    emitted = to_tflite(model, layout="nhwc", metadata={})
    with contextlib.redirect_stderr(io.StringIO()):
        interpreter = Interpreter(model_content=emitted.data, num_threads=1)
        interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], emitted.inputs[0].to_file(x.numpy()))
    interpreter.invoke()
    return emitted.outputs[0].from_file(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


@_FEW
@example(kernel=(3, 3), stride=(3, 3), padding=(1, 1), size=(11, 13))
@example(kernel=(3, 2), stride=(2, 3), padding=(1, 1), size=(8, 11))
@example(kernel=(2, 3), stride=(4, 2), padding=(1, 1), size=(7, 8))
@given(**_PAIR)
def test_max_pool_with_ceil_mode(kernel: Pair, stride: Pair, padding: Pair, size: Pair) -> None:
    assume(_fits(kernel, padding))
    _check(nn.MaxPool2d(kernel, stride, padding, ceil_mode=True), size)


@_FEW
@example(kernel=(3, 3), stride=(3, 3), padding=(1, 1), size=(11, 13), counted=True)
@example(kernel=(3, 3), stride=(3, 3), padding=(1, 1), size=(11, 12), counted=True)
@example(kernel=(3, 3), stride=(3, 3), padding=(1, 1), size=(11, 12), counted=False)
@given(**_PAIR, counted=st.booleans())
def test_average_pool_with_ceil_mode(kernel: Pair, stride: Pair, padding: Pair, size: Pair, counted: bool) -> None:
    assume(_fits(kernel, padding))
    _check(nn.AvgPool2d(kernel, stride, padding, ceil_mode=True, count_include_pad=counted), size)


@_FEW
@example(kernel=(2, 3), stride=(2, 4), padding=(1, 0), size=(5, 6), dilation=(1, 2))
@given(**_PAIR, dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_dilated_max_pool_with_ceil_mode(kernel: Pair, stride: Pair, padding: Pair, size: Pair, dilation: Pair) -> None:
    assume(_fits(kernel, padding))
    spans = [d * (taps - 1) + 1 for d, taps in zip(dilation, kernel, strict=True)]
    assume(all(span <= length + 2 * pad for span, length, pad in zip(spans, size, padding, strict=True)))
    _check(nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=True), size, tflite=dilation == (1, 1))


@pytest.mark.parametrize("path", ["fast", "official"])
@pytest.mark.parametrize("counted", [True, False])
def test_both_paths_leave_out_the_window_that_torch_leaves_out(path: str, counted: bool) -> None:
    one_axis = _check(nn.AvgPool2d(3, 3, 1, ceil_mode=True, count_include_pad=counted), (11, 12), path)
    assert [node.op_type for node in one_axis.graph] == ["AveragePool"]
    both_axes = _check(nn.MaxPool2d(3, 3, 1, ceil_mode=True), (11, 11), path)
    (pool,) = both_axes.graph
    assert pool.attributes.get_int("ceil_mode", 0) == 0
    assert pool.attributes.get_ints("pads") == (1, 1, 1, 1)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("size", [(11, 13), (8, 11)])
def test_a_divisor_of_its_own(size: Pair, ceil: bool) -> None:
    _check(nn.AvgPool2d(3, 2, 1, ceil_mode=ceil, divisor_override=5), size)


def test_the_official_exporter_would_drop_the_divisor() -> None:
    module = nn.Sequential(nn.ReLU(), nn.AvgPool2d(3, 2, 1, divisor_override=5))
    with pytest.raises(CaptureError, match=r"^1: avg_pool2d with divisor_override=5 has no ONNX form"):
        _captured(module, torch.randn(1, 3, 8, 8), "official")
