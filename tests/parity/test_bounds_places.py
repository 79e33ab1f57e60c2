"""Sampling, attention, determinants and sums at places: hard operands, small faults, and errors of operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bounds_cases import normal, placed
from bounds_models import Array, NodeCase, judged, node_of

from edgeconv.parity.bounds import FLOAT32, Arithmetic, Bound, of_node
from edgeconv.parity.bounds._bounded import Bounded
from edgeconv.parity.bounds._determinant import determinant
from edgeconv.parity.bounds._formulas import floored_quotient
from edgeconv.reference import evaluate_node

RUNTIME = Arithmetic(runtime="onnxruntime")
# How large a fault is for sure beyond the bound, relative to the largest number of the result.
FAULTS = {
    "AffineGrid": 1e-5,
    "Attention": 3e-5,
    "CastLike": 2e-3,
    "Col2Im": 1e-5,
    "CumProd": 1e-4,
    "Det": 1e-4,
    "GridSample": 1e-4,
    "Range": 1e-3,
    "RotaryEmbedding": 1e-6,
    "ScatterElements": 1e-4,
    "ScatterND": 1e-4,
}
NEW = placed(normal)


IN_HALVES = ("AffineGrid", "Attention", "Col2Im", "CumProd", "Det", "GridSample", "RotaryEmbedding")


@pytest.mark.parametrize("case", [case for case in NEW if case.name in IN_HALVES], ids=lambda case: case.name)
def test_files_of_halves_are_within_their_bounds(case: NodeCase) -> None:
    """Where ONNX Runtime has no kernel for halves it casts, and rounds the result."""
    operands = [item.astype(np.float16) if item is not None and _number(item) else item for item in case.operands]
    arithmetic = Arithmetic(runtime="onnxruntime", storage="float16", inner_storage="float16")
    for bound, result in judged(replace(case, operands=operands), arithmetic):
        assert bound.used(result).max() <= 1
        wrong = np.where(np.isfinite(result), 1.05 * result.astype(np.float64), result)
        assert not wrong.any() or bound.used(wrong).max() > 1


def _number(array: Array | None) -> bool:
    return array is not None and array.dtype.kind == "f"


@pytest.mark.parametrize("case", NEW, ids=lambda case: case.name)
def test_a_small_fault_is_beyond_the_bound(case: NodeCase) -> None:
    for bound, result in judged(case, RUNTIME):
        at = np.unravel_index(np.argmax(np.where(np.isfinite(result), np.abs(result), 0)), result.shape)
        for sign in (-1, 1):
            wrong = result.astype(np.float64)
            wrong[at] += sign * FAULTS[case.name] * np.abs(wrong[at])
            assert not bound.exact[at] or bound.used(wrong).max() > 1


@pytest.mark.parametrize("case", NEW, ids=lambda case: case.name)
def test_errors_of_operands_are_carried(case: NodeCase) -> None:
    """What the exact operator makes of any operands within their errors is within the bound."""
    if case.name == "CumProd" or case.attributes.get("reduction") == "mul":
        pytest.skip("of products nothing is known where a factor has an error: their bounds are infinite")
    rng, node = np.random.default_rng(4), node_of(case)[1]
    sizes = [1e-4 * rng.random(item.shape) if _number(item) else None for item in case.operands]
    told = [
        item if size is None or item is None else Bound(item.astype(np.float64), size, size)
        for item, size in zip(case.operands, sizes, strict=True)
    ]
    bounds = of_node(node, told, opset=case.opset, arithmetic=RUNTIME)
    for _ in range(10):
        moved = [
            item if size is None or item is None else item + size * rng.choice((-1, 1, rng.uniform(-1, 1)), size.shape)
            for item, size in zip(case.operands, sizes, strict=True)
        ]
        for bound, result in zip(bounds, evaluate_node(node, moved, opset=case.opset), strict=True):
            if result.shape == bound.exact.shape:  # of a range, the errors may change the length
                assert bound.used(result).max() <= 1
    assert any((bound.worst > 1e-6).any() or not bound.exact.any() for bound in bounds)


def test_no_order_of_the_stages_of_three_factors_leaves_the_bound() -> None:
    """Where the middle one has columns that cancel, a stage's rounding is all that is left."""
    rng = np.random.default_rng(3)
    a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 50), (50, 40), (40, 3)))
    b[25:], a[:, 25:] = b[:25], -a[:, :25] * np.float32(1 + 1e-6)
    c = c * np.exp(rng.uniform(-5, 5, c.shape)).astype(np.float32)
    ((bound, result),) = judged(NodeCase("Einsum", [a, b, c], {"equation": "ij,jk,kl->il"}), RUNTIME)
    for other in (result, (a @ b) @ c, a @ (b @ c), np.einsum("ij,jk,kl->il", a, b, c)):
        assert 0 < bound.used(other).max() <= 1
    assert bound.used(result + np.float32(2e-4) * np.abs(a) @ np.abs(b) @ np.abs(c)).max() > 1


