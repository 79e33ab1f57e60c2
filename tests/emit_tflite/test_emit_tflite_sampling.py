"""GridSample of images and volumes, in every mode, inside the image and beyond its border, on every runtime."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional

_BORDERS = ("zeros", "border", "reflection")
_IMAGES = [("bicubic", border, corners) for border, corners in itertools.product(_BORDERS, (False, True))]
_VOLUMES = [
    (mode, border, corners)
    for mode, border, corners in itertools.product(("bilinear", "nearest"), _BORDERS, (False, True))
]


def _check(tflite: Any, sizes: tuple[int, ...], places: tuple[int, ...], how: tuple[str, str, bool]) -> None:
    mode, border, corners = how

    def sampled(x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        # The grid's numbers are normal: a third of them lies beyond the border, some of them by its whole width.
        return functional.grid_sample(x, grid, mode=mode, padding_mode=border, align_corners=corners)

    # The reference kernels have no ROUND.
    resolvers = ("xnnpack",) if mode == "nearest" else ("xnnpack", "reference")
    tflite.check(tflite.Function(sampled), (2, 3, *sizes), (2, *places, len(sizes)), resolvers=resolvers)


@pytest.mark.parametrize("how", _IMAGES)
def test_images_are_sampled_by_cubic_interpolation(tflite: Any, how: tuple[str, str, bool]) -> None:
    _check(tflite, (5, 6), (4, 7), how)


@pytest.mark.parametrize("how", _VOLUMES)
def test_volumes_are_sampled(tflite: Any, how: tuple[str, str, bool]) -> None:
    _check(tflite, (4, 5, 6), (3, 4, 5), how)


def test_an_image_of_one_pixel_is_sampled_by_cubic_interpolation(tflite: Any) -> None:
    _check(tflite, (1, 1), (2, 3), ("bicubic", "reflection", True))
