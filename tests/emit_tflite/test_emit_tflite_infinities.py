"""Infinite elements that a network means to hold come out of a TFLite file as they are, and not as NaN.

Members thought of: -inf of a mask (`masked_fill`, `where`), the logarithm of zero; behind them strided slices, and
factors and summands per channel, which are convolutions of finite values.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

import edgeconv

_X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
_FACTORS = torch.arange(1.0, 5).reshape(1, 4, 1, 1)


class _Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "slice of a mask": lambda x: x.masked_fill(x < 0, -torch.inf)[:, :, ::2, 1::2],
    "slice of a choice": lambda x: (torch.where(x < 0, torch.inf, x) * 2).relu()[:, :, 1::2, ::2],
    "slice of logarithms": lambda x: x.abs().round().log()[:, :, ::2, ::2],
    "affine": lambda x: x.masked_fill(x < 0, -torch.inf) * _FACTORS + _FACTORS,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_infinities_stay_through_every_function(name: str, tmp_path: Path) -> None:
    module = _Of(FUNCTIONS[name])
    artifact = edgeconv.export(module, (_X,), tmp_path, name="net", formats=("tflite",)).artifacts[0]
    run = Interpreter(model_content=artifact.path.read_bytes()).get_signature_runner()
    (input_spec,), (output_spec,) = artifact.inputs, artifact.outputs
    output = output_spec.from_file(run(**{input_spec.name: input_spec.to_file(_X.numpy())})[output_spec.name])
    assert np.isinf(output).any()
    np.testing.assert_allclose(output, module(_X).numpy(), rtol=1e-6)
