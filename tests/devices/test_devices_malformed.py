"""An agent that answers nonsense gives a failed row with a reason of one line, in time, and takes no memory for it.

Members thought of: facts, environments, names, dtypes, shapes that are of another type, infinite, negative, huge, empty
but vast, of too many axes; a latency that is missing, NaN, infinite, negative, a boolean, of 400 digits; JSON that is
deep, no UTF-8, no object; arrays that are missing, too many, cut off, twice under one name, of another dtype or shape;
8 GiB of zeros; reasons that steer the terminal; keys twice, lone surrogates and infinities anywhere; names that are no
text or of more tensors than the file has; "missing" that is not true; answers without end, in pieces, before they are
asked for; gigabytes of stderr; commands that are no list, raise, hold a NUL, or are no programs; pipes in a
file's place; devices whose fields are of other types.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeconv.core import Artifact, Sample, TensorSpec, Verdict
from edgeconv.devices import Device, run_artifact, start
from edgeconv.errors import DeviceError

SAMPLES = tuple(Sample(f"s{index}", {"x": np.full((2, 3), index, np.float32)}) for index in range(2))
ARRAY = {"name": "y", "dtype": "float32", "shape": [2, 3]}
HELLO = {"type": "hello", "protocol": 1, "environment": {"runtime": "odd"}, "arrays": []}
LOADED = {"type": "loaded", "inputs": ["x"], "outputs": ["y"], "facts": {}, "arrays": []}
OUTPUTS = {"type": "outputs", "latency_ms": 1.0, "arrays": [ARRAY]}
DATA = np.zeros((2, 3), np.float32).tobytes()

# Answers each request with the next of what it was given: a header (or its text), and bytes.
SCRIPT = """
import ast, json, struct, sys
answers = ast.literal_eval(open(sys.argv[1]).read())
out, source = sys.stdout.buffer, sys.stdin.buffer
def send(header, data):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    out.write(struct.pack("<4sI", b"ECA1", len(header)) + header)
    size = data if isinstance(data, int) else 0
    block = bytes(1 << 20)
    for _ in range(size >> 20):
        out.write(block)
    out.write(data if isinstance(data, bytes) else b"")
    out.flush()
def take():
    prefix = source.read(8)
    if len(prefix) < 8:
        sys.exit(0)
    header = json.loads(source.read(struct.unpack("<4sI", prefix)[1]))
    for array in header["arrays"]:
        size = {"uint8": 1, "float32": 4}[array["dtype"]]
        for dim in array["shape"]:
            size *= dim
        source.read(size)
for at, turn in enumerate(answers):
    if at:
        take()
    for header, data in turn:
        send(header, data)
