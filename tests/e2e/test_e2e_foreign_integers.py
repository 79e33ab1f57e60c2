"""Files of integers that another tool wrote: every operator of theirs is judged, and one wrong number in them is found.

ONNX Runtime's own quantizer writes them, as QOperator and as QDQ.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from calibration_noise import Noise
from onnx import numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from reproductions import shown
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.capture import capture
from edgeconv.cli import run
from edgeconv.emit.onnx import to_onnx
from edgeconv.rewrite import optimize

SHAPE = (1, 3, 16, 16)


class Network(nn.Module):
    """What ONNX Runtime has a quantized operator of its own for, or leaves in floats."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.gate = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 1)
        self.activation, self.head = nn.LeakyReLU(0.1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.activation(self.body(x))
        x = functional.max_pool2d(x * self.gate(x).sigmoid(), 2)
        x = functional.avg_pool2d(torch.cat([x, -x], 1), 2)
        y: Tensor = self.head(x.mean((2, 3)))
        return y


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("integers")
    torch.manual_seed(0)
    model = optimize(capture(Network().eval(), (torch.zeros(SHAPE),), input_names=["x"], output_names=["y"]))
    (path / "float.onnx").write_bytes(to_onnx(model, metadata={}).data)
    for name, form, kind, channels in (
        ("u8", QuantFormat.QOperator, QuantType.QUInt8, True),
        ("s8", QuantFormat.QOperator, QuantType.QInt8, False),
        ("qdq", QuantFormat.QDQ, QuantType.QUInt8, True),
    ):
        quantize_static(
            *(str(path / "float.onnx"), str(path / f"{name}.onnx"), Noise("x", SHAPE, seed=1)),
            quant_format=form, activation_type=kind, weight_type=QuantType.QInt8, per_channel=channels,
            reduce_range=True,  # 7 bits: right on processors without VNNI, too, where sums of two products saturate
        )  # fmt: skip
    return path


def _judged(folder: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    options = ["--against", str(folder / "float.onnx"), "--out", str(file.parent / f"{file.stem}-out")]
    code = run(["parity", "--artifact", str(file), *options, "--device", "onnxruntime"])
    capsys.readouterr()
    report: dict[str, Any] = json.loads((file.parent / f"{file.stem}-out" / "parity.json").read_text())
    return code, report


@pytest.mark.parametrize("name", ["u8", "s8", "qdq"])
def test_every_value_of_the_file_is_judged(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = _judged(folder, folder / f"{name}.onnx", capsys)
    assert code == 0
    (artifact,), row = report["artifacts"], report["comparisons"][-1]
    assert {link["link"]: link["verdict"] for link in artifact["links"]} == {"writing": "pass"}
    (running,) = row["links"]
    assert running["verdict"] == "pass"
    assert "could not be judged" not in running["reason"]
    graph = onnx.load(folder / f"{name}.onnx").graph
    quantized = {node.output[0] for node in graph.node if node.op_type[:7] in ("QLinear", "QGemm", "Quantiz")}
    assert quantized <= {layer["name"] for layer in running["layers"]}


def _one_weight(graph: onnx.GraphProto) -> None:
    _changed(graph, lambda array: array.dtype == np.int8 and array.ndim == 4 and array.shape[2] == 3, _two_steps)


def _two_steps(array: np.ndarray) -> None:
    array[2, 1, 0, 2] += 2 if array[2, 1, 0, 2] < 100 else -2


def _one_bias(graph: onnx.GraphProto) -> None:
    _changed(graph, lambda array: array.dtype == np.int32 and array.shape == (8,), _another_bias)


def _another_bias(array: np.ndarray) -> None:
    array[3] += 40


def _changed(
    graph: onnx.GraphProto, matches: Callable[[np.ndarray], bool], change: Callable[[np.ndarray], None]
) -> None:
    item = next(item for item in graph.initializer if matches(numpy_helper.to_array(item)))
    array = numpy_helper.to_array(item).copy()
    change(array)
    item.CopyFrom(numpy_helper.from_array(array, item.name))


def _operand(place: int, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[onnx.GraphProto], None]:
    """One operator reads another number than all others do."""

    def plant(graph: onnx.GraphProto) -> None:
        node = [item for item in graph.node if item.op_type == "QLinearConv"][1]
        right = next(item for item in graph.initializer if item.name == node.input[place])
        graph.initializer.append(numpy_helper.from_array(change(numpy_helper.to_array(right)), "another"))
        node.input[place] = "another"

    return plant


def _window(graph: onnx.GraphProto) -> None:
    """Its padding moves to one side: no constant changes, nor any scale."""
    node = [item for item in graph.node if item.op_type == "QLinearConv"][1]
    pads = next(item for item in node.attribute if item.name == "pads")
    pads.ints[:] = [2, 2, 0, 0]


FAULTS: dict[str, tuple[Callable[[onnx.GraphProto], None], str]] = {
    "weight": (_one_weight, "1 of 216 numbers is not the nearest to the module's; [2, 1, 0, 2] stands for "),
    "bias": (_one_bias, "1 of 8 numbers is not the nearest to the module's; [3] stands for "),
    "scale of an operand": (_operand(1, lambda a: a * np.float32(1.01)), "is written with the scale "),
    "zero point of an operand": (_operand(2, lambda a: a + 1), "is written with the zero point 0, and read with 1"),
    "window": (_window, "Conv body_quantized/Conv is "),
    "scale of a weight": (_operand(4, lambda a: a * np.float32(1.5)), "its scale is 1.5 times what the module's"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_wrong_number_is_found_where_outputs_are_near_enough(
    fault: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, words = FAULTS[fault]
    model = onnx.load(folder / "u8.onnx")
    plant(model.graph)
    onnx.save(model, tmp_path / "wrong.onnx")
    code, report = _judged(folder, tmp_path / "wrong.onnx", capsys)
    assert code == 1
    (link,) = report["artifacts"][0]["links"]
    assert link["verdict"] == "fail"
    assert words in link["reason"]
    assert run(["bisect", str(tmp_path / "wrong-out"), "--recipe", str(folder / "float.onnx"), "-q"]) == 0
    assert shown(tmp_path / "wrong-out" / "bisect" / "wrong.onnx-layer.py") >= 2, "steps, of the layer that reads it"
