"""Integers of 8 and 16 bits in ``.onnx``, where onnxruntime has no kernel for them.

Members: clamp, relu, minimum, amax, amin, argmax, pad, pow that wraps (odd, even, beyond what float64 holds), neg, sums
and products in the type itself, tril; of int16, int8 and uint8, which are made inside or come in; a negative bound of
unsigned integers, which wraps in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from crossed import diagonal
from torch import Tensor, nn
from torch.nn import functional

import edgeconv

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(-5, 5),
    "relu": lambda x: x.relu(),
    "minimum": lambda x: torch.minimum(x, x.flip(-1)),
    "amax": lambda x: x.amax(-1),
    "amin": lambda x: x.amin(-1),
    "argmax": lambda x: x.argmax(-1),
    "pad": lambda x: functional.pad(x, (1, 1)),
    "pow": lambda x: x.pow(3),
    "neg": lambda x: -x,
    "sum": lambda x: x.sum(-1, dtype=x.dtype),
    "tril": lambda x: x.tril(),
}


class _Integers(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.function, self.dtype = function, dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x.to(self.dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("power", [2, 3, 5, 8, 13, 40, 63])
def test_powers_of_narrow_integers_wrap_as_in_torch(power: int, dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.tensor([[127, 100, 3, -7, 126, 2], [0, 1, -1, -128, 17, 255]]).to(dtype)
    module = _Integers(lambda x: x.pow(power), dtype)
    result = edgeconv.export(module, (x,), tmp_path, name="m", formats="onnx", input_names=["x"])
    (computed,) = onnxruntime.InferenceSession(result.artifacts[0].path).run(None, {"x": x.numpy()})
    np.testing.assert_array_equal(computed, module(x).numpy())


@pytest.mark.parametrize(
    ("case", "dtype", "inside"),
    diagonal([*_FUNCTIONS], [*product([torch.int16, torch.int8, torch.uint8], [True, False])]),
)
def test_narrow_integers_are_computed(case: str, dtype: torch.dtype, inside: bool, tmp_path: Path) -> None:
    numbers = torch.tensor([[3.0, 7, 2, 0, 9, 100], [50, 1, 8, 90, 0, 6]])
    numbers = numbers if dtype == torch.uint8 else numbers - 40
    module = _Integers(_FUNCTIONS[case], dtype)
    x = numbers if inside else numbers.to(dtype)
    result = edgeconv.export(module, (x,), tmp_path, name="m", formats="onnx", input_names=["x"])
    (computed,) = onnxruntime.InferenceSession(result.artifacts[0].path).run(None, {"x": x.numpy()})
    expected = module(x).numpy()
    assert computed.dtype == expected.dtype
    np.testing.assert_array_equal(computed, expected)
