"""The `edgeconv` program for tests that start it often: as real as the installed one, and started in no time.

Nearly all of what a start of `edgeconv export` takes is the import of torch. One process per worker, the nursery,
imports what the program needs of other packages; nothing of edgeconv, nor onnxruntime, which starts a thread that no
fork survives. Each `Program` is a fork of the nursery that imports edgeconv and runs its entry point: a process with
streams, folder, environment, signals and limits of its own, which ends as the installed program does. What happens
before the first line of ours (that the script is installed, that it starts without torch, how the interpreter opens its
streams) is for tests that start the installed script.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import inspect
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

_SUBREAPER = 36  # prctl's PR_SET_CHILD_SUBREAPER
_REQUEST_BYTES = 1 << 20
_IMPORTED = (
    "ai_edge_litert.schema_py_generated",
    "flatbuffers",
    "jinja2",
    "onnx",
    "onnx_ir.passes.common",
    "PIL.Image",
    "pydantic",
    "rich.progress",
    "safetensors.torch",
    "torch._dynamo.functional_export",
    "torch._functorch.aot_autograd",
    "torch.export._trace",
    "torch.onnx",
    "typer",
)


class Program(subprocess.Popen):
    """`edgeconv ARGUMENTS…`, or `python -c CODE`, started; used like `subprocess.Popen`.

    Args:
        arguments: what follows `edgeconv` on the command line; or a program, with `code`.
        code: whether `arguments` is a program in Python.
        largest_file: bytes that no file which it writes may exceed (RLIMIT_FSIZE).
        options: of those of `Popen`: `cwd`, `env`, `stdin`, `stdout`, `stderr`, `text`, `start_new_session`.
    """

    def __init__(
        self, arguments: Sequence[str], *, code: bool = False, largest_file: int | None = None, **options: Any
    ) -> None:
        self._largest_file = largest_file
        self._code = code
        super().__init__([arguments] if isinstance(arguments, str) else list(arguments), **options)

    def _execute_child(self, *arguments: Any) -> None:
        """Popen's own step that forks and executes; it has made the pipes, and waits and reads afterwards."""
        asked = inspect.signature(super()._execute_child).bind(*arguments).arguments
        unlike = {"preexec_fn": None, "pass_fds": (), "shell": False, "executable": None}
        assert all(asked[name] == value for name, value in unlike.items()), asked
        ours = [asked["p2cread"], asked["c2pwrite"], asked["errwrite"]]
        streams = [own if own != -1 else inherited for own, inherited in zip(ours, (0, 1, 2), strict=True)]
        request = {
            "arguments": [os.fspath(argument) for argument in asked["args"]],
            "folder": os.fspath(asked["cwd"] or Path.cwd()),
            "environment": dict(os.environ if asked["env"] is None else asked["env"]),
            "new session": asked["start_new_session"],
            "largest file": self._largest_file,
            "code": self._code,
        }
        self.pid = _nursery().start(request, streams)
        self._child_created = True
        theirs = [asked["p2cwrite"], asked["c2pread"], asked["errread"]]
        for end, other_end in zip(ours, theirs, strict=True):
            if other_end != -1:  # a pipe, and this end is the program's
                os.close(end)


def run(arguments: Sequence[str], *, timeout: float = 120.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a `Program` to its end, as `subprocess.run` with text and captured output does."""
    pipe = subprocess.PIPE
    with Program(arguments, stdout=pipe, stderr=pipe, text=True, **options) as program:
        try:
            printed, told = program.communicate(timeout=timeout)
        except BaseException:
            program.kill()
            raise
    return subprocess.CompletedProcess(list(arguments), program.returncode, printed, told)


class _Nursery:
    """The process that has imported everything, seen from the worker."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        theirs.close()
        atexit.register(self._end)

    def start(self, request: Mapping[str, Any], streams: list[int]) -> int:
        """The process id of a new program, which is a child of this process."""
        self._adopt(True)
        try:
            socket.send_fds(self._channel, [json.dumps(request).encode()], streams)
            program, orphaned = self._channel.recv(_REQUEST_BYTES), self._channel.recv(_REQUEST_BYTES)
        finally:
            self._adopt(False)
        if not orphaned:
            raise RuntimeError("the nursery of programs is gone")
        return int(program)

    @staticmethod
    def _adopt(orphans: bool) -> None:
        """Whether what a dead child leaves behind becomes this process's own child, to be waited for."""
        ctypes.CDLL(None).prctl(_SUBREAPER, int(orphans), 0, 0, 0)

    def _end(self) -> None:
        self._channel.close()
        self._process.wait(30)


@cache
def _nursery() -> _Nursery:
    return _Nursery()


def _tend(channel: socket.socket) -> None:
    """Forks one program after another; returns in each of them, and ends with the channel."""
    gc.disable()
    for module in _IMPORTED:
        __import__(module)
    gc.freeze()  # no program has to look for garbage in it
    gc.enable()
    while True:
        message, streams, _, _ = socket.recv_fds(channel, _REQUEST_BYTES, 3)
        if not message:
            os._exit(0)
        between = os.fork()
        if between == 0:
            _leave(channel, json.loads(message), streams)
            return
        os.waitpid(between, 0)
        channel.send(b"orphaned")
        for descriptor in streams:
            os.close(descriptor)


def _leave(channel: socket.socket, request: Mapping[str, Any], streams: list[int]) -> None:
    """Forks once more, and makes of the new process what a shell would have started."""
    reader, writer = os.pipe()
    program = os.fork()
    if program:
        os.close(reader)
        channel.send(str(program).encode())
        os._exit(0)  # closes the writer: the program goes on only when it has its new parent
    os.close(writer)
    os.read(reader, 1)
    if request["new session"]:
        os.setsid()
    for place, descriptor in enumerate(streams):
        os.dup2(descriptor, place)
    os.closerange(3, max(reader, writer, channel.detach(), *streams) + 1)
    sys.stdin, sys.stdout, sys.stderr = _text(0, "r"), _text(1, "w"), _text(2, "w")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = ["-c" if request["code"] else "edgeconv", *request["arguments"]]
    sys.path[0] = "" if request["code"] else str(Path(sys.executable).parent)
    if request["largest file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest file"],) * 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _text(descriptor: int, mode: str) -> io.TextIOWrapper:
    """A standard stream as Python opens it at its start."""
    errors = "backslashreplace" if descriptor == 2 else None
    line_buffered = descriptor == 2 or os.isatty(descriptor)
    stream = open(descriptor, mode + "b", closefd=False)  # noqa: SIM115  (it stands to the end of the process)
    return io.TextIOWrapper(stream, encoding="utf-8", errors=errors, line_buffering=line_buffered)


def _be_the_program() -> NoReturn:
    """Ends without taking torch apart, which the installed program's process has never seen: it is its child's."""
    try:
        if sys.argv[0] == "-c":
            exec(compile(sys.argv.pop(), "<string>", "exec"), {"__name__": "__main__"})
            sys.exit(0)
        from edgeconv.cli import main

        main()
    except SystemExit as end:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:  # noqa: BLE001  (its end is the end of the process)
        traceback.print_exc()
        os._exit(1)
    raise AssertionError("main exits")


if __name__ == "__main__":
    _tend(socket.socket(fileno=int(sys.argv[1])))
    _be_the_program()
