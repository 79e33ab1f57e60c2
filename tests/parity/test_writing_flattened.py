"""Link 3 of a classifier behind a flattened map, whose columns a `.tflite` file has in another order: the cause."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_writing import emitted, judged, quantized
from torch import nn
from writing_faults import cut_off_in_tflite

from edgeconv.core.verdicts import Verdict


@pytest.mark.parametrize("variant", ["int8", "fp16"])
def test_weights_behind_a_flattened_map_that_are_cut_off_are_told_so(variant: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 7)).eval()
    made, inputs = quantized(module, torch.randn(1, 3, 8, 8), variant)
    contents, path = emitted(made, "tflite"), tmp_path / "m.tflite"
    assert judged(made, inputs, contents, contents.data, path).verdict is Verdict.PASS
    (wrong,) = (data for _, data, tensor in cut_off_in_tflite(contents.data) if tensor == "3.weight")
    link = judged(made, inputs, contents, wrong, path)
    assert link.verdict is Verdict.FAIL
    assert "cause: the constant 3.weight is rounded towards zero in 7" in link.reason
