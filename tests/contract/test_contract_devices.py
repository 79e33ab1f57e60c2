"""What every device must do, whatever runs behind it."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import programs
import pytest
from device_models import make_samples, write_artifact

from edgeconv.core import Artifact, Run, Sample, Verdict
from edgeconv.devices import ENVIRONMENTS, Device, agent, all_devices, install, run_artifact, start

TIMEOUT_S = 60.0
RUNNERS = [device for device in all_devices().values() if device.formats]
PAIRS = [(device, form) for device in RUNNERS for form in device.formats]


@pytest.fixture(scope="session", autouse=True)
def environments() -> None:
    for name in ENVIRONMENTS:
        install(name)


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0].name}-{pair[1]}")
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Device, Artifact]:
    device, form = request.param
    return device, write_artifact(tmp_path, form)


def expect_right(run: Run, samples: tuple[Sample, ...]) -> None:
    assert (run.verdict, run.reason) == (Verdict.PASS, "")
    assert len(run.outputs) == len(run.latency_ms) == len(samples)
    for sample, outputs in zip(samples, run.outputs, strict=True):
        left, right = sample.inputs["left"], sample.inputs["right"]
        assert list(outputs) == ["ab", "ba"]
        np.testing.assert_array_equal(outputs["ab"], left - right)
        np.testing.assert_array_equal(outputs["ba"], right - left)
        assert outputs["ab"].dtype == np.float32


def expect_runtime(device: Device, runtime: str) -> None:
    """A device that has a runtime's name runs that one; others may run it, too, with settings of their own."""
    assert runtime == device.name if device.name in agent.RUNTIMES else runtime


@pytest.mark.parametrize("device", all_devices().values(), ids=lambda device: device.name)
def test_a_device_tells_what_it_is(device: Device) -> None:
    programs.fork_devices(False)
    environment = device.probe(TIMEOUT_S)
    expect_runtime(device, environment["runtime"])
    assert environment["version"][0].isdigit()
    assert {"python", "numpy", "machine", "cpu"} <= set(environment)


def test_outputs_come_back_in_order_and_in_torch_layout(pair: tuple[Device, Artifact]) -> None:
    programs.fork_devices(False)
    device, artifact = pair
    samples = make_samples()
    run = run_artifact(device, artifact, samples, timeout_s=TIMEOUT_S)
    expect_right(run, samples)
    assert (run.device, run.artifact) == (device.name, artifact.path.name)
    expect_runtime(device, run.environment["runtime"])
    assert all(latency > 0 for latency in run.latency_ms)


def test_float64_samples_are_cast_to_what_the_file_wants(pair: tuple[Device, Artifact]) -> None:
    device, artifact = pair
    samples = make_samples()
    wide = tuple(
        dataclasses.replace(one, inputs={name: array.astype(np.float64) for name, array in one.inputs.items()})
        for one in samples
    )
    expect_right(run_artifact(device, artifact, wide, timeout_s=TIMEOUT_S), samples)


def test_another_format_is_skipped(pair: tuple[Device, Artifact]) -> None:
    device, artifact = pair
    run = run_artifact(device, dataclasses.replace(artifact, format="other"), make_samples(), timeout_s=TIMEOUT_S)
    assert run.verdict is Verdict.SKIPPED
    assert "not other" in run.reason


@pytest.mark.parametrize("damage", ["random", "truncated", "empty"])
def test_a_corrupt_file_fails_with_one_line(pair: tuple[Device, Artifact], damage: str) -> None:
    device, artifact = pair
    whole = artifact.path.read_bytes()
    damaged = {
        "random": np.random.default_rng(3).bytes(4096),
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
    }
    artifact.path.write_bytes(damaged[damage])
    run = run_artifact(device, artifact, make_samples(), timeout_s=TIMEOUT_S)
    assert run.verdict is Verdict.FAIL
    assert run.reason
    assert "\n" not in run.reason
    assert run.outputs == ()


def test_a_file_that_is_gone_fails(pair: tuple[Device, Artifact]) -> None:
    device, artifact = pair
    artifact.path.unlink()
    run = run_artifact(device, artifact, make_samples(), timeout_s=TIMEOUT_S)
    assert run.verdict is Verdict.FAIL
    assert "cannot read tiny.fp32" in run.reason


def test_outputs_other_than_declared_fail(pair: tuple[Device, Artifact]) -> None:
    device, artifact = pair
    first, second = artifact.outputs
    with start(device) as session:
        for outputs, words in (
            ((first,), "found 2 outputs in the file, which declares 1"),
            ((dataclasses.replace(first, shape=(1, 9, 9, 9)), second), "the file declares float32 (1, 9, 9, 9)"),
            ((dataclasses.replace(first, dtype="int8"), second), "the file declares int8"),
        ):
            wrong = dataclasses.replace(artifact, outputs=outputs)
            run = run_artifact(device, wrong, make_samples(), timeout_s=TIMEOUT_S, session=session)
            assert run.verdict is Verdict.FAIL
            assert words in run.reason


def test_a_sample_of_the_wrong_shape_fails_and_the_session_goes_on(pair: tuple[Device, Artifact]) -> None:
    device, artifact = pair
    samples = make_samples()
    small = tuple(
        dataclasses.replace(one, inputs={name: array[:, :, :2] for name, array in one.inputs.items()})
        for one in samples
    )
    with start(device) as session:
        run = run_artifact(device, artifact, small, timeout_s=TIMEOUT_S, session=session)
        assert run.verdict is Verdict.FAIL
        assert "cannot run sample 's0'" in run.reason
        pid = session.pid
        expect_right(run_artifact(device, artifact, samples, timeout_s=TIMEOUT_S, session=session), samples)
        assert session.pid == pid


def test_many_sessions_get_ready_side_by_side(pair: tuple[Device, Artifact]) -> None:
    device, artifact = pair
    samples = make_samples(1)
    sessions = [start(device) for _ in range(3)]
    try:
        for session in sessions:
            expect_right(run_artifact(device, artifact, samples, timeout_s=TIMEOUT_S, session=session), samples)
    finally:
        for session in sessions:
            session.close()


@pytest.mark.xdist_group("clock")
def test_a_runtime_that_stands_still_fails_at_its_time_limit(pair: tuple[Device, Artifact]) -> None:
    device, artifact = pair
    with start(device) as session:
        session.hello(TIMEOUT_S)
        os.kill(session.pid, signal.SIGSTOP)
        began = time.monotonic()
        run = session.run(artifact, make_samples(), timeout_s=0.5)
        assert time.monotonic() - began < 5
        assert run.verdict is Verdict.FAIL
        assert "time limit of 0.5 s" in run.reason
        assert not session.alive


@pytest.mark.xdist_group("clock")
def test_a_runtime_killed_in_mid_run_fails_and_the_next_run_gets_a_fresh_one(pair: tuple[Device, Artifact]) -> None:
    device, artifact = pair
    samples = make_samples()
    with start(device) as session:
        session.hello(TIMEOUT_S)
        os.kill(session.pid, signal.SIGSTOP)  # so that the kill is sure to meet it at work
        killer = threading.Timer(0.3, os.kill, (session.pid, signal.SIGKILL))
        killer.start()
        run = session.run(artifact, samples, timeout_s=TIMEOUT_S)
        killer.join()
        assert run.verdict is Verdict.FAIL
        assert "SIGKILL" in run.reason
        again = session.run(artifact, samples, timeout_s=TIMEOUT_S)
        assert again.verdict is Verdict.FAIL
        assert "earlier run" in again.reason
        expect_right(run_artifact(device, artifact, samples, timeout_s=TIMEOUT_S, session=session), samples)
