"""Convolutions, transposed ones and pools over three axes, and pools with dilations, which TFLite has not.

Members thought of: groups, depthwise, strides, dilations and pads along each axis, kernels of one, an open batch;
output paddings; maxima, averages that count padding or do not, roots of sums, sizes rounded up; dilations beside
strides and pads, along one axis or both, in one dimension.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgeconv

CONVOLUTIONS: dict[str, tuple[nn.Module, int]] = {
    "plain": (nn.Conv3d(2, 4, 3), 2),
    "strides and pads": (nn.Conv3d(2, 4, (3, 2, 1), stride=(2, 1, 3), padding=(1, 0, 0)), 2),
    "groups": (nn.Conv3d(4, 8, 3, groups=2, padding=1, stride=2), 4),
    "depthwise": (nn.Conv3d(4, 4, (2, 3, 3), groups=4, dilation=(2, 1, 2), bias=False), 4),
    "one element": (nn.Conv3d(4, 3, 1), 4),
    "through time": (nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0)), 3),
    "transposed": (nn.ConvTranspose3d(2, 4, 3), 2),
    "transposed, doubled": (nn.ConvTranspose3d(4, 3, 2, stride=2, bias=False), 4),
    "transposed, strides and pads": (
        nn.ConvTranspose3d(2, 4, (3, 2, 3), (2, 1, 3), padding=(1, 0, 1), output_padding=(1, 0, 2)), 2,
    ),
    "transposed, stride above the kernel": (nn.ConvTranspose3d(2, 3, (1, 2, 2), stride=3), 2),
    "transposed, dilated": (nn.ConvTranspose3d(2, 4, 3, stride=(2, 2, 1), dilation=(2, 1, 2), padding=1), 2),
    "transposed, groups": (nn.ConvTranspose3d(4, 6, 3, stride=2, padding=1, groups=2), 4),
    "transposed, depthwise": (nn.ConvTranspose3d(4, 4, (3, 2, 3), stride=(1, 2, 2), groups=4), 4),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_volumes_run_on_every_runtime(tflite: Any, name: str) -> None:
    module, channels = CONVOLUTIONS[name]
    tflite.check(module, (2, channels, 5, 6, 7))


POOLS: dict[str, nn.Module] = {
    "maximum": nn.MaxPool3d((2, 3, 2), stride=(2, 2, 1), padding=(1, 1, 0)),
    "maximum, rounded up": nn.MaxPool3d((2, 3, 2), stride=(2, 2, 3), ceil_mode=True),
    "maximum, dilated": nn.MaxPool3d((2, 3, 2), dilation=(2, 1, 2)),
    "maximum of rows": nn.MaxPool3d((1, 3, 1), stride=(1, 2, 1)),
    "average": nn.AvgPool3d((2, 3, 2), stride=(2, 2, 1), padding=(1, 1, 0)),
    "average, elements alone": nn.AvgPool3d((2, 3, 2), padding=(1, 1, 1), count_include_pad=False),
    "average, rounded up": nn.AvgPool3d((3, 3, 2), stride=(2, 2, 3), padding=(1, 1, 0), ceil_mode=True),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools_of_volumes_run_on_every_runtime(tflite: Any, name: str) -> None:
    tflite.check(POOLS[name], (2, 3, 6, 7, 8))


DILATED: dict[str, nn.Module] = {
    "both axes": nn.MaxPool2d(3, stride=1, dilation=(2, 3)),
    "pads": nn.MaxPool2d(3, stride=1, dilation=(2, 1), padding=1),
    "strides": nn.MaxPool2d(3, stride=2, dilation=2),
    "one axis": nn.MaxPool2d((3, 1), stride=(1, 3), dilation=(2, 1)),
}


@pytest.mark.parametrize("name", DILATED)
def test_dilated_maxima_run_on_every_runtime(tflite: Any, name: str) -> None:
    tflite.check(DILATED[name], (2, 3, 9, 10))


def test_dilated_maximum_of_negative_numbers_is_never_their_padding(tflite: Any) -> None:
    tflite.check(tflite.Function(lambda x: nn.functional.max_pool2d(-x.abs() - 1, 3, 2, 1, 2)), (1, 3, 8, 8))


class _Video(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 8, 3, groups=8, padding=1),
            nn.AvgPool3d((1, 2, 2)), nn.ConvTranspose3d(8, 4, (3, 2, 2), stride=(1, 2, 2)),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean((2, 3, 4))


@pytest.mark.parametrize("batched", [False, True])
def test_a_network_of_volumes_in_every_variant(tmp_path: Path, batched: bool) -> None:
    torch.manual_seed(0)
    module, x = _Video().eval(), torch.randn(2, 3, 6, 8, 8)
    expected = module(x).detach().numpy()
    result = edgeconv.export(
        module, (x,), tmp_path, name="net", formats="tflite", variants=("fp32", "fp16", "int8"), dynamic_batch=batched,
        quantization=edgeconv.Quantization(batches=lambda: [{"x": x.numpy()}]),
    )  # fmt: skip
    from ai_edge_litert.interpreter import Interpreter

    for artifact, nearest in zip(result.artifacts, (1e-5, 1e-2, 0.05), strict=True):
        interpreter = Interpreter(str(artifact.path), num_threads=1)
        stored = artifact.inputs[0].to_file(x.numpy())
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], stored.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], stored)
        interpreter.invoke()
        output = artifact.outputs[0].from_file(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
        np.testing.assert_allclose(output, expected, atol=nearest, err_msg=artifact.variant)
    assert not [note for note in result.notes if "Conv" in note and "float" in note]
