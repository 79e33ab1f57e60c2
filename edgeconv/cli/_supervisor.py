"""Runs the command in a child process, so that its end gets one line of explanation whatever caused it.

A factory may call ``os._exit``, a kernel may divide by zero, a parser may take all memory: the process is then gone
without a word, or with the exit code of a success. The parent loads nothing, waits, passes signals on, and reports. The
child sends through a pipe which folder it writes to, by when it must be done, and last of all its exit code. A process
that ends without having sent one was ended by something else than this program.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from edgeconv.cli._blame import lacking
from edgeconv.cli._streams import tell
from edgeconv.cli.exit_codes import SIGNALLED, USER_ERROR
from edgeconv.errors import Ending, printable
from edgeconv.flow.output import clear, clear_temporary

_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP")
_SAME_S = 0.5  # a terminal signals parent and child alike: within this, it is one signal
_GRACE_S = 5.0  # that the child gets to end by itself, once it has sent its exit code or its limit is over
_PARENT_DEATH = 1  # prctl's PR_SET_PDEATHSIG
LATE = "not done within the {:g} s of --timeout; give it longer, or fix the module"
_to_parent: int | None = None  # the pipe's end for writing; in the child alone
_raised: BaseException | None = None  # the last exception that `Answer` raised


class Terminated(Ending):
    """A signal asked the process to end; no handler of ordinary exceptions may keep it."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


class TimeLimitReached(Ending):
    """The command has taken as long as it was given."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(seconds)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C itself, and no exception of that name that the module's code raises."""


def supervised(work: Callable[[], int]) -> int:
    """Runs `work` in a child and returns its exit code, or what its end without one means."""
    if not hasattr(os, "fork"):  # Windows: unsupervised
        return work()
    try:
        reader, writer = os.pipe()
    except OSError as error:
        return _cannot_start(error)
    # nohup ignores SIGHUP, a shell's background jobs ignore SIGINT: both processes go on ignoring these.
    ignored = {name for name in _FORWARDED if signal.getsignal(getattr(signal, name)) is signal.SIG_IGN}
    parent = os.getpid()
    # Before the fork: a signal that comes between would end the parent alone.
    forwarding = _Forwarding([getattr(signal, name) for name in _FORWARDED if name not in ignored])
    try:
        child = os.fork()
    except OSError as error:
        return _cannot_start(error)
    if child == 0:
        os.close(reader)
        _run_in_child(work, writer, parent, ignored)
    os.close(writer)
    forwarding.to(child)
    return _Watch(child, reader).wait()


def _cannot_start(error: OSError) -> int:
    tell(printable(f"edgeconv: error: {lacking(error) or f'no process can be started: {error.strerror}'}"))
    return USER_ERROR


def limit(seconds: float | None) -> None:
    """Ends the command cleanly after so many seconds; the parent kills it if that does not work."""
    if seconds is None:
        return

    def reached(number: int, frame: FrameType | None) -> None:
        raise TimeLimitReached(seconds)

    with suppress(ValueError):  # not in the main thread of somebody else's program
        signal.signal(signal.SIGALRM, reached)
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, for those who catch it and go on
    _say(f"limit {seconds!r}")


def unlimited() -> None:
    """Cancels the time limit: the command is done, and its last output must not be interrupted."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def writes_to(folder: Path) -> None:
    """Tells the parent where to clear away what a dead command leaves."""
    _say(f"folder {os.path.abspath(folder)}")  # noqa: PTH100  (nothing is to be looked up)


def _say(line: str) -> None:
    if _to_parent is not None:
        with suppress(OSError):
            os.write(_to_parent, os.fsencode(line).replace(b"\n", b"?") + b"\n")


def _run_in_child(work: Callable[[], int], writer: int, parent: int, ignored: set[str]) -> None:
    global _to_parent  # noqa: PLW0603  (one process, one parent)
    _to_parent = writer
    if sys.platform == "linux":  # who kills the parent means the command
        ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGKILL)
        # It died before prctl was called, and no signal will come.
        if os.getppid() != parent:
            os._exit(USER_ERROR)
    for name in _FORWARDED:
        if name not in ignored:
            signal.signal(getattr(signal, name), Answer())
    code = work()
    unlimited()
    with suppress(Exception):
        sys.stdout.flush()
        os.dup2(2, 1)  # what the module's code prints at the end of the program is no result
    _say(f"code {code}")
    _exit(code)


def _exit(code: int) -> NoReturn:
    """Ends the process without Python's teardown of modules and objects, which takes a second with torch."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


