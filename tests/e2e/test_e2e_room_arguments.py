"""Whatever is passed to the public functions of a room in place of an argument, one line names the argument.

Members thought of: None, classes, text, numbers, lists, tensors, arrays of other kinds, protos and graphs for models,
tensors without data, floats for opsets, bytes for text; in capture, rewrite, quantize, emit, devices, parity, report.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgeconv import devices, quantize, report, rewrite
from edgeconv.capture import capture, open_onnx
from edgeconv.devices import install
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.errors import EdgeconvError
from edgeconv.parity import check, load_golden, metrics
from edgeconv.reference import evaluate
from edgeconv.rewrite.open_batch import free_batch

X = torch.zeros(1, 3, 8, 8)
ONE = np.ones(2, np.float32)
RELU: dict[str, Any] = {"module": nn.ReLU(), "args": (X,), "input_names": ["x"], "output_names": ["y"]}
CAPTURE: list[tuple[str, Any, str]] = [
    ("module", None, "module: it is None, not a torch.nn.Module; pass the module itself"),
    ("module", nn.ReLU, "module: it is the class ReLU, not a torch.nn.Module; pass an instance: ReLU(…)"),
    ("module", "net.onnx", "module: it is a str, not a torch.nn.Module; give the path to edgeconv.export_onnx"),
    ("args", None, "args: it is None, not a tuple; write (x,) for a single input"),
    ("args", X, "args: it is a Tensor, not a tuple; write (x,)"),
    ("args", (3,), "args[0]: it is an int, not a tensor; pass tensors only"),
    ("args", (None,), "args[0]: it is None, not a tensor"),
    ("args", (X.numpy(),), "args[0]: it is an ndarray, not a tensor; pass torch.from_numpy"),
    ("args", (X.to("meta"),), "args[0]: it is a tensor without data (meta, fake); pass torch.zeros(shape)"),
    ("args", (), "1 input name for 0 arguments"),
    ("input_names", None, "0 input names for 1 argument"),
    ("input_names", 3, "input_names: it is an int; give a name, or a list of names"),
    ("input_names", [3], "input_names: it holds an int"),
    ("input_names", "ab c\n", "input_names: 'ab c\\n' has characters that cannot be printed"),
    ("output_names", 3, "output_names: it is an int"),
    ("output_names", ["a", "b"], "2 output names for 1 output tensor"),
    ("opset", 18.0, "opset: it is 18.0; give an integer from 18 to 22"),
    ("opset", "18", "opset: it is '18'; give an integer"),
    ("opset", 17, "opset: it is 17; give an integer from 18 to 22"),
    ("path", None, "there is no path None; choose auto, fast or official"),
]


def _told(call: Callable[[], object], words: str) -> None:
    with pytest.raises(EdgeconvError, match=re.escape(words)) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("argument", "value", "words"), CAPTURE)
def test_arguments_of_capture(argument: str, value: Any, words: str) -> None:
    _told(lambda: capture(**{**RELU, argument: value}), words)


def test_one_name_is_a_name() -> None:
    model = capture(**{**RELU, "input_names": "image", "output_names": "result"}, opset=np.int64(19))  # type: ignore[arg-type]
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["image", "result"]


TAKE_MODELS: dict[str, Callable[[Any], object]] = {
    "optimize": rewrite.optimize,
    "free_batch": lambda model: free_batch(model, inputs=["x"]),
    "evaluate": lambda model: evaluate(model, {}),
    "calibrate": lambda model: quantize.calibrate(model, []),
    "make_plan": lambda model: quantize.make_plan(model, None),
    "apply": lambda model: quantize.apply(model, quantize.Plan("int8")),
    "to_onnx": lambda model: to_onnx(model, metadata={}),
    "to_tflite": lambda model: to_tflite(model, metadata={}),
}
NO_MODELS: list[tuple[Any, str]] = [
    (None, "model: it is None; give an onnx_ir.Model"),
    (b"x", "model: it is bytes; give an onnx_ir.Model"),
    (nn.ReLU(), "model: it is a ReLU; give an onnx_ir.Model"),
    (onnx.ModelProto(), "model: it is a ModelProto; give onnx_ir.from_proto of it"),
    (ir.Graph([], [], nodes=[]), "model: it is a Graph; give the whole model"),
]


@pytest.mark.parametrize(("value", "words"), NO_MODELS, ids=["none", "bytes", "module", "proto", "graph"])
@pytest.mark.parametrize("function", TAKE_MODELS)
def test_what_is_no_graph(function: str, value: Any, words: str) -> None:
    _told(lambda: TAKE_MODELS[function](value), words)


@pytest.mark.parametrize("write", [to_onnx, to_tflite])
def test_what_is_stored_beside_a_graph(write: Callable[..., object]) -> None:
    model = capture(**RELU)
    _told(lambda: write(model, metadata=None), "metadata: it is None; give a dict of texts")
    _told(lambda: write(model, metadata={"a": 3}), "metadata['a']: it is an int; give a dict of texts")
    _told(lambda: write(model, metadata={3: "a"}), "metadata: its key 3 is an int")


@pytest.mark.parametrize("opset", [18.0, "18", True, 12, 25])
def test_opsets_of_files(opset: Any) -> None:
    _told(lambda: to_onnx(capture(**RELU), metadata={}, opset=opset), "give an integer from 13 to 24")


CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: metrics(None, ONE), "a: it is None; give a numpy array of real numbers"),  # type: ignore[arg-type]
    (lambda: metrics(ONE, [1.0, 2.0]), "b: it is a list; give a numpy array"),  # type: ignore[arg-type]
    (lambda: metrics(torch.ones(2), ONE), "a: it is a Tensor; give a numpy array"),  # type: ignore[arg-type]
    (lambda: metrics(ONE, ONE.astype(np.complex64)), "b: it is an array of complex64; give a numpy array of real"),
    (lambda: metrics(np.array(["a", "b"]), ONE), "a: it is an array of <U1"),
    (lambda: metrics(ONE.astype(object), ONE), "a: it is an array of object"),
    (lambda: check(3.0, ONE), "a: it is a float"),  # type: ignore[arg-type]
    (lambda: check(ONE, None), "b: it is None"),  # type: ignore[arg-type]
    (lambda: load_golden(None), "path: it is None; give the path of a golden file"),  # type: ignore[arg-type]
    (lambda: report.from_json(None), "text: it is None; give the text of a parity.json"),  # type: ignore[arg-type]
    (lambda: report.from_json(b"{}"), "text: it is bytes; give the text of a parity.json"),  # type: ignore[arg-type]
    (lambda: report.from_json(Path("parity.json")), "text: it is a PosixPath"),  # type: ignore[arg-type]
    (lambda: quantize.Plan.from_json(None), "plan: it is None; give the text of a plan"),  # type: ignore[arg-type]
    (lambda: quantize.Plan.from_json(b"{}"), "plan: it is bytes; give the text of a plan"),  # type: ignore[arg-type]
    (lambda: quantize.Plan.from_json({}), "plan: it is a dict; give the text"),  # type: ignore[arg-type]
    (lambda: install([]), "there is nothing to install for []; installable: "),  # type: ignore[arg-type]
    (lambda: install(None), "there is nothing to install for None; installable: "),  # type: ignore[arg-type]
    (lambda: devices.find([]), "unknown device []"),  # type: ignore[arg-type]
    (lambda: open_onnx(3), "path: it is an int; give the path of an .onnx file"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("at", range(len(CALLS)))
def test_wrong_arguments_are_refused_in_one_line(at: int) -> None:
    _told(*CALLS[at])


@pytest.mark.parametrize("write", ["to_json", "to_html", "to_junit"])
@pytest.mark.parametrize("value", [None, "{}", {}, report.Report])
def test_what_is_no_report(write: str, value: Any) -> None:
    _told(lambda: getattr(report, write)(value), "give the report of an export, or what from_json makes of")


def test_the_arrays_that_are_measured() -> None:
    assert metrics(np.float32(1), np.float64(1)).max_abs == 0
    assert metrics(np.ones(2, bool), np.ones(2, np.int64)).max_abs == 0
