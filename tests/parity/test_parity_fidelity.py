"""Approximations are judged on all samples together: SQNR, agreement, accuracy, and steps from the integers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeconv.core import Array, Comparison, Fidelity, Parts, Run, Sample, TensorSpec, Verdict
from edgeconv.core.variation import SaysNothing
from edgeconv.parity import Integers, compare, held_to_all
from edgeconv.parity._fidelity import _weak, used_share
from edgeconv.parity._groups import Group, OwnScale

COUNT, CLASSES = 40, 5
RANDOM = np.random.default_rng(5)
LOGITS = RANDOM.standard_normal((COUNT, 1, CLASSES))
LABELS = tuple(int(label) for label in LOGITS.argmax(-1)[:, 0])
SAMPLES = tuple(Sample(f"s{index}", {}, label=label) for index, label in enumerate(LABELS))


def run(arrays: Array, device: str = "litert") -> Run:
    kind = np.float64 if device == "torch-float64" else np.float32
    return Run(device, "m.tflite", tuple({"y": array.astype(kind)} for array in arrays))


def row(arrays: Array, bound: Fidelity, **more: object) -> Comparison:
    reference = run(LOGITS, "torch-float64")
    (found,) = compare(
        run(arrays),
        reference,
        SAMPLES,
        artifact="m.tflite",
        tolerance=bound,
        output_names=["y"],
        **more,  # type: ignore[arg-type]
    )
    return found


def noisy(sqnr_db: float) -> Array:
    noise = np.random.default_rng(0).standard_normal(LOGITS.shape)
    noise *= np.sqrt(np.square(LOGITS).sum() / np.square(noise).sum() / 10 ** (sqnr_db / 10))
    return LOGITS + noise


def test_the_ratio_is_that_of_all_samples_together() -> None:
    passed = row(noisy(30.0), Fidelity(sqnr_db=29.9))
    assert passed.verdict is Verdict.PASS
    assert passed.metrics is not None
    assert passed.metrics.sqnr_db == pytest.approx(30.0, abs=1e-3)
    assert passed.excess == pytest.approx(10 ** (-0.1 / 20), rel=1e-3)
    # One sample alone is below the bound, and that is no failure of the whole.
    assert min(sample.metrics.sqnr_db for sample in passed.samples if sample.metrics) < 29.0
    failed = row(noisy(30.0), Fidelity(sqnr_db=30.1))
    assert failed.verdict is Verdict.FAIL
    assert failed.reason == "SQNR is 30.00 dB, at least 30.1 is asked for"
    assert failed.excess is not None
    assert failed.excess > 1.0


def test_a_threshold_that_few_inputs_hold_by_chance_is_told_and_no_failure() -> None:
    """One input in eight is far off: by these the ratio is met, and data like them may well miss it."""
    uneven = LOGITS.copy()
    uneven[::8] += (noisy(11.8) - LOGITS)[::8]
    doubted = row(uneven, Fidelity(sqnr_db=20.0))
    assert doubted.verdict is Verdict.PASS
    assert doubted.metrics is not None
    assert doubted.metrics.sqnr_db > 20.0 > (doubted.sqnr_bound_db or 20.0)
    assert doubted.reason.startswith("with 40 judged inputs, the 95 % bound of the SQNR is 1")
    assert "dB: below 20; judge more inputs" in doubted.reason
    assert doubted.sqnr_bound_db is not None
    due = doubted.sqnr_bound_db + 0.004
    told = row(uneven, Fidelity(sqnr_db=due)).reason.partition(" SQNR is ")[2].split(" dB")[0]
    assert float(told) < due, "however it is rounded"
    sure = row(noisy(30.0), Fidelity(sqnr_db=20.0))
    assert (sure.reason, 20.0 < (sure.sqnr_bound_db or 0.0) < 30.0) == ("", True)
    failed = row(noisy(19.0), Fidelity(sqnr_db=20.0))
    assert "bound" not in failed.reason


@pytest.mark.parametrize(
    ("variant", "advice"),
    [
        ("int8", "; judge more inputs, or export int8-mixed, whose bound is held to it"),
        ("int8-mixed", "; judge more inputs"),
        ("fp16", "; judge more inputs"),
    ],
)
def test_no_variant_is_told_to_become_itself(variant: str, advice: str) -> None:
    uneven = LOGITS.copy()
    uneven[::8] += (noisy(11.8) - LOGITS)[::8]
    assert row(uneven, Fidelity(sqnr_db=20.0), variant=variant).reason.endswith(f"dB: below 20{advice}")
    weak = SaysNothing(channels=8, count=64, weak=((3, 5.0),))
    advised = {"int8": "; --variant int8-mixed gives more", "int8-mixed": "keeps more layers in float", "fp16": "left"}
    assert _weak(weak, variant).endswith(advised[variant])


def test_nothing_is_said_of_one_input_or_where_no_ratio_is_asked_for() -> None:
    assert row(noisy(30.0), Fidelity(sqnr_db=None, cosine=0.5)).sqnr_bound_db is None
    alone = compare(
        Run("litert", "m.tflite", ({"y": noisy(25.0)[0].astype(np.float32)},)),
        Run("torch-float64", "", ({"y": LOGITS[0]},)),
        SAMPLES[:1],
        artifact="m.tflite",
        tolerance=Fidelity(sqnr_db=10.0),
        output_names=["y"],
    )
    assert (alone[0].sqnr_bound_db, alone[0].reason) == (None, "")


def test_agreement_and_accuracy_are_counted() -> None:
    turned = LOGITS.copy()
    turned[:4] = -turned[:4]
    found = row(turned, Fidelity(sqnr_db=None, agreement=0.9))
    assert dict(found.top1) == {"agree": 36, "labelled": COUNT, "correct": 36, "reference": COUNT}
    assert found.verdict is Verdict.PASS
    assert row(turned, Fidelity(sqnr_db=None, agreement=0.91)).verdict is Verdict.FAIL
    assert row(turned, Fidelity(sqnr_db=None, accuracy_drop=10.0)).verdict is Verdict.PASS
    lost = row(turned, Fidelity(sqnr_db=None, accuracy_drop=9.5))
    assert lost.reason == "top-1 lost 10.00 points, at most 9.5 are allowed"


def test_the_cosine_is_that_of_the_worst_sample() -> None:
    turned = LOGITS.copy()
    turned[7] = -turned[7]
    found = row(turned, Fidelity(sqnr_db=None, cosine=0.99))
    assert found.verdict is Verdict.FAIL
    assert "the cosine is -1.000000" in found.reason


def test_another_kind_of_output_fails_whatever_is_asked() -> None:
    broken = LOGITS.copy()
    broken[3, 0, 2] = np.nan
    found = row(broken, Fidelity(sqnr_db=None))
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith("s3: NaN is not where the reference has it")


def test_steps_from_the_integers_are_counted() -> None:
    scale = 0.05
    exact = np.rint(LOGITS / scale) * scale
    device = exact.copy()
    device[0, 0, 0] += scale
    device[1, 0, :2] -= 3 * scale
    integers = Integers(run(exact, "torch-float64"), {"y": scale})
    found = row(device, Fidelity(sqnr_db=None, lsb=3), integers=integers)
    assert dict(found.lsb) == {-3: 2, 0: COUNT * CLASSES - 3, 1: 1}
    assert found.verdict is Verdict.PASS
    beyond = row(device, Fidelity(sqnr_db=None, lsb=2), integers=integers)
    assert beyond.reason == "it is 3 steps from the graph's integers, at most 2 are allowed"
    assert not row(device, Fidelity(sqnr_db=None), integers=Integers(integers.run, {})).lsb


def test_a_failed_run_stays_a_failed_row() -> None:
    gone = dataclasses.replace(run(LOGITS), outputs=(), verdict=Verdict.FAIL, reason="it crashed")
    (found,) = compare(
        gone,
        run(LOGITS, "torch-float64"),
        SAMPLES,
        artifact="m.tflite",
        tolerance=Fidelity(sqnr_db=None),
        output_names=["y"],
    )
    assert (found.verdict, found.reason) == (Verdict.FAIL, "it crashed")


def test_a_quantized_tensor_is_moved_to_and_from_the_file() -> None:
    spec = TensorSpec("x", (1, 2, 2, 3), "int8", "nhwc", scale=0.5, zero_point=-3)
    real = np.array([-100.0, -0.25, 0.25, 0.75, 1.0, 100.0] * 2, np.float32).reshape(1, 3, 2, 2)
    stored = spec.to_file(real)
    assert (stored.dtype, stored.shape) == (np.int8, (1, 2, 2, 3))
    assert stored[0].transpose(2, 0, 1).ravel()[:6].tolist() == [-128, -3, -3, -1, -1, 127]  # half to even
    back = spec.from_file(stored)
    assert (back.dtype, back.shape) == (np.float32, real.shape)
    np.testing.assert_array_equal(back.ravel()[:6], [-62.5, 0.0, 0.0, 1.0, 1.0, 65.0])


@pytest.mark.parametrize(
    ("bound", "says"),
    [
        (Fidelity(agreement=0.5), "agreement is asked for, and no output is of classes"),
        (Fidelity(accuracy_drop=1.0), "accuracy_drop is asked for, and no input has a label"),
        (Fidelity(lsb=1), "lsb is asked for, and no output comes out of integers"),
    ],
)
def test_what_is_asked_for_and_cannot_be_judged_fails(bound: Fidelity, says: str) -> None:
    images = np.ones((2, 1, 3, 4, 4))
    samples = SAMPLES[:2]
    reference = run(images, "torch-float64")
    options = {"artifact": "m.tflite", "tolerance": bound, "output_names": ["y"]}
    rows = compare(run(images), reference, samples, **options)  # type: ignore[arg-type]
    assert rows[0].verdict is Verdict.PASS
    (failed,) = held_to_all(rows, bound, of={"m.tflite"})
    assert failed.verdict is Verdict.FAIL
    assert says in failed.reason
    assert held_to_all(rows, bound, of={"other.tflite"}) == list(rows)
    judged = [row(LOGITS, dataclasses.replace(bound, lsb=None))]
    if bound.lsb is None:
        assert held_to_all([*judged, *rows], bound, of={"m.tflite"})[1].verdict is Verdict.PASS


def _head(*, last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in pixels beside scores of 0 to 1 and a constant; and the same without what the scores say."""
    boxes = RANDOM.uniform(0.0, 640.0, (1, 4, 100))
    scores = RANDOM.uniform(0.0, 1.0, (1, 2, 100))
    constant = np.ones((1, 1, 100))
    head = np.concatenate([boxes, scores, constant], 1)
    without_scores = np.concatenate([boxes + 0.5, 0 * scores, constant + 0.1], 1)
    return (head.swapaxes(1, 2), without_scores.swapaxes(1, 2)) if last else (head, without_scores)


