"""A process that speaks the agent protocol, held to a time limit.

Whatever it does (crash, hang, print nonsense, never start), the caller gets a `DeviceError` with one line and never
waits longer than it said. Three daemon threads move bytes, so that no full pipe can block the caller: one reads
frames, one keeps the end of stderr, one writes the present request.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, BinaryIO, cast

from edgeconv.core import Array
from edgeconv.core.package import environment_without_telemetry
from edgeconv.devices.agent import Frame, ProtocolError, frame_parts, read_frame
from edgeconv.errors import DeviceError

_OF_THE_HOST = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)  # errors that the device is not to blame for
_POLL_S = 0.25  # between two looks whether it still lives
_GRACE_S = 1.0  # that it gets to end, and its last words to arrive
_SHOWN = 300  # characters of a foreign message
_MOST_UNASKED = 8  # frames that nobody has asked for; no more are read from such a device
_KEPT_BYTES = 1 << 14  # of stderr


class NotInstalledError(DeviceError):
    """The device's runtime is not installed: its rows are skipped, not failed."""


class AgentProcess:
    """Starts ``command`` at once and returns; frames are exchanged with `receive` and `request`.

    Raises:
        NotInstalledError: there is no such command.
        DeviceError: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.most_bytes = 0
        try:
            self._process = _started(command)
        except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in an argument
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            what = f"cannot start {command[0]!r:.80}: {getattr(error, 'strerror', None) or error}"
            hint = "install it or correct the device's command" if missing else "correct the device's command"
            if getattr(error, "errno", None) in _OF_THE_HOST:
                hint = "this machine lacks files, processes or memory: raise its limits (ulimit), or end other programs"
            raise (NotInstalledError if missing else DeviceError)(what, hint=hint) from error
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._frames: queue.SimpleQueue[Frame | DeviceError | None] = queue.SimpleQueue()
        self._stderr_tail = b""
        self._stderr_thread = _daemon(self._keep_stderr)
        self._writer: threading.Thread | None = None
        self.alive = True
        _daemon(self._read_frames)

    @property
    def pid(self) -> int:
        """The process id of the command."""
        return self._process.pid

    def request(
        self,
        kind: str,
        fields: Mapping[str, Any],
        arrays: Sequence[tuple[str, Array]],
        limit: Deadline,
        most_bytes: int = 0,
    ) -> Frame:
        """Sends a frame and returns the answer, whose arrays have at most so many bytes.

        Raises:
            DeviceError: it died, hung past the limit, or did not answer with a frame; the process is then gone.
        """
        parts = frame_parts(kind, dict(fields), arrays)
        if not self._frames.empty():
            raise self._end(self._unasked())
        self.most_bytes = most_bytes
        # The writer of the request before may still wait for the device to read.
        if self._writer is not None:
            self._writer.join(limit.remaining_s())
            if self._writer.is_alive():
                raise self._end(DeviceError(limit.message))
        self._writer = _daemon(self._write, parts)
        return self.receive(limit)

    def receive(self, limit: Deadline) -> Frame:
        """Returns the next frame; raises as `request` does."""
        exited_at: float | None = None
        while True:
            try:
                item = self._frames.get(timeout=max(0.0, min(_POLL_S, limit.remaining_s())))
            except queue.Empty:
                if self._process.poll() is not None:
                    # Dead, yet its pipe is held open by something that it started: no end of file will come.
                    exited_at = exited_at or time.monotonic()
                    if time.monotonic() - exited_at > _GRACE_S:
                        raise self._end(DeviceError(self._death())) from None
                if limit.remaining_s() <= 0:
                    raise self._end(DeviceError(limit.message)) from None
                continue
            if isinstance(item, Frame):
                return item
            if item is None:
                raise self._end(DeviceError(self._death()))
            raise self._end(item)

    def close(self) -> None:
        """Ends the process: kindly at first (end of its input), then by SIGKILL to its whole group."""
        if self.alive and (self._writer is None or not self._writer.is_alive()):
            with contextlib.suppress(OSError):
                self._stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)
        self._kill()

    def _end(self, error: DeviceError) -> DeviceError:
        self._kill()
        return error

    def _kill(self) -> None:
        if not self.alive:
            return
        self.alive = False
        # The group also when its leader is dead: what it started may live on and hold the pipes.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)

    def _death(self) -> str:
        """Says how the process ended: by which signal, or with which status and last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self._stderr_thread.join(_GRACE_S)
        status = self._process.poll()
        words = self._last_words()
        if status is None:
            return "closed its output without an answer"
        if -status == signal.SIGKILL:  # what the kernel sends where memory is lacking
            return f"killed by {_signal_name(-status)} (out of memory?)"
        how = f"killed by {_signal_name(-status)}" if status < 0 else f"exited with status {status} before it answered"
        return f"{how}: {words}" if words else how

    def _read_frames(self) -> None:
        stream = cast(BinaryIO, self._process.stdout)
        try:
            while (frame := read_frame(stream, lambda: self.most_bytes, _strict)) is not None:
                self._frames.put(frame)
                if self._frames.qsize() > _MOST_UNASKED:  # it is refused as soon as anybody asks; nothing is piled up
                    return
                del frame  # its arrays are the caller's, and the next frame may be long in coming
            self._frames.put(None)
        except ProtocolError as error:
            # Half a frame from a process that died is reported as its death, not as a protocol error.
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self._process.wait(_POLL_S) != 0:
                    self._frames.put(None)
                    return
            self._frames.put(DeviceError(f"its output is not the agent protocol: {error}"))
        except MemoryError:
            self._frames.put(DeviceError("out of memory while its answer was read"))
        except (OSError, ValueError):  # the pipe was closed under us
            self._frames.put(None)
        # The bytes are another process's; and whatever they bring about, the caller waits for this thread's word.
        except Exception as error:  # noqa: BLE001
            self._frames.put(DeviceError(f"its output cannot be read ({type(error).__name__})"))

    def _unasked(self) -> DeviceError:
        """The error for a frame or an end that came without a request."""
        item = self._frames.get()
        if isinstance(item, Frame):
            return DeviceError(f"it sent {device_line(item.type)!r} more often than it was asked")
        return item or DeviceError(self._death())

    def _keep_stderr(self) -> None:
        stream = cast(BinaryIO, self._process.stderr)
        with contextlib.suppress(OSError, ValueError):
            while chunk := stream.read(1 << 16):
                self._stderr_tail = (self._stderr_tail + chunk)[-_KEPT_BYTES:]

    def _last_words(self) -> str:
        """The last line of stderr that is not a runtime's INFO message."""
        lines = (device_line(line) for line in reversed(self._stderr_tail.splitlines()))
        return next((line for line in lines if line and not line.startswith("INFO:")), "")

    def _write(self, parts: Sequence[Any]) -> None:
        # An error here is a death that the reader sees too, and explains better.
        with contextlib.suppress(OSError, ValueError):
            for part in parts:
                view = memoryview(part)
                while len(view):
                    view = view[self._stdin.write(view) or 0 :]


def _started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """The running command, with pipes; in a session of its own, so that a time-out can kill all that it started."""
    return subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment_without_telemetry(),
        bufsize=0,
        start_new_session=True,
    )


def _strict(text: str) -> Any:
    """Parses JSON strictly: what readers may take in different ways is refused.

    Raises:
        ValueError: it is none, has a key twice, an infinity, NaN or half a character.
    """
    header = json.loads(text, object_pairs_hook=_without_duplicates)
    json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key twice")
    return fields


class Deadline:
    """A time limit, counted in real time from its construction."""

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s
        self.message = f"no answer within its time limit of {timeout_s:g} s"

    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())


def _daemon(target: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    return thread


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def device_line(text: object) -> str:
    """A device's text as one printable line of limited length."""
    words = (text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)[: 4 * _SHOWN]).split()
    return "".join(character if character.isprintable() else "?" for character in " ".join(words))[:_SHOWN]
