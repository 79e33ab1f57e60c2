"""What an integer kernel may be off beside one rounding: never less than its arithmetic makes of the worst operands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

import edgeconv
from edgeconv.core import Array, Sample
from edgeconv.graph.resize_kernels import linear_weights
from edgeconv.parity import KernelSite, allowance


def _resize(before: tuple[int, int], after: tuple[int, int]) -> KernelSite:
    x = ir.val("x", shape=ir.Shape([1, 8, *before]), dtype=ir.DataType.FLOAT)
    node = ir.node("Resize", [x], {"mode": "linear", "coordinate_transformation_mode": "align_corners"})
    node.outputs[0].shape = ir.Shape([1, 8, *after])
    return KernelSite(node, 1e-4, 1e-4, "int16")


def _rounded(matrix: Array) -> Array:
    return np.round(matrix * 32767) / 32767  # the corners' weights are 1


@pytest.mark.parametrize(("before", "after"), [((12, 12), (30, 29)), ((5, 7), (31, 44)), ((20, 9), (13, 25))])
def test_two_products_by_16_bit_matrices_are_within_what_a_resize_may_be_off(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    """Of 34,176 integers of a network one was two steps off on LiteRT's reference kernels, and one step was allowed."""
    rows, columns = (linear_weights(*sizes, align=True, half=False) for sizes in zip(before, after, strict=True))
    rng, most = np.random.default_rng(0), 0
    for row, stored_row in zip(rows, _rounded(rows), strict=True):
        for column, stored_column in zip(columns, _rounded(columns), strict=True):
            # The largest integers, each with the sign that makes the weights' roundings add up; near ties as well.
            signs = np.sign(np.outer(stored_row, stored_column) - np.outer(row, column))
            image = signs * np.maximum(32767 - rng.integers(0, 64, (16, *before)), 0)
            between = np.round(np.einsum("h,nhw->nw", stored_row, image))
            computed = np.round(between @ stored_column)
            expected = np.round(np.einsum("h,nhw,w->n", row, image, column))
            most = max(most, int(np.abs(computed - expected).max()))
    allowed, why = allowance(_resize(before, after))
    assert 1 < most <= allowed <= most + 1
    assert "product of matrices" in why


class _Exponential(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x)


@pytest.mark.parametrize("reach", [0.05, 0.1, 0.3, 2.0])
def test_an_exponential_of_16_bits_is_within_what_its_table_may_be_off(reach: float, tmp_path: Path) -> None:
    """Small arguments were two steps off on LiteRT's reference kernels, and one was allowed."""
    numbers = np.random.default_rng(0).uniform(-reach, reach, (1, 256, 128)).astype(np.float32)
    numbers[0, 0, :2] = -reach, reach
    quantization = edgeconv.Quantization(lambda: [{"x": numbers}])
    (row,) = edgeconv.export(
        _Exponential(), (torch.zeros(numbers.shape),), tmp_path, name="exp", formats="tflite", input_names=["x"],
        variants="int16x8", quantization=quantization, devices="litert-reference",
        samples=[Sample("numbers", {"x": numbers})],
    ).report.comparisons  # fmt: skip
    (layer,) = [layer for layer in row.layers if "Exp" in layer.operators]
    allowed, why = allowance(KernelSite(ir.node("Exp", [ir.val("x")]), reach / 32767, 1.0, "int16"))
    assert 1 < layer.largest <= allowed <= layer.largest + 1
    assert "straight lines" in why
