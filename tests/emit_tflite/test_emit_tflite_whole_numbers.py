"""Integers of torch are computed as torch computes them, up to the ends of their types, on every runtime.

Members: quotients (down, towards zero, by constants, computed and negative divisors), remainders of both signs, powers,
shifts by constant and computed numbers and beyond the type, bits with a constant, products of matrices and linear
layers, sorts, magnitudes, places of extremes, ends; of uint8, int8, int16, int32 and int64; an int64 input whose
numbers a user chooses beyond 2³¹; quotients behind float16 weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from crossed import slow_but
from torch.nn import functional

import edgeconv
from edgeconv.emit.tflite import to_tflite

_KINDS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_Results = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


def _quotients(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
    positive = (x // 3, x // d, torch.div(x, d, rounding_mode="trunc"), x % d, torch.fmod(x, d), x // 100)
    if x.dtype is torch.uint8:
        return positive
    return (*positive, x // -7, x // -d, x % -7, torch.fmod(x, -d), torch.div(x, -5, rounding_mode="trunc"))


def _shifts(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
    bits = torch.iinfo(x.dtype).bits
    constant = [shifted for by in (0, 3, bits - 2, bits - 1, bits, bits + 1) for shifted in (x << by, x >> by)]
    return (*constant, x << d, x >> d, 1 << d, torch.bitwise_right_shift(x, 2))


def _bits(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
    most = torch.iinfo(x.dtype).max
    plain = (x & 1, x & 0x5A, x | 0x5A, x ^ 0x5A, x & most, x | most, x & 0, ~x)
    return plain if x.dtype is torch.uint8 else (*plain, x & -8, x ^ -1, x | (-most - 1))


def _products(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (
        x @ d.T,
        functional.linear(x, d),
        functional.linear(x, d, d[0, :5]),
        torch.einsum("ij,kj->ik", x, d),
        x @ d[0],
    )


def _orders(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
    smallest = x.topk(3, largest=False)[0]
    return x.sort(1)[0], smallest, x.abs(), x.sign(), *torch.aminmax(x, dim=1)


def _places(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return x.argmax(1), x.argmin(1), x.argmax(), x.argmax(1, keepdim=True) // 2


def _powers(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
    small = x % 13 - 6
    return x**2, x**5, small ** (d % 11), 2 ** (d % 31), (x % 3 - 1) ** (d % 100)


_WHOLE = {"quotients": _quotients, "shifts": _shifts, "bits": _bits, "products": _products, "orders": _orders}
_CASES = [(name, kind) for name in _WHOLE for kind in _KINDS]
_CASES += [(name, kind) for name in ("places", "powers") for kind in (torch.int32, torch.int64)]
_FAST = [(name, kind) for name, kind in _CASES if kind in (torch.uint8, torch.int64)]
_FAST += [("quotients", torch.int8), ("quotients", torch.int32)]


def _numbers(kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Of all sizes, with both ends of the type; and what they are divided, shifted and raised by."""
    generator, info = torch.Generator().manual_seed(0), torch.iinfo(kind)
    x = torch.cat(
        [
            torch.randint(max(info.min, -(2**top)), min(info.max, 2**top), (5, 6), generator=generator)
            for top in (62, 33, 7)
        ],
        dim=1,
    ).to(kind)
    x[0, :2] = torch.tensor([info.min, info.max], dtype=kind)
    return x, torch.randint(1, min(info.max, 70), x.shape, generator=generator).to(kind)


class _Function(torch.nn.Module):
    def __init__(self, function: _Results) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.function(x, d)


@pytest.mark.parametrize(("name", "kind"), slow_but(_FAST, _CASES))
def test_whole_numbers_are_exact_on_every_runtime(tflite: Any, old_runtime: Any, name: str, kind: torch.dtype) -> None:
    function = {**_WHOLE, "places": _places, "powers": _powers}[name]
    x, d = _numbers(kind)
    emitted = to_tflite(tflite.graph_of(_Function(function), x, d), layout="nchw", metadata={})
    arrays = [x.numpy(), d.numpy()]
    runs = {
        "xnnpack": tflite.run(emitted, arrays).outputs,
        "reference": tflite.run(emitted, arrays, "reference").outputs,
        "2.14": old_runtime(emitted, arrays),
    }
    for runtime, results in runs.items():
        for index, (actual, expected) in enumerate(zip(results, function(x, d), strict=True)):
            np.testing.assert_array_equal(actual, expected.numpy(), err_msg=f"output {index} on {runtime}")


@pytest.mark.parametrize("name", ["quotients", "shifts", "bits", "products"])
def test_whole_numbers_of_onnx(tmp_path: Path, name: str) -> None:
    for kind in (torch.uint8, torch.int32, torch.int64):
        x, d = _numbers(kind)
        result = edgeconv.export(_Function(_WHOLE[name]), (x, d), tmp_path / str(kind), name="n", formats=("onnx",))
        session = onnxruntime.InferenceSession(result.artifacts[0].path)
        feeds = {value.name: tensor.numpy() for value, tensor in zip(session.get_inputs(), (x, d), strict=True)}
        for actual, expected in zip(session.run(None, feeds), _WHOLE[name](x, d), strict=True):
            np.testing.assert_array_equal(actual, expected.numpy(), err_msg=str(kind))


class _Hashed(torch.nn.Module):
    """Rows of a table for time stamps."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(1009, 4)

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        return self.table((times * 2654435761 // 1000003) % 1009)


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_time_stamps_beyond_31_bits(tmp_path: Path, tflite: Any, variant: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    module, seconds = _Hashed(), torch.tensor([[1, 20, 300]])
    result = edgeconv.export(module, (seconds,), tmp_path, name="n", formats=("tflite",), variants=(variant,))
    assert "reduced_precision_support" not in str(result.artifacts[0].path.read_bytes())
    runner = Interpreter(str(result.artifacts[0].path)).get_signature_runner()
    times = torch.tensor([[1_764_270_000_123, -5_000_000_001, 2**52 + 1]])
    (spec,) = result.artifacts[0].inputs
    (actual,) = runner(**{spec.name: times.numpy()}).values()
    with torch.no_grad():
        np.testing.assert_allclose(actual, module(times).numpy(), atol=2e-3 if variant == "fp16" else 0)
