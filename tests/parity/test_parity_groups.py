"""Outputs of small numbers: each group of channels is held to its own scale, and right rows never break it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgeconv.core import Array, Artifact, Comparison, Parts, Run, Sample, Tolerance, Verdict
from edgeconv.core.verdicts import Link, LinkResult
from edgeconv.errors import ParityError
from edgeconv.parity import Golden, compare, float32_errors, golden_bytes, load_golden, shaken
from edgeconv.parity.chain import relieved
from edgeconv.report import Report, from_json, to_html, to_json

LINKS = tuple(LinkResult(link, Verdict.PASS, 1e-14, 1e-12, 0.01) for link in (Link.REWRITES, Link.WRITING))
RUNS = LinkResult(Link.RUNNING, Verdict.PASS, 1e-7, 1e-6, 0.1, where="conv")


def samples_of(count: int, scale: float = 1.0) -> tuple[Sample, ...]:
    return tuple(Sample(f"s{index}", {"x": np.zeros(1, np.float32)}, scale) for index in range(count))


def row_of(
    outputs: Sequence[Array],
    exact: Sequence[Array],
    own: Sequence[Array] | None = None,
    *,
    tolerance: Tolerance | None = None,
    joints: Mapping[str, tuple[Parts, ...]] | None = None,
    scale: float = 1.0,
) -> Comparison:
    """A row of an output; `own` is what the source's float32 makes of the samples."""
    samples, reference = samples_of(len(exact), scale), Run("torch-float64", "", tuple({"y": b} for b in exact))
    errors = {}
    if own is not None:
        run = Run("torch", "", tuple({"y": a.astype(np.float32)} for a in own))
        errors = float32_errors(run, reference, samples, joints or {})
    golden = Golden(samples, reference, joints=joints or {}, float32=errors)
    (row,) = compare(
        Run("litert", "m.tflite", tuple({"y": a.astype(np.float32)} for a in outputs)),
        reference,
        samples,
        artifact="m.tflite",
        tolerance=tolerance or Tolerance(),
        output_names=["y"],
        joints=joints or {},
        scales=golden.scales(),
    )
    return row


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def classifier(dtype: npt.DTypeLike, weights: npt.DTypeLike = np.float32, seed: int = 0) -> list[Array]:
    """Softmax over 1000 classes of two images' features."""
    generator = np.random.default_rng(seed)
    matrix = (generator.standard_normal((256, 1000)) / 16).astype(np.float32).astype(weights).astype(dtype)
    features = generator.standard_normal((2, 1, 256)).astype(np.float32).astype(dtype)
    return [softmax(rows @ matrix) for rows in features]


def test_weights_of_float16_before_a_softmax_are_found() -> None:
    exact, own = classifier(np.float64), classifier(np.float32)
    right, wrong = row_of(own, exact, own), row_of(classifier(np.float32, np.float16), exact, own)
    assert right.verdict is Verdict.PASS
    assert max(group.used for group in right.groups) < 0.1
    assert all(sample.verdict is Verdict.PASS for sample in wrong.samples), "the tolerance alone would pass it"
    assert wrong.verdict is Verdict.FAIL
    assert "times what its own scale allows" in wrong.reason
    assert row_of(classifier(np.float32, np.float16), exact).verdict is Verdict.FAIL, "without the source, too"


BOXES = {"y": (Parts(1, (4, 6)), Parts(2, (40, 60)))}


@pytest.mark.parametrize("joints", [BOXES, {}])
def test_boxes_and_scores_are_two_groups_each_held_to_its_own_scale(joints: Mapping[str, tuple[Parts, ...]]) -> None:
    generator = np.random.default_rng(1)
    exact = generator.uniform(0.1, 1.0, (1, 10, 100)) * 1e-3
    exact[:, :4] *= 5e5
    own = exact.astype(np.float32)
    row = row_of([own], [exact], [own], joints=joints)
    assert [(group.axis, group.first, group.channels) for group in row.groups] == [(1, 0, 4), (1, 4, 6)]
    assert row.verdict is Verdict.PASS
    wrong = own.copy()
    wrong[:, 6, 3] += np.float32(1e-6)
    failed = row_of([wrong], [exact], [own], joints=joints)
    assert failed.verdict is Verdict.FAIL
    assert failed.reason.startswith("the group of 6 channels from 4 on, sample s0: 1e-06 off")
    moved = own.copy()
    moved[:, 2, 3] += np.float32(1e-6)
    assert row_of([moved], [exact], [own], joints=joints).verdict is Verdict.PASS, "a pixel is another unit"


def sums(x: Array, weights: Array, order: npt.NDArray[np.intp], block: int) -> Array:
    """Sums of products in float32, in another order and in blocks."""
    parts = [x[:, order[at : at + block]] @ weights[order[at : at + block]] for at in range(0, len(order), block)]
    return np.asarray(sum(parts[1:], parts[0]))


