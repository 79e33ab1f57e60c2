"""Golden files: everything comes back bit for bit, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeconv.core import Parts, Run, Sample, Verdict
from edgeconv.errors import ParityError
from edgeconv.parity import Golden, Integers, golden_bytes, load_golden

RANDOM = np.random.default_rng(2)


def make() -> tuple[tuple[Sample, ...], Run]:
    samples = tuple(
        Sample(
            f"image {index}/ä.png",
            {"x": RANDOM.standard_normal((1, 3, 4, 4)).astype(np.float32), "mask": np.array([True, False])},
            scale=10.0**index,
            label=index if index else None,
        )
        for index in range(12)
    )
    outputs = tuple(
        {"y": RANDOM.standard_normal((1, 5)), "weird/name": np.array([np.nan, np.inf, -0.0]), "index": np.array(3)}
        for _ in samples
    )
    return samples, Run("torch-float64", "", outputs, environment={"version": "1"}, latency_ms=(1.0,) * 12)


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    samples, reference = make()
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_bytes(Golden(samples, reference)))
    found = load_golden(path)
    read, run = found.samples, found.reference
    assert not found.integers
    assert (run.device, run.artifact, run.verdict) == ("torch-float64", "", Verdict.PASS)
    assert [(one.name, one.scale, one.label) for one in read] == [(one.name, one.scale, one.label) for one in samples]
    for ours, theirs in (
        *zip((one.inputs for one in read), (one.inputs for one in samples), strict=True),
        *zip(run.outputs, reference.outputs, strict=True),
    ):
        assert list(ours) == list(theirs)
        for name in theirs:
            assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape)
            assert ours[name].tobytes() == theirs[name].tobytes()


def test_what_a_quantized_graph_says_comes_back_too(tmp_path: Path) -> None:
    samples, reference = make()
    exact = Run("graph-int8", "", tuple({**outputs, "y": np.rint(outputs["y"])} for outputs in reference.outputs))
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_bytes(Golden(samples, reference, {"int8": Integers(exact, {"y": 0.1})})))
    found = load_golden(path)
    assert list(found.integers) == ["int8"]
    assert dict(found.integers["int8"].scales) == {"y": 0.1}
    for ours, theirs in zip(found.integers["int8"].run.outputs, exact.outputs, strict=True):
        np.testing.assert_array_equal(ours["y"], theirs["y"])
    np.testing.assert_array_equal(found.reference.outputs[3]["y"], reference.outputs[3]["y"])


def test_the_parts_of_outputs_come_back_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path, joints = tmp_path / "golden.safetensors", {"y": (Parts(1, (4, 6)), Parts(2, (3, 3, 1)))}
    whole = golden_bytes(Golden(*make(), joints=joints, indices=frozenset({"y"})))
    path.write_bytes(whole)
    assert dict(load_golden(path).joints) == joints
    assert load_golden(path).of("int8").indices == {"y"}
    assert load_golden(path).of("").joints == joints
    for odd in (b"[1, [4,-6]]", b"[9, [4, 6]]", b"[1, [4, []]]", b"[1, 40000]"):
        path.write_bytes(whole.replace(b"[1, [4, 6]]", odd.ljust(11)[:11]))
        with pytest.raises(ParityError, match="is not a golden file"):
            load_golden(path)


def test_the_same_values_give_the_same_bytes_whatever_their_memory_layout() -> None:
    samples, reference = make()
    turned = tuple(
        Sample(one.name, {k: np.asfortranarray(v) for k, v in one.inputs.items()}, one.scale, one.label)
        for one in samples
    )
    assert golden_bytes(Golden(samples, reference)) == golden_bytes(Golden(turned, reference))


@pytest.mark.parametrize("damage", ["missing", "empty", "random", "truncated", "foreign", "flipped header", "folder"])
def test_what_is_no_golden_file_is_refused(tmp_path: Path, damage: str) -> None:
    from safetensors.numpy import save

    whole = golden_bytes(Golden(*make()))
    path = tmp_path / "golden.safetensors"
    contents = {
        "empty": b"",
        "random": RANDOM.bytes(999),
        "truncated": whole[:-100],
        "foreign": save({"w": np.zeros(3)}),
        "flipped header": whole.replace(b"edgeconv.golden", b"edgeconv.goldem"),
    }
    if damage == "folder":
        path.mkdir()
    elif damage in contents:
        path.write_bytes(contents[damage])
    with pytest.raises(ParityError, match=r"golden\.safetensors: ") as caught:
        load_golden(path)
    assert "\n" not in str(caught.value)


def test_another_schema_and_missing_or_stray_tensors_are_refused(tmp_path: Path) -> None:
    whole = golden_bytes(Golden(*make()))
    path = tmp_path / "golden.safetensors"
    for old, new, words in (
        (b'\\"schema\\": 1', b'\\"schema\\": 2', "has schema 2, this version reads 1"),
        (b'"3/in/x"', b'"3/in/z"', "not a golden file"),
        (b'"3/in/x"', b'"3/xn/x"', "not a golden file"),
    ):
        assert old in whole
        path.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(ParityError, match=words):
            load_golden(path)


def test_a_reference_that_does_not_belong_is_refused() -> None:
    samples, reference = make()
    with pytest.raises(ParityError, match="12 results for 11 samples"):
        golden_bytes(Golden(samples[:-1], reference))
    with pytest.raises(ParityError, match="0 results"):
        golden_bytes(Golden((), Run("torch-float64", "", ())))