def _grid(*places: float) -> Array:
    wide = np.stack(np.meshgrid(places, places), -1)
    return wide[None].astype(np.float32)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_places_on_pixels_ties_and_edges(mode: str, padding: str, corners: int) -> None:
    """Each pixel's center, each border between two, those next to them, and places far outside."""
    rng, size = np.random.default_rng(8), 6
    exact = [((place + 0.5) / size * 2 - 1, place / (size - 1) * 2 - 1)[corners] for place in np.arange(-2, 8, 0.5)]
    exact = [float(np.float32(number)) for number in exact]
    near = [float(np.nextafter(np.float32(number), np.float32(end))) for number in exact for end in (-9, 9)]
    places = _grid(*exact, *near, 37.25, -1e3, 1e-40, -1e-30)
    x = rng.standard_normal((1, 2, size, size)).astype(np.float32)
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": corners}
    for image in (x, x * np.exp(rng.uniform(-12, 12, x.shape)).astype(np.float32), x * np.float32(1e-38)):
        ((bound, result),) = judged(NodeCase("GridSample", [image, places], attributes), RUNTIME)
        assert bound.used(result).max() <= 1
        assert np.isfinite(bound.worst).all()


def test_a_wrong_convention_of_sampling_is_beyond_the_bound() -> None:
    case = next(
        case for case in NEW if case.attributes == {"mode": "linear", "padding_mode": "border", "align_corners": 0}
    )
    ((bound, _),) = judged(case, RUNTIME)
    for name, item in (
        ("align_corners", 1),
        ("padding_mode", "zeros"),
        ("padding_mode", "reflection"),
        ("mode", "cubic"),
    ):
        ((_, other),) = judged(replace(case, attributes={**case.attributes, name: item}), RUNTIME)
        assert bound.used(other).max() > 1
    image, grid = case.operands
    assert image is not None
    assert grid is not None
    moved = replace(case, operands=[image, grid + np.float32(1e-5)])  # 1/30,000 of a pixel
    ((_, other),) = judged(moved, RUNTIME)
    assert bound.used(other).max() > 1


def test_nothing_is_known_of_no_place() -> None:
    grid = np.array([np.nan, 0.0, np.inf, 0.0, 0.25, 0.25], np.float32).reshape(1, 1, 3, 2)
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    for mode in ("linear", "nearest"):
        node = node_of(NodeCase("GridSample", [x, grid], {"mode": mode}))[1]
        (bound,) = of_node(node, [x, grid], opset=22)
        assert np.isinf(bound.worst).tolist() == [[[[True, True, False]]]]


def _matrices(kind: str, rng: np.random.Generator, size: int) -> Array:
    x = rng.standard_normal((60, size, size))
    made: dict[str, Callable[[], Any]] = {
        "normal": lambda: x,
        "whole": lambda: np.rint(2 * x),  # of which many are singular, and many pivots equal
        "spread": lambda: x * np.exp(rng.uniform(-6, 6, x.shape)),
        "nearly singular": lambda: np.concatenate([x[..., :-1], x[..., :1] * (1 + 1e-6 * x[..., -1:])], -1),
        "Hilbert": lambda: 1 / (np.add.outer(np.arange(size), np.arange(size)) + 1 + rng.random((60, 1, 1))),
        "tiny": lambda: x * 1e-20,
        "huge": lambda: x * 1e12,
    }
    return np.asarray(made[kind](), np.float32)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 12])
@pytest.mark.parametrize("kind", ["normal", "whole", "spread", "nearly singular", "Hilbert", "tiny", "huge"])
def test_determinants_of_hard_matrices(kind: str, size: int) -> None:
    x = _matrices(kind, np.random.default_rng(size), size)
    ((bound, result),) = judged(NodeCase("Det", [x]), RUNTIME)
    assert bound.used(result).max() <= 1
    for order in (np.arange(size)[::-1], np.random.default_rng(1).permutation(size)):
        # The same determinant but for its sign, with other pivots and other sums.
        sign = np.linalg.det(np.eye(size)[order])
        ((_, other),) = judged(NodeCase("Det", [np.ascontiguousarray(x[:, order])]), RUNTIME)
        assert bound.used((other * np.float32(round(sign))).astype(np.float32)).max() <= 1
    if kind == "normal":
        assert bound.used(result).max() > 0.002  # it says something