class Answer:
    """The child's signal handler: raises, so that staging folders and device processes are cleaned up."""

    def __init__(self) -> None:
        self._at: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._at is not None and time.monotonic() - self._at < _SAME_S:
            return
        if self._at is not None and number != signal.SIGINT:  # the second one ends the process at once
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._at = time.monotonic()
        global _raised  # noqa: PLW0603  (a signal is for the whole process)
        _raised = Interrupted() if number == signal.SIGINT else Terminated(number)
        raise _raised


def asked_to_end() -> BaseException | None:
    """The exception that a signal raised in this process, if one arrived.

    It may be gone all the same: destructors and callbacks of native code swallow what is raised in them, and the
    clean-up of a library that it cuts short may fail with an error of its own.
    """
    return _raised


class _Forwarding:
    """The parent's signal handler: passes signals to the child; kills it when the same one comes again, a while later.

    By then, it has had time to end by itself, and has not.
    """

    def __init__(self, numbers: list[int]) -> None:
        self._child: int | None = None
        self._seen: list[tuple[int, float]] = []
        for number in numbers:
            signal.signal(number, self._received)

    def to(self, child: int) -> None:
        """Names the child, and passes on what came before it was known."""
        self._child = child
        for number, _ in self._seen:
            self._pass_on(number)

    def _received(self, number: int, frame: FrameType | None) -> None:
        again = any(time.monotonic() - at > 4 * _SAME_S for seen, at in self._seen if seen == number)
        self._seen.append((number, time.monotonic()))
        self._pass_on(signal.SIGKILL if again else number)

    def _pass_on(self, number: int) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.kill(self._child, number)


class _Watch:
    """The parent's side: waits for the child, and keeps what it has sent through the pipe."""

    def __init__(self, child: int, reader: int) -> None:
        self._child, self._reader = child, reader
        self._rest = b""
        self._code: int | None = None
        self._folders: list[Path] = []
        self._limit_s = 0.0
        self._kill_at: float | None = None

    def wait(self) -> int:
        """Waits for the child and returns the command's exit code."""
        status = self._reaped()
        # The child's last lines may still be in the pipe when it has ended.
        self._listen(0)
        if self._code is not None:
            return self._code
        # It died without its own clean-up.
        for folder in self._folders:
            clear(folder)
        clear_temporary(self._child)
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            return self._refuse(LATE.format(self._limit_s))
        if os.WIFSIGNALED(status):
            return self._killed(os.WTERMSIG(status))
        how = f"ended the process (exit status {os.WEXITSTATUS(status)}), or closed files of the command's"
        return self._refuse(f"the module's code {how}; fix it, it must not do that")

    def _reaped(self) -> int:
        while True:
            left_s = None if self._kill_at is None else self._kill_at - time.monotonic()
            if left_s is not None and left_s <= 0:
                with suppress(ProcessLookupError):
                    os.kill(self._child, signal.SIGKILL)
                return os.waitpid(self._child, 0)[1]
            if not self._listen(0.2 if left_s is None else min(0.2, left_s)):
                pid, status = os.waitpid(self._child, os.WNOHANG)
                if pid:
                    return status

    def _listen(self, seconds: float) -> bool:
        """Reads what the child says; returns whether it said anything."""
        ready, _, _ = select.select([self._reader], [], [], seconds)
        data = os.read(self._reader, 1 << 16) if ready else b""
        if ready and not data:  # it closed the pipe: it ends, or the module's code closed all that it found open
            time.sleep(min(seconds, 0.01))
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hear(*os.fsdecode(line).split(" ", 1))
        return bool(data)

    def _hear(self, word: str, value: str = "") -> None:
        with suppress(ValueError):  # the module's code may write into any descriptor
            if word == "code":
                self._code = int(value)
                self._kill_at = time.monotonic() + _GRACE_S  # threads of the module's that never end
            elif word == "folder":
                self._folders.append(Path(value))
            elif word == "limit":
                self._limit_s = float(value)
                self._kill_at = time.monotonic() + self._limit_s + _GRACE_S

    def _killed(self, number: int) -> int:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        if name in _FORWARDED:
            return SIGNALLED + number
        why = "out of memory, or the module's code ended it" if number == signal.SIGKILL else "a crash of native code"
        return self._refuse(f"the process was ended by {name} ({why}); fix or simplify the model")

    def _refuse(self, message: str) -> int:
        tell(printable(f"edgeconv: error: {message}"))
        return USER_ERROR
