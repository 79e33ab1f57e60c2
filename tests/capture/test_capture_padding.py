"""Padding of modules in each mode, and amounts of Pad that crop, or ask for more elements than there are.

Circular padding is slices behind each other: the mode of Pad that says it is missing in opset 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from crossed import diagonal
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.errors import CaptureError


class Circular(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (1, 2, 3, 0), mode="circular")


@pytest.mark.parametrize(
    ("module", "opset", "path"),
    diagonal(
        [*product([Circular(), nn.Conv2d(4, 3, 5, padding=(2, 1), padding_mode="circular")], [18, 19])],
        ["fast", "official"],
    ),
    ids=str,
)
def test_circular_padding_is_slices_and_a_concat(module: nn.Module, path: str, opset: int) -> None:
    x = torch.randn(2, 4, 6, 7)
    model = capture(module, (x,), input_names=["input"], output_names=["output"], opset=opset, path=path)  # type: ignore[arg-type]
    assert {node.op_type for node in model.graph} <= {"Slice", "Concat", "Conv"}
    session = onnxruntime.InferenceSession(to_onnx(model, metadata={}).data, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], expected, rtol=1e-5, atol=1e-5)
    to_tflite(model, metadata={})


class Padded(nn.Module):
    def __init__(self, amounts: Sequence[int], mode: str) -> None:
        super().__init__()
        self.amounts, self.mode = amounts, mode

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, tuple(self.amounts), mode=self.mode)


@pytest.mark.parametrize(
    ("amounts", "mode"),
    diagonal(
        [((3, -2, 2, -3),), ((-2, 1, 1, -1),), ((-1, -1, -2, 1),)],
        ["circular", "reflect", "replicate"],
    ),
    ids=str,
)
def test_modules_crop_and_pad_at_once(amounts: Sequence[int], mode: str, tmp_path: Path) -> None:
    module, x = Padded(amounts, mode), torch.randn(1, 3, 6, 7)
    model = capture(module, (x,), input_names=["input"], output_names=["output"], path="fast")
    assert "Pad" in {node.op_type for node in model.graph}
    result = edgeconv.export(module, (x,), tmp_path, name="net", devices=("onnxruntime", "litert"))
    assert result.report is not None
    assert result.report.verdict == "pass"


def _pad_file(folder: Path, amounts: Sequence[int], mode: str) -> Path:
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", (1, 4)), ("y", None))
    )
    stated = numpy_helper.from_array(np.array([0, amounts[0], 0, amounts[1]]), "amounts")
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Pad", ["r", "amounts"], ["y"], mode=mode)]
    graph = helper.make_graph(nodes, "g", [x], [y], [stated])
    path = folder / "pad.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("amounts", "mode"), diagonal([((-2, 3),), ((2, -2),), ((9, 0),), ((5, 4),), ((-3, 1),)], ["wrap", "edge"]), ids=str
)
def test_pads_of_files_crop_before_they_repeat(mode: str, amounts: Sequence[int], tmp_path: Path) -> None:
    path = _pad_file(tmp_path, amounts, mode)
    result = edgeconv.export_onnx(path, tmp_path / "out", name="net", devices=("onnxruntime", "litert"))
    assert result.report is not None
    assert result.report.verdict == "pass"


@pytest.mark.parametrize(
    ("mode", "amounts", "most"),
    [
        ("reflect", (4, 0), 3),
        ("reflect", (-2, 2), 1),
        ("reflect", (1, -3), 0),
        ("wrap", (1, -4), 0),
        ("edge", (-4, 1), 0),
    ],
)
def test_pads_of_more_elements_than_there_are_are_refused(
    mode: str, amounts: Sequence[int], most: int, tmp_path: Path
) -> None:
    path = _pad_file(tmp_path, amounts, mode)
    with pytest.raises(CaptureError, match=f"node y: Pad takes .* by mode {mode} from axis 1, .*pad by {most} at most"):
        edgeconv.export_onnx(path, tmp_path / "out", name="net")
    assert not (tmp_path / "out").exists()
