"""Modules that compute in other floating types are captured in float32, on both paths.

Members: ``.float()``, ``.double()``, ``.half()``, ``.bfloat16()``, ``.type``, ``type_as``; ``dtype=`` of softmax, sum,
creations; uint8 and bool inputs, masks, one_hot; constants and buffers of float64; modules and inputs of half, bfloat16
and double, mixed ones, a float32 input to a half module; autocast; fake quantization of weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from crossed import diagonal
from torch import Tensor, nn

from edgeconv.capture import PRECISION, capture
from edgeconv.core import Sample
from edgeconv.devices import run_module
from edgeconv.reference import evaluate

Forward = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, function: Forward, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, 4, 3).to(dtype)
        self.register_buffer("scale", torch.rand(4, dtype=torch.float64) * 0.01 + 0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def _float32_only(net: Any, x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise TypeError("float32 is wanted")
    return net.conv(x).masked_fill(x[:, :1, 1:-1, 1:-1] > 0, torch.finfo(x.dtype).min).softmax(1)


def _fake_quantized(net: Any, x: Tensor) -> Tensor:
    zeros = torch.zeros(4, dtype=torch.int32)
    weight = torch.fake_quantize_per_channel_affine(net.conv.weight, net.scale.float(), zeros, 0, -127, 127)
    return F.conv2d(x, weight, net.conv.bias)


def _autocast(net: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net.conv(x).relu()


def _graded(net: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        return net.conv(x) * 2


PIXELS = torch.randint(0, 255, (1, 3, 8, 8), dtype=torch.uint8)
FLOATS = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CASTS: dict[str, tuple[Forward, Tensor, str]] = {
    "uint8 to float": (lambda net, x: net.conv(x.float() / 255), PIXELS, ""),
    "uint8 by type": (lambda net, x: net.conv(x.type(torch.FloatTensor) / 255), PIXELS, ""),
    "uint8 as the weight": (lambda net, x: net.conv(x.type_as(net.conv.weight) / 255), PIXELS, ""),
    "bool to float": (lambda net, x: net.conv(x.float()), PIXELS > 99, ""),
    "mask to float": (lambda net, x: net.conv(x * (x > 0).float()), FLOATS, ""),
    "one hot": (lambda net, x: F.one_hot(net.conv(x).argmax(1), 4).float(), FLOATS, ""),
    "softmax of a dtype": (lambda net, x: net.conv(x).softmax(1, dtype=torch.float32), FLOATS, ""),
    "sum in float64": (lambda net, x: net.conv(x).sum(1, dtype=torch.float64).float(), FLOATS, "float64"),
    "created of a dtype": (lambda net, x: net.conv(x) + torch.arange(6, dtype=torch.float32), FLOATS, ""),
    "constant of float64": (lambda net, x: net.conv(x) * torch.tensor([0.1], dtype=torch.float64), FLOATS, "float64"),
    "a buffer of float64": (lambda net, x: net.conv(x) * net.scale.view(4, 1, 1), FLOATS, "float64"),
    "double within": (lambda net, x: (net.conv(x).double() * 1e-3).float(), FLOATS, "float64"),
    "double comes out": (lambda net, x: net.conv(x).double(), FLOATS, "float64"),
    "half within": (lambda net, x: net.conv(x).half().float() * 2, FLOATS, "float16"),
    "half comes out": (lambda net, x: net.conv(x).half(), FLOATS, "float16"),
    "bfloat16 within": (lambda net, x: (net.conv(x).bfloat16() * 2).relu().float(), FLOATS, "bfloat16"),
    "double comes in": (lambda net, x: net.conv(x.float()), FLOATS.double(), "float64"),
    "half comes in": (lambda net, x: net.conv(x.float()), FLOATS.half(), "float16"),
    "asks for its dtype": (_float32_only, FLOATS, ""),
    "fake quantized weights": (_fake_quantized, FLOATS, "float64"),
    "autocast": (_autocast, FLOATS, "bfloat16"),
    "gradients switched on": (_graded, FLOATS, ""),
}


def _check(net: Net, x: Tensor, others: str, path: Literal["auto", "official"]) -> None:
    """The graph is float32 and is the function that the module is in float64; a run in float32 agrees, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = capture(net, (x,), input_names=["x"], output_names=["y"], path=path)
    floats = {value.dtype for node in model.graph for value in node.outputs if value.dtype.is_floating_point()}
    assert floats <= {ir.DataType.FLOAT}
    assert model.graph.inputs[0].dtype is (ir.DataType.FLOAT if x.is_floating_point() else model.graph.inputs[0].dtype)
    assert set(filter(None, others.split())) <= set(model.metadata_props.get(PRECISION, "").split(", "))
    taken = (x.float() if x.is_floating_point() else x).numpy()
    ours = evaluate(model, {"x": taken})["y"]
    for dtype, atol in (("float64", 1e-6), ("float32", 1e-5)):
        run = run_module(net, [Sample("s", {"x": taken})], input_names=["x"], output_names=["y"], dtype=dtype)
        assert run.reason == ""
        assert run.outputs[0]["y"].dtype == (dtype if run.outputs[0]["y"].dtype.kind == "f" else np.int64)
        np.testing.assert_allclose(ours, run.outputs[0]["y"], rtol=1e-5, atol=atol)


@pytest.mark.parametrize("name", CASTS)
def test_a_module_that_casts(name: str) -> None:
    torch.manual_seed(0)
    function, x, others = CASTS[name]
    _check(Net(function).eval(), x, others, "auto")


@pytest.mark.parametrize("name", ["uint8 to float", "sum in float64", "half within", "double comes in", "autocast"])
def test_a_module_that_casts_on_the_official_path(name: str) -> None:
    torch.manual_seed(0)
    function, x, others = CASTS[name]
    _check(Net(function).eval(), x, others, "official")


@pytest.mark.parametrize("same_input", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_type(dtype: torch.dtype, same_input: bool) -> None:
    torch.manual_seed(0)
    net = Net(lambda net, x: net.conv(x).relu(), dtype).eval()
    weight = net.conv.weight
    path: Literal["auto", "official"] = "official" if dtype is torch.bfloat16 else "auto"
    _check(net, FLOATS.to(dtype) if same_input else FLOATS, str(dtype).removeprefix("torch."), path)
    assert net.conv.weight is weight
    assert weight.dtype is dtype


def test_a_module_of_two_types() -> None:
    torch.manual_seed(0)
    net = Net(lambda net, x: net.last(net.conv(x).half()).float())
    net.last = nn.Conv2d(4, 4, 1).half()
    _check(net.eval(), FLOATS, "float16", "auto")


@pytest.mark.parametrize(
    ("dtype", "use"),
    diagonal(
        [torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e8m0fnu],
        ["widened", "moved first", "through the official path"],
    ),
    ids=str,
)
def test_weights_stored_in_eight_bits(dtype: torch.dtype, use: str) -> None:
    """They were rounded when they were stored: only what `forward` rounds is refused."""
    torch.manual_seed(0)
    net = Net(
        lambda net, x: (
            net.conv(x) * (net.table[:, :1, None] if use == "widened" else net.table.t()[:1].t()[..., None]).float()
        )
    )
    net.register_buffer("table", (torch.rand(4, 3) + 0.1).to(dtype))
    _check(net.eval(), FLOATS, str(dtype).removeprefix("torch."), "official" if "official" in use else "auto")
