"""ReverseSequence of files: constant and computed lengths, both orders of the axes, number types, an open batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from crossed import diagonal
from onnx import helper, numpy_helper

import edgeconv
from edgeconv.capture import open_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.rewrite import optimize

LENGTHS = np.array([4, 1, 0], np.int64)
KINDS = (np.float32, np.int8, np.uint8, np.int16, np.int32, np.int64, np.bool_)


def _file(path: Path, x: Any, batch_axis: int, *, constant: bool, batch: int | str = 3) -> Path:
    shape = [batch if axis == batch_axis else size for axis, size in enumerate(x.shape)]
    inputs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), shape)]
    inputs += [] if constant else [helper.make_tensor_value_info("lengths", onnx.TensorProto.INT64, [batch])]
    stored = [numpy_helper.from_array(LENGTHS, "lengths")] if constant else []
    axes = {"batch_axis": batch_axis, "time_axis": 1 - batch_axis}
    node = helper.make_node("ReverseSequence", ["x", "lengths"], ["y"], **axes)
    y = helper.make_tensor_value_info("y", inputs[0].type.tensor_type.elem_type, shape)
    graph = helper.make_graph([node], "turned", inputs, [y], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("kind", "constant", "rest"),
    diagonal(KINDS, [True, False], [((),), ((2, 5),), ((2, 1, 2, 2),), ((2, 1, 2, 2, 2, 2),)]),
)
def test_the_first_elements_of_each_row_are_turned(
    kind: Any, constant: bool, rest: tuple[int, ...], tmp_path: Path, tflite: Any, old_runtime: Any
) -> None:
    for batch_axis in (0, 1):
        sizes = (3, 4, *rest) if batch_axis == 0 else (4, 3, *rest)
        x = np.random.default_rng(0).integers(0, 100, sizes).astype(kind)
        feeds = {"x": x} if constant else {"x": x, "lengths": LENGTHS}
        path = _file(tmp_path / "turned.onnx", x, batch_axis, constant=constant)
        model = optimize(open_onnx(path).graph({name: array.shape for name, array in feeds.items()}))
        for layout in ("nhwc", "nchw"):
            emitted = to_tflite(model, layout=layout, metadata={})
            arrays = list(feeds.values())
            runs = [tflite.run(emitted, arrays, name).outputs[0] for name in ("xnnpack", "reference")]
            for computed in (*runs, old_runtime(emitted, arrays)[0]):
                np.testing.assert_array_equal(computed, _turned(x, batch_axis))


def _turned(x: Any, batch_axis: int) -> Any:
    rows = np.moveaxis(x, batch_axis, 0).copy()
    for row, length in zip(rows, LENGTHS, strict=True):
        row[:length] = row[:length][::-1].copy()
    return np.moveaxis(rows, 0, batch_axis)


def test_the_batch_stays_open_where_the_lengths_carry_it(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 2)).astype(np.float32)
    path = _file(tmp_path / "turned.onnx", x, 0, constant=False, batch="n")
    samples = [edgeconv.Sample(f"of-{size}", {"x": x[:size], "lengths": LENGTHS[:size]}) for size in (1, 2, 3)]
    devices = ("onnxruntime", "litert")
    result = edgeconv.export_onnx(path, tmp_path / "out", name="turned", samples=samples, devices=devices)
    assert result.report.verdict == "pass"
    assert all(artifact.inputs[0].shape[0] == "n" for artifact in result.artifacts)
    computed = onnxruntime.InferenceSession(result.artifacts[0].path).run(None, {"x": x, "lengths": LENGTHS})
    np.testing.assert_array_equal(computed[0], _turned(x, 0))


def test_a_batch_that_constant_lengths_fix_is_refused(tmp_path: Path) -> None:
    x = np.zeros((3, 4, 2), np.float32)
    path = _file(tmp_path / "turned.onnx", x, 0, constant=True, batch="n")
    with pytest.raises(edgeconv.EdgeconvError, match="ReverseSequence"):
        edgeconv.export_onnx(path, tmp_path / "out", name="turned", shapes={"x": ("n", 4, 2)}, formats="onnx")