class Network:
    """Three layers, whose outputs are of many magnitudes, and small by cancellation; few or many of them."""

    def __init__(self, generator: np.random.Generator) -> None:
        wide, outputs = int(generator.integers(8, 200)), int(generator.choice([1, 2, 10, 300]))
        self.scale = float(generator.choice([0.1, 1.0, 10.0]))
        shapes = ((16, wide), (wide, wide), (wide, outputs))
        layers = [generator.standard_normal(shape) / np.sqrt(shape[0]) for shape in shapes]
        layers[2] *= 10.0 ** generator.uniform(-6, 0, outputs)
        self.layers = [layer.astype(np.float32) for layer in layers]
        self.bias = np.zeros(outputs, np.float32)
        self.order, self.block = generator.permutation(wide), int(generator.integers(1, wide + 1))
        self.inputs = [self._input(generator) for _ in range(int(generator.integers(1, 4)))]
        left = 10.0 ** generator.uniform(-4, 0)  # of the first input's outputs, after the bias
        self.bias = (-self.exact(self.inputs[0])[0] * (1 - left)).astype(np.float32)

    def _input(self, generator: np.random.Generator) -> Array:
        return (generator.standard_normal((1, 16)) * self.scale).astype(np.float32)

    def exact(self, x: Array, dtype: npt.DTypeLike = np.float64) -> Array:
        """In one order, in float64 or float32."""
        first, second, last = (layer.astype(dtype) for layer in self.layers)
        hidden = np.maximum(np.maximum(x.astype(dtype) @ first, 0) @ second, 0)
        return np.asarray(hidden @ last + self.bias)

    def other(self, x: Array) -> Array:
        """In float32, and in another order."""
        first, second, last = self.layers
        hidden = np.maximum(sums(np.maximum(x @ first, 0), second, self.order, self.block), 0)
        return np.asarray(sums(hidden, last, self.order[::-1], self.block) + self.bias)


def judged(network: Network, outputs: Sequence[Array]) -> Comparison:
    """A run of a network, judged as the flow does."""
    samples = tuple(Sample(f"s{at}", {"x": x}, network.scale) for at, x in enumerate(network.inputs))
    reference = Run("torch-float64", "", tuple({"y": network.exact(x)} for x in network.inputs))
    again, references = shaken(samples, reference)
    runs = [
        (
            Run("torch", "", tuple({"y": network.exact(item.inputs["x"], np.float32)} for item in several)),
            several,
            exact,
        )
        for several, exact in ((samples, reference), (again, references))
        if several
    ]
    errors = np.max([float32_errors(run, exact, several, {})["y"] for run, several, exact in runs], axis=0)
    (row,) = compare(
        Run("litert", "m.tflite", tuple({"y": array} for array in outputs)),
        reference,
        samples,
        artifact="m.tflite",
        tolerance=Tolerance(),
        output_names=["y"],
        scales=Golden(samples, reference, float32={"y": errors}).scales(),
    )
    return row


def test_right_rows_never_break_it_though_outputs_are_small_by_cancellation() -> None:
    generator, used = np.random.default_rng(5), []
    for _ in range(400):
        network = Network(generator)
        row = judged(network, [network.other(x) for x in network.inputs])
        assert row.verdict is Verdict.PASS, row.reason
        used.append(max(group.used for group in row.groups))
    assert max(used) > 0.02, "nor is it vacuous"


def test_weights_of_float16_break_it_where_float32_is_not_as_far_off() -> None:
    generator, found = np.random.default_rng(6), []
    for _ in range(100):
        network = Network(generator)
        network.bias[:] = 0
        wrong = Network(np.random.default_rng(0))
        wrong.__dict__.update(network.__dict__)
        wrong.layers = [layer.astype(np.float16).astype(np.float32) for layer in network.layers]
        found.append(judged(network, [wrong.other(x) for x in network.inputs]).verdict is Verdict.FAIL)
    assert sum(found) >= 95


def test_dead_channels_and_numbers_below_float32s_least_are_not_judged_finer_than_runtimes_are() -> None:
    exact = np.full((1, 3, 40), 1e-41)
    exact[:, 0] = 0.5
    own = exact.astype(np.float32)
    flushed = np.where(own > 1e-38, own, np.float32(0))
    assert row_of([flushed], [exact], [own]).verdict is Verdict.PASS
    dead = exact * np.array([1.0, 0.0, 0.0]).reshape(1, 3, 1)
    alive = dead.astype(np.float32)
    alive[0, 1, 3] = 1e-8  # next to a clamp, on its other side
    assert row_of([alive], [dead], [dead.astype(np.float32)]).verdict is Verdict.PASS


def test_few_numbers_are_no_group_of_their_own() -> None:
    exact = np.array([[3.0, 2.0, 1e-5, -1.0]])
    own = np.float32(exact)
    other = own + np.array([0, 0, 2e-7, 0], np.float32)
    row = row_of([other], [exact], [own])
    assert len(row.groups) == 1
    assert row.verdict is Verdict.PASS


