"""Devices that misbehave: each is a real process, and each gives a failed or skipped run, in time."""

from __future__ import annotations

import dataclasses
import os
import sys
import textwrap
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from edgeconv.core import Array, Artifact, Run, Sample, TensorSpec, Verdict
from edgeconv.devices import AGENT, Device, run_artifact, start
from edgeconv.errors import DeviceError

pytestmark = pytest.mark.xdist_group("clock")
SAMPLES = tuple(Sample(f"s{index}", {"x": np.full((2, 3), index, np.float32)}) for index in range(2))

# A device of our own: the real agent's talk around a runtime that each test writes.
AGENT_WITH_RUNTIME = """
import importlib.util, os, signal, subprocess, sys, time
import numpy as np
spec = importlib.util.spec_from_file_location("agent", {agent!r})
agent = importlib.util.module_from_spec(spec)
sys.modules["agent"] = agent
spec.loader.exec_module(agent)
class Runtime:
    version = "1.0"
    def __init__(self, threads): pass
    def load(self, model): return ["x"], ["y"]
    def run(self, arrays): return 1.0, [("y", arrays[0][1] * 2)]
{changes}
agent.RUNTIMES["onnxruntime"] = Runtime
sys.exit(agent.main(["onnxruntime"]))
"""


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    path = tmp_path / "double.onnx"
    path.write_bytes(b"whatever")
    spec = TensorSpec("x", ("rows", 3), "float32")
    return Artifact(path, "onnx", "fp32", "nchw", "", (spec,), (TensorSpec("y", ("rows", 3), "float32"),))


def shell(*command: str) -> Device:
    return Device("odd", "odd", ("onnx",), lambda: command)


def python(code: str) -> Device:
    return shell(sys.executable, "-c", textwrap.dedent(code))


def runtime(changes: str) -> Device:
    body = textwrap.indent(textwrap.dedent(changes), "    ")
    return shell(sys.executable, "-c", AGENT_WITH_RUNTIME.format(agent=str(AGENT), changes=body))


def expect_fail(run: Run, words: str) -> None:
    assert run.verdict is Verdict.FAIL
    assert words in run.reason
    assert "\n" not in run.reason
    assert run.outputs == ()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("echo", "Hello world"), "not the agent protocol: it begins b'Hello wo'"),
        (("yes",), "not the agent protocol"),
        (("cat", "/dev/zero"), "not the agent protocol"),
        (("printf", r"ECA1\377\377\377\377"), "a header of 4294967295 bytes"),
        (("printf", r"ECA1\002\000\000\000{}"), "a malformed header (KeyError)"),
        (("printf", r"ECA1\200\000\000\000{}"), "ends half-way"),
        (("true",), "exited with status 0 before it answered"),
        (("sh", "-c", "echo first >&2; echo last words >&2; exit 3"), "status 3 before it answered: last words"),
        (("sh", "-c", "kill -SEGV $$"), "killed by SIGSEGV"),
        (("sh", "-c", "kill -KILL $$"), "killed by SIGKILL (out of memory?)"),
        (("sh", "-c", "head -c 5000000 /dev/zero >&2; exit 4"), "exited with status 4"),
    ],
)  # fmt: skip
def test_a_command_that_does_not_speak_the_protocol_fails(
    artifact: Artifact, command: tuple[str, ...], words: str
) -> None:
    began = time.monotonic()
    expect_fail(run_artifact(shell(*command), artifact, SAMPLES, timeout_s=30), words)
    assert time.monotonic() - began < 5


def test_a_lying_header_allocates_nothing(artifact: Artifact) -> None:
    device = python("""
        import json, struct, sys
        shape = [1 << 40, 1 << 40]
        header = json.dumps({"type": "hello", "arrays": [{"name": "a", "dtype": "float64", "shape": shape}]}).encode()
        sys.stdout.buffer.write(struct.pack("<4sI", b"ECA1", len(header)) + header)
    """)
    expect_fail(run_artifact(device, artifact, SAMPLES, timeout_s=30), "arrays of")


