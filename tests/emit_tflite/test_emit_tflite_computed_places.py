"""Elements and rows at places that are known at run time only: what onnxruntime takes, LiteRT takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter

import edgeconv

_TEXT = (
    '<ir_version: 10, opset_import: ["": 18]> g (float[{}] x, int64[{}] i) => (float y) '
    "{{ y = GatherND<batch_dims = {}>(x, i) }}"
)


@pytest.mark.parametrize(
    ("data", "indices", "shared"),
    [
        ("3, 4, 5", "6, 1", 0),
        pytest.param("3, 4, 5", "6, 2", 0, marks=pytest.mark.slow),
        ("3, 4, 5", "2, 6, 3", 0),
        pytest.param("3, 4, 5", "1", 0, marks=pytest.mark.slow),
        ("3, 4, 5", "3, 6, 1", 1),
        pytest.param("3, 4, 5", "3, 4, 1", 2, marks=pytest.mark.slow),
        ("2, 3, 4, 5", "2, 3, 7, 2", 2),
    ],
)
def test_rows_of_a_file(data: str, indices: str, shared: int, tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(_TEXT.format(data, indices, shared)))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "m.onnx")
    devices = ("onnxruntime", "litert")
    result = edgeconv.export_onnx(tmp_path / "m.onnx", tmp_path / "out", name="m", devices=devices)
    assert result.report is not None
    assert result.report.verdict.value == "pass"


class _Rows(torch.nn.Module):
    def forward(self, x: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[i, j], x[i]


def test_rows_of_a_module_count_from_the_end_too(tmp_path: Path) -> None:
    arguments = (torch.randn(4, 5, 3), torch.tensor([0, -1, -4, 3]), torch.tensor([4, -5, 0, -1]))
    devices = ("onnxruntime", "litert", "litert-reference")
    result = edgeconv.export(_Rows().eval(), arguments, tmp_path, name="m", devices=devices)
    assert result.report is not None
    assert result.report.verdict.value == "pass"


class _Boxes(torch.nn.Module):
    """The best boxes of each image."""

    def forward(self, scores: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        best = scores.topk(3, 1)[1]
        return boxes.gather(1, best[..., None].expand(-1, -1, 4))


def test_elements_of_each_image_of_an_open_batch(tmp_path: Path) -> None:
    arguments = (torch.randn(1, 9), torch.randn(1, 9, 4))
    edgeconv.export(_Boxes().eval(), arguments, tmp_path, name="m", formats="tflite", dynamic_batch=True)
    interpreter = Interpreter(str(tmp_path / "m.fp32.tflite"), num_threads=1)
    images = [np.random.default_rng(0).normal(size=(5, *x.shape[1:])).astype(np.float32) for x in arguments]
    details = sorted(interpreter.get_input_details(), key=lambda item: len(item["shape"]))
    for detail, image in zip(details, images, strict=True):
        interpreter.resize_tensor_input(detail["index"], image.shape)
    interpreter.allocate_tensors()
    for detail, image in zip(details, images, strict=True):
        interpreter.set_tensor(detail["index"], image)
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_array_equal(y, _Boxes()(*map(torch.from_numpy, images)).numpy())
