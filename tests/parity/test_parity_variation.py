"""Channels and parts of an output that say nothing any more, whatever the ratio of the whole output is."""

from __future__ import annotations

import numpy as np
import pytest

from edgeconv.core import Array, Fidelity, Parts, Run, Sample, Verdict
from edgeconv.core.variation import channel_axis, says_nothing
from edgeconv.parity import compare

RANDOM = np.random.default_rng(5)


def lost(computed: Array, expected: Array, *joints: Parts) -> tuple[int, int]:
    found = says_nothing([(computed, expected)], joints)
    return found.lost, found.parts


def drowned(computed: Array, expected: Array) -> int:
    return says_nothing([(computed, expected)], ()).drowned


def head() -> Array:
    """Boxes in pixels beside two scores of 0 to 1 and a constant."""
    boxes, scores = RANDOM.uniform(0.0, 640.0, (1, 4, 100)), RANDOM.uniform(0.0, 1.0, (1, 2, 100))
    return np.concatenate([boxes, scores, np.ones((1, 1, 100))], 1)


def verdict_of(computed: list[Array], expected: list[Array], bound: Fidelity) -> tuple[Verdict, str]:
    samples = [Sample(f"s{index}", {}) for index in range(len(expected))]
    runs = [
        Run(device, "m.tflite", tuple({"y": array.astype(kind)} for array in arrays))
        for device, kind, arrays in (("litert", np.float32, computed), ("torch-float64", np.float64, expected))
    ]
    (row,) = compare(*runs, samples, artifact="m.tflite", tolerance=bound, output_names=["y"])
    return row.verdict, row.reason


def test_a_channel_that_says_nothing_fails_though_all_are_of_one_magnitude() -> None:
    """One of eight variances is a constant; the means of all are 30 dB above what is wrong."""
    exact = RANDOM.standard_normal((1, 8, 6, 6)) * 0.1 + 5.0
    coarse = exact + 0.003 * RANDOM.standard_normal(exact.shape)
    assert verdict_of([coarse], [exact], Fidelity()) == (Verdict.PASS, "")
    coarse[:, 3] = 5.0
    verdict, reason = verdict_of([coarse], [exact], Fidelity())
    assert verdict is Verdict.FAIL
    assert "1 part of the output says nothing, at most 0 may" in reason
    assert "what says nothing is channel 3 (" in reason
    assert " of 8: " in reason
    assert verdict_of([coarse], [exact], Fidelity(lost_parts=1))[0] is Verdict.PASS


@pytest.mark.parametrize(("times", "count"), [(0.5, 0), (0.65, 0), (0.75, 8), (1.0, 8)])
def test_half_of_the_energy_of_what_varies_is_the_limit(times: float, count: int) -> None:
    exact = RANDOM.standard_normal((1, 8, 40, 40)) + 50.0
    assert lost(exact + times * RANDOM.standard_normal(exact.shape), exact)[0] == count


def test_noise_that_is_accepted_of_all_drowns_no_channel_that_is_judged() -> None:
    """Deviations of 1 to 1000, and noise 20 dB below their energy: those of a fifth of the usual one keep 6 dB."""
    exact = RANDOM.standard_normal((1, 200, 20, 20)) * np.geomspace(1, 1000, 200).reshape(1, 200, 1, 1)
    noise = RANDOM.standard_normal(exact.shape) * np.sqrt(np.square(exact).mean() / 100)
    assert lost(exact + noise, exact) == (0, 0)
    assert drowned(exact + noise, exact) > 100


def test_of_few_numbers_of_each_channel_it_is_told_what_is_left_of_all() -> None:
    """Four samples of a classifier: what one of its scores varies is chance, and random weights vary little at all."""
    exact = [RANDOM.standard_normal((1, 10)) + 30.0 for _ in range(4)]
    one = [array.copy() for array in exact]
    for array in one:
        array[:, 4] = 30.0
    assert verdict_of(one, exact, Fidelity()) == (Verdict.PASS, "")
    verdict, reason = verdict_of([np.full((1, 10), 30.0)] * 4, exact, Fidelity())
    assert verdict is Verdict.PASS
    assert "more than half of the energy of what all channels vary together" in reason
    assert says_nothing(list(zip(one, exact, strict=True)), ()).count == 4
    assert verdict_of([np.full((1, 10), 30.0)], exact[:1], Fidelity()) == (Verdict.PASS, ""), "one sample shows nothing"


def test_a_constant_and_rounding_of_float32_are_never_lost() -> None:
    exact = RANDOM.standard_normal((1, 4, 10, 10))
    exact[:, 1] = 7.0
    exact[:, 2] = 7.0 + 1e-8 * RANDOM.standard_normal((1, 10, 10))
    computed = exact.copy()
    computed[:, 1:3] = 7.1
    assert lost(computed, exact) == (0, 0)


def test_a_class_that_no_input_shows_is_no_lost_part() -> None:
    """Its scores are below any step, and its channel alone says nothing; the part that it belongs to does."""
    exact = head()
    exact[:, 5] *= 1e-5
    rounded = exact.copy()
    rounded[:, 5] = 0
    joints = [Parts(1, (4, 3))]
    assert lost(rounded, exact, *joints) == (0, 2)
    assert drowned(rounded, exact) == 1
    rounded[:, 4:] = 0
    assert lost(rounded, exact, *joints) == (2, 3), "the part, and its one channel"
    assert lost(rounded, exact, Parts(1, (4, 4))) == (0, 0), "other parts than the output has"


