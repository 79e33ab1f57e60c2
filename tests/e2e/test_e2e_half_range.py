"""A file of half precision whose values leave float16's range is told of, though no CPU row can fail it.

Members thought of: a large input, a large value inside, a constant too large (stays float32), a logarithm of zero (its
infinity is torch's own), a value that the float32 region holds, a sample of another variant, both formats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgeconv
from edgeconv.core import Sample


class _Scaled(nn.Module):
    """Ten, times a factor twice."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.relu(x + 10) * self.factor * self.factor)


class _Logarithm(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.log(torch.relu(x)), torch.softmax(x.masked_fill(x > 0, -1e9), 1)


def _notes(module: nn.Module, folder: Path, *samples: Sample, size: float = 1.0) -> list[str]:
    example = torch.full((1, 3, 4, 4), size)
    exported = edgeconv.export(
        module.eval(),
        (example,),
        folder,
        name="net",
        variants="fp16",
        tflite_layout=("nhwc", "nchw"),
        devices=["onnxruntime"],
        samples=samples,
    )
    return [note for note in exported.notes if "float16 ends" in note]


def test_a_value_beyond_float16_is_told_for_each_file_with_its_size(tmp_path: Path) -> None:
    notes = _notes(_Scaled(300.0), tmp_path)
    names = ["net.fp16.onnx", "net.fp16.tflite", "net.fp16.nchw.tflite"]
    assert sorted(note.partition(":")[0] for note in notes) == sorted(names)
    assert all("reaches 9.9e+05 on the parity input" in note for note in notes)


def test_an_input_beyond_float16_is_told_by_its_name(tmp_path: Path) -> None:
    notes = _notes(nn.Conv2d(3, 4, 3), tmp_path, size=1e6)
    assert notes
    assert all("'input' reaches 1e+06" in note for note in notes)


@pytest.mark.parametrize("module", [_Scaled(1.0), _Logarithm(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid())])
def test_values_within_float16_and_infinities_of_the_module_are_not_told(module: nn.Module, tmp_path: Path) -> None:
    assert _notes(module, tmp_path) == []


def test_only_samples_that_the_variant_is_judged_on_count(tmp_path: Path) -> None:
    small, large = (np.full((1, 3, 4, 4), size, np.float32) for size in (1.0, 1e6))
    other = Sample("large", {"x": large}, variants=("fp32",))
    assert _notes(_Scaled(1.0), tmp_path, Sample("small", {"x": small}), other) == []
    assert len(_notes(_Scaled(1.0), tmp_path, Sample("small", {"x": small}), Sample("large", {"x": large}))) == 3
