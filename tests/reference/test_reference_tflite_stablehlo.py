"""Windows of StableHLO, dilations and arithmetic of a `.tflite` file, against LiteRT's kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tflite_files import Array, Spec, both, constant, equal, file_of, ints, windows, within_ulps

from edgeconv.errors import EmitError
from edgeconv.reference import tflite

RNG = np.random.default_rng()
BODIES = ("ADD", "MUL", "MINIMUM", "MAXIMUM", "LOGICAL_AND", "LOGICAL_OR")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    RNG.bit_generator.state = np.random.default_rng(11).bit_generator.state


WIDE = {"windowDimensions": [1, 3, 3, 1]}
FORMS: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((1, 3, 4, 5), {"windowDimensions": [1, 3, 3, 1], "windowStrides": [1, 2, 2, 1]}),
    ((1, 3, 4, 5), {"windowDimensions": [1, 2, 2, 1], "windowStrides": [1, 2, 2, 1]}),  # the last row is left out
    ((1, 4, 5, 5), {**WIDE, "windowStrides": [1, 2, 2, 1], "padding": [0, 0, 1, 1, 1, 1, 0, 0]}),
    ((1, 3, 5, 5), {**WIDE, "windowDilations": [1, 2, 2, 1], "padding": [0, 0, 0, 0, -1, 1, 0, 0]}),
    ((1, 12, 16, 5), {"windowDimensions": [1, 2, 2, 1], "baseDilations": [1, 2, 2, 1]}),
)  # fmt: skip


def _data(kind: str, shape: tuple[int, ...]) -> Array:
    if kind == "bool":
        return RNG.random(shape) < 0.8
    drawn = RNG.integers(-3, 4, shape) if kind != "float32" else RNG.uniform(0.5, 1.5, shape)
    return np.asarray(drawn.astype(kind))


@pytest.mark.parametrize(("shape", "options"), FORMS)
@pytest.mark.parametrize(
    ("body", "kind"),
    [(body, kind) for body in BODIES for kind in (("bool",) if "LOGICAL" in body else ("float32", "int32", "int8"))],
)
def test_windows_are_reduced_as_the_kernel_does(
    shape: tuple[int, ...], options: dict[str, Any], body: str, kind: str
) -> None:
    x = Spec((1, 7, 9, 5), kind)
    first = {"MUL": 1, "LOGICAL_AND": True}.get(body, 0)
    file = windows(x, constant(np.array(first, kind), kind), shape, body, **options)
    pairs = both(file, RNG, x0=_data(kind, x.shape))
    assert pairs[0][1].shape == shape
    within_ulps(pairs, 9) if kind == "float32" else equal(pairs)


def test_a_body_of_another_operator_is_refused() -> None:
    file = windows(Spec((1, 4, 4, 2)), constant(0.0), (1, 3, 3, 2), "SUB", windowDimensions=[1, 2, 2, 1])
    graph = tflite.read(file)
    with pytest.raises(EmitError, match="reduces by something that no kernel takes"):
        tflite.evaluate(graph, {"x0": np.ones((1, 4, 4, 2), np.float32)})


def test_windows_larger_than_the_data_are_refused() -> None:
    file = windows(Spec((1, 2, 2, 2)), constant(0.0), (1, 1, 1, 2), "ADD", windowDimensions=[1, 3, 3, 1])
    with pytest.raises(EmitError, match="has windows of"):
        tflite.evaluate(tflite.read(file), {"x0": np.ones((1, 2, 2, 2), np.float32)})


@pytest.mark.parametrize("kind", ["float32", "int8", "int32"])
def test_dilations_are_the_kernels(kind: str) -> None:
    file = file_of(
        "DILATE", [Spec((2, 3, 4), kind), ints(1, 3, 2), constant(np.array(2, kind), kind)], [Spec((2, 7, 7), kind)]
    )
    equal(both(file, RNG))


@pytest.mark.parametrize("name", ["ADD", "MULTIPLY", "MAXIMUM", "MINIMUM"])
@pytest.mark.parametrize("kind", ["float32", "int32"])
def test_arithmetic_is_the_kernels(name: str, kind: str) -> None:
    file = file_of(f"STABLEHLO_{name}", [Spec((3, 4), kind)] * 2, [Spec((3, 4), kind)])
    within_ulps(both(file, RNG, whole=True), 0)
