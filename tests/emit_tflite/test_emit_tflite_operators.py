"""One small module per operator, in both layouts, on XNNPACK and on the reference kernels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeconv.errors import EmitError

_IMAGE = (1, 6, 9, 10)

_ACTIVATIONS = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2),
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "hardtanh": functional.hardtanh,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu by tanh, written out": lambda x: (
        0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
    ),
    "gelu by tanh, written shorter": lambda x: (
        0.5 * x * (1.0 + torch.tanh(x * math.sqrt(2 / math.pi) * (1.0 + 0.044715 * x * x)))
    ),
    "nearly a gelu by tanh": lambda x: (
        0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.04 * torch.pow(x, 3.0))))
    ),
    "mish": functional.mish,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "elu": lambda x: functional.elu(x, 0.3),
    "selu": functional.selu,
    "celu": lambda x: functional.celu(x, 0.7),
    "clamp": lambda x: x.clamp(-0.5, 0.3),
    "clamp to 0, 1": lambda x: x.clamp(0.0, 1.0),
    "clamp from below": lambda x: x.clamp(min=0.1),
    "softmax over channels": lambda x: functional.softmax(x, 1),
    "softmax over columns": lambda x: functional.softmax(x, 3),
    "log_softmax": lambda x: functional.log_softmax(x, 1),
}

_ARITHMETIC = {
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "square root": lambda x: x.abs().sqrt(),
    "reciprocal square root": lambda x: (x.abs() + 1).rsqrt(),
    "exponential": torch.exp,
    "quotient": lambda x: 1 / (2 + x.abs()),
    "where": lambda x: torch.where(x > 0, x, x * 2),
    "maximum": lambda x: torch.maximum(x, x * x),
    "channel constant": lambda x: x * torch.arange(6, dtype=x.dtype).reshape(6, 1, 1) + 1,
    "row constant": lambda x: x - torch.arange(9, dtype=x.dtype).reshape(9, 1),
    "column constant": lambda x: x - torch.arange(10, dtype=x.dtype),
    "gate per channel": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "gate per pixel": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "lower rank": lambda x: x + x.mean((0, 1)),
}

_SHAPES = {
    "concat of channels": lambda x: torch.cat([x, x * 2, x], 1),
    "concat of columns": lambda x: torch.cat([x, x * 2], 3),
    "concat of six": lambda x: torch.cat([x * i for i in range(1, 7)], 1),
    "chunk": lambda x: x.chunk(2, 1)[1] * 2,
    "chunk in six": lambda x: sum(part * i for i, part in enumerate(x.chunk(6, 1))),
    "split": lambda x: torch.split(x, [1, 5], 1)[1],
    "slice": lambda x: x[:, 1:4, 2:, :-1],
    "strided slice": lambda x: x[:, :, ::2, 1::2],
    "flip": lambda x: x.flip(3),
    "flatten": lambda x: x.flatten(1) * 2,
    "view": lambda x: x.view(1, 6, 90) * 2,
    "permute": lambda x: x.permute(0, 2, 3, 1) * 2,
    "permute back": lambda x: torch.relu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * 2,
    "tokens": lambda x: x.flatten(2).transpose(1, 2) * 2,
    "channel shuffle": lambda x: x.view(1, 2, 3, 9, 10).transpose(1, 2).reshape(1, 6, 9, 10) * 2,
    "squeeze": lambda x: x.mean(2, keepdim=True).squeeze(2) * 2,
    "unsqueeze": lambda x: x.mean((2, 3)).unsqueeze(-1).unsqueeze(-1) * x,
    "index": lambda x: x[:, 2] * 2,
    "index by a list": lambda x: x[:, [2, 0, 5]] * 2,
    "pad by zeros": lambda x: functional.pad(x, (1, 2, 3, 0)),
    "pad by a value": lambda x: functional.pad(x, (1, 2, 3, 0), value=1.5),
    "pad by reflection": lambda x: functional.pad(x, (1, 2, 3, 1), mode="reflect"),
    "pad by the edge": lambda x: functional.pad(x, (1, 2, 3, 0), mode="replicate"),
    "crop": lambda x: functional.pad(x, (-1, 1, -2, 0)),
    "expand": lambda x: x.mean(1, keepdim=True).expand(1, 4, 9, 10) * 2,
    "repeat": lambda x: x.repeat(1, 2, 1, 3),
    "product of matrices": lambda x: x @ x.transpose(2, 3),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x, x),
}

_RESIZES = {
    "nearest, twice": {"scale_factor": 2},
    "nearest, three times": {"scale_factor": 3},
    "nearest, to a size": {"size": (13, 7)},
    "nearest, 1.5 times": {"scale_factor": 1.5},
    "nearest-exact": {"size": (13, 7), "mode": "nearest-exact"},
    "bilinear, twice": {"scale_factor": 2, "mode": "bilinear"},
    "bilinear, corners aligned": {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
    "bilinear, to a size": {"size": (13, 7), "mode": "bilinear"},
    "bilinear, half": {"scale_factor": 0.5, "mode": "bilinear"},
    "bilinear, 1.5 times": {"scale_factor": 1.5, "mode": "bilinear"},
    "bilinear, antialiased": {"size": (4, 5), "mode": "bilinear", "antialias": True},
    "bicubic": {"scale_factor": 2, "mode": "bicubic"},
}

_LAYERS = {
    "PReLU": (nn.PReLU(6, init=0.2), _IMAGE),
    "PReLU with one slope": (nn.PReLU(), _IMAGE),
    "LayerNorm": (nn.LayerNorm(10), _IMAGE),
    "InstanceNorm": (nn.InstanceNorm2d(6, affine=True), _IMAGE),
    "LocalResponseNorm": (nn.LocalResponseNorm(3), _IMAGE),
    "GroupNorm": (nn.GroupNorm(2, 6), _IMAGE),
    "Linear, rank 2": (nn.Linear(10, 7), (3, 10)),
    "Linear, rank 3": (nn.Linear(10, 7), (2, 9, 10)),
    "Linear, rank 4": (nn.Linear(10, 7), _IMAGE),
    "transformer": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (1, 5, 8)),
}


# Functions of which torch's own exporter makes another graph than ours does, once both are optimized.
_OTHER_GRAPHS = {"softplus", "squeeze", "unsqueeze", "index by a list", "expand", "attention"}
_PATHS = ("auto", "official, other graphs", "official")


def _by_path(functions: dict[str, Any]) -> list[Any]:
    """Paths of capture and names: all by ours, of torch's those with other graphs, and all where slow tests run."""
    marks = dict.fromkeys(_PATHS[2:], pytest.mark.slow)
    return [
        pytest.param(path, name, marks=marks.get(path, []))
        for path in _PATHS
        for name in functions
        if path != _PATHS[1] or name in _OTHER_GRAPHS
    ]


