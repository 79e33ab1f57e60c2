"""A file of one input ``x`` and one output ``y``: what onnxruntime makes of it must come out of every form."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

from edgeconv.capture import open_onnx
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.reference import evaluate


def assert_same_everywhere(path: Path, shape: tuple[int, ...]) -> ir.Model:
    """Runs the file, its graph, and both files of that on noise of the shape; returns the graph."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(path.read_bytes()).run(None, {"x": x})
    model = open_onnx(path).graph({"x": shape})
    emitted = to_onnx(model, metadata={})
    assert emitted.outputs[0].shape == expected.shape
    for outputs in (
        evaluate(model, {"x": x})["y"],
        onnxruntime.InferenceSession(emitted.data).run(None, {"x": x})[0],
        _on_litert(model, x),
    ):
        assert outputs.shape == expected.shape
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    return model


def _on_litert(model: ir.Model, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with contextlib.redirect_stderr(io.StringIO()):
        interpreter = Interpreter(model_content=to_tflite(model, layout="nchw", metadata={}).data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
