"""Integer weights of other converters: one wrong number is told, and how a converter rounds is its own affair."""

from __future__ import annotations

import numpy as np
import pytest

from edgeconv.parity.writing._weights import Rounding

DUE = np.random.default_rng(0).standard_normal((16, 8, 3, 3))
STEP = np.abs(DUE).max((1, 2, 3), keepdims=True) / 127
HELD = np.rint(DUE / STEP)


def told(held: np.ndarray, step: np.ndarray = STEP) -> list[str]:
    """Of integers in the order of `.tflite`, channels last."""
    arrays = tuple(array.transpose(0, 2, 3, 1) for array in (held * step, step))
    rounding = Rounding({"w": (arrays[0], arrays[1])}, [{"weight": DUE, "bias": DUE[0, 0, 0]}])
    return [text for _, text in rounding.faults()]


def test_the_nearest_integers_are_right() -> None:
    assert not told(HELD)


@pytest.mark.parametrize("steps", [1, -2, 40])
def test_one_weight_is_told(steps: int) -> None:
    wrong = HELD.copy()
    wrong[3, 2, 1, 0] += steps
    (text,) = told(wrong)
    assert text.startswith("constant w: 1 of 1152 numbers is not the nearest to the module's; [3, 1, 0, 2] stands for ")


@pytest.mark.parametrize(
    ("held", "step", "words"),
    [
        (HELD + 1, STEP, "its zero point is 1 off: all numbers are +1 steps from the module's"),
        (HELD, STEP * 1.25, "its scale is 1.25 times what the module's numbers have"),
    ],
)
def test_what_is_wrong_with_all_of_a_constant_is_told(held: np.ndarray, step: np.ndarray, words: str) -> None:
    assert told(held, step) == [f"constant w: {words}"]


def test_learned_rounding_evened_channels_and_clipped_weights_are_no_faults() -> None:
    rng = np.random.default_rng(1)
    learned = np.where(rng.random(DUE.shape) < 0.2, np.where(HELD * STEP < DUE, HELD + 1, HELD - 1), HELD)
    factors = np.exp(rng.uniform(-1, 1, (16, 1, 1, 1)))
    cut = STEP / 1.2
    assert not told(learned)
    assert not told(HELD, STEP * factors)
    assert not told(np.clip(np.rint(DUE / cut), -127, 127), cut)


def _evened(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Integers and their steps of a weight that was evened out and rounded as it was learned."""
    due = DUE * np.exp(rng.uniform(-1, 1, (16, 1, 1, 1))) * np.exp(rng.uniform(-1, 1, (1, 8, 1, 1)))
    step = np.abs(due).max((1, 2, 3), keepdims=True) / 127
    away = np.where(rng.random(due.shape) < 0.1, rng.choice([-1, 1], due.shape), 0)
    return np.clip(np.rint(due / step) + away, -127, 127), step


@pytest.mark.parametrize("seed", range(20))
def test_of_evened_channels_exchanged_numbers_are_told_and_learned_roundings_are_not(seed: int) -> None:
    held, step = _evened(np.random.default_rng(seed))
    assert not told(held, step)
    wrong = held.copy()
    flat = wrong.reshape(-1)
    flat[[100, 500]] = flat[[500, 100]] if abs(flat[500] - flat[100]) > 12 else (flat[100] + 30, flat[500])
    (text,) = told(wrong, step)
    assert "further from the module's than all others" in text
    exchanged = held.copy()
    exchanged[[2, 5]] = held[[5, 2]]
    (text,) = told(exchanged, step)
    assert "further from the module's than all others" in text


def test_other_weights_of_the_same_size_are_no_fault() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        other = rng.standard_normal(DUE.shape)
        step = np.abs(other).max((1, 2, 3), keepdims=True) / 127
        assert not told(np.rint(other / step), step)