def canceled(seed: int) -> tuple[list[Array], list[Array], list[Array]]:
    """Exact values, what the source's float32 makes of them, and a runtime: all lose five digits."""
    generator = np.random.default_rng(seed)
    exact = generator.standard_normal((1, 4, 100))
    own, other = (exact + 1e-4 * generator.standard_normal(exact.shape) for _ in range(2))
    return [exact], [own], [other]


def test_the_default_gives_way_where_the_sources_own_float32_is_that_far_off_and_no_further() -> None:
    exact, own, other = canceled(3)
    assert row_of(other, exact).verdict is Verdict.FAIL
    row = row_of(other, exact, own)
    assert row.verdict is Verdict.PASS
    assert "float32 itself is this far off for this network" in row.reason
    assert 0 < max(sample.excess for sample in row.samples) <= 1
    assert row_of([other[0] + 0.1], exact, own).verdict is Verdict.FAIL


def test_a_stated_tolerance_does_not_give_way() -> None:
    exact, own, other = canceled(3)
    assert row_of(other, exact, own, tolerance=Tolerance(1e-5, 0.0)).verdict is Verdict.FAIL
    assert row_of(other, exact, own, tolerance=Tolerance(1e-2, 0.0)).verdict is Verdict.PASS
    assert row_of(other, exact, own, tolerance=Tolerance(max_abs=1e-6)).verdict is Verdict.FAIL


def test_beside_a_stated_tolerance_outputs_are_held_to_their_own_scale() -> None:
    exact, own = classifier(np.float64), classifier(np.float32)
    wrong = [array * (1 + np.float32(0.01)) for array in own]
    loose = Tolerance(1e-3, 0.0)
    assert row_of(own, exact, own, tolerance=loose).verdict is Verdict.PASS
    assert row_of(wrong, exact, own, tolerance=loose).verdict is Verdict.FAIL
    assert row_of(wrong, exact, own, tolerance=Tolerance(0.0, 0.02)).verdict is Verdict.PASS, "two percent are allowed"


def beyond_its_own_scale() -> Comparison:
    exact, own = classifier(np.float64), classifier(np.float32)
    return replace(row_of(classifier(np.float32, np.float16), exact, own), links=(RUNS,))


def file_with(*links: LinkResult) -> Artifact:
    return Artifact(Path("m.tflite"), "tflite", "fp32", "nhwc", "0" * 64, (), (), links=links)


def test_where_every_link_holds_it_is_told_and_no_failure() -> None:
    row = beyond_its_own_scale()
    (told,) = relieved([row], [file_with(*LINKS)])
    assert told.verdict is Verdict.PASS
    assert told.reason == f"{row.reason}; every link holds: the file is right"
    skipped = LinkResult(Link.WRITING, Verdict.SKIPPED, reason="not judged")
    for links, own in (((), (RUNS,)), ((LINKS[0], skipped), (RUNS,)), (LINKS, ())):
        (held,) = relieved([replace(row, links=own)], [file_with(*links)])
        assert held.verdict is Verdict.FAIL


def report_of(row: Comparison, *links: LinkResult) -> Report:
    return Report("m", "", {}, (file_with(*links),), (row,), (), {}, golden="m.golden.safetensors")


def test_a_report_keeps_the_groups_and_refuses_a_verdict_that_they_contradict() -> None:
    (told,) = relieved([beyond_its_own_scale()], [file_with(*LINKS)])
    text = to_json(report_of(told, *LINKS))
    assert from_json(text).comparisons[0].groups == told.groups
    with pytest.raises(ParityError, match="its channels are beyond their own scale"):
        from_json(to_json(report_of(told)))
    page = to_html(report_of(told, *LINKS))
    assert "In its own scale" in page
    assert "every link holds: the file is right" in page


def test_golden_values_keep_how_far_float32_is_off_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path, exact = tmp_path / "golden.safetensors", classifier(np.float64)
    reference = Run("torch-float64", "", tuple({"y": array} for array in exact))
    errors = {"y": np.linspace(0, 1e-8, 1000)}
    path.write_bytes(golden_bytes(Golden(samples_of(2), reference, float32=errors)))
    np.testing.assert_array_equal(load_golden(path).float32["y"], errors["y"])
    assert load_golden(path).scales()["y"].groups[0].float32_error is not None
    for odd in (-errors["y"], errors["y"].astype(np.float32), np.zeros((2, 2)), np.full(3, np.nan)):
        path.write_bytes(golden_bytes(Golden(samples_of(2), reference, float32={"y": odd})))
        with pytest.raises(ParityError, match="holds no errors"):
            load_golden(path)


def test_errors_of_other_channels_count_as_not_known() -> None:
    exact = classifier(np.float64)
    reference = Run("torch-float64", "", tuple({"y": array} for array in exact))
    golden = Golden(samples_of(2), reference, float32={"y": np.ones(7)})
    assert golden.scales()["y"].groups[0].float32_error is None
