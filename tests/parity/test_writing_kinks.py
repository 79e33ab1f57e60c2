"""Link 3: a clamp that a file has and its graph has not is told, wherever it bends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper
from test_writing import emitted, judged, quantized
from torch import nn
from writing_faults import _packed, _read

from edgeconv.core.verdicts import Verdict


class Summed(nn.Module):
    """Integers, then two layers that int8 leaves in floats."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(torch.cumsum(self.layer(x), 3), 2)


def _clamped_tflite(data: bytes, name: str, limit: float) -> bytes:
    """All readers of a tensor read its MINIMUM with a limit."""
    model = _read(data)
    graph = model.subgraphs[0]
    source = next(at for at, tensor in enumerate(graph.tensors) if tensor.name == name.encode())
    buffer, code, operator = schema.BufferT(), schema.OperatorCodeT(), schema.OperatorT()
    buffer.data = np.frombuffer(np.array([limit], np.float32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    for added, shape, at in (("limit", [1], len(model.buffers) - 1), ("clamped", graph.tensors[source].shape, 0)):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = added.encode(), shape, 0, at
        graph.tensors.append(tensor)
    for item in graph.operators:
        item.inputs = [len(graph.tensors) - 1 if at == source else at for at in item.inputs]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MINIMUM
    model.operatorCodes.append(code)
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = [source, len(graph.tensors) - 2], [len(graph.tensors) - 1]
    operator.builtinOptionsType = schema.BuiltinOptions.MaximumMinimumOptions
    operator.builtinOptions = schema.MaximumMinimumOptionsT()
    maker = next(at for at, item in enumerate(graph.operators) if source in item.outputs)
    graph.operators.insert(maker + 1, operator)
    return _packed(model)


def _clamped_onnx(data: bytes, name: str, limit: float) -> bytes:
    """The same of an ``.onnx`` file, with a Min."""
    model = onnx.load_model_from_string(data)
    for node in model.graph.node:
        node.input[:] = ["clamped" if read == name else read for read in node.input]
    maker = next(at for at, node in enumerate(model.graph.node) if name in node.output)
    model.graph.node.insert(maker + 1, onnx.helper.make_node("Min", [name, "limit"], ["clamped"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(limit, np.float32), "limit"))
    return model.SerializeToString()


@pytest.mark.parametrize("variant", ["fp32", "int8"])
@pytest.mark.parametrize(("format_", "clamped"), [("tflite", _clamped_tflite), ("onnx", _clamped_onnx)])
def test_a_clamp_between_floats_is_told_however_far_it_is(
    variant: str, format_: str, clamped: Callable[[bytes, str, float], bytes], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made, inputs = quantized(Summed().eval(), torch.randn(1, 3, 8, 8), variant)
    contents = emitted(made, format_)
    path = tmp_path / f"m.{format_}"
    assert judged(made, inputs, contents, contents.data, path).verdict is Verdict.PASS
    for limit in (4.0, 5e3, 1e6, -4.0, -5e3):
        link = judged(made, inputs, contents, clamped(contents.data, "cumsum", limit), path)
        assert link.verdict is Verdict.FAIL, limit
        assert link.where == "y", link.reason


class Picked(nn.Module):
    """The largest of each map, whose numbers lie on both sides of zero: it is above zero on all usual inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.amax(self.first(x), (2, 3), keepdim=True))


@pytest.mark.parametrize("variant", ["fp32", "int8", "int16x8"])
def test_a_clamp_at_zero_behind_the_largest_of_many_is_told(variant: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made, inputs = quantized(Picked().eval(), torch.randn(1, 3, 12, 12), variant)
    contents, path = emitted(made, "tflite"), tmp_path / "net.tflite"
    right = judged(made, inputs, contents, contents.data, path)
    assert right.verdict is Verdict.PASS, right.reason
    model = _read(contents.data)
    codes = {schema.BuiltinOperator.MAX_POOL_2D, schema.BuiltinOperator.REDUCE_MAX}
    (pool,) = [
        item for item in model.subgraphs[0].operators if model.operatorCodes[item.opcodeIndex].builtinCode in codes
    ]
    pool.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
    wrong = judged(made, inputs, contents, _packed(model), path)
    assert wrong.verdict is Verdict.FAIL


class Summarized(nn.Module):
    """A sum of exponentials that its largest number keeps small."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.logsumexp(1)


def test_an_overflow_of_the_file_alone_is_told(tmp_path: Path) -> None:
    # In real numbers log(sum(exp(x - m))) + m is one thing for all m: the smallest is as good as the largest.
    made, inputs = quantized(Summarized().eval(), torch.randn(1, 3, 8, 8), "fp32")
    contents = emitted(made, "tflite")
    path = tmp_path / "m.tflite"
    assert judged(made, inputs, contents, contents.data, path).verdict is Verdict.PASS
    model = _read(contents.data)
    code = next(code for code in model.operatorCodes if code.builtinCode == schema.BuiltinOperator.REDUCE_MAX)
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.REDUCE_MIN
    assert judged(made, inputs, contents, _packed(model), path).verdict is Verdict.FAIL
