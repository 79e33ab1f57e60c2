"""Inputs that look for trouble: what they are, and which of them a graph is probed with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.core import Array, Run, Sample
from edgeconv.errors import ParityError
from edgeconv.parity import Golden, golden_bytes, load_golden
from edgeconv.parity.coverage import Reach
from edgeconv.parity.derived import CANDIDATES, TROUBLE, chosen_kinds, derived_sample, is_kind
from edgeconv.reference import evaluate_each

IMAGE = np.random.default_rng(0).standard_normal((1, 3, 16, 20)).astype(np.float32)


def _model(text: str) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 18]>\n{text}')


def _reached(model: ir.Model, x: Array) -> Reach:
    reach = Reach(model)
    list(evaluate_each(model, [{"x": x}], keep=["y"], observe=reach.observer()))
    return reach


def test_impulses_stand_at_corners_and_edges_each_in_a_channel_with_loud_and_quiet_rows() -> None:
    (x,) = derived_sample(TROUBLE, Sample("s", {"x": IMAGE})).inputs.values()
    assert (x.shape, x.dtype) == (IMAGE.shape, np.float32)
    corners = x[0, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (np.count_nonzero(corners, axis=1) == 1).all(), "one channel at a time"
    assert len({tuple(np.flatnonzero(corner)) for corner in corners}) > 1
    assert x.min() < 0 < x.max()
    size = np.abs(x)
    assert ((size > 0) & (size < 2.0**-126)).any(), "denormals"
    assert (x[0, :, 1] == 0).all(), "rows of zeros"
    assert (size == 16).sum() == 60, "a row of large numbers"


@pytest.mark.parametrize("shape", [(1, 4), (2, 3, 1, 1), (1, 5, 7), (1, 2, 3, 4, 5), (6,), (1, 3, 2, 9)])
@pytest.mark.parametrize("kind", [TROUBLE, *CANDIDATES])
def test_every_kind_keeps_shape_and_type_and_is_the_same_each_time(kind: str, shape: tuple[int, ...]) -> None:
    for dtype in (np.float32, np.uint8, np.int64, np.bool_):
        base = Sample("s", {"x": np.ones(shape, dtype)}, scale=10.0)
        first, second = (derived_sample(kind, base) for _ in range(2))
        (x,), (again,) = first.inputs.values(), second.inputs.values()
        assert (x.shape, x.dtype) == (shape, dtype)
        np.testing.assert_array_equal(x, again)
        assert np.isfinite(x).all()
        if dtype in (np.int64, np.bool_):
            np.testing.assert_array_equal(x, base.inputs["x"])


def test_pixels_are_derived_about_their_middle_and_saturate() -> None:
    base = Sample("s", {"x": np.array([[0, 100, 128, 255]], np.uint8)})
    assert derived_sample("times 8", base).inputs["x"].tolist() == [[0, 0, 128, 255]]
    assert derived_sample("times -8", base).inputs["x"].tolist() == [[255, 255, 128, 0]]
    assert derived_sample("level 8", base).inputs["x"].tolist() == [[255] * 4]


def test_those_are_chosen_that_reach_what_nothing_reached_and_no_others() -> None:
    clamp = _model(
        "net (float[1,4] x) => (float[1,4] y) <float low = {0.0}, float high = {6.0}> { y = Clip(x, low, high) }"
    )
    x = np.array([[0.5, 1, 2, 3]], np.float32)
    reach = _reached(clamp, x)
    own = reach.coverage()
    kinds = chosen_kinds(clamp, Sample("s", {"x": x}), reach, "fp32")
    assert kinds == (TROUBLE,), "its impulses reach both sides"
    assert reach.is_complete
    assert reach.with_derived(own).derived == own.unreached
    far = _model(
        "net (float[1,4] x) => (float[1,4] y) <float low = {0.0}, float high = {60.0}> { y = Clip(x, low, high) }"
    )
    reach = _reached(far, x)
    assert chosen_kinds(far, Sample("s", {"x": x}), reach, "fp32") == (TROUBLE, "times 64")
    assert chosen_kinds(far, Sample("s", {"x": x}), reach, "fp32") == (TROUBLE,), "all is reached"


def test_what_no_input_can_reach_stays_unreached() -> None:
    dead = _model(
        """net (float[1,4] x) => (float[1,4] y) <float low = {0.0}, float high = {6.0}>
        { a = Sigmoid(x) y = Clip(a, low, high) }"""
    )
    reach = _reached(dead, np.ones((1, 4), np.float32))
    own = reach.coverage()
    assert chosen_kinds(dead, Sample("s", {"x": np.ones((1, 4), np.float32)}), reach, "fp32") == (TROUBLE,)
    assert reach.with_derived(own).derived == ()
    assert [part.part for part in own.unreached] == ["below 0", "above 6"]


def test_numbers_that_overflow_are_no_probe_and_count_as_nothing_reached() -> None:
    powers = _model(
        """net (float[1,4] x) => (float[1,4] y) <float low = {0.0}, float high = {30000.0}>
        { a = Exp(x) y = Clip(a, low, high) }"""
    )
    x = np.ones((1, 4), np.float32)
    reach = _reached(powers, x)
    assert chosen_kinds(powers, Sample("s", {"x": x}), reach, "fp16") == ()
    assert [part.part for part in reach.coverage().unreached] == ["below 0", "above 3e+04"]


def test_golden_files_keep_the_kinds_and_refuse_others(tmp_path: Path) -> None:
    path, samples = tmp_path / "golden.safetensors", (Sample("s", {"x": IMAGE}),)
    reference = Run("torch-float64", "", ({"y": np.zeros((1, 2))},))
    golden = Golden(samples, reference, derived={"fp32": (TROUBLE, "times -8")})
    path.write_bytes(golden_bytes(golden))
    loaded = load_golden(path)
    assert dict(loaded.derived) == dict(golden.derived)
    assert [sample.name for sample in loaded.probes("fp32")] == ["derived (trouble)", "derived (times -8)"]
    assert loaded.probes("int8") == ()
    for odd in ("times 0", "times 1e9", "level", "noise", "times 8000"):
        assert not is_kind(odd)
        path.write_bytes(golden_bytes(replace(golden, derived={"fp32": (odd,)})))
        with pytest.raises(ParityError, match="is not a golden file"):
            load_golden(path)
