"""Interpolation with aligned corners by a factor: places follow the sizes, not a product that is no size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgeconv.capture import capture
from edgeconv.reference import evaluate


class Interpolated(nn.Module):
    """An image, by a factor."""

    def __init__(self, factor: float | tuple[float, float], mode: str) -> None:
        super().__init__()
        self.factor, self.mode = factor, mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, scale_factor=self.factor, mode=self.mode, align_corners=True)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [0.6, 1.7, (2.0, 0.7), 2.0])
def test_corners_stay_corners_by_any_factor(factor: float | tuple[float, float], mode: str) -> None:
    module, x = Interpolated(factor, mode).eval(), torch.randn(1, 3, 12, 9, dtype=torch.float64)
    model = capture(module, (x.float(),), input_names=["x"], output_names=["y"])
    (y,) = evaluate(model, {"x": x.numpy()}, keep={"y"}).values()
    np.testing.assert_allclose(y, module(x).numpy(), rtol=0, atol=1e-12)
