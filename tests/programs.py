"""Programs for tests that start them often, as real as the installed ones and started in no time: `edgeconv`, devices.

Nearly all of what a start of `edgeconv export` takes is imports. One process per worker, the nursery, has made those of
other packages, and of edgeconv's modules but for the command line. (onnxruntime starts a thread that no fork survives,
to report to its makers; it is told not to.) Each `Program` is a fork of the nursery that runs our entry point: a
process with streams, folder, environment, signals and limits of its own, which ends as the installed program does. A
`fresh` one imports edgeconv itself. What happens before the first line of ours (that the script is installed, that it
starts without torch, how the interpreter opens its streams) is for tests that start the installed script.

Devices are started likewise: most of what a short run on one takes is the import of its runtime. Each of our devices
has a nursery that has imported it, run by the device's own Python; an `Agent` is a fork of it that has loaded no file
yet. Tests of devices themselves start the commands (`fork_devices`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib.util
import inspect
import io
import json
import os
import pkgutil
import resource
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

_SUBREAPER = 36  # prctl's PR_SET_CHILD_SUBREAPER
_REQUEST_BYTES = 1 << 20
_ADOPTING = threading.Lock()  # one program at a time is handed over, whichever thread starts it
_IMPORTED = (
    "ai_edge_litert.schema_py_generated",
    "flatbuffers",
    "jinja2",
    "onnx",
    "onnx.inliner",
    "onnx_ir.passes.common",
    "PIL.Image",
    "pydantic.fields",
    "pydantic.functional_validators",
    "pydantic.main",
    "pydantic.types",
    "rich.progress",
    "safetensors.torch",
    "torch._dynamo.functional_export",
    "torch._functorch.aot_autograd",
    "torch.export._trace",
    "torch.onnx",
    "typer._adapters",
    "typer.main",
)
_RUNTIMES = ("onnxruntime", "onnxsim")  # what imports onnxruntime, too
_OURS = "edgeconv."  # stands for all modules of it but these, which are programs or set signal handlers
_PROGRAMS = ("edgeconv.cli", "edgeconv.__main__", "edgeconv.devices.agent")


class Program(subprocess.Popen):
    """`edgeconv ARGUMENTS…`, or `python -c CODE`, started; used like `subprocess.Popen`.

    Args:
        arguments: what follows `edgeconv` on the command line; or a program, with `code`.
        code: whether `arguments` is a program in Python.
        fresh: whether it imports edgeconv and onnxruntime itself; for what happens while it does.
        largest_file: bytes that no file which it writes may exceed (RLIMIT_FSIZE).
        options: of those of `Popen`: `cwd`, `env`, `stdin`, `stdout`, `stderr`, `text`, `start_new_session`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        code: bool = False,
        fresh: bool = False,
        largest_file: int | None = None,
        **options: Any,
    ) -> None:
        self._largest_file = largest_file
        self._fresh = fresh
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
        self.pid = self._nursery().start(request, streams)
        self._child_created = True
        theirs = [asked["p2cwrite"], asked["c2pread"], asked["errread"]]
        for end, other_end in zip(ours, theirs, strict=True):
            if other_end != -1:  # a pipe, and this end is the program's
                os.close(end)

    def _nursery(self) -> _Nursery:
        return _nursery((sys.executable,), () if self._fresh else (*_RUNTIMES, _OURS))


class Agent(Program):
    """A device of this machine, started.

    Args:
        command: the whole of it: Python, -P or -I, agent.py and its arguments; or Python, -c, a program that changes an
            agent, and its arguments, of which the runtime's name is the first.
        device: the command of the device that has this runtime.
        options: as of `Program`.
    """

    def __init__(self, command: Sequence[str], device: Sequence[str], **options: Any) -> None:
        self._device = device
        super().__init__(command, **options)

    def _nursery(self) -> _Nursery:
        python, isolation, agent, runtime, *_ = self._device
        return _nursery((python, isolation), (agent, runtime))


