"""Rows and verdicts: deliberate errors are found, and what proves nothing passes nothing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from edgeconv.core import Array, Comparison, Run, Sample, Tolerance, Verdict
from edgeconv.errors import ParityError
from edgeconv.parity import compare, verdict

RANDOM = np.random.default_rng(11)
SAMPLES = (
    Sample("noise", {"x": np.zeros(1, np.float32)}),
    Sample("loud", {"x": np.zeros(1, np.float32)}, scale=100.0),
)
IMAGES = tuple(RANDOM.standard_normal((1, 8, 20, 30)) * sample.scale for sample in SAMPLES)


def reference(arrays: tuple[Array, ...] = IMAGES) -> Run:
    return Run("torch-float64", "", tuple({"y": array} for array in arrays))


def near(arrays: tuple[Array, ...] = IMAGES) -> Run:
    outputs = tuple({"y": array.astype(np.float32)} for array in arrays)
    return Run("litert", "m.tflite", outputs, latency_ms=(9.0, 2.0))


def changed(change: object, index: int = 0) -> Run:
    run = near()
    outputs = [dict(one) for one in run.outputs]
    outputs[index]["y"] = change(outputs[index]["y"].copy())  # type: ignore[operator]
    return dataclasses.replace(run, outputs=tuple(outputs))


def row(run: Run, against: Run | None = None, tolerance: Tolerance | None = None) -> Comparison:
    (found,) = compare(
        run,
        against or reference(),
        SAMPLES,
        artifact="m.tflite",
        tolerance=tolerance or Tolerance(),
        output_names=["y"],
    )
    return found


def put(value: float, *at: int) -> object:
    def change(array: Array) -> Array:
        array[at] = value
        return array

    return change


def swap_channels(array: Array) -> Array:
    array[:, [2, 3]] = array[:, [3, 2]]
    return array


def test_a_right_run_passes_with_all_there_is_to_know() -> None:
    found = row(near())
    assert (found.verdict, found.reason) == (Verdict.PASS, "")
    assert (found.artifact, found.device, found.output, found.latency_ms) == ("m.tflite", "litert", "y", 5.5)
    assert [result.sample for result in found.samples] == ["noise", "loud"]
    assert all(result.verdict is Verdict.PASS and 0 < result.excess < 1 for result in found.samples)
    assert found.metrics is not None
    measured = [result.metrics for result in found.samples if result.metrics is not None]
    assert found.metrics.max_abs == max(one.max_abs for one in measured)
    assert found.metrics.sqnr_db == min(one.sqnr_db for one in measured)
    assert found.metrics.cosine == min(one.cosine for one in measured)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap_channels, "times the bound"),
        (lambda a: np.roll(a, 1, axis=3), "times the bound"),
        (lambda a: a * np.float32(1.001), "times the bound"),
        (lambda a: a.transpose(0, 1, 3, 2).copy(), "shape is (1, 8, 30, 20)"),
        (lambda a: a[:, :7].copy(), "shape is (1, 7, 20, 30)"),
        (lambda a: a.astype(np.float16), "dtype is float16"),
        (
            put(np.nan, 0, 1, 2, 3),
            "NaN is not where the reference has it, at 1 of 4800 elements, first at (0, 1, 2, 3)",
        ),
        (put(np.inf, 0, 7, 19, 29), "+Inf"),
        (put(1234.0, 0, 5, 6, 7), "1234 instead of"),
        (put(1234.0, 0, 5, 6, 7), "at (0, 5, 6, 7)"),
    ],
)
@pytest.mark.parametrize("index", [0, 1])
def test_a_deliberate_error_is_found_and_located(change: object, words: str, index: int) -> None:
    found = row(changed(change, index))
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith(f"1 of 2 samples differ, worst {SAMPLES[index].name}: ")
    assert words in found.reason
    assert [result.verdict for result in found.samples].count(Verdict.FAIL) == 1
    assert found.samples[index].verdict is Verdict.FAIL
    assert found.samples[index].excess > 1


def test_the_bound_grows_with_the_scale_of_the_sample() -> None:
    offset = np.float32(5e-4)
    tolerance = Tolerance(atol=1e-5, rtol=0.0)
    assert row(changed(lambda a: a + offset, 1), tolerance=tolerance).verdict is Verdict.PASS
    assert row(changed(lambda a: a + offset, 0), tolerance=tolerance).verdict is Verdict.FAIL


def test_max_abs_is_a_bound_of_its_own() -> None:
    assert row(near(), tolerance=Tolerance(max_abs=1e-5)).verdict is Verdict.PASS
    assert row(near(), tolerance=Tolerance(max_abs=1e-9)).verdict is Verdict.FAIL


def test_the_picture_shows_where_the_error_is() -> None:
    found = row(changed(put(500.0, 0, 4, 3, 2), 1))
    picture = found.picture
    assert picture is not None
    assert picture.sample == "loud"
    assert sum(picture.counts) == IMAGES[1].size
    assert len(picture.log10_edges) == len(picture.counts) + 1
    assert list(picture.log10_edges) == sorted(picture.log10_edges)
    grid = np.array(picture.map)
    assert grid.shape == (20, 30)
    assert np.unravel_index(grid.argmax(), grid.shape) == (3, 2)
    error = abs(500.0 - IMAGES[1][0, 4, 3, 2])
    assert grid.max() == pytest.approx(error, rel=1e-6)
    top = max(index for index, count in enumerate(picture.counts) if count)
    assert picture.log10_edges[top] <= math.log10(error) <= picture.log10_edges[top + 1]


def test_the_map_of_a_large_image_has_64_cells_a_side_and_loses_no_maximum() -> None:
    b = (np.zeros((1, 2, 224, 100)), np.zeros((1, 2, 224, 100)))
    run = near(b)
    run.outputs[0]["y"][0, 1, 223, 99] = 7.0
    picture = row(run, reference(b)).picture
    assert picture is not None
    grid = np.array(picture.map)
    assert grid.shape == (64, 64)
    assert (grid[63, 63], np.count_nonzero(grid)) == (7.0, 1)


def test_exact_zeros_stand_in_the_first_bin() -> None:
    b = (np.ones((1, 4)), np.ones((1, 4)))
    picture = row(near(b), reference(b)).picture
    assert picture is not None
    assert (picture.counts[0], sum(picture.counts), picture.map) == (4, 4, ())


def test_infinities_that_agree_pass() -> None:
    b = (np.array([[np.inf, 1.0, np.nan]]), np.array([[1.0, -np.inf, 2.0]]))
    found = row(near(b), reference(b))
    assert found.verdict is Verdict.PASS
    assert found.picture is not None
    assert sum(found.picture.counts) == 1


class TestTop1:
    B = (np.array([[0.1, 0.7, 0.2]]), np.array([[0.5, 0.3, 0.2]]))

    def row(self, labels: tuple[int | None, int | None], flip: bool = False) -> Comparison:
        run = near(self.B)
        if flip:
            run.outputs[0]["y"][0, 2] = 0.9
        samples = tuple(dataclasses.replace(one, label=label) for one, label in zip(SAMPLES, labels, strict=True))
        (found,) = compare(
            run, reference(self.B), samples, artifact="a", tolerance=Tolerance(), output_names=["y"]
        )  # fmt: skip
        return found

    def test_agreement_without_labels(self) -> None:
        assert self.row((None, None)).top1 == {"agree": 2}
        assert self.row((None, None), flip=True).top1 == {"agree": 1}

    def test_labels_are_counted_where_they_are_known(self) -> None:
        assert self.row((1, 2)).top1 == {"agree": 2, "labelled": 2, "correct": 1}
        assert self.row((1, None)).top1 == {"agree": 2, "labelled": 1, "correct": 1}

    def test_images_have_none(self) -> None:
        assert row(near()).top1 == {}


@pytest.mark.parametrize("outcome", [Verdict.FAIL, Verdict.SKIPPED])
def test_a_run_that_did_not_happen_gives_a_row_per_output_with_its_reason(outcome: Verdict) -> None:
    run = Run("litert", "m.tflite", (), outcome, "killed by SIGSEGV")
    against = Run("torch-float64", "", tuple({"y": array, "z": array} for array in IMAGES))
    rows = compare(run, against, SAMPLES, artifact="m", tolerance=Tolerance(), output_names=["y", "z"])
    assert [(one.output, one.verdict, one.reason, one.metrics) for one in rows] == [
        ("y", outcome, "killed by SIGSEGV", None),
        ("z", outcome, "killed by SIGSEGV", None),
    ]


def test_missing_samples_or_outputs_fail() -> None:
    assert row(dataclasses.replace(near(), outputs=near().outputs[:1])).reason == "returned 1 of 2 samples"
    renamed = tuple({"other": one["y"]} for one in near().outputs)
    found = row(dataclasses.replace(near(), outputs=renamed))
    assert (found.verdict, found.reason) == (Verdict.FAIL, "returned no output named 'y'")


@pytest.mark.parametrize(
    ("against", "samples", "names", "words"),
    [
        (reference(), (), ["y"], "no samples"),
        (reference(), SAMPLES, [], "no outputs"),
        (reference(), SAMPLES, ["z"], "the reference returned no output named 'z'"),
        (
            Run("torch-float64", "", (), Verdict.FAIL, "it broke"),
            SAMPLES,
            ["y"],
            "torch-float64: the reference could not",
        ),
        (reference(IMAGES[:1]), SAMPLES, ["y"], "the reference returned 1 of 2 samples"),
        (reference((np.zeros((1, 0)), np.zeros((1, 0)))), SAMPLES, ["y"], "'y' of sample 'noise' has no elements"),
    ],
)
def test_nothing_sound_to_compare_with_is_an_error(
    against: Run, samples: tuple[Sample, ...], names: list[str], words: str
) -> None:
    with pytest.raises(ParityError, match=words):
        compare(near(), against, samples, artifact="m", tolerance=Tolerance(), output_names=names)


def outcome(device: str, value: Verdict) -> Comparison:
    return Comparison("m", device, "y", None, Tolerance(), value)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], Verdict.SKIPPED),
        ([("torch", Verdict.PASS)], Verdict.SKIPPED),
        ([("torch", Verdict.PASS), ("litert", Verdict.SKIPPED)], Verdict.SKIPPED),
        ([("torch", Verdict.PASS), ("litert", Verdict.PASS), ("onnxruntime", Verdict.SKIPPED)], Verdict.PASS),
        ([("litert", Verdict.PASS), ("onnxruntime", Verdict.FAIL)], Verdict.FAIL),
        ([("torch", Verdict.FAIL), ("litert", Verdict.PASS)], Verdict.FAIL),
    ],
)
def test_the_verdict_over_all_rows(rows: list[tuple[str, Verdict]], expected: Verdict) -> None:
    assert verdict(outcome(device, value) for device, value in rows) is expected
