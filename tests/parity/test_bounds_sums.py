"""Sums of products in many orders, in real float32 and float16 arithmetic, against their bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bounds_models import NodeCase, node_of
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeconv.parity.bounds import FLOAT16, FLOAT32, Arithmetic, of_node
from edgeconv.parity.bounds._bounded import Bounded
from edgeconv.parity.bounds._formulas import softmax

Array = npt.NDArray[Any]


def _in_order(terms: Array) -> Array:
    total = np.zeros(terms.shape[:-1], terms.dtype)
    for at in range(terms.shape[-1]):
        total = total + terms[..., at]
    return total


def _pairwise(terms: Array) -> Array:
    while terms.shape[-1] > 1:
        even = terms.shape[-1] // 2 * 2
        terms = np.concatenate([terms[..., 0:even:2] + terms[..., 1:even:2], terms[..., even:]], -1)
    return terms[..., 0]


def _blocked(lanes: int) -> Callable[[Array], Array]:
    def add(terms: Array) -> Array:
        missing = -terms.shape[-1] % lanes
        padded = np.pad(terms, [(0, 0)] * (terms.ndim - 1) + [(0, missing)])
        return _in_order(_in_order(np.moveaxis(padded.reshape(*terms.shape[:-1], -1, lanes), -2, -1)))

    return add


ORDERS: dict[str, Callable[[Array], Array]] = {
    "forward": _in_order,
    "backward": lambda terms: _in_order(terms[..., ::-1]),
    "rising": lambda terms: _in_order(np.take_along_axis(terms, np.abs(terms).argsort(-1), -1)),
    "signs": lambda terms: _in_order(np.sort(terms, -1)),
    "pairwise": _pairwise,
    **{f"blocks of {lanes}": _blocked(lanes) for lanes in (4, 8, 16)},
}


def _fused(x: Array, w: Array) -> Array:
    """Multiply-add rounded once: float64 holds products of float32 exactly, and the sum all but so."""
    total = np.zeros(x.shape[:-1], x.dtype)
    for at in range(x.shape[-1]):
        exact = x[..., at].astype(np.float64) * w[..., at].astype(np.float64) + total.astype(np.float64)
        total = exact.astype(x.dtype)
    return total


def _operands(rng: np.random.Generator, kind: int, shape: tuple[int, int], dtype: str) -> Array:
    """Plain, positive, canceling, of many magnitudes, sparse, or with denormal numbers."""
    x = rng.standard_normal(shape)
    if kind == 1:
        x = np.abs(x)
    elif kind == 2:
        x[:, 1::2] = -x[:, : x.shape[1] // 2 * 2 : 2][:, : x[:, 1::2].shape[1]]
    elif kind == 3:
        x = x * np.exp2(rng.uniform(-6, 6, shape))
    elif kind == 4:
        x = x * (rng.random(shape) < 0.2)
    elif kind == 5:
        x = x * np.where(rng.random(shape) < 0.5, float(np.finfo(dtype).smallest_normal), 1.0)
    return x.astype(dtype)


def _hold(seed: int, count: int, kind: int, arithmetic: Arithmetic, rows: int) -> tuple[int, float]:
    """One set of operands in all orders; the number of sums, and the largest share of their bounds."""
    rng, dtype = np.random.default_rng(seed), arithmetic.compute
    x, w = _operands(rng, kind, (rows, count), dtype), _operands(rng, (seed + kind) % 5, (rows, count), dtype)
    left, right = (Bounded.of(array, arithmetic) for array in (x[:, None, :], w[:, :, None]))
    bound = (left @ right).value[:, 0, 0], (left @ right).worst[:, 0, 0]
    used = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        results = {name: order(x * w) for name, order in ORDERS.items()}
        results["fused"] = _fused(x, w)
        for name, result in results.items():
            error = np.abs(result.astype(np.float64) - bound[0])
            assert not (error > bound[1]).any(), (name, seed, count, kind)
            used = max(used, float(np.max(error / bound[1], where=np.isfinite(error), initial=0.0)))
    return rows * len(results), used


@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(0, 5), st.sampled_from([FLOAT32, FLOAT16]))
@settings(max_examples=60, deadline=None)
def test_no_order_of_a_sum_leaves_its_bound(seed: int, count: int, kind: int, arithmetic: Arithmetic) -> None:
    _hold(seed, count, kind, arithmetic, 4)


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", [FLOAT32, FLOAT16], ids=["float32", "float16"])
def test_no_order_of_ten_thousand_sums_leaves_its_bound(arithmetic: Arithmetic) -> None:
    rng = np.random.default_rng(11)
    runs = [_hold(seed, int(rng.integers(1, 900)), seed % 6, arithmetic, 20) for seed in range(600)]
    sums, used = sum(count for count, _ in runs), max(share for _, share in runs)
    print(f"{sums:,} sums in {arithmetic.compute}, at most {used:.3f} of the bound used")
    assert sums > 10_000
    assert used > 0.3  # it says something


def test_the_bound_is_tight_for_the_worst_order() -> None:
    """1 and then terms of u each, which all vanish: n u is reached, but for the last."""
    terms = np.full((1, 1, 1000), 2.0**-24, np.float32)
    terms[..., 0] = 1
    total = Bounded.of(terms, FLOAT32).sum(-1, keepdims=False)
    assert 0.9 < abs(1.0 - float(total.value[0, 0])) / float(total.worst[0, 0]) <= 1


@given(st.integers(0, 2**32), st.integers(2, 40), st.floats(0.01, 60))
@settings(max_examples=60, deadline=None)
def test_softmax_in_float32(seed: int, classes: int, spread: float) -> None:
    x = (np.random.default_rng(seed).standard_normal((5, classes)) * spread).astype(np.float32)
    powers = np.exp(x - x.max(-1, keepdims=True))
    result, bound = powers / _in_order(powers)[:, None], softmax(Bounded.of(x, FLOAT32), -1)
    assert (np.abs(result.astype(np.float64) - bound.value) <= bound.worst).all()


def test_a_fast_convolution_has_a_bound_of_its_own() -> None:
    """F(2 x 2, 3 x 3), written out, is within it; a huge pixel under a weight of 0 leaves the direct one's."""
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((1, 4, 6, 6)).astype(np.float32), rng.standard_normal((2, 4, 3, 3)).astype(np.float32)
    x[0, :, 2, 2], w[..., 2] = 1e6, 0
    data = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
    filters = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
    back = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)
    result = np.zeros((1, 2, 4, 4), np.float32)
    for row in (0, 2):
        for column in (0, 2):
            moved = data @ x[0, :, row : row + 4, column : column + 4] @ data.T
            products = (filters @ w @ filters.T * moved[None]).sum(1, dtype=np.float32)
            result[0, :, row : row + 2, column : column + 2] = back @ products @ back.T
    case = NodeCase("Conv", [x, w])
    node = node_of(case)[1]
    (direct,), (fast,) = (
        of_node(node, [x, w], opset=case.opset, arithmetic=Arithmetic(winograd=tile)) for tile in (0, 2)
    )
    assert fast.used(result).max() <= 1 < direct.used(result).max()
