"""Every pair of sizes: what the kernels compute for the form that is written is what torch computes.

Members: nearest, nearest-exact, linear and cubic, with corners aligned and without; TensorFlow Lite's kernels, XNNPACK
and the kernels of TensorFlow Lite 2.14; several channels and one, lines and images; int8 and int16.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from crossed import diagonal
from torch.nn import functional

from edgeconv.capture.normalize._resizing import settle_resizes
from edgeconv.core import Emitted, TensorSpec
from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite._quantization import of_type
from edgeconv.emit.tflite.file._encoding import encoding_of
from edgeconv.emit.tflite.file._flatbuffer import write
from edgeconv.emit.tflite.lower._convert import convert
from edgeconv.graph.resize_kernels import (
    MOST_STEPS,
    integer_error,
    linear_places,
    linear_weights,
    nearest_elements,
)

Array = npt.NDArray[Any]
_MOST = 160
_ROUNDINGS = 8 * 2.0**-24  # of a place, per element: torch's, and a kernel's
_TORCH: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest"},
    "nearest-exact": {"mode": "nearest-exact"},
    "linear": {"mode": "bilinear"},
    "linear-corners": {"mode": "bilinear", "align_corners": True},
    "cubic": {"mode": "bicubic"},
    "cubic-corners": {"mode": "bicubic", "align_corners": True},
}
_ONNX: dict[str, dict[str, Any]] = {
    "nearest": {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "nearest-exact": {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
    "linear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    "linear-corners": {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    "cubic": {"mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75},
    "cubic-corners": {"mode": "cubic", "coordinate_transformation_mode": "align_corners", "cubic_coeff_a": -0.75},
}
_SOME = [
    (20, 28),
    (10, 14),
    (7, 17),
    (63, 129),
    (22, 49),
    (14, 2),
    (4, 41),
    (13, 17),
    (9, 3),
    (5, 10),
    (93, 60),
    (1, 7),
]


def _torchs(mode: str, size: int, count: int) -> Array:
    """What torch makes, in float32, of the unit vectors along one axis: (output, input)."""
    units = torch.eye(size).reshape(1, size, size, 1)
    return functional.interpolate(units, size=(count, 1), **_TORCH[mode])[0, :, :, 0].numpy().T


def _written(tflite: Any, mode: str, size: int, count: int) -> list[Array]:
    """What the operators that are written make of them, by both kernels' arithmetic."""
    units = np.eye(size, dtype=np.float32).reshape(1, size, size, 1)
    none, sizes = np.zeros(0, np.float32), np.array([1, size, count, 1], np.int64)
    model = tflite.node_of("Resize", {"input": units}, [none, none, sizes], sizes, **_ONNX[mode])
    settle_resizes(model.graph)
    graph = convert(model, "nhwc", encoding_of("float32", "float32"))[0].graph
    return [_computed(graph.operators, graph.inputs[0], units, delegated)[0, :, 0] for delegated in (False, True)]


def _computed(operators: list[Operator], source: Tensor, units: Array, delegated: bool) -> Array:
    arrays = {source: units.transpose(0, 2, 3, 1)}
    for operator in operators:
        operands = [tensor.data if tensor.data is not None else arrays[tensor] for tensor in operator.inputs]
        arrays[operator.outputs[0]] = _KERNELS[operator.code](operator, operands, delegated)
    return arrays[operators[-1].outputs[0]] if operators else arrays[source]


def _modes(operator: Operator) -> tuple[bool, bool]:
    return operator.options["alignCorners"], operator.options["halfPixelCenters"]


def _bilinear(operator: Operator, operands: list[Array], delegated: bool) -> Array:
    x, (count, _) = operands
    places = linear_places(x.shape[1], int(count), *_modes(operator))[delegated]
    lower = np.floor(places)
    share = (places - lower).reshape(1, -1, 1, 1)
    before, after = (np.clip(at, 0, x.shape[1] - 1).astype(int) for at in (lower, lower + 1))
    return np.asarray(x[:, before] * (1 - share) + x[:, after] * share)


def _nearest(operator: Operator, operands: list[Array], delegated: bool) -> Array:
    x, (count, _) = operands
    return np.asarray(x[:, nearest_elements(x.shape[1], int(count), *_modes(operator))])


_KERNELS: dict[str, Any] = {
    "RESIZE_BILINEAR": _bilinear,
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
    "SLICE": lambda _, operands, __: operands[0][tuple(map(slice, operands[1], operands[1] + operands[2]))],
    "GATHER": lambda operator, operands, _: np.take(*operands, axis=operator.options["axis"]),
    "MUL": lambda _, operands, __: operands[0] * operands[1],
    "BATCH_MATMUL": lambda _, operands, __: operands[0] @ operands[1],
    "RESHAPE": lambda _, operands, __: operands[0].reshape(operands[1]),
}