def test_a_part_that_is_rounding_of_float64_is_not_lost() -> None:
    """The mean of what was normalized: 1e-17 where float32 computes 1e-8."""
    exact = head()
    exact[:, 4:] = 1e-17 * RANDOM.standard_normal(exact[:, 4:].shape)
    computed = exact.copy()
    computed[:, 4:] = 1e-4 * RANDOM.standard_normal(exact[:, 4:].shape)
    assert lost(computed, exact, Parts(1, (4, 3))) == (0, 2)
    assert drowned(computed, exact) == 0


def test_what_a_mean_hides_is_lost_and_what_is_short_is_not() -> None:
    boxes = RANDOM.uniform(0.0, 640.0, (1, 4, 100))
    far = boxes + 1e4
    assert lost(far + RANDOM.standard_normal(boxes.shape) * 500, far) == (4, 4)
    assert lost(far * 0 + 1e5, boxes + 1e5) == (0, 0), "less than a hundredth of its size"
    assert lost(boxes + 1.0, boxes) == (0, 0)
    assert lost(np.zeros((1, 9)), np.ones((1, 9))) == (0, 0)
    assert lost(np.full(40, 3.0), RANDOM.standard_normal(40) + 3.0) == (1, 1), "without channels it is one"
    assert lost(np.full((1, 4, 9), np.inf), np.full((1, 4, 9), np.inf)) == (0, 0)


def test_channels_of_a_layer_are_parts_where_they_are_narrow_beside_others() -> None:
    rng, layer = np.random.default_rng(0), Parts(1, (6,))
    boxes, scores = rng.random((1, 4, 8, 8)) * 640, rng.random((1, 2, 8, 8))
    exact, silent = np.concatenate([boxes, scores], 1), np.concatenate([boxes, np.zeros_like(scores)], 1)
    assert lost(exact, exact, layer) == (0, 2)
    assert lost(silent, exact, layer) == (2, 2)
    many = np.concatenate([np.repeat(boxes, 10, 1), scores[:, :1]], 1)
    without = many.copy()
    without[:, -1] = 0
    assert lost(without, many, Parts(1, (41,))) == (0, 0), "one of many that no input shows"


def test_channels_of_a_layer_that_are_lost_alone_are_parts() -> None:
    """A layer behind a join of which one part was lost: its results are as wide as the others, and say nothing."""
    rng, layer = np.random.default_rng(0), Parts(1, (6,))
    exact = rng.standard_normal((1, 6, 8, 8))
    noise = 0.05 * rng.standard_normal(exact.shape)
    silent = exact + noise
    silent[:, 4:] = 0.1
    assert lost(silent, exact, layer) == (2, 2)
    assert lost(exact + noise, exact, layer) == (0, 0)
    quiet = exact * np.array([1, 1, 1, 1, 0.15, 0.15]).reshape(1, 6, 1, 1)
    assert drowned(quiet + 3 * noise, quiet) == 2
    assert lost(quiet + 3 * noise, quiet, layer) == (0, 0), "under the noise of all channels"


@pytest.mark.parametrize(
    ("shape", "joints", "axis"),
    [
        ((1, 8400, 85), (), 2),
        ((1, 85, 8400), (), 1),
        ((1, 5, 336), (Parts(2, (256, 64, 16)),), 1),
        ((1, 64, 64, 5), (Parts(3, (5,)),), 3),
        ((1, 3, 64, 64), (), 1),
        ((4, 10), (), 1),
        ((9,), (), None),
    ],
)
def test_positions_are_no_channels(shape: tuple[int, ...], joints: tuple[Parts, ...], axis: int | None) -> None:
    assert channel_axis(shape, joints) == axis


def test_a_channel_far_from_zero_is_lost_beside_one_that_varies_well() -> None:
    """Means of 2 ± 1.5 beside logarithms of -3 ± 0.01, rounded to the steps of one range: joined, and of one layer."""
    center, deviation = np.array([2.0, -1.0, -3.0, -2.0]), np.array([1.5, 0.8, 0.01, 0.3])
    exact = [RANDOM.standard_normal((1, 4)) * deviation + center for _ in range(30)]
    step = (max(one.max() for one in exact) - min(one.min() for one in exact)) / 255
    coarse = [np.rint(one / step) * step for one in exact]
    joints = (Parts(1, (2, 2)), Parts(1, (4,)))
    assert [says_nothing(zip(coarse, exact, strict=True), [joint]).lost for joint in joints] == [1, 1]
    for verdict, reason in (verdict_of(coarse, exact, Fidelity()), verdict_of(exact, exact, Fidelity())):
        assert (verdict is Verdict.FAIL) == ("what says nothing is channel " in reason) == (reason != "")
    # Where all vary little nothing is said: heat maps of random weights.
    little = [(one - center) * 0.01 / deviation + 3.0 for one in exact]
    assert says_nothing([(np.rint(one / 0.1) * 0.1, one) for one in little], ()).lost == 0


@pytest.mark.parametrize(("left", "size", "is_told"), [(7.0, 1.0, True), (13.0, 1.0, False), (7.0, 0.05, False)])
def test_a_channel_with_little_left_is_told_where_it_varies_as_others_do(
    left: float, size: float, is_told: bool
) -> None:
    exact = np.random.default_rng(0).standard_normal((1, 8, 20, 20))
    exact[:, 3] *= size
    noise = 0.03 * np.random.default_rng(1).standard_normal(exact.shape)
    noise[:, 3] *= size * 10 ** (-left / 20) / 0.03
    verdict, reason = verdict_of([exact + noise], [exact], Fidelity(sqnr_db=10.0))
    assert verdict is Verdict.PASS
    told = "of what channel 3 ("
    assert (told in reason and " dB) of 8 vary less than 10 dB are left" in reason) is is_told
    assert is_told or reason == ""
