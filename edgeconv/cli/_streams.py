"""Standard output and error: what they can carry, and who may write there."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Iterator

from edgeconv.cli.exit_codes import USER_ERROR


def prepare() -> None:
    """Makes printing safe with closed streams and with encodings that lack a character."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            _occupy(descriptor)
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  (lives as long as we)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _occupy(descriptor: int) -> None:
    """Reserves a closed standard descriptor: else the next opened file would get its number, and receive prints."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def tell(line: str) -> None:
    """A line to stderr; where that cannot be written, only the exit code is left to report with."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr.fileno())


class OutputError(Exception):
    """Standard output cannot be written; `cause` says why."""

    def __init__(self, cause: OSError) -> None:
        self.cause = cause
        super().__init__(str(cause))


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Maps failures of standard output, which must not look like a bug of ours.

    Raises:
        OutputError: a full disk, a pipe that its reader closed, a terminal that is gone. Further output is dropped.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout.fileno())  # the interpreter's last flush would fail again
        raise OutputError(error) from error


def say(text: str) -> None:
    """A line, or several, to standard output."""
    with writing():
        print(text)


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


@contextlib.contextmanager
def results_only(*, when: bool) -> Iterator[None]:
    """Redirects to stderr whatever is printed within: by the user's module, native libraries, child processes.

    Args:
        when: False changes nothing.
    """
    if not when:
        yield
        return
    ours = sys.stdout
    _flush(ours)
    # Native code and child processes write to descriptor 1 and know no `sys.stdout`. Python's own prints are redirected
    # besides, since `sys.stdout` would hold them back in its buffer.
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _flush(ours)  # what was written past the redirection waits in buffers that outlive it
        try:
            os.dup2(saved, 1)
        except OSError:  # foreign code closed it, and so the pipe to the parent too; the parent reports that
            os._exit(USER_ERROR)
        os.close(saved)


def _flush(stream: io.TextIOBase | object) -> None:
    for item in (stream, sys.__stdout__):
        if isinstance(item, io.IOBase) and not item.closed:
            item.flush()
    ctypes.CDLL(None).fflush(None)  # C's own buffers
