"""Distances: against their definitions written out in numpy, and by their invariances."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeconv.core import Tolerance
from edgeconv.errors import ParityError
from edgeconv.parity import REL_FLOOR_OF_RMS, check, metrics
from edgeconv.parity._metrics import float32_spacing, measure

FEW = settings(deadline=None, max_examples=25)
finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)
usual = st.floats(-100.0, 100.0)


def pairs(elements: st.SearchStrategy[float] = usual) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """A float64 reference and a float32 result near it."""
    shapes = arrays.array_shapes(min_dims=1, max_dims=4, max_side=6)
    b = shapes.flatmap(lambda shape: arrays.arrays(np.float64, shape, elements=elements))
    return b.flatmap(
        lambda b: arrays.arrays(np.float64, b.shape, elements=st.floats(-1e-3, 1e-3)).map(
            lambda error: ((b + error).astype(np.float32), b)
        )
    )


@FEW
@given(pairs())
def test_every_metric_is_its_definition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    found = metrics(a, b)
    error = np.abs(a.astype(np.float64) - b)
    rms = math.sqrt(float(np.mean(b**2)))
    assert found.rel_floor == pytest.approx(REL_FLOOR_OF_RMS * rms if rms > 0 else 1.0)
    assert found.max_abs == error.max()
    assert found.mean_abs == pytest.approx(error.mean())
    assert found.max_rel == pytest.approx((error / np.maximum(np.abs(b), found.rel_floor)).max())
    assert found.max_ulp == pytest.approx((error / np.spacing(np.abs(b).astype(np.float32)).astype(np.float64)).max())
    norms = np.linalg.norm(a.astype(np.float64)) * np.linalg.norm(b)
    if norms > 1e-100:
        assert found.cosine == pytest.approx(np.vdot(a.astype(np.float64), b) / norms)
    noise, power = float(np.sum(error**2)), float(np.sum(b**2))
    if noise == 0:
        assert found.sqnr_db == math.inf
    elif power > 0:
        assert found.sqnr_db == pytest.approx(10 * math.log10(power / noise))


@FEW
@given(arrays.arrays(np.float32, 50, elements=finite32))
def test_the_spacing_is_that_of_numpy(values: np.ndarray) -> None:
    magnitude = np.abs(values)
    np.testing.assert_array_equal(float32_spacing(magnitude.astype(np.float64)), np.spacing(magnitude))


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-39, 1.1754944e-38, 1.0, 2.0, 1.7e38])
def test_the_spacing_at_the_edges(value: float) -> None:
    magnitude = np.array([value], np.float32)
    assert float32_spacing(magnitude.astype(np.float64))[0] == np.spacing(magnitude)[0]


def test_the_spacing_of_the_largest_float32_and_beyond_is_that_below_it() -> None:
    largest = float(np.finfo(np.float32).max)
    assert float32_spacing(np.array([largest, 1e300])).tolist() == [2.0**104, 2.0**104]


@FEW
@given(st.floats(1.0, 1e6, width=32), st.integers(1, 20))
def test_steps_between_float32_numbers_are_counted(value: float, steps: int) -> None:
    b = np.float32(value)
    a = b
    for _ in range(steps):
        a = np.nextafter(a, np.float32(np.inf))
    at_most_doubled = metrics(np.array([a]), np.array([b], np.float64)).max_ulp
    assert steps <= at_most_doubled <= 2 * steps  # a step is twice as wide above the next power of two


@FEW
@given(pairs(), st.integers(-8, 8))
def test_a_power_of_two_scales_absolute_metrics_and_leaves_the_others(
    pair: tuple[np.ndarray, np.ndarray], exponent: int
) -> None:
    a, b = (np.where(np.abs(one) < 1e-6, 0.0, one) for one in pair)
    a = a.astype(np.float32)
    factor = 2.0**exponent
    one, other = metrics(a, b), metrics((a * np.float32(factor)), b * factor)
    assert other.max_abs == one.max_abs * factor
    assert other.mean_abs == pytest.approx(one.mean_abs * factor)
    assert other.cosine == pytest.approx(one.cosine)
    assert other.sqnr_db == pytest.approx(one.sqnr_db) or one.sqnr_db == other.sqnr_db
    if np.all(b != 0):
        assert other.max_ulp == one.max_ulp
        assert other.max_rel == pytest.approx(one.max_rel)


@FEW
@given(pairs(), st.randoms())
def test_the_order_of_elements_does_not_matter(pair: tuple[np.ndarray, np.ndarray], random: object) -> None:
    a, b = pair[0].reshape(-1), pair[1].reshape(-1)
    order = list(range(a.size))
    random.shuffle(order)  # type: ignore[attr-defined]
    one, other = metrics(a, b), metrics(a[order], b[order])
    assert (one.max_abs, one.max_ulp) == (other.max_abs, other.max_ulp)
    assert one.mean_abs == pytest.approx(other.mean_abs)
    assert one.cosine == pytest.approx(other.cosine)


def test_equal_outputs_are_perfect() -> None:
    b = np.linspace(-1, 1, 1000)
    a = b.astype(np.float32)
    found = metrics(a, a.astype(np.float64))
    assert (found.max_abs, found.max_rel, found.max_ulp, found.mean_abs) == (0, 0, 0, 0)
    assert found.cosine == pytest.approx(1.0)
    assert found.sqnr_db == math.inf


def test_metrics_of_zeros_are_defined() -> None:
    zero, one = np.zeros(4), np.ones(4)
    assert metrics(zero.astype(np.float32), zero).cosine == 1.0
    assert metrics(zero.astype(np.float32), zero).rel_floor == 1.0
    assert metrics(one.astype(np.float32), zero).cosine == 0.0
    assert metrics(one.astype(np.float32), zero).sqnr_db == -math.inf


def test_one_element_beyond_a_chunk_is_found() -> None:
    b = np.random.default_rng(0).standard_normal(200_000)
    a = b.astype(np.float32)
    a[150_001] += 1
    measured = measure(a, b, Tolerance(), 1.0)
    assert measured.at == 150_001
    assert measured.metrics.max_abs == pytest.approx(1.0, rel=1e-6)
    assert measured.excess > 1


@pytest.mark.parametrize(
    ("tolerance", "scale", "excess"),
    [
        (Tolerance(1e-2, 0.0), 1.0, 0.5 / 1e-2),
        (Tolerance(1e-2, 0.0), 10.0, 0.5 / 1e-1),
        (Tolerance(1e-2, 0.0), 0.1, 0.5 / 1e-2),  # never below 1
        (Tolerance(0.0, 1e-2), 10.0, 0.5 / 4e-2),
        (Tolerance(1e-2, 1e-2), 1.0, 0.5 / 5e-2),
        (Tolerance(10.0, 0.0, max_abs=1e-3), 1.0, 0.5 / 1e-3),
        (Tolerance(10.0, 0.0, max_abs=1e-3), 5.0, 0.5 / 5e-3),
        (Tolerance(0.0, 0.0), 1.0, math.inf),
        (Tolerance(1.0, 0.0, max_abs=0.0), 1.0, math.inf),
    ],
)
def test_excess_is_the_error_over_the_bound(tolerance: Tolerance, scale: float, excess: float) -> None:
    b = np.array([4.0, 0.0])
    a = np.array([4.5, 0.0], np.float32)
    measured = measure(a, b, tolerance, scale)
    assert measured.excess == pytest.approx(excess)
    assert measured.at == 0


def test_no_error_needs_no_tolerance() -> None:
    assert measure(np.zeros(3, np.float32), np.zeros(3), Tolerance(0.0, 0.0, max_abs=0.0), 1.0).excess == 0.0


def test_agreeing_infinities_and_nans_are_left_out_of_the_distance() -> None:
    b = np.array([1.0, np.nan, np.inf, -np.inf, 1e300])
    with np.errstate(over="ignore"):
        a = b.astype(np.float32)
    assert check(a, b) == ""
    assert metrics(a, b).max_abs == 0.0


@pytest.mark.parametrize("shape", [(0,), (1, 0, 3)])
def test_nothing_cannot_be_measured(shape: tuple[int, ...]) -> None:
    with pytest.raises(ParityError, match="no elements"):
        metrics(np.zeros(shape, np.float32), np.zeros(shape))


def test_other_shapes_cannot_be_measured() -> None:
    with pytest.raises(ParityError, match=r"\(2, 3\).*\(3, 2\)"):
        metrics(np.zeros((2, 3), np.float32), np.zeros((3, 2)))


def test_integers_and_booleans_are_measured() -> None:
    found = metrics(np.array([1, 5], np.int64), np.array([1, 2], np.int64))
    assert found.max_abs == 3
    assert metrics(np.array([True, False]), np.array([True, True])).max_abs == 1


class TestCheck:
    B = np.arange(6.0).reshape(2, 3)

    def test_float32_stands_for_float64(self) -> None:
        assert check(self.B.astype(np.float32), self.B) == ""

    @pytest.mark.parametrize(
        ("a", "b", "words"),
        [
            (B, B, "dtype is float64, the reference has float32"),
            (B.astype(np.float16), B, "dtype is float16"),
            (B.astype(np.int32), B.astype(np.int64), "dtype is int32, the reference has int64"),
            (B.astype(np.float32).T, B, "shape is (3, 2), the reference has (2, 3)"),
            (B.astype(np.float32)[None], B, "shape is (1, 2, 3)"),
        ],
    )
    def test_kind_and_shape(self, a: np.ndarray, b: np.ndarray, words: str) -> None:
        assert words in check(a, b)

    @pytest.mark.parametrize(
        ("ours", "theirs", "words"),
        [
            (np.nan, 1.0, "NaN"),
            (1.0, np.nan, "NaN"),
            (np.inf, 1.0, "+Inf"),
            (np.inf, -np.inf, "+Inf"),
            (1.0, -np.inf, "-Inf"),
            (np.nan, np.inf, "NaN"),
        ],
    )
    def test_one_place_is_enough(self, ours: float, theirs: float, words: str) -> None:
        a, b = self.B.astype(np.float32), self.B.copy()
        a[1, 2], b[1, 2] = ours, theirs
        assert check(a, b).startswith(f"{words} is not where the reference has it, at 1 of 6 elements, first at (1, 2)")

    def test_values_whose_sum_overflows_are_still_finite(self) -> None:
        b = np.full(100, 3e38)
        assert check(b.astype(np.float32), b) == ""


def test_a_large_output_is_measured_piece_by_piece() -> None:
    """In float64 the whole of it would be 26 MB for each step of the arithmetic."""
    b = np.random.default_rng(0).standard_normal((1, 64, 224, 224))
    a = b.astype(np.float32)
    tracemalloc.start()
    try:
        metrics(a, b)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < b.nbytes / 2