@pytest.mark.parametrize("last", [False, True], ids=["axis 1", "the last axis"])
@pytest.mark.parametrize(("most", "verdict"), [(2, Verdict.FAIL), (3, Verdict.PASS), (None, Verdict.PASS)])
def test_a_part_that_says_nothing_fails_though_the_ratio_is_good(
    most: int | None, verdict: Verdict, last: bool
) -> None:
    head, without_scores = _head(last=last)
    bound = Fidelity(sqnr_db=40.0, lost_parts=most)
    (judged,) = compare(
        run(without_scores[None]),
        run(head[None], "torch-float64"),
        SAMPLES[:1],
        artifact="m.tflite",
        tolerance=bound,
        output_names=["y"],
        joints={"y": [Parts(2 if last else 1, (4, 2, 1))]},
    )
    assert judged.verdict is verdict
    # Of the part of scores each channel says nothing, too.
    assert ("3 parts of the output say nothing, at most 2 may" in judged.reason) == (verdict is Verdict.FAIL)
    assert "what says nothing is channels " in judged.reason
    assert " of 7 and 1 of the operands that are joined: " in judged.reason
    assert judged.parts == {"all": 5, "lost": 3}, "a constant part is not lost"
    assert (used_share(judged, bound) > 1) == (verdict is Verdict.FAIL), "as a report judges it again"


