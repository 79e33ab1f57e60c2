"""What a RESHAPE makes is never computed in place of what is still to be read, whichever kernels run the file.

Members: the tensor lies in its operand's place (after ADD, SUB, MUL, SOFTMAX) or not; what writes over it is SUB, MUL,
ADD or SOFTMAX; it is read later as it is, in another shape, by a pool; float, int8, int16; six axes; an open batch; the
kernels of XNNPACK, the reference kernels and those of TensorFlow Lite 2.14.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from crossed import diagonal

from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.emit.tflite import to_tflite
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.reference import evaluate
from edgeconv.rewrite.open_batch import free_batch

_Function = Callable[[torch.Tensor], torch.Tensor]
_SHAPE = (2, 4, 8)


def _joined(y: torch.Tensor, *functions: _Function) -> torch.Tensor:
    """Parts that are computed of y in another shape, and then y itself."""
    parts = [function(y).flatten(1) for function in functions]
    return torch.cat([*parts, y.transpose(1, 2).flatten(1)], 1)


_CASES: dict[str, _Function] = {
    "one minus a probability": lambda x: _joined(x.softmax(-1), lambda p: 1 - p.flatten(1)),
    "a product of a product": lambda x: _joined(x.sigmoid() * x, lambda y: y.flatten(1) * 3),
    "a softmax of a sum": lambda x: _joined(x.tanh() + x, lambda y: y.flatten(1).softmax(-1)),
    "a sum of a difference, and a pool": lambda x: _joined(
        x.tanh() - x, lambda y: y.reshape(2, 32) + 1, lambda y: y.amax(-1)
    ),
    "nothing in place before": lambda x: _joined(x.sigmoid(), lambda y: 1 - y.flatten(1)),
}
_SIX_AXES: _Function = lambda x: _joined(x.tanh() + x, lambda y: (2 - y.reshape(2, 2, 2, 2, 2, 2)) * 2)  # noqa: E731


def _samples() -> list[np.ndarray]:
    return [np.random.default_rng(i).standard_normal(_SHAPE).astype(np.float32) for i in range(4)]


def _graph(tflite: Any, function: _Function, variant: str) -> Any:
    graph = tflite.graph_of(tflite.Function(function), torch.zeros(_SHAPE))
    if variant == "fp32":
        return graph
    calibration = calibrate(graph, [{"input0": x} for x in _samples()], options=QuantizationOptions(observer="min-max"))
    return apply(graph, make_plan(graph, calibration, scheme=variant))


@pytest.mark.parametrize(("case", "variant"), diagonal([*_CASES], ["int8", "int16x8", "fp32"]))
def test_no_kernels_write_over_what_is_still_read(tflite: Any, old_runtime: Any, case: str, variant: str) -> None:
    graph = _graph(tflite, _CASES[case], variant)
    emitted, x = to_tflite(graph, metadata={}), _samples()[0]
    expected = evaluate(graph, {"input0": x}, keep=["output"])["output"]
    within = {"fp32": 1e-5, "int8": 0.1, "int16x8": 1e-2}[variant]
    for actual in (
        *(tflite.run(emitted, [x], resolver).outputs for resolver in ("xnnpack", "reference")),
        old_runtime(emitted, [x]),
    ):
        np.testing.assert_allclose(actual[0], expected, atol=within)


def test_nor_in_six_axes(tflite: Any) -> None:
    tflite.check(tflite.Function(_SIX_AXES), _SHAPE)


def test_nor_where_the_batch_is_open(tflite: Any) -> None:
    function = _CASES["a product of a product"]
    graph = free_batch(_graph(tflite, function, "fp32"), inputs=("input0",), symbol="batch")
    emitted, x = to_tflite(graph, metadata={}), np.repeat(_samples()[0], 3, axis=0)
    assert "STRIDED_SLICE" in _operators(emitted.data)
    actual = _resized(emitted.data, x)
    np.testing.assert_allclose(actual, function(torch.from_numpy(x)).numpy(), atol=1e-5)


def _interpreter(data: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    return Interpreter(model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)


def _operators(data: bytes) -> list[str]:
    return [detail["op_name"] for detail in _interpreter(data)._get_ops_details()]


def _resized(data: bytes, x: np.ndarray) -> np.ndarray:
    interpreter = _interpreter(data)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
