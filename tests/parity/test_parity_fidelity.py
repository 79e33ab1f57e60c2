"""Approximations are judged on all samples together: SQNR, agreement, accuracy, and steps from the integers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeconv.core import Array, Comparison, Fidelity, Parts, Run, Sample, TensorSpec, Verdict
from edgeconv.parity import Integers, compare, held_to_all
from edgeconv.parity._fidelity import lost_channels, lost_parts, used_share

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
@pytest.mark.parametrize(("most", "verdict"), [(0, Verdict.FAIL), (1, Verdict.PASS), (None, Verdict.PASS)])
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
    assert ("1 of 3 parts of the output say nothing" in judged.reason) == (verdict is Verdict.FAIL)
    assert last or "2 of 7 channels say nothing: their error is as large as all that they vary" in judged.reason
    assert judged.parts == {"all": 3, "lost": 1}, "a constant part is not lost"
    assert (used_share(judged, bound) > 1) == (verdict is Verdict.FAIL), "as a report judges it again"


def test_a_class_that_no_input_shows_is_no_lost_part() -> None:
    """Its scores are below any step, and its channel alone says nothing; the part that it belongs to does."""
    head, _ = _head(last=False)
    head[:, 5] *= 1e-5
    rounded = head.copy()
    rounded[:, 5] = 0
    joints = [Parts(1, (4, 3))]
    assert lost_parts([(rounded, head)], joints) == (0, 2)
    assert lost_channels([(rounded, head)]) == (1, 7)
    rounded[:, 4:] = 0
    assert lost_parts([(rounded, head)], joints) == (1, 2)
    assert lost_parts([(rounded, head)], [Parts(1, (4, 4))]) == (0, 0), "other parts than the output has"


def test_a_part_that_is_rounding_of_float64_is_not_lost() -> None:
    """The mean of what was normalized: 1e-17 where float32 computes 1e-8."""
    head, _ = _head(last=False)
    head[:, 4:] = 1e-17 * RANDOM.standard_normal(head[:, 4:].shape)
    computed = head.copy()
    computed[:, 4:] = 1e-4 * RANDOM.standard_normal(head[:, 4:].shape)
    assert lost_parts([(computed, head)], [Parts(1, (4, 3))]) == (0, 2)
    assert lost_channels([(computed, head)]) == (0, 7)
    assert lost_parts([(computed, head * 1e9)], [Parts(1, (4, 3))]) == (1, 2), "the boxes are, beside nothing of them"


def test_offsets_and_constants_lose_their_channels_or_none() -> None:
    boxes = RANDOM.uniform(0.0, 640.0, (1, 4, 100))
    offset = [(boxes + 1e6 + RANDOM.standard_normal(boxes.shape) * 500, boxes + 1e6)]
    assert lost_channels(offset) == (4, 4)
    assert lost_channels([(boxes + 1.0, boxes)]) == (0, 4)
    assert lost_channels([(np.zeros((1, 9)), np.ones((1, 9)))]) == (0, 9)


def test_channels_of_a_layer_are_parts_where_they_are_narrow_beside_others() -> None:
    rng, channels = np.random.default_rng(0), [Parts(1, (6,))]
    boxes, scores = rng.random((1, 4, 8, 8)) * 640, rng.random((1, 2, 8, 8))
    head = np.concatenate([boxes, scores], 1)
    silent = np.concatenate([boxes, np.zeros_like(scores)], 1)
    assert lost_parts([(head, head)], channels) == (0, 2)
    assert lost_parts([(silent, head)], channels) == (2, 2)
    alike = np.concatenate([boxes, scores * 100], 1)
    assert lost_parts([(np.zeros_like(alike), alike)], channels) == (0, 0), "all of one range: judged as a whole"
    many = np.concatenate([np.repeat(boxes, 10, 1), scores[:, :1]], 1)
    assert lost_parts([(many * 0, many)], [Parts(1, (41,))]) == (0, 0), "one of many that no input shows"


def test_channels_of_a_layer_that_are_lost_alone_are_parts() -> None:
    """A layer behind a join of which one part was lost: its results are as wide as the others, and say nothing."""
    rng, channels = np.random.default_rng(0), [Parts(1, (6,))]
    head = rng.standard_normal((1, 6, 8, 8))
    noise = 0.05 * rng.standard_normal(head.shape)
    silent = head + noise
    silent[:, 4:] = 0.1
    assert lost_parts([(silent, head)], channels) == (2, 2)
    assert lost_parts([(head + noise, head)], channels) == (0, 0)
    quiet = head * np.array([1, 1, 1, 1, 0.2, 0.2]).reshape(1, 6, 1, 1)
    loud = head * 0 + quiet + 5 * noise
    assert lost_channels([(loud, quiet)])[0] == 2
    assert lost_parts([(loud, quiet)], channels) == (0, 0), "under the noise of all channels"
    assert lost_parts([(head + 30 * noise, head)], channels) == (0, 0), "no channel says anything: judged as a whole"
