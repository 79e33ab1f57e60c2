"""Each rule and family of rules on 10,000 random results at least; ``-s`` prints what they use of their bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import test_bounds_litert as litert
from bounds_cases import CASES
from bounds_draws import KINDS, LEAST, on_one_session, spread, tallied
from bounds_models import Array, NodeCase, node_of
from reference.tflite_files import Spec, constant, quantized
from test_bounds_sums import ORDERS

from edgeconv.parity.bounds import FLOAT16, FLOAT32, NODES, TFLITE, Arithmetic, Bound, of_node
from edgeconv.parity.bounds import _formulas as formulas
from edgeconv.parity.bounds._bounded import Bounded
from edgeconv.parity.bounds._sums import _TRANSFORMS
from edgeconv.reference import evaluate_node

pytestmark = pytest.mark.slow
RUNTIME = Arithmetic(runtime="onnxruntime")
_Draw = Callable[[int], list[tuple[Bound, Array]]]
EXACT = {"Mod", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "Shrink", "CAST", "FLOOR_DIV"}
EXACT |= {"RESIZE_NEAREST_NEIGHBOR"}
"""Those of which the runtime's result is the exact one, or the integer nearest to it, wherever there is no tie."""


def _in_turn(draws: list[_Draw]) -> _Draw:
    return lambda seed: draws[seed % len(draws)](seed // len(draws))


@pytest.mark.parametrize("name", sorted(NODES))
def test_rules_of_onnx(name: str) -> None:
    tally = tallied(_in_turn([on_one_session(case, RUNTIME) for case in CASES if case.name == name]), name)
    assert tally.cases >= LEAST
    assert not tally.beyond
    assert tally.used > 0.005 or name in EXACT  # it says something


@pytest.mark.parametrize("name", sorted({case[0] for case in litert.CASES} & TFLITE.keys()))
def test_rules_of_tflite(name: str) -> None:
    cases = [case for case in litert.CASES if case[0] == name]
    kernels = [item for item in litert.KERNELS if item != "reference" or name not in litert.UNLIKE]

    def draw(seed: int) -> list[tuple[Bound, Array]]:
        case, kind = cases[seed % len(cases)], kernels[seed // len(cases) % len(kernels)]
        return [litert.bounds(case, kind, np.random.default_rng(seed), (0.0, 12.0, 3.0)[seed % 3])]

    tally = tallied(draw, name)
    assert tally.cases >= LEAST
    assert not tally.beyond
    assert tally.used > 0.005 or name in EXACT


IMAGE = Spec((1, 9, 9, 8))


def _integer_case(name: str, rng: np.random.Generator) -> tuple[str, list[Any], Spec, dict[str, Any], bool]:
    """An operator of int8 tensors with scales and zero points of their own."""

    def tensor() -> Spec:
        return quantized(IMAGE, "int8", float(np.exp2(rng.uniform(-8, 0))), int(rng.integers(-128, 128)))

    x, y = tensor(), tensor()
    if name == "CONV_2D":
        scales = np.exp2(rng.uniform(-9, -5, 8)).astype(np.float32)
        weight = constant(rng.integers(-127, 128, (8, 3, 3, 8)), "int8", scale=scales.tolist(), zero=[0] * 8)
        own = [float(np.float32(x.scale) * scale) for scale in scales]  # type: ignore[arg-type]
        bias = constant(rng.integers(-9999, 9999, 8), "int32", scale=own, zero=[0] * 8)
        return name, [x, weight, bias], y, litert.CONV, False
    if name == "LOGISTIC":
        return name, [x], replace(y, scale=2.0**-8, zero=-128), {}, False
    options = litert.POOL if name == "AVERAGE_POOL_2D" else {}
    if name == "AVERAGE_POOL_2D":
        y = x
    other = tensor()
    if name == "MUL":  # beyond 16 bits LiteRT wraps its products, see `test_a_product_beyond_16_bits`
        y = replace(y, scale=max(y.scale, 2 * x.scale * other.scale))  # type: ignore[operator, type-var]
    return name, [x] if options else [x, other], y, options, False


@pytest.mark.parametrize("name", ["ADD", "AVERAGE_POOL_2D", "CONV_2D", "LOGISTIC", "MUL", "SUB"])
def test_integers_of_tflite(name: str) -> None:
    """100 and more sets of scales."""
    kernels = list(litert.KERNELS)

    def draw(seed: int) -> list[tuple[Bound, Array]]:
        rng = np.random.default_rng(seed)
        bound, result = litert.bounds(_integer_case(name, rng), kernels[seed % len(kernels)], rng)
        return [(_part(bound, slice(0, 99)), result.reshape(-1)[:99])]

    tally = tallied(draw, f"{name} of int8")
    assert tally.cases >= LEAST
    assert not tally.beyond


def _part(bound: Bound, places: slice) -> Bound:
    return Bound(*(array.reshape(-1)[places] for array in (bound.exact, bound.worst, bound.likely)))


@pytest.mark.parametrize("tile", [2, 4])
def test_fast_convolutions(tile: int) -> None:
    """F(m x m, 3 x 3) in float32, channel by channel in several orders."""
    data, filters, back = _TRANSFORMS[tile]
    size = 4 * tile

    def fast(x: Array, w: Array, order: Array) -> Array:
        result = np.zeros((len(x), len(w), size, size), x.dtype)
        before, turning, behind = (matrix.astype(x.dtype) for matrix in (data, filters, back))
        turned = turning @ w @ turning.T
        for row in range(0, size, tile):
            for column in range(0, size, tile):
                part = x[:, :, row : row + tile + 2, column : column + tile + 2]
                moved = before @ part @ before.T
                total = np.zeros((len(x), len(w), tile + 2, tile + 2), x.dtype)
                for channel in order:
                    total = total + moved[:, None, channel] * turned[None, :, channel]
                result[:, :, row : row + tile, column : column + tile] = behind @ total @ behind.T
        return result

    def draw(seed: int) -> list[tuple[Bound, Array]]:
        rng, channels = np.random.default_rng(seed), (1, 3, 16)[seed % 3]
        x, w = (
            spread(rng.standard_normal(shape).astype(np.float32), rng, kind)
            for shape, kind in (((1, channels, size + 2, size + 2), seed % KINDS), ((4, channels, 3, 3), seed // 6 % 5))
        )
        node = node_of(NodeCase("Conv", [x, w]))[1]
        (bound,) = of_node(node, [x, w], opset=22, arithmetic=Arithmetic(winograd=tile))
        exact = fast(x.astype(np.float64), w.astype(np.float64), np.arange(channels))
        largest = np.abs(x).max() * np.abs(w).max()
        np.testing.assert_allclose(exact, evaluate_node(node, [x, w], opset=22)[0], rtol=0, atol=1e-10 * largest)
        return [(bound, fast(x, w, rng.permutation(channels)))]

    tally = tallied(draw, f"F({tile} x {tile}, 3 x 3)")
    assert tally.cases >= LEAST
    assert not tally.beyond
    assert tally.used > 0.01


def _rows(name: str, x: Array, add: Callable[[Array], Array]) -> Array:
    """A formula of rows in the arithmetic of their type, with sums in an order."""
    kind, count = x.dtype.type, x.dtype.type(x.shape[-1])
    if name == "softmax":
        powers = np.exp(x - x.max(-1, keepdims=True))
        return powers / add(powers)[:, None]
    if name == "log_softmax":
        below = x - x.max(-1, keepdims=True)
        return below - np.log(add(np.exp(below)))[:, None]
    if name == "root_mean_square":
        return x / np.sqrt(add(x * x) / count + kind(1e-3))[:, None]
    if name == "norm":
        return np.sqrt(add(x * x))
    mean = add(x) / count
    centered = x - mean[:, None]
    variance = add(centered * centered) / count
    return centered * (kind(1) / np.sqrt(variance + kind(1e-3)))[:, None]


def _bounded_rows(name: str, x: Bounded) -> Bounded:
    if name == "root_mean_square":
        return formulas.root_mean_square(x, [-1], 1e-3)
    if name == "norm":
        return formulas.norm(x, [-1], 2, keepdims=False)
    if name == "normalized":
        return formulas.normalized(x, *formulas.moments(x, [-1]), 1e-3, None, None)
    return {"softmax": formulas.softmax, "log_softmax": formulas.log_softmax}[name](x, -1)


@pytest.mark.parametrize("arithmetic", [FLOAT32, FLOAT16], ids=["float32", "float16"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "root_mean_square", "norm", "normalized"])
def test_formulas_in_every_order_of_their_sums(name: str, arithmetic: Arithmetic) -> None:
    def draw(seed: int) -> list[tuple[Bound, Array]]:
        rng, kind = np.random.default_rng(seed), (seed % KINDS) if arithmetic is FLOAT32 else (0, 1, 2, 4)[seed % 4]
        x = spread(rng.standard_normal((8, int(rng.integers(2, 60)))).astype(arithmetic.compute), rng, kind)
        with np.errstate(all="ignore"):
            bounded = _bounded_rows(name, Bounded.of(x, arithmetic))
            slack = 1 + 2.0**-20
            bound = Bound(bounded.value, bounded.worst * slack, bounded.likely * slack)
            return [(bound, _rows(name, x, order)) for order in ORDERS.values()]

    tally = tallied(draw, f"{name} in {arithmetic.compute}")
    assert tally.cases >= LEAST
    assert not tally.beyond
    assert tally.used > 0.02
