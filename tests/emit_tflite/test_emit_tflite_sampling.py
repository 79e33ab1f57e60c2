"""GridSample of images and volumes, in every mode, inside the image and beyond its border, on every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from crossed import diagonal
from torch import nn
from torch.nn import functional

import edgeconv

_BORDERS = ("zeros", "border", "reflection")


def _check(tflite: Any, sizes: tuple[int, ...], places: tuple[int, ...], mode: str, border: str, corners: bool) -> None:
    def sampled(x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        # The grid's numbers are normal: a third of them lies beyond the border, some of them by its whole width.
        return functional.grid_sample(x, grid, mode=mode, padding_mode=border, align_corners=corners)

    # The reference kernels have no ROUND.
    resolvers = ("xnnpack",) if mode == "nearest" else ("xnnpack", "reference")
    tflite.check(tflite.Function(sampled), (2, 3, *sizes), (2, *places, len(sizes)), resolvers=resolvers)


@pytest.mark.parametrize(("border", "corners"), diagonal(_BORDERS, (False, True)))
def test_images_are_sampled_by_cubic_interpolation(tflite: Any, border: str, corners: bool) -> None:
    _check(tflite, (5, 6), (4, 7), "bicubic", border, corners)


@pytest.mark.parametrize(("mode", "border", "corners"), diagonal(("bilinear", "nearest"), _BORDERS, (False, True)))
def test_volumes_are_sampled(tflite: Any, mode: str, border: str, corners: bool) -> None:
    _check(tflite, (4, 5, 6), (3, 4, 5), mode, border, corners)


def test_an_image_of_one_pixel_is_sampled_by_cubic_interpolation(tflite: Any) -> None:
    _check(tflite, (1, 1), (2, 3), "bicubic", "reflection", True)


class _Turning(nn.Module):
    """A spatial transformer: the features choose where they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.angles = nn.Linear(3, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = functional.affine_grid(self.angles(x.mean((2, 3))).view(-1, 2, 3), list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, align_corners=False)


def test_each_image_of_an_open_batch_has_its_own_places(tmp_path: Path) -> None:
    module = _Turning().eval()
    edgeconv.export(module, (torch.randn(1, 3, 5, 6),), tmp_path, name="n", formats="tflite", dynamic_batch=True)
    interpreter = Interpreter(str(tmp_path / "n.fp32.tflite"), num_threads=1)
    x = torch.randn(3, 3, 5, 6)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], (3, 5, 6, 3))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x.permute(0, 2, 3, 1).contiguous().numpy())
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    with torch.no_grad():
        np.testing.assert_allclose(y.transpose(0, 3, 1, 2), module(x).numpy(), atol=1e-5)