def test_a_command_that_hangs_is_killed_with_all_that_it_started(artifact: Artifact, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    device = shell("sh", "-c", f"sleep 300 & echo $! > {pids}; sleep 300")
    began = time.monotonic()
    expect_fail(run_artifact(device, artifact, SAMPLES, timeout_s=0.5), "time limit of 0.5 s")
    assert time.monotonic() - began < 5
    expect_gone(int(pids.read_text()))


def test_a_dead_command_whose_child_holds_the_pipe_is_noticed(artifact: Artifact, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    device = shell("sh", "-c", f"sleep 300 & echo $! > {pids}; exit 5")
    began = time.monotonic()
    expect_fail(run_artifact(device, artifact, SAMPLES, timeout_s=60), "exited with status 5")
    assert time.monotonic() - began < 10
    expect_gone(int(pids.read_text()))


def test_a_command_that_is_not_there_is_skipped(artifact: Artifact) -> None:
    device = shell("/no/such/command")
    run = run_artifact(device, artifact, SAMPLES, timeout_s=5)
    assert run.verdict is Verdict.SKIPPED
    assert "'/no/such/command'" in run.reason
    with pytest.raises(DeviceError, match="device odd: cannot start '/no/such/command': No such file"):
        device.probe(5)


def test_a_runtime_of_one_batch_skips_a_file_of_any(artifact: Artifact) -> None:
    device = dataclasses.replace(runtime(""), open_batch=False)
    run = run_artifact(device, artifact, SAMPLES, timeout_s=30)
    assert (run.verdict, run.reason) == (
        Verdict.SKIPPED,
        "odd runs files of a fixed batch only, and the batch of this one is open",
    )
    fixed = dataclasses.replace(
        artifact, inputs=(TensorSpec("x", (2, 3), "float32"),), outputs=(TensorSpec("y", (2, 3), "float32"),)
    )
    assert run_artifact(device, fixed, SAMPLES, timeout_s=30).verdict is Verdict.PASS


@pytest.mark.parametrize("lacks", [True, False])
def test_a_file_whose_operator_a_witness_has_no_kernel_of_is_skipped_there(artifact: Artifact, lacks: bool) -> None:
    """LiteRT's reference kernels lack CEIL, ROUND and ELU, and are no place where people deploy."""
    device = runtime("""
        def load(self, model):
            raise ValueError("Didn't find op for builtin opcode 'CEIL' version '1'. An older version of this builtin")
    """)
    run = run_artifact(dataclasses.replace(device, lacks_operators=lacks), artifact, SAMPLES, timeout_s=30)
    assert run.verdict is (Verdict.SKIPPED if lacks else Verdict.FAIL)
    assert ("no kernel of CEIL" in run.reason) == lacks


def test_a_runtime_that_cannot_be_imported_is_skipped(artifact: Artifact) -> None:
    device = runtime("""
        def __init__(self, threads):
            import a_runtime_that_is_not_there
    """)
    run = run_artifact(device, artifact, SAMPLES, timeout_s=30)
    assert run.verdict is Verdict.SKIPPED
    assert "No module named 'a_runtime_that_is_not_there'" in run.reason


def test_an_agent_of_another_protocol_is_refused(artifact: Artifact) -> None:
    device = python("""
        import json, struct, sys
        header = json.dumps({"type": "hello", "arrays": [], "protocol": 99, "environment": {}}).encode()
        sys.stdout.buffer.write(struct.pack("<4sI", b"ECA1", len(header)) + header)
        sys.stdout.flush()
        sys.stdin.read()
    """)
    expect_fail(run_artifact(device, artifact, SAMPLES, timeout_s=30), "speaks protocol 99, and not 1")


@pytest.mark.parametrize("moment", ["load(self, model)", "run(self, arrays)"])
@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("os.abort()", "killed by SIGABRT"),
        ("os.write(2, b'it is broken\\n'); os._exit(7)", "exited with status 7 before it answered: it is broken"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("raise MemoryError", "MemoryError"),
        ("time.sleep(300)", "time limit of 2 s"),
    ],
)
def test_a_runtime_that_fails_at_work_fails_the_run(artifact: Artifact, moment: str, act: str, words: str) -> None:
    device = runtime(f"def {moment}: {act}")
    expect_fail(run_artifact(device, artifact, SAMPLES, timeout_s=2 if "time" in words else 30), words)


def test_a_runtime_that_prints_does_not_disturb_the_frames(artifact: Artifact) -> None:
    device = runtime("""
        def run(self, arrays):
            print("from Python", flush=True)
            os.write(1, b"INFO: from C++")
            subprocess.run(["echo", "from a child"], check=True)
            assert sys.stdin.read() == ""
            return 1.0, [("y", arrays[0][1] * 2)]
    """)
    run = run_artifact(device, artifact, SAMPLES, timeout_s=30)
    assert run.reason == ""
    assert [float(outputs["y"][0, 0]) for outputs in run.outputs] == [0.0, 2.0]


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ("[('y', arrays[0][1].astype('float64'))]", "'y' came as float64 (2, 3), the file declares float32"),
        ("[('y', arrays[0][1][:, :2])]", "came as float32 (2, 2)"),
        ("[]", "returned 0 outputs, the file declares 1"),
        ("[('y', arrays[0][1].astype('complex64'))]", "dtype complex64, which a frame cannot carry"),
    ],
)
def test_outputs_that_the_file_does_not_declare_fail(artifact: Artifact, outputs: str, words: str) -> None:
    device = runtime(f"def run(self, arrays): return 1.0, {outputs}")
    expect_fail(run_artifact(device, artifact, SAMPLES, timeout_s=30), words)


