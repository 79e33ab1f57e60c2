"""Clip as onnxruntime computes it, on every runtime, also where a bound is computed.

Members: a lower bound, an upper one, both, each computed or constant or left out; bounds that cross; float32, int8,
uint8, int32 and int64, at the ends of the type; a quantized graph; torch's clamp by tensors.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from crossed import slow_but
from onnx import TensorProto, helper, numpy_helper

import edgeconv
from edgeconv.capture import open_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.rewrite import optimize

_KINDS = (np.float32, np.int8, np.uint8, np.int32, np.int64)


def _clipped(path: Path, kind: Any, low: str, high: str, numbers: tuple[int, int]) -> Path:
    """One Clip whose bounds are "computed", "constant" or "none", in a file."""
    constants = {"c0": np.array(numbers[0], kind), "c1": np.array(numbers[1], kind), "ends": np.array([0])}
    nodes = [helper.make_node("ReduceMin", ["b"], ["least"], keepdims=0)]
    names = []
    for index, how in enumerate((low, high)):
        names.append({"none": "", "constant": f"c{index}", "computed": f"m{index}"}[how])
        if how == "computed":
            nodes.append(helper.make_node("Max", ["least", f"c{index}"], [f"m{index}"]))
    while names and not names[-1]:
        names.pop()
    nodes.append(helper.make_node("Clip", ["x", *names], ["y"]))
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    inputs = [helper.make_tensor_value_info("x", code, (1, 2, 3, 4)), helper.make_tensor_value_info("b", code, (3,))]
    result = helper.make_tensor_value_info("y", code, (1, 2, 3, 4))
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, [result], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("kind", slow_but([np.float32, np.int8, np.int64], _KINDS))
def test_bounds_of_every_kind(tflite: Any, old_runtime: Any, tmp_path: Path, kind: Any) -> None:
    low_end = 0 if np.dtype(kind).kind == "f" else int(np.iinfo(kind).min)
    high_end = 6 if np.dtype(kind).kind == "f" else int(np.iinfo(kind).max)
    x = np.random.default_rng(0).integers(0, 100, (1, 2, 3, 4)).astype(kind)
    inputs = {"x": x, "b": np.array([2, 3, 5], kind)}
    ways = itertools.product(("none", "constant", "computed"), repeat=2)
    for (low, high), numbers in itertools.product(ways, [(10, 60), (60, 10), (low_end, high_end)]):
        path = _clipped(tmp_path / "m.onnx", kind, low, high, numbers)
        (expected,) = onnxruntime.InferenceSession(path.read_bytes()).run(None, inputs)
        model = optimize(open_onnx(path).graph({name: array.shape for name, array in inputs.items()}))
        emitted = to_tflite(model, layout="nchw", metadata={})
        arrays = [inputs[spec.name] for spec in emitted.inputs]
        runs = [tflite.run(emitted, arrays, resolver).outputs for resolver in ("xnnpack", "reference")]
        for (actual,) in (*runs, old_runtime(emitted, arrays)):
            np.testing.assert_array_equal(actual, expected, err_msg=f"{low} {high} {numbers}")


def test_a_clamp_by_tensors(tflite: Any) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(x, x.mean(), x.amax() * 0.5) + torch.clamp(x, min=x.mean((2, 3), keepdim=True))

    tflite.check(tflite.Function(forward), (1, 2, 3, 4))


def test_a_quantized_graph(tmp_path: Path) -> None:
    """The bound of a quantized network stays float, or is rounded like every activation."""
    generator = np.random.default_rng(0)
    weight = numpy_helper.from_array(generator.standard_normal((4, 3, 3, 3)).astype(np.float32) / 5, "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["lo"], keepdims=0),
        helper.make_node("Clip", ["c", "lo"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 6, 6))
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    samples = [{"x": generator.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
    quantization = edgeconv.Quantization(batches=lambda: samples)
    result = edgeconv.export_onnx(
        tmp_path / "m.onnx", tmp_path / "out", name="m", variants="int8", quantization=quantization,
        devices=("onnxruntime", "litert", "litert-reference"),
    )  # fmt: skip
    assert result.report is not None
    rows = [(row.artifact, row.device, row.verdict, row.metrics) for row in result.report.comparisons]
    assert all(str(verdict) == "pass" for _, _, verdict, _ in rows), rows