take()
"""
Turn = list[tuple[Any, Any]]


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    path = tmp_path / "double.onnx"
    path.write_bytes(b"whatever")
    spec = TensorSpec("x", ("rows", 3), "float32")
    return Artifact(path, "onnx", "fp32", "nchw", "", (spec,), (TensorSpec("y", ("rows", 3), "float32"),))


def _talk(hello: Any = HELLO, loaded: Any = LOADED, outputs: Any = OUTPUTS, data: Any = DATA) -> list[Turn]:
    return [[(hello, b"")], [(loaded, b"")], [(outputs, data)], [(OUTPUTS, DATA)]]


def _device(talk: list[Turn], folder: Path) -> Device:
    (folder / "talk").write_text(repr(talk))
    return Device("odd", "odd", ("onnx",), lambda: [sys.executable, "-c", SCRIPT, str(folder / "talk")])


def _shape(*shape: Any) -> dict[str, Any]:
    return {**OUTPUTS, "arrays": [{**ARRAY, "shape": list(shape)}]}


def _array(**changes: Any) -> dict[str, Any]:
    return {**OUTPUTS, "arrays": [{**ARRAY, **changes}]}


def _latency(value: Any) -> dict[str, Any]:
    return {**OUTPUTS, "latency_ms": value}


def _text(header: dict[str, Any], old: str, new: str) -> bytes:
    return json.dumps(header).replace(old, new).encode()


TALKS: dict[str, list[Turn]] = {
    "facts of text": _talk(loaded={**LOADED, "facts": "odd"}),
    "facts of numbers": _talk(loaded={**LOADED, "facts": [1, 2]}),
    "facts of pairs": _talk(loaded={**LOADED, "facts": [["a", "b"]]}),
    "facts without end": _talk(loaded={**LOADED, "facts": {str(at): "" for at in range(1000)}}),
    "an environment of text": _talk(hello={**HELLO, "environment": "odd"}),
    "an environment of nothing": _talk(hello={**HELLO, "environment": None}),
    "a protocol of truth": _talk(hello={**HELLO, "protocol": True}),
    "a protocol of lists": _talk(hello={**HELLO, "protocol": [[1]]}),
    "no type": _talk(loaded={"arrays": []}),
    "a type of numbers": _talk(loaded={"type": 7, "arrays": []}),
    "another answer": _talk(loaded=HELLO),
    "an answer to another request": _talk(outputs=LOADED, data=b""),
    "a key twice": _talk(loaded=_text(LOADED, '"facts": {}', '"facts": {}, "facts": {}')),
    "a key twice inside": _talk(outputs=_text(OUTPUTS, '"shape"', '"shape": [9], "shape"')),
    "facts that are null": _talk(loaded={**LOADED, "facts": None}),
    "facts that are false": _talk(loaded={**LOADED, "facts": False}),
    "facts that are an empty list": _talk(loaded={**LOADED, "facts": []}),
    "a fact of facts": _talk(loaded={**LOADED, "facts": {"a": {"b": ["c"]}}}),
    "a fact that is null": _talk(loaded={**LOADED, "facts": {"a": None}}),
    "a fact that is infinite": _talk(loaded=_text({**LOADED, "facts": {"a": 7}}, "7", "1e999")),
    "a fact of many digits": _talk(loaded={**LOADED, "facts": {"a": 10**400}}),
    "a fact of surrogates": _talk(loaded=_text({**LOADED, "facts": {"a": "b"}}, '"a"', '"\\ud800"')),
    "an environment of surrogates": _talk(hello=_text(HELLO, '"odd"', '"\\udfff"')),
    "a name of surrogates": _talk(outputs=_text(OUTPUTS, '"y"', '"\\ud800"')),
    "a name of numbers": _talk(outputs=_array(name=7)),
    "a name of lists": _talk(outputs=_array(name=["y"])),
    "names that are none": _talk(loaded={**LOADED, "inputs": 7}),
    "no names": _talk(loaded={"type": "loaded", "arrays": [], "facts": {}}),
    "names of more outputs": _talk(loaded={**LOADED, "outputs": ["y", "z"]}),
    "a protocol of many digits": _talk(hello={**HELLO, "protocol": 10**400}),
    "an error without a reason": _talk(loaded={"type": "error", "arrays": []}),
    "a runtime that is nearly missing": _talk(hello={"type": "error", "reason": "", "missing": "no", "arrays": []}),
    "a header that is a list": _talk(loaded=b"[1, 2]"),
    "a header that is null": _talk(loaded=b"null"),
    "arrays that are none": _talk(outputs={**OUTPUTS, "arrays": 7}, data=b""),
    "arrays of text": _talk(outputs={**OUTPUTS, "arrays": "odd"}, data=b""),
    "arrays of numbers": _talk(outputs={**OUTPUTS, "arrays": [1]}, data=b""),
    "deep": _talk(loaded=b'{"type": "loaded", "arrays": [], "facts": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "no UTF-8": _talk(loaded=b'{"type": "loaded", "arrays": [], "facts": {"\xff": "\xfe"}}'),
    "infinite shape": _talk(outputs=_text(_shape(2, 7), "7", "Infinity")),
    "infinite by its exponent": _talk(outputs=_text(_shape(2, 7), "7", "1e999")),
    "shape of no number": _talk(outputs=_text(_shape(2, 7), "7", "NaN")),
    "shape of halves": _talk(outputs=_shape(2, 3.5)),
    "shape of text": _talk(outputs=_shape("2", "3")),
    "shape of truths": _talk(outputs=_shape(True, True)),
    "a negative shape": _talk(outputs=_shape(-2, -3)),
    "shape of many digits": _talk(outputs=_shape(10**400)),
    "vast and empty": _talk(outputs=_shape(0, 10**18, 10**18), data=b""),
    "vast": _talk(outputs=_shape(2**20, 2**20)),
    "of many axes": _talk(outputs=_shape(*[1] * 70), data=DATA[:4]),
    "no shape": _talk(outputs=_array(shape=None)),
    "shape of a mapping": _talk(outputs=_array(shape={"2": 3})),
    "a dtype of a list": _talk(outputs=_array(dtype=["float32"])),
    "a dtype of objects": _talk(outputs=_array(dtype="object")),
    "another dtype": _talk(outputs=_array(dtype="int32")),
    "another shape": _talk(outputs=_shape(3, 2)),
    "cut off": _talk(data=DATA[:7]),
    "a missing output": _talk(outputs={**OUTPUTS, "arrays": []}, data=b""),
    "too many outputs": _talk(outputs={**OUTPUTS, "arrays": [ARRAY, ARRAY]}, data=DATA * 2),
    "8 GiB of zeros": _talk(outputs=_shape(2**31), data=2**33),
    "no latency": _talk(outputs=_latency(None)),
    "a latency of no number": _talk(outputs=_text(_latency(7), "7", "NaN")),
    "an infinite latency": _talk(outputs=_text(_latency(7), "7", "1e999")),
    "a negative latency": _talk(outputs=_latency(-1.0)),
    "a latency of truth": _talk(outputs=_latency(True)),
    "a latency of many digits": _talk(outputs=_latency(10**400)),
    "a latency of text": _talk(outputs=_latency("fast")),
    "a reason of control characters": _talk(loaded={"type": "error", "reason": "\x1b[2J\x07\ud800", "arrays": []}),
    "a reason without end": _talk(loaded={"type": "error", "reason": "x" * 900_000, "arrays": []}),
    "a reason of lists": _talk(loaded={"type": "error", "reason": [["x"]], "arrays": []}),
}


@pytest.mark.parametrize("name", list(TALKS))
def test_a_failed_row_with_its_reason(name: str, artifact: Artifact) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    limit_s = 5 if name == "cut off" else 60  # the rest may still come
    run = run_artifact(_device(TALKS[name], artifact.path.parent), artifact, SAMPLES, timeout_s=limit_s)
    assert run.verdict is Verdict.FAIL, run
    assert run.reason
    assert run.reason.isprintable()
    assert len(run.reason) < 500
    assert run.outputs == ()
    assert time.monotonic() - started < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "kilobytes"


def test_the_talk_itself_is_sound(artifact: Artifact) -> None:
    run = run_artifact(_device(_talk(), artifact.path.parent), artifact, SAMPLES, timeout_s=60)
    assert (run.verdict, run.reason, len(run.outputs)) == (Verdict.PASS, "", 2)


def test_what_a_device_tells_is_short_and_printable(artifact: Artifact) -> None:
    said = {"a\x1b": "b\x07" + "c" * 9999, "arena_bytes": "9" * 400, "n": 7}
    device = _device(_talk(loaded={**LOADED, "facts": said}), artifact.path.parent)
    run = run_artifact(device, artifact, SAMPLES, timeout_s=60)
    assert run.verdict is Verdict.PASS
    assert all(text.isprintable() and len(text) <= 300 for pair in run.environment.items() for text in pair)
    assert run.arena_bytes is None


# Programs that follow SCRIPT's functions, and what comes of them.
PROGRAMS = {
    "answers without end": ("while True:\n    send(HELLO, b'')", Verdict.FAIL),
    "answers without end, once asked": ("send(HELLO, b''); take()\nwhile True:\n    send(LOADED, b'')", Verdict.FAIL),
    "answers before they are asked for": (
        "send(LOADED, b''); send(OUTPUTS, DATA); send(HELLO, b''); take()",  # ahead of all that anybody can ask
        Verdict.FAIL,
    ),
    "a header without end": (
        "out.write(struct.pack('<4sI', b'ECA1', 2**32 - 1))\nwhile True:\n    out.write(b'{' * 65536)",
        Verdict.FAIL,
    ),
    "the end of its own group": ("import os; send(HELLO, b''); take(); os.killpg(0, 9)", Verdict.FAIL),
    "pieces": (
        "import io; whole = io.BytesIO(); real, out = out, whole; send(HELLO, b''); out = real\n"
        "for byte in whole.getvalue():\n    out.write(bytes([byte])); out.flush()\n"
        "take(); send(LOADED, b''); take(); send(OUTPUTS, DATA); take(); send(OUTPUTS, DATA); take()",
        Verdict.PASS,
    ),
    "half a gigabyte of lines to stderr": (
        "send(HELLO, b''); take(); block = b'a\\n' * 2**19\n"
        "for _ in range(512):\n    sys.stderr.buffer.write(block)\n"
        "send(LOADED, b''); take(); send(OUTPUTS, DATA); take(); send(OUTPUTS, DATA); take()",
        Verdict.PASS,
    ),
}


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_endless_and_early_answers(name: str, artifact: Artifact) -> None:
    program, verdict = PROGRAMS[name]
    constants = f"HELLO, LOADED, OUTPUTS, DATA = {HELLO!r}, {LOADED!r}, {OUTPUTS!r}, {DATA!r}\n"
    functions = SCRIPT.replace("answers = ast.literal_eval(open(sys.argv[1]).read())\n", "").partition("for at, turn")[
        0
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    device = Device("odd", "odd", ("onnx",), lambda: [sys.executable, "-c", functions + constants + program])
    run = run_artifact(device, artifact, SAMPLES, timeout_s=60)
    assert run.verdict is verdict, run
    assert run.reason.isprintable()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "kilobytes"


def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(artifact: Artifact) -> None:
    artifact.path.unlink()
    os.mkfifo(artifact.path)
    run = run_artifact(_device(_talk(), artifact.path.parent), artifact, SAMPLES, timeout_s=60)
    assert (run.verdict, run.reason) == (Verdict.FAIL, "cannot read double.onnx: it is a pipe or a socket")


@pytest.mark.parametrize("command", [["/"], [""], ["\ud800"], ["sh", *["x" * 100_000] * 40]])
def test_a_command_that_is_no_program_fails(command: list[str], artifact: Artifact) -> None:
    run = run_artifact(Device("odd", "odd", ("onnx",), lambda: command), artifact, SAMPLES, timeout_s=5)
    assert run.verdict is Verdict.FAIL
    assert "cannot start" in run.reason
    assert len(run.reason) < 500


def _raises() -> list[str]:
    raise RuntimeError("no\ncable")


@pytest.mark.parametrize(
    "command",
    [
        lambda: "python agent.py",
        list,
        lambda: None,
        lambda: [b"python"],
        lambda: ["python", 7],
        lambda: 7,
        lambda: {"python": "agent.py"},
        _raises,
    ],
)
def test_a_command_that_is_none(command: Callable[[], Any], artifact: Artifact) -> None:
    device = Device("odd", "odd", ("onnx",), command)
    run = run_artifact(device, artifact, SAMPLES, timeout_s=5)
    assert run.verdict is Verdict.FAIL
    assert "its command" in run.reason
    assert run.reason.isprintable()
    with pytest.raises(DeviceError, match="its command"):
        device.probe()


def test_a_command_with_a_nul_cannot_be_started() -> None:
    with pytest.raises(DeviceError, match="cannot start"):
        start(Device("odd", "odd", ("onnx",), lambda: ["a\0b"]))


@pytest.mark.parametrize(
    ("name", "formats"),
    [("", ("onnx",)), (7, ("onnx",)), ("x" * 300, ("onnx",)), ("a\n", ("onnx",)), ("a", "onnx"), ("a", (7,))],
)
def test_a_device_of_other_types_is_refused(name: Any, formats: Any) -> None:
    with pytest.raises(DeviceError):
        Device(name, "odd", formats)
