"""The logic of bits with numbers and with tensors, beside shifts, of every integer type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from crossed import diagonal
from right_in_both import Of
from torch import Tensor

import edgeconv
from edgeconv.capture import NOTE, capture

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swapped halves": lambda a: ((a & 0x0F) | (a << 4)) ^ 0x55,
    "a negative number": lambda a: a ^ -1,
    "the number first": lambda a: torch.bitwise_and(0x35, a) | torch.bitwise_xor(3, a >> 1),
    "masks and booleans": lambda a: ((a < 4) ^ True) | False,
    "masks and numbers": lambda a: (a < 4) & 3,
}


@pytest.mark.parametrize(("name", "dtype"), diagonal([*FUNCTIONS], [torch.uint8, torch.int8, torch.int32, torch.int64]))
def test_bits_are_those_of_torch(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    module, a = Of(FUNCTIONS[name]), torch.arange(-128, 128).reshape(1, 256).to(dtype)
    model = capture(module, (a,), input_names=["a"], output_names=["y"])
    assert model.metadata_props[NOTE] == "fast", "torch's own exporter states another type than it gives"
    result = edgeconv.export(module, (a,), tmp_path, name="n", formats="onnx", devices="onnxruntime")
    session = onnxruntime.InferenceSession(result.artifacts[0].path.read_bytes())
    (y,) = session.run(None, {session.get_inputs()[0].name: a.numpy()})
    expected = module(a).numpy()
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)
