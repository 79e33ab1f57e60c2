"""What an SQNR that was measured on a sample says of other data like it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeconv.core.confidence import sqnr_bound, student_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 6.314), (2, 2.920), (3, 2.353), (4, 2.132), (9, 1.833), (30, 1.697), (1000, 1.646)]
)
def test_quantiles_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_quantile(0.95, degrees) == pytest.approx(quantile, rel=4e-3)


@pytest.mark.parametrize("count", [4, 8, 40])
def test_the_bound_holds_as_often_as_its_confidence_says(count: int) -> None:
    """Noise of a tenth of the signal's energy, varying by its own size from input to input."""
    rng, holds = np.random.default_rng(0), []
    for _ in range(2000):
        signals = rng.gamma(16, 1 / 16, count)
        bound = sqnr_bound(signals, 0.1 * rng.gamma(4, 1 / 4, count), 0.95)
        holds.append(bound is not None and bound <= 10.0)
    assert 0.9 < np.mean(holds) < 0.98


def test_alike_inputs_leave_no_margin_and_few_that_lose_most_a_wide_one() -> None:
    assert sqnr_bound([1.0] * 8, [0.01] * 8, 0.95) == pytest.approx(20.0)
    uneven = sqnr_bound([1.0] * 8, [0.001] * 7 + [0.073], 0.95)
    assert uneven is not None
    assert 15.0 < uneven < 16.0


def test_nothing_is_said_of_one_input_or_without_a_signal() -> None:
    assert sqnr_bound([1.0], [0.01], 0.95) is None
    assert sqnr_bound([0.0, 0.0], [0.01, 0.01], 0.95) is None
    assert sqnr_bound([1.0, 2.0], [0.0, 0.0], 0.95) == math.inf
