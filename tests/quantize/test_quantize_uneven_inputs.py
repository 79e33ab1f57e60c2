"""Features of unlike units, of an input or by a product with constants, keep what each of them varies.

Members: columns of a table before a layer with a clamp, with a bias behind the product, before a normalization by
constants; series along the last axis; a distance as a channel of images (in either order of axes), of volumes, of
series and of what is flattened, and as an input of its own that is joined; outputs that deviations of their own are
multiplied with, by Mul and by Div, of vectors and of series; and the gate on such an output. Alike features, and images
of alike channels, stay integers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from crossed import slow_but
from test_quantize_idioms import Of
from torch import Tensor, nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.core import Array, Parts
from edgeconv.core.variation import says_nothing
from edgeconv.graph.divisions import divisions_of

_UNITS = np.array([1.0, 100.0, 0.01, 5.0, 0.5, 3000.0], np.float32)
_Function = Callable[[nn.Module, Tensor], Tensor]


def _alike(layer: nn.Linear) -> nn.Linear:
    """What each feature gives is of one size."""
    layer.weight.data /= torch.from_numpy(_UNITS)
    return layer


_INPUTS: dict[str, tuple[tuple[int, ...], _Function]] = {
    "a clamp": ((1, 6), lambda m, x: m.b(m.a(x).relu())),
    "a bias": ((1, 6), lambda m, x: m.b(m.a(x))),
    "a series": ((1, 10, 6), lambda m, x: m.b(m.a(x).relu())),
    "a scale": ((1, 6), lambda m, x: m.c(x / torch.from_numpy(_UNITS)).relu()),
    "a standardization": (
        (1, 10, 6),
        lambda m, x: m.c((x - torch.from_numpy(_UNITS)) / torch.from_numpy(_UNITS)).relu(),
    ),
}
_OUTPUTS: dict[str, tuple[tuple[int, ...], _Function]] = {
    "a product": ((1, 6), lambda m, x: m.c(x).tanh() * torch.from_numpy(_UNITS)),
    "a quotient": ((1, 6), lambda m, x: m.c(x).tanh() / torch.from_numpy(_UNITS)),
    "then a sum": ((1, 10, 6), lambda m, x: m.c(x).tanh() * torch.from_numpy(_UNITS) + torch.from_numpy(_UNITS)),
    "rows": ((1, 6, 8), lambda m, x: x.softmax(2) * torch.from_numpy(_UNITS)[:, None]),
}


def _exported(function: _Function, shape: tuple[int, ...], units: Array | float, folder: Path) -> list[float]:
    """The SQNR of the `.onnx` file by feature, about the mean, decibels; where its layers are integers."""
    torch.manual_seed(0)
    module = Of(function, a=_alike(nn.Linear(6, 8)), b=nn.Linear(8, 6), c=nn.Linear(6, 6)).eval()
    rng = np.random.default_rng(0)
    batches = [{"x": (rng.standard_normal(shape) * units).astype(np.float32)} for _ in range(64)]
    result = edgeconv.export(
        module,
        (torch.zeros(shape),),
        folder,
        name="net",
        input_names=["x"],
        variants="int8",
        formats="onnx",
        quantization=edgeconv.Quantization(batches=lambda: batches[:48]),
    )
    session = onnxruntime.InferenceSession(result.artifacts[0].path)
    pairs = [(session.run(None, one)[0], module(torch.from_numpy(one["x"])).detach().numpy()) for one in batches[48:]]
    axis = shape.index(6)
    actual, expected = (
        np.concatenate([np.moveaxis(pair[side], axis, 0).reshape(6, -1) for pair in pairs], 1) for side in (0, 1)
    )
    ratios = expected.var(axis=1) / np.square(actual - expected).mean(axis=1)
    return [float(ratio) for ratio in 10 * np.log10(ratios)]


@pytest.mark.parametrize("case", _INPUTS)
def test_features_of_an_input_keep_what_they_vary(case: str, tmp_path: Path) -> None:
    shape, function = _INPUTS[case]
    found = _exported(function, shape, _UNITS, tmp_path)
    assert min(found) > 17, found  # one scale for all leaves nothing of the narrowest


@pytest.mark.parametrize("case", _OUTPUTS)
def test_features_of_an_output_keep_what_they_vary(case: str, tmp_path: Path) -> None:
    shape, function = _OUTPUTS[case]
    found = _exported(function, shape, 1.0, tmp_path)
    assert min(found) > 17, found  # one scale for all leaves nothing of the narrowest


def test_alike_features_stay_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)).eval()
    data = [{"x": np.random.default_rng(index).standard_normal((1, 6)).astype(np.float32)} for index in range(40)]
    result = edgeconv.export(
        module,
        (torch.zeros(1, 6),),
        tmp_path,
        name="net",
        input_names=["x"],
        variants="int8",
        quantization=edgeconv.Quantization(batches=lambda: data),
    )
    assert not [note for note in result.notes if "stays float" in note]


def test_the_gate_judges_each_feature_of_such_an_output() -> None:
    rng = np.random.default_rng(0)
    exact = (rng.standard_normal((1, 6, 64)) * _UNITS[:, None]).astype(np.float32)
    step = 2 * np.abs(exact).max() / 255
    assert says_nothing([(np.rint(exact / step) * step, exact)], [Parts(1, (6,))]).lost >= 3
    assert says_nothing([(exact * 1.01, exact)], [Parts(1, (6,))]).lost == 0


def test_a_product_with_unlike_constants_makes_channels() -> None:
    def divisions(constants: Tensor) -> object:
        module = Of(lambda _, x: x.tanh() * constants[:, None]).eval()
        shape = (1, len(constants), 8)
        graph = capture(module, (torch.zeros(shape),), input_names=("x",), output_names=("y",)).graph
        return divisions_of(graph)[graph.outputs[0]]

    assert divisions(torch.from_numpy(_UNITS)) == {1: (6,)}
    assert not divisions(torch.linspace(-1, 1, 40))
    assert not divisions(torch.linspace(-1, 1, 7))  # whose middle is 2e-8
    assert not divisions(torch.hann_window(64))


_FAR = np.array([1.0, 1.0, 1.0, 4000.0], np.float32)  # colors, and a distance in millimetres


class _Layers(nn.Module):
    """A first layer that makes its four features alike, and what reads an input through it."""

    def __init__(self, build: Callable[[], nn.Module], axis: int, function: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.function = build(), nn.Linear(8, 5), function
        first = self.first
        units = torch.from_numpy(_FAR)
        if first.weight.shape[1] != len(units):  # flattened: each feature that many times, or one after the other
            times = first.weight.shape[1] // len(units)
            units = units.repeat(times) if axis == -1 else units.repeat_interleave(times)
        first.weight.data /= units.reshape(1, -1, *[1] * (first.weight.ndim - 2))

    def forward(self, *inputs: Tensor) -> Tensor:
        y = self.function(self.first, *inputs).tanh()
        return self.last(y.flatten(2).mean(2) if y.ndim > 2 else y)


_SIZES: dict[str, tuple[tuple[tuple[int, ...], ...], int, Callable[[], nn.Module], Callable[..., Tensor]]] = {
    "an image": (((1, 4, 8, 8),), 1, lambda: nn.Conv2d(4, 8, 3), lambda m, x: m(x)),
    "an image of channels last": (
        ((1, 8, 8, 4),),
        -1,
        lambda: nn.Conv2d(4, 8, 3),
        lambda m, x: m(x.permute(0, 3, 1, 2)),
    ),
    "a volume": (((1, 4, 4, 6, 6),), 1, lambda: nn.Conv3d(4, 8, 3), lambda m, x: m(x)),
    "a series of channels first": (((1, 4, 20),), 1, lambda: nn.Conv1d(4, 8, 3), lambda m, x: m(x)),
    "a flat series": (((1, 10, 4),), -1, lambda: nn.Linear(40, 8), lambda m, x: m(x.flatten(1))),
    "a flat image": (((1, 4, 4, 4),), 1, lambda: nn.Linear(64, 8), lambda m, x: m(x.flatten(1))),
    "two inputs": (
        ((1, 3, 8, 8), (1, 1, 8, 8)),
        1,
        lambda: nn.Conv2d(4, 8, 3),
        lambda m, x, depth: m(torch.cat([x, depth], 1)),
    ),
}


@pytest.mark.parametrize("io", ["float32", pytest.param("uint8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", slow_but(["an image", "a volume", "a flat series", "two inputs"], _SIZES))
def test_a_distance_beside_colors_leaves_these_what_they_vary(case: str, io: str, tmp_path: Path) -> None:
    shapes, axis, build, function = _SIZES[case]
    module, rng = _Layers(build, axis, function).eval(), np.random.default_rng(0)
    names = [f"x{index}" for index in range(len(shapes))]

    def drawn() -> dict[str, Array]:
        arrays = [rng.random(shape, np.float32) for shape in shapes]
        if len(arrays) == 2:
            arrays[1] *= _FAR[-1]
        else:
            units = _FAR.reshape([4 if at == axis % arrays[0].ndim else 1 for at in range(arrays[0].ndim)])
            arrays[0] *= units
        return dict(zip(names, arrays, strict=True))

    batches = [drawn() for _ in range(56)]
    result = edgeconv.export(
        module,
        tuple(torch.from_numpy(batches[0][name]) for name in names),
        tmp_path,
        name="net",
        input_names=names,
        variants="int8",
        quantization=edgeconv.Quantization(batches=lambda: batches, io=io),  # outputs are not clipped
        samples=[edgeconv.Sample(f"input {index}", batch) for index, batch in enumerate(batches[40:])],
        devices=("onnxruntime", "litert"),
    )
    assert result.report.verdict.value == "pass", [row.reason for row in result.report.comparisons]
    assert any("at one scale the smaller would lose" in note for note in result.notes)
    expected = [module(*(torch.from_numpy(batch[name]) for name in names)).detach().numpy() for batch in batches[40:]]
    onnx = next(artifact for artifact in result.artifacts if artifact.format == "onnx")
    session = onnxruntime.InferenceSession(onnx.path)
    feeds = [
        {spec.name: spec.to_file(batch[name]) for spec, name in zip(onnx.inputs, names, strict=True)}
        for batch in batches[40:]
    ]
    actual = [onnx.outputs[0].from_file(session.run(None, feed)[0]) for feed in feeds]
    exact, error = np.concatenate(expected), np.concatenate(actual) - np.concatenate(expected)
    assert (10 * np.log10(exact.var(0) / np.square(error).mean(0))).min() > 15


def test_alike_channels_of_images_stay_integers(tmp_path: Path) -> None:
    module = _Layers(lambda: nn.Conv2d(4, 8, 3), 1, lambda m, x, depth: m(torch.cat([x, depth], 1))).eval()
    rng = np.random.default_rng(0)
    batches = [
        {"x": rng.random((1, 3, 8, 8), np.float32), "depth": 4 * rng.random((1, 1, 8, 8), np.float32)}
        for _ in range(40)
    ]
    result = edgeconv.export(
        module,
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)),
        tmp_path,
        name="net",
        input_names=["x", "depth"],
        variants="int8",
        quantization=edgeconv.Quantization(batches=lambda: batches),
    )
    assert not [note for note in result.notes if "stays float" in note]