def _checked(tflite: Any, functions: dict[str, Any], **options: Any) -> Callable[[str], Any]:
    """What runs all functions of a path, once."""

    @functools.cache
    def checked(path: str) -> Any:
        capturing, _, part = path.partition(", ")
        some = {name: function for name, function in functions.items() if not part or name in _OTHER_GRAPHS}
        return tflite.check_all(some, _IMAGE, path=capturing, **options)

    return checked


@pytest.fixture(scope="module")
def activations(tflite: Any) -> Callable[[str], Any]:
    return _checked(tflite, _ACTIVATIONS, scale=3.0)


@pytest.mark.parametrize(("path", "name"), _by_path(_ACTIVATIONS))
def test_activations_run_on_every_runtime(activations: Callable[[str], Any], path: str, name: str) -> None:
    activations(path)(name)


def test_every_spelling_of_gelu_is_one_operator(activations: Callable[[str], Any]) -> None:
    spelled = [name for name in _ACTIVATIONS if name.startswith("gelu")]
    operators = activations("auto").runs["nhwc", "xnnpack"].operators
    assert operators.count("GELU") == len(spelled) == 4
    assert operators.count("TANH") == 5  # itself, the one that is nearly a GELU, and those of ELU, SELU and CELU


@pytest.fixture(scope="module")
def arithmetic(tflite: Any) -> Any:
    return tflite.check_all(_ARITHMETIC, _IMAGE)


@pytest.mark.parametrize("name", _ARITHMETIC)
def test_arithmetic_runs_on_every_runtime(arithmetic: Any, name: str) -> None:
    arithmetic(name)


def test_arithmetic_needs_no_transpose(arithmetic: Any) -> None:
    assert "TRANSPOSE" not in arithmetic.runs["nhwc", "xnnpack"].operators


@pytest.fixture(scope="module")
def movements(tflite: Any) -> Callable[[str], Any]:
    return _checked(tflite, _SHAPES)