def test_samples_that_do_not_fit_fail_before_anything_runs(artifact: Artifact) -> None:
    device = runtime("")
    lacking = (Sample("s", {}),)
    expect_fail(run_artifact(device, artifact, lacking, timeout_s=30), "sample 's'")
    integral = Artifact(artifact.path, "onnx", "int8", "nchw", "", (TensorSpec("x", (2, 3), "int8"),), artifact.outputs)
    expect_fail(run_artifact(device, integral, SAMPLES, timeout_s=30), "input 'x' is float32, the file wants int8")
    flat = (Sample("s", {"x": np.zeros(3, np.float32)}),)
    expect_fail(
        run_artifact(device, artifact, flat, timeout_s=30), "input 'x' has shape (3,), the file wants ('rows', 3)"
    )


def test_scalars_stay_scalars(artifact: Artifact) -> None:
    scalar = Artifact(
        artifact.path, "onnx", "fp32", "nchw", "", (TensorSpec("x", (), "float32"),), (TensorSpec("y", (), "float32"),)
    )
    run = run_artifact(runtime(""), scalar, (Sample("s", {"x": np.array(4, np.float32)}),), timeout_s=30)
    assert run.reason == ""
    assert run.outputs[0]["y"].shape == ()
    assert run.outputs[0]["y"] == 8


def test_large_arrays_pass_both_ways(artifact: Artifact) -> None:
    rows = 1 << 20  # 12.6 MB each way, far more than any pipe holds
    array = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    samples = tuple(Sample(f"s{index}", {"x": array}) for index in range(4))
    run = run_artifact(runtime(""), artifact, samples, timeout_s=60)
    assert run.reason == ""
    for outputs in run.outputs:
        np.testing.assert_array_equal(outputs["y"], array * 2)


def test_a_waiting_session_holds_no_answer_of_before(artifact: Artifact) -> None:
    with start(runtime("")) as session:
        run = session.run(artifact, SAMPLES, timeout_s=30)
        answers = [weakref.ref(_owner(outputs["y"])) for outputs in run.outputs]
        del run
        limit = time.monotonic() + 10  # of the thread that reads what a device sends
        while any(answer() is not None for answer in answers) and time.monotonic() < limit:
            time.sleep(0.01)
        assert all(answer() is None for answer in answers)


def _owner(array: Array) -> Array:
    """The array whose memory a view shows."""
    return _owner(array.base) if isinstance(array.base, np.ndarray) else array


def test_an_agent_that_does_not_read_is_held_to_the_time_limit(artifact: Artifact) -> None:
    device = python("""
        import json, struct, sys, time
        header = json.dumps({"type": "hello", "arrays": [], "protocol": 1, "environment": {}}).encode()
        sys.stdout.buffer.write(struct.pack("<4sI", b"ECA1", len(header)) + header)
        sys.stdout.flush()
        time.sleep(300)
    """)
    artifact.path.write_bytes(bytes(1 << 22))  # more than the pipe holds: the writer stands still
    began = time.monotonic()
    expect_fail(run_artifact(device, artifact, SAMPLES, timeout_s=1), "time limit of 1 s")
    assert time.monotonic() - began < 5


def test_the_last_words_are_a_line_of_their_own(artifact: Artifact) -> None:
    device = shell("sh", "-c", "echo first >&2; sleep 0.2; echo second >&2; exit 1")
    run = run_artifact(device, artifact, SAMPLES, timeout_s=30)
    assert run.reason.endswith("before it answered: second")


def test_an_agent_whose_host_goes_away_ends_by_itself() -> None:
    session = start(runtime(""))
    session.hello(30)
    pid = session.pid
    session.close()
    session.close()
    expect_gone(pid)


def expect_gone(pid: int) -> None:
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] == "Z":
            return  # dead, and its new parent has not looked yet
        time.sleep(0.1)
    pytest.fail(f"process {pid} lives on")
