"""GatherND by places that are known at run time only: what onnxruntime takes, LiteRT takes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

import edgeconv

_TEXT = (
    '<ir_version: 10, opset_import: ["": 18]> g (float[{}] x, int64[{}] i) => (float y) '
    "{{ y = GatherND<batch_dims = {}>(x, i) }}"
)


@pytest.mark.parametrize(
    ("data", "indices", "shared"),
    [
        ("3, 4, 5", "6, 1", 0),
        ("3, 4, 5", "6, 2", 0),
        ("3, 4, 5", "2, 6, 3", 0),
        ("3, 4, 5", "1", 0),
        ("3, 4, 5", "3, 6, 1", 1),
        ("3, 4, 5", "3, 4, 1", 2),
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