@pytest.mark.parametrize(("path", "name"), _by_path(_SHAPES))
def test_movements_run_on_every_runtime(movements: Callable[[str], Any], path: str, name: str) -> None:
    movements(path)(name)


@pytest.fixture(scope="module")
def resizes(tflite: Any) -> Any:
    functions = {
        name: functools.partial(functional.interpolate, **options)  # type: ignore[arg-type]
        for name, options in _RESIZES.items()
    }
    return tflite.check_all(functions, _IMAGE)


@pytest.mark.parametrize("name", _RESIZES)
def test_resizes_run_on_every_runtime(resizes: Any, name: str) -> None:
    resizes(name)


@pytest.mark.parametrize(("layer", "shape"), _LAYERS.values(), ids=_LAYERS)
def test_layers_run_on_every_runtime(tflite: Any, layer: nn.Module, shape: tuple[int, ...]) -> None:
    tflite.check(layer, shape)


def test_permute_to_channels_last_and_back_moves_nothing(tflite: Any) -> None:
    runs = tflite.check(tflite.Function(_SHAPES["permute back"]), _IMAGE)
    assert runs["nhwc"].operators == ["RELU", "MUL"]


def test_tokens_of_an_image_need_no_transpose(tflite: Any) -> None:
    assert "TRANSPOSE" not in tflite.check(tflite.Function(_SHAPES["tokens"]), _IMAGE)["nhwc"].operators


def test_an_expansion_of_both_axes_stores_few_ones(tflite: Any) -> None:
    image = np.random.default_rng(0).standard_normal((1, 2, 1, 1)).astype(np.float32)
    model = tflite.node_of("Expand", {"input": image}, [np.array([1, 2, 300, 400], np.int64)], (1, 2, 300, 400))
    emitted = tflite.to_tflite(model, metadata={})
    assert len(emitted.data) < 10_000
    for resolver in ("reference", "xnnpack"):
        (actual,) = tflite.run(emitted, [image], resolver).outputs
        np.testing.assert_array_equal(actual, np.broadcast_to(image, (1, 2, 300, 400)))


def test_what_no_device_holds_is_refused(tflite: Any) -> None:
    shape = (1, 1, 10**6, 10**6)
    model = tflite.node_of("Expand", {"input": np.zeros((1, 1, 1, 1), np.float32)}, [np.array(shape)], shape)
    with pytest.raises(EmitError, match="'output' has 1,000,000,000,000 elements"):
        tflite.to_tflite(model, metadata={})


@pytest.mark.parametrize("slope", [(1, 4, 1, 1), (1, 1, 1, 1), (2, 4, 1, 1)])
def test_a_slope_that_is_computed(tflite: Any, slope: tuple[int, ...]) -> None:
    inputs = {"x": np.zeros((2, 4, 5, 6), np.float32), "slope": np.zeros(slope, np.float32)}
    model = tflite.node_of("PRelu", inputs, [], (2, 4, 5, 6))
    module = tflite.Function(lambda x, slope: torch.where(x < 0, slope * x, x))
    tflite.check(module, (2, 4, 5, 6), slope, model=model)


@pytest.mark.parametrize("rank", [3, 4])
def test_a_bias_that_is_computed(tflite: Any, rank: int) -> None:
    sizes = (9, 8)[: rank - 2]
    weight = np.random.default_rng(0).standard_normal((5, 4, *(3,) * (rank - 2))).astype(np.float32)
    names, shapes = ["x", "weight", "bias"], [(1, 4, *sizes), weight.shape, (5,)]
    values = {name: ir.val(name, ir.DataType.FLOAT, shape) for name, shape in zip(names, shapes, strict=True)}
    values["weight"].const_value = ir.tensor(weight, name="weight")
    result = ir.val("y", ir.DataType.FLOAT, (1, 5, *(size - 2 for size in sizes)))
    node = ir.node("Conv", list(values.values()), outputs=[result])
    graph = ir.Graph(
        [values["x"], values["bias"]], [result], nodes=[node], initializers=[values["weight"]], opset_imports={"": 18}
    )
    convolve = {3: torch.nn.functional.conv1d, 4: torch.nn.functional.conv2d}[rank]
    module = tflite.Function(lambda x, bias: convolve(x, torch.from_numpy(weight).to(x.dtype), bias))
    tflite.check(module, (1, 4, *sizes), (5,), model=ir.Model(graph, ir_version=10))
