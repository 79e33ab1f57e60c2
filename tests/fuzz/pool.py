"""Runs one input after the other, each in a process of its own with limits of time and memory.

The parent imports everything once and forks: an input then costs as long as it takes itself. What the command did is
told by how its process ended, what it printed, how long it took and how much memory it had.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 10.0
MOST_BYTES = 4 * 2**30
_HUNG_S = 300.0  # of the clock, for what waits; a crowded machine lets what computes wait for a minute, too
_CODES = (0, 1, 2)
HIDDEN = "hidden"
"""The file beside an input's folder that holds the stack of an exception that nobody meant."""


@dataclass(frozen=True)
class Outcome:
    """What came of one input.

    Attributes:
        name: of the input.
        fault: what is wrong with it, one line; empty where nothing is.
        code: the exit code; negative for a signal.
        seconds: of processor time.
        peak_bytes: more than the parent has.
        told: what was printed to stderr, its end.
        hidden: the stack of an exception behind a refusal that nobody meant; empty where there is none.
    """

    name: str
    fault: str
    code: int
    seconds: float
    peak_bytes: int
    told: str
    hidden: str = ""


@dataclass
class _Running:
    name: str
    started: float
    folder: tempfile.TemporaryDirectory[str] = field(repr=False)


Work = Callable[[Path], int]
"""Does one input in an empty folder; returns an exit code."""


def run_all(inputs: Iterable[tuple[str, Work]], *, processes: int) -> Iterator[Outcome]:
    """Runs the inputs side by side; gives each outcome as it comes."""
    running: dict[int, _Running] = {}
    waiting = iter(inputs)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    exhausted = False
    try:
        while running or not exhausted:
            while not exhausted and len(running) < processes:
                following = next(waiting, None)
                if following is None:
                    exhausted = True
                    break
                name, work = following
                folder = tempfile.TemporaryDirectory(prefix="edgeconv-fuzz-")
                running[_forked(work, Path(folder.name))] = _Running(name, time.monotonic(), folder)
            yield from _ended(running, base)
            time.sleep(0.005)
    finally:
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _forked(work: Work, folder: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 3
    try:
        os.setsid()
        (folder / "work").mkdir()
        out = os.open(folder / "stdout", os.O_WRONLY | os.O_CREAT)
        err = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(err, 2)
        faulthandler.register(signal.SIGUSR1, file=2)  # where it hangs
        os.chdir(folder / "work")
        # a limit on address space alone would refuse what is never touched
        resource.setrlimit(resource.RLIMIT_AS, (64 * 2**30, 64 * 2**30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = work(folder / "work")
    except BaseException:  # noqa: BLE001  (told as a fault, with its traceback)
        import traceback

        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _ended(running: dict[int, _Running], base: int) -> Iterator[Outcome]:
    for pid, item in list(running.items()):
        late = time.monotonic() - item.started > _HUNG_S or _processor_seconds(pid) > 2 * SECONDS
        swollen = _resident_bytes(pid) > base + MOST_BYTES
        if late or swollen:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGUSR1)
                time.sleep(0.5)
                os.killpg(pid, signal.SIGKILL)
        ended, status, usage = os.wait4(pid, 0 if late or swollen else os.WNOHANG)
        if not ended:
            continue
        del running[pid]
        folder = Path(item.folder.name)
        with (folder / "stderr").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4000))
            told = file.read().decode("utf-8", "replace")
        hidden = _text_of(folder / HIDDEN)
        item.folder.cleanup()
        code = os.waitstatus_to_exitcode(status)
        seconds, peak = usage.ru_utime + usage.ru_stime, max(0, usage.ru_maxrss * 1024 - base)
        fault = _fault(code, told, seconds, peak, late=late, swollen=swollen)
        fault = fault or (f"unforeseen: {hidden.splitlines()[0]}" if hidden else "")
        yield Outcome(item.name, fault, code, seconds, peak, told, hidden)


def _fault(code: int, told: str, seconds: float, peak: int, *, late: bool, swollen: bool) -> str:
    if swollen or peak > MOST_BYTES:
        return f"took {peak / 2**30:.1f} GiB"
    if late or seconds > SECONDS:
        return "hung" if late else f"took {seconds:.1f} s"
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    if "Traceback" in told:
        lines = [line for line in told.splitlines() if line and not line.startswith(("edgeconv: this", " "))]
        return f"traceback: {lines[-1][:200] if lines else ''}"
    if code not in _CODES:
        return f"exit code {code}"
    lines = told.splitlines()
    if code == 2 and (len(lines) != 1 or not lines[0].startswith("edgeconv: error: ")):
        return f"{len(lines)} lines for one error: {lines[0][:200] if lines else ''}"
    if not told.replace("\n", "").isprintable():
        return "control characters"
    return ""


def _text_of(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""


def _processor_seconds(pid: int) -> float:
    """What a process has used so far, that of its threads included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