def test_cofactors_are_within_the_bound_of_determinants() -> None:
    x = _matrices("nearly singular", np.random.default_rng(3), 3)
    exact = np.linalg.det(x.astype(np.float64))
    bound = determinant(Bounded.of(x, FLOAT32), exact)
    a, b, c = (x[:, 0, at] for at in range(3))
    rest = [x[:, 1, at] * x[:, 2, to] - x[:, 1, to] * x[:, 2, at] for at, to in ((1, 2), (0, 2), (0, 1))]
    result = a * rest[0] - b * rest[1] + c * rest[2]
    assert (np.abs(result - exact) <= bound.worst).all()


@pytest.mark.parametrize("name", ["ScatterElements", "ScatterND"])
def test_no_order_of_scattered_updates_leaves_the_bound(name: str) -> None:
    """Terms that cancel, and of many magnitudes, all in one place."""
    rng = np.random.default_rng(6)
    updates = rng.standard_normal(200) * np.exp(rng.uniform(-9, 9, 200))
    updates = np.concatenate([updates, -updates * (1 + 1e-6 * rng.standard_normal(200))]).astype(np.float32)
    index, data = np.zeros(400, np.int64), np.ones(3, np.float32)
    attributes = {"reduction": "add"}
    orders = [np.arange(400), np.arange(400)[::-1], np.argsort(np.abs(updates)), np.argsort(updates)]
    used = []
    for order in (*orders, *(rng.permutation(400) for _ in range(30))):
        indices = index[order] if name == "ScatterElements" else index[order][:, None]
        ((bound, result),) = judged(NodeCase(name, [data, indices, updates[order]], attributes), RUNTIME)
        used.append(bound.used(result).max())
    assert 0.001 < max(used) <= 1


def test_a_range_is_within_its_bound_by_sums_and_by_products() -> None:
    for start, delta in ((0.1, 0.1), (-1e6, 0.37), (1e-40, 1e-39), (7.0, -1e-3)):
        first, step = np.float32(start), np.float32(delta)
        case = NodeCase("Range", [np.array(number, np.float32) for number in (first, first + 3000 * step, step)])
        ((bound, result),) = judged(case, RUNTIME)
        product = first + np.arange(len(result), dtype=np.float32) * step
        assert bound.used(result).max() <= 1
        assert bound.used(product).max() <= 1
        if start == 0.1:
            assert bound.used(result).max() > 0.1
            assert bound.used(product * np.float32(1 + 1e-3)).max() > 1


def test_a_rounded_quotient_may_reach_the_next_integer_and_never_falls_below_one() -> None:
    a, b = np.float32([4, 1, 0, -1, 9.0, -1e-40]), np.float32([2, 1 / 3, 7, 3e8, 3, 1])
    exact = np.floor(a.astype(np.float64) / b.astype(np.float64))
    bound, doubled = (
        floored_quotient(Bounded.of(a, FLOAT32), Bounded.of(b, FLOAT32), exact, doubled=flag) for flag in (False, True)
    )
    assert (np.abs(np.floor(a / b) - exact) <= bound.worst).all()
    assert bound.worst.tolist() == [0, 1, 0, 0, 0, 1]
    assert doubled.worst.tolist() == [0, 0, 0, 0, 0, 1]


def test_attention_of_another_scale_or_mask_is_beyond_the_bound() -> None:
    rng = np.random.default_rng(2)
    operands = [rng.standard_normal((1, 2, 5, 4)).astype(np.float32) for _ in range(3)]
    ((bound, result),) = judged(NodeCase("Attention", operands, {"is_causal": 1}, opset=23), RUNTIME)
    assert 0.005 < bound.used(result).max() <= 1
    for attributes in ({}, {"is_causal": 1, "scale": 0.5 * (1 + 1e-4)}, {"is_causal": 1, "softcap": 60.0}):
        ((_, other),) = judged(NodeCase("Attention", operands, attributes, opset=23), RUNTIME)
        assert bound.used(other).max() > 1
    mixed = [operands[0], operands[1], operands[2][:, :, ::-1]]
    ((_, other),) = judged(NodeCase("Attention", mixed, {"is_causal": 1}, opset=23), RUNTIME)
    assert bound.used(other).max() > 1


@pytest.mark.parametrize("kind", ["large", "equal", "far apart", "tiny"])
def test_attention_of_hard_scores(kind: str) -> None:
    rng = np.random.default_rng(5)
    query, key, value = (rng.standard_normal((1, 2, 6, 8)).astype(np.float32) for _ in range(3))
    query = query * np.float32({"large": 30, "equal": 0, "far apart": 1000, "tiny": 1e-30}[kind])
    mask = np.where(np.arange(6) < 3, 0, -1e4).astype(np.float32)[None].repeat(6, 0)
    for further in ([], [mask]):
        ((bound, result),) = judged(NodeCase("Attention", [query, key, value, *further], opset=23), RUNTIME)
        assert bound.used(result).max() <= 1