def _check(tflite: Any, mode: str, size: int, count: int) -> None:
    expected = _torchs(mode, size, count)
    allowed = 0.0 if mode.startswith("nearest") else _ROUNDINGS * max(size, count, 16)
    for actual in _written(tflite, mode, size, count):
        assert np.abs(actual - expected).max() <= allowed, (mode, size, count)


@pytest.mark.parametrize("mode", _TORCH)
@pytest.mark.parametrize(("size", "count"), _SOME)
def test_pairs_that_were_wrong(tflite: Any, mode: str, size: int, count: int) -> None:
    """20 to 28 was wrong by 8 dB: ONNX's reference, of which the weights came, weighed the wrong neighbors."""
    _check(tflite, mode, size, count)


@pytest.mark.slow
@pytest.mark.parametrize("half", range(2))
@pytest.mark.parametrize("mode", _TORCH)
def test_every_pair_of_sizes_is_resized_as_torch_does(tflite: Any, mode: str, half: int) -> None:
    for size in range(1 + half, _MOST + 1, 2):
        for count in range(1, _MOST + 1):
            _check(tflite, mode, size, count)


class _Sample(torch.nn.Module):
    """Resizes of one image to many sizes, of which each output is one."""

    def __init__(self, mode: str, sizes: list[int]) -> None:
        super().__init__()
        self.options, self.sizes = _TORCH[mode], sizes

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(functional.interpolate(x, size=pair, **self.options) for pair in pairwise(self.sizes))


@pytest.mark.parametrize(("mode", "size"), diagonal([*_TORCH], [7, 20, 63]))
def test_a_sample_on_the_runtimes(tflite: Any, old_runtime: Any, mode: str, size: int) -> None:
    """The arithmetic above is the runtimes': LiteRT with XNNPACK, its reference kernels, tflite-runtime 2.14."""
    sizes = np.random.default_rng(size).integers(1, _MOST, 9).tolist()
    module = _Sample(mode, [*sizes, 28, 49, 129, 17])
    x = torch.randn(1, 2, size, size + 2, generator=torch.Generator().manual_seed(size))
    emitted = tflite.to_tflite(tflite.graph_of(module, x), metadata={})
    for outputs in (
        tflite.run(emitted, [x.numpy()]).outputs,
        tflite.run(emitted, [x.numpy()], "reference").outputs,
        old_runtime(emitted, [x.numpy()]),
    ):
        for actual, expected in zip(outputs, module(x), strict=True):
            atol = 0.0 if mode.startswith("nearest") else 1e-4
            np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=atol)


@pytest.mark.parametrize(("align", "half"), [(False, True), (True, False), (False, False)])
@pytest.mark.parametrize(("size", "count"), [(20, 28), (22, 49), (7, 14), (5, 3), (63, 129), (4, 160), (30, 7)])
def test_the_arithmetic_of_integers(tflite: Any, align: bool, half: bool, size: int, count: int) -> None:
    """What is reckoned to be wrong of RESIZE_BILINEAR in int8 is what its reference kernel makes of black and white."""
    places = linear_places(size, count, align, half)[0].astype(np.float64)
    floor = np.floor(places)
    exact = np.zeros((count, size))
    for offset, share in ((0, 1 - places + floor), (1, places - floor)):
        np.add.at(exact, (np.arange(count), np.clip(floor + offset, 0, size - 1).astype(int)), share)
    bound = integer_error(exact, align, half)
    if not np.isfinite(bound):  # it would read whatever lies behind the image
        assert (size, count, align, half) == (4, 160, False, False)
        return
    scale = of_type("int8", 1.0, 0)
    graph = Graph()
    x = Tensor("x", (1, size, 1, size), np.dtype(np.int8), owner="x", quantization=scale)
    graph.inputs = [x]
    numbers = graph.constant(np.array([count, 1], np.int32), "size")
    modes = {"alignCorners": align, "halfPixelCenters": half}
    graph.outputs = graph.add("RESIZE_BILINEAR", [x, numbers], [(1, count, 1, size)], "y", **modes)
    graph.outputs[0].quantization = scale
    spec = (TensorSpec("x", x.shape, "int8", "nchw"),), (TensorSpec("y", (1, count, 1, size), "int8", "nchw"),)
    image = np.where(np.eye(size)[None, :, None, :], 127, 0).astype(np.int8)
    (actual,) = tflite.run(Emitted(write(graph, {})[0], *spec), [image], "reference").outputs
    seen = np.abs(actual[0, :, 0].astype(np.float64) / 127 - exact).sum(axis=1).max() / 2
    assert seen == pytest.approx(bound, abs=1.5 / 127)


def test_integers_take_the_operator_where_it_is_exact() -> None:
    assert integer_error(_torchs("linear", 7, 14), False, True) == 0
    assert 1 < 2**8 * integer_error(linear_weights(20, 28, False, True), False, True) < MOST_STEPS["int8"]
    assert 2**8 * integer_error(linear_weights(67, 159, False, True), False, True) > MOST_STEPS["int8"]
    np.testing.assert_allclose(linear_weights(20, 28, False, True), _torchs("linear", 20, 28), atol=1e-5)
