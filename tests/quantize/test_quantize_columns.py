"""What a layer multiplies its weight with, and what rounding with feedback makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantize_graphs import Graph

from edgeconv.quantize import calibrate, make_plan
from edgeconv.quantize._columns import Columns, taps
from edgeconv.quantize._rounding import _factor, moments, rounded_with_feedback
from edgeconv.quantize._structure import layer_of
from edgeconv.quantize._tune import Rounding, RoundingProblem, tune
from edgeconv.quantize._walk import Dequantized

_CONVOLUTIONS = {
    "pointwise": ((6, 4, 1, 1), {}),
    "padded": ((6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    "on one side": ((6, 4, 3, 3), {"pads": [0, 2, 1, 0], "strides": [2, 1]}),
    "dilated": ((6, 4, 3, 2), {"pads": [2, 1, 2, 0], "dilations": [2, 3]}),
    "depthwise": ((4, 1, 5, 5), {"pads": [2, 2, 2, 2], "group": 4, "strides": [2, 2]}),
    "grouped": ((6, 2, 3, 3), {"pads": [1, 1, 1, 1], "group": 2}),
}


@pytest.mark.parametrize("held", ["integers", "numbers"])
@pytest.mark.parametrize("kind", _CONVOLUTIONS)
def test_columns_times_the_weight_are_what_the_convolution_makes(kind: str, held: str) -> None:
    shape, attributes = _CONVOLUTIONS[kind]
    rng, g = np.random.default_rng(0), Graph(1, input=(2, 4, 9, 8))
    g.conv("input", "a", shape, **attributes)
    (layer,) = (layer for node in g.model("a").graph if (layer := layer_of(node)) is not None)
    weight = rng.standard_normal(shape)
    samples = [
        Dequantized(rng.integers(0, 256, (2, 4, 9, 8), dtype=np.uint8), np.array(0.5, np.float32), np.array(77))
        for _ in range(3)
    ]
    real = [sample.real(sample.integers) for sample in samples]
    whole = [_convolved(array, weight, attributes) for array in real]
    positions = [
        np.sort(rng.choice(array.shape[1], count, replace=False))
        for array, count in zip(whole, (5, 0, 11), strict=True)
    ]
    columns = Columns(layer, samples if held == "integers" else real, positions)
    made = np.matmul(columns.of(), taps(layer, weight).swapaxes(1, 2))
    expected = np.concatenate([array[:, chosen] for array, chosen in zip(whole, positions, strict=True)], axis=1)
    expected = expected.reshape(layer.groups, -1, expected.shape[1]).swapaxes(1, 2)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-4)
    last = slice(layer.groups - 1, layer.groups)
    np.testing.assert_array_equal(columns.of(last), columns.of()[last])


def _convolved(array: np.ndarray, weight: np.ndarray, attributes: dict[str, object]) -> np.ndarray:
    """(channels, positions), those of the second row of the batch behind the first's."""
    (top, left, bottom, right), pads = attributes.get("pads", (0,) * 4), torch.nn.functional.pad
    result = torch.nn.functional.conv2d(
        pads(torch.from_numpy(array).double(), (left, right, top, bottom)),
        torch.from_numpy(weight),
        stride=attributes.get("strides", 1),
        dilation=attributes.get("dilations", 1),
        groups=attributes.get("group", 1),
    )
    return result.transpose(0, 1).flatten(1).numpy()


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e20])
@pytest.mark.parametrize("shape", [(3, 50, 9), (1, 700, 450)])
def test_moments_are_sums_of_products_whatever_the_unit(shape: tuple[int, ...], scale: float) -> None:
    columns = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    wide = columns.astype(np.float64)
    expected, found = wide.swapaxes(1, 2) @ wide, moments(columns * np.float32(scale))
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), atol=1e-6)


def test_the_factor_is_that_of_the_inverse_of_the_damped_moments() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, 40, 12))
    second, order = rows.swapaxes(1, 2) @ rows, np.stack([rng.permutation(12) for _ in range(2)])
    for h, taken, factor in zip(second, order, _factor(second, order), strict=True):
        damped = h[np.ix_(taken, taken)] + 0.01 * np.diagonal(h).mean() * np.eye(12)
        assert (np.tril(factor, -1) == 0).all()
        np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(12), atol=1e-9)


@pytest.mark.parametrize(("groups", "channels"), [(1, 1), (1, 5), (3, 1), (1, 64)])
def test_a_single_tap_is_rounded_to_nearest(groups: int, channels: int) -> None:
    weight = np.random.default_rng(0).normal(size=(groups, channels, 1))
    rounded = rounded_with_feedback(weight, np.full((1, 1, 1), 0.02), np.ones((groups, 1, 1)), 127)
    np.testing.assert_allclose(rounded, np.rint(weight / 0.02) * 0.02, atol=1e-12)


def test_layers_of_few_taps_are_rounded_on_fewer_positions() -> None:
    """Nine taps need no more to tell their moments, and a depthwise layer has nine columns for each of its inputs."""
    g = Graph(1, input=(1, 3, 64, 64))
    g.conv("input", "wide", (32, 3, 7, 7), pads=[3, 3, 3, 3])
    g.conv("wide", "depthwise", (32, 1, 3, 3), pads=[1, 1, 1, 1], group=32)
    model, seen = g.model("depthwise"), list[tuple[int, ...]]()
    batches = [{"input": np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)}] * 3
    plan = make_plan(model, calibrate(model, batches))

    def nearest(problem: RoundingProblem) -> np.ndarray:
        seen.append(problem.seen.shape)
        return np.rint(problem.weight / problem.scales) * problem.scales

    tune(model, plan, batches, title="", rounding=Rounding(nearest, 8000, 100))
    assert seen == [(1, 8001, 147), (32, 900, 9)]
