"""Commits into a folder in a traced child, and kills it at one of its system calls after the other. Linux, no tools.

Run as a script, since it forks: ``killed_commit.py ROOM ACTION`` prints what each kill leaves, as JSON; it exits with
77 where tracing is not allowed. ACTION is a signal, or ``recover``: what is killed then completes an earlier commit.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TRACEME, _SYSCALL, _SETOPTIONS = 0, 24, 0x4200
_TRACE_GOOD = 1
OLD = {
    "a.onnx": "old a",
    "b.tflite": "old b",
    "stale.tflite": "old stale",
    "parity.json": "old verdict",
    "own.txt": "own",
}
NEW = {"a.onnx": "new a", "b.tflite": "new b", "c.h": "new c", "parity.json": "new verdict", "own.txt": "own"}


class Terminated(BaseException):
    """As the command line answers SIGTERM."""


def write(folder: Path) -> None:
    from edgeconv.flow.output import staged

    with staged(folder) as staging:
        for name in ("a.onnx", "b.tflite", "c.h"):
            staging.write(name, NEW[name].encode())
        staging.discard("parity.json")
        staging.discard("stale.tflite")
        staging.write("parity.json", NEW["parity.json"].encode())
        traced()


def recover(folder: Path) -> None:
    from edgeconv.flow.output import settle

    traced()
    settle(folder)


def traced() -> None:
    """From here on, every system call stops for the parent."""
    if ctypes.CDLL(None, use_errno=True).ptrace(_TRACEME, 0, 0, 0) != 0:
        os._exit(77)
    os.kill(os.getpid(), signal.SIGSTOP)


def _child(folder: Path, action: str) -> None:
    def terminate(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        (recover if action == "recover" else write)(folder)
    except Terminated:
        os._exit(143)
    os._exit(0)


def stops(folder: Path, action: str, step: int) -> int:
    """Runs the child up to its stop number ``step`` (a system call has two: before and after) and acts on it."""
    number = signal.SIGTERM if action == "SIGTERM" else signal.SIGKILL
    pid = os.fork()
    if pid == 0:
        _child(folder, action)
    libc = ctypes.CDLL(None, use_errno=True)
    seen, deliver = 0, 0
    while True:
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return -1 if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 77 else seen
        stopped_by = os.WSTOPSIG(status)
        if stopped_by == signal.SIGSTOP and seen == 0:
            libc.ptrace(_SETOPTIONS, pid, 0, ctypes.c_void_p(_TRACE_GOOD))
        elif stopped_by == signal.SIGTRAP | 0x80:
            seen += 1
            if seen == step:
                os.kill(pid, number)
        else:
            deliver = stopped_by
        libc.ptrace(_SYSCALL, pid, 0, ctypes.c_void_p(deliver))
        deliver = 0


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(99).decode("latin-1")


def state(folder: Path) -> dict[str, str]:
    return {path.name: _head(path) for path in folder.iterdir() if path.is_file()}


def old(folder: Path) -> Path:
    folder.mkdir()
    for name, text in OLD.items():
        (folder / name).write_text(text)
    return folder


def _after_each_kill(room: Path, action: str) -> Iterator[dict[str, Any]]:
    """What each step leaves to those who only look, to the next command, and what lies there after the next export."""
    from edgeconv.flow.output import settle, staged

    for step in range(1, stops(old(room / "all"), action, 10**9) + 1):
        folder = old(room / str(step))
        stops(folder, action, step)
        seen = state(folder)
        settle(folder)
        settled = state(folder)
        with staged(folder):
            pass
        yield {"step": step, "seen": seen, "settled": settled, "left": sorted(path.name for path in folder.iterdir())}


def _after_each_kill_of_the_completion(room: Path) -> Iterator[dict[str, Any]]:
    """The same of the command that completes a commit which was killed between its renames."""
    from edgeconv.flow.output import settle

    for at in range(1, stops(old(room / "all"), "SIGKILL", 10**9) + 1):
        half = old(room / f"half {at}")
        stops(half, "SIGKILL", at)
        if state(half)["a.onnx"] == NEW["a.onnx"] and state(half)["b.tflite"] == OLD["b.tflite"]:
            break
    count = stops(Path(shutil.copytree(half, room / "count")), "recover", 10**9)
    for step in range(1, count + 1):
        folder = Path(shutil.copytree(half, room / f"again {step}"))
        stops(folder, "recover", step)
        settle(folder)
        yield {"step": step, "settled": state(folder)}


if __name__ == "__main__":
    _room, _action = Path(sys.argv[1]), sys.argv[2]
    if stops(old(_room / "trial"), "SIGKILL", 10**9) < 0:
        sys.exit(77)
    _kills = _after_each_kill_of_the_completion(_room) if _action == "recover" else _after_each_kill(_room, _action)
    print(json.dumps(list(_kills)))