def _indices(wrong: int, *, classes: int = 20) -> Comparison:
    """A map of 400 class numbers, a tenth of which are others than the background's, with so many of these missed."""
    expected = np.zeros((1, 20, 20), np.int64)
    expected.ravel()[:40] = np.arange(40) % (classes - 1) + 1
    computed = expected.copy()
    computed.ravel()[:wrong] = 0
    runs = [Run(device, "m.tflite", ({"y": array},)) for device, array in (("litert", computed), ("torch", expected))]
    bound, options = Fidelity(sqnr_db=40.0, agreement=1.0), {"artifact": "m.tflite", "output_names": ["y"]}
    (row,) = compare(*runs, SAMPLES[:1], tolerance=bound, indices={"y"}, **options)  # type: ignore[arg-type]
    return row


def test_indices_are_judged_by_how_many_are_equal() -> None:
    row = _indices(12)
    assert (row.verdict, row.reason) == (Verdict.PASS, ""), "whatever the distance of class numbers is"
    assert row.metrics is not None
    assert row.metrics.sqnr_db < 40
    assert row.indices == {"all": 400, "equal": 388, "constant": 360}
    assert row.excess == pytest.approx(12 / 20), "of half of what one number everywhere has wrong"
    strict = dataclasses.replace(row, indices={"all": 400, "equal": 350, "constant": 100})
    assert used_share(strict, Fidelity(index_agreement=0.9)) == pytest.approx(50 / 40)
    assert used_share(strict, Fidelity(index_agreement=None, lost_parts=None)) == 0.0


def test_a_map_that_is_all_background_fails_though_nine_tenths_agree() -> None:
    row = _indices(40)
    assert row.verdict is Verdict.FAIL
    assert row.reason == "40 indices are wrong, and one number everywhere would have 40 wrong: they say nothing"


@pytest.mark.parametrize("float32_error", [0.0, 8.0, 16.0])
def test_a_failed_row_says_whether_float32_itself_is_as_far_off(float32_error: float) -> None:
    """The place of the largest of scores that are equal in float32: no layer in float brings it back."""
    places = np.full((COUNT, 1, 1), 32.0)
    scales = {"y": OwnScale(None, (Group(np.arange(1), 32.0, float32_error),))}
    (found,) = compare(
        run(places / 2),
        run(places, "torch-float64"),
        SAMPLES,
        artifact="m.tflite",
        tolerance=Fidelity(sqnr_db=20.0),
        output_names=["y"],
        scales=scales,
    )
    assert found.verdict is Verdict.FAIL
    assert ("float32's own" in found.reason) is (float32_error >= 16.0)