def fork_devices(forked: bool) -> None:
    """Whether our devices, as they are started from now on, are forks; those in another environment never are."""
    _devices().forked = forked


class _Devices:
    """What starts the processes of devices in place of `edgeconv.devices`."""

    def __init__(self) -> None:
        from edgeconv.devices import DEVICES, _process
        from edgeconv.errors import DeviceError

        self.forked = True
        self._environment = self._present()
        self._start = _process._started
        self._commands = {}
        for device in DEVICES.values():
            with contextlib.suppress(DeviceError):  # it is not installed
                if device.command is not None:
                    self._commands[device.name] = list(device.command())
        _process._started = self.start

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        device = self._commands.get(command[3]) if len(command) > 3 else None
        changed = list(command[:2]) == [sys.executable, "-c"]
        same = device is not None and (changed or list(command) == device)
        if not self.forked or not same or self._present() != self._environment or sys.platform != "linux":
            return self._start(command)
        pipe = subprocess.PIPE
        options = {"stdin": pipe, "stdout": pipe, "stderr": pipe, "bufsize": 0, "start_new_session": True}
        return Agent(command, device, env=self._present(), **options)

    @staticmethod
    def _present() -> dict[str, str]:
        from edgeconv.core.package import environment_without_telemetry

        return {**environment_without_telemetry(), "PYTEST_CURRENT_TEST": ""}


@cache
def _devices() -> _Devices:
    return _Devices()


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

    def __init__(self, python: Sequence[str], loaded: Sequence[str]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
        command = [*python, __file__, str(theirs.fileno()), *loaded]
        self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        theirs.close()
        atexit.register(self._end)

    def start(self, request: Mapping[str, Any], streams: list[int]) -> int:
        """The process id of a new program, which is a child of this process."""
        with _ADOPTING:
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
def _nursery(python: Sequence[str], loaded: Sequence[str]) -> _Nursery:
    """The one that is run so, and loads these modules, or the agent of this path and the runtime of this name."""
    return _Nursery(python, loaded)


def _tend(channel: socket.socket, load: Callable[[], object]) -> None:
    """Forks one program after another of what is loaded; returns in each of them, and ends with the channel."""
    gc.disable()
    load()
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
    if not sys.flags.safe_path:  # as it is for devices
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


def _load_imports(more: Sequence[str]) -> None:
    for module in (*_IMPORTED, *more):
        if module != _OURS:
            __import__(module)
        else:
            import edgeconv

            for ours in pkgutil.walk_packages(edgeconv.__path__, _OURS):
                if not ours.name.startswith(_PROGRAMS):
                    __import__(ours.name)


def _load_runtime(agent: types.ModuleType, runtime: str) -> None:
    import importlib.metadata  # noqa: F401  (its look for the runtime's version)

    agent.RUNTIMES[runtime](1)


def _imported_from(path: str) -> types.ModuleType:
    """A file as a module, whatever folder it is in."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _be_the_program(agent: types.ModuleType | None) -> NoReturn:
    """Ends without taking torch apart, which the installed program's process has never seen: it is its child's.

    Neither does a device take its runtime apart, a thread of which the fork has left behind.
    """
    try:
        if agent is not None:
            if sys.argv[2] == "-c":
                code, sys.argv = sys.argv[3], ["-c", *sys.argv[4:]]
                _execute(code)
            sys.exit(agent.main(sys.argv[4:]))
        if sys.argv[0] == "-c":
            _execute(sys.argv.pop())
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


def _execute(code: str) -> NoReturn:
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    sys.exit(0)


if __name__ == "__main__":
    _CHANNEL, _LOADED = socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]
    _AGENT = _imported_from(_LOADED[0]) if _LOADED and _LOADED[0].endswith(".py") else None
    _tend(_CHANNEL, partial(_load_imports, _LOADED) if _AGENT is None else partial(_load_runtime, _AGENT, _LOADED[1]))
    _be_the_program(_AGENT)
