"""One session with a device takes several artifacts; one that failed takes no other."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from device_models import make_samples, write_artifact

from edgeconv.core import Verdict
from edgeconv.devices import DEVICES, Device, Sessions

TIMEOUT_S = 60.0


def _counted(name: str) -> tuple[Device, list[Sequence[str]]]:
    """A device, and the commands that it was started with."""
    device, starts = DEVICES[name], list[Sequence[str]]()
    make = device.command
    assert make is not None

    def command() -> Sequence[str]:
        starts.append(make())
        return starts[-1]

    return dataclasses.replace(device, command=command), starts


@pytest.mark.parametrize(("name", "form"), [("onnxruntime", "onnx"), ("litert", "tflite")])
def test_a_device_is_started_once_and_again_after_a_failure(name: str, form: str, tmp_path: Path) -> None:
    device, starts = _counted(name)
    right = write_artifact(tmp_path, form)
    broken = dataclasses.replace(right, path=tmp_path / f"broken.{form}")
    broken.path.write_bytes(b"no file of this format")
    with Sessions() as sessions:
        for artifact, verdict, started in (
            (right, Verdict.PASS, 1),
            (right, Verdict.PASS, 1),
            (broken, Verdict.FAIL, 1),
            (right, Verdict.PASS, 2),
        ):
            run = sessions.run(device, artifact, make_samples(), timeout_s=TIMEOUT_S)
            assert (run.verdict, len(starts)) == (verdict, started)


def test_each_device_has_its_own_and_all_end(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path, "tflite")
    with Sessions() as sessions:
        for name in ("litert", "litert-reference"):
            assert sessions.run(DEVICES[name], artifact, make_samples(), timeout_s=TIMEOUT_S).device == name
        pids = [session.pid for session in sessions._open.values()]
        assert len(set(pids)) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_a_device_does_not_take_starts_nothing(tmp_path: Path) -> None:
    device, starts = _counted("onnxruntime")
    with Sessions() as sessions:
        run = sessions.run(device, write_artifact(tmp_path, "tflite"), make_samples(), timeout_s=TIMEOUT_S)
    assert (run.verdict, starts) == (Verdict.SKIPPED, [])
    assert "runs onnx, not tflite" in run.reason
