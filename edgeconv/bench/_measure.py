"""Latency and memory of files on devices, taken in turns: A B A B, so that a slow minute slows all alike.

Every pair of file and device has a process of its own, so that its peak memory is its own; a turn loads the file and
runs it a few times, and its first run, which touches the memory for the first time, does not count.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from edgeconv.bench._files import BenchFile
from edgeconv.core import Verdict
from edgeconv.core.defaults import DEVICE_TIMEOUT_S
from edgeconv.devices import Device, Session, start
from edgeconv.errors import DeviceError
from edgeconv.progress import Progress, Silent

_SETTLING_RUNS = 1  # after each load, not counted: the first run meets cold caches


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: turns of every pair.
        runs: measured inferences of a turn.
        turn_ms: a turn has fewer runs (at least one) where they would take longer than this.
        timeout_s: for one turn; beyond it the device counts as hung.
    """

    rounds: int = 10
    runs: int = 5
    turn_ms: float = 1000.0
    timeout_s: float = DEVICE_TIMEOUT_S

    def runs_at(self, latency_ms: float) -> int:
        """Measured inferences of a turn, of a file that needs so long for one."""
        return max(1, min(self.runs, int(self.turn_ms / max(latency_ms, 1e-3))))


@dataclass(frozen=True)
class BenchRow:
    """One file on one device.

    Attributes:
        file: what was measured.
        device: the device's name.
        latency: single thread; None when it did not run.
        peak_memory_bytes: the most that the device's process held, from its start through loading the file to the end
            of the first inference; None where the system does not tell. It is that of the command which reaches the
            device, so for a device elsewhere it says nothing of the device.
        idle_memory_bytes: the same before the file was loaded: runtime and numpy alone.
        environment: what the device tells of itself.
        verdict: PASS, FAIL or SKIPPED.
        reason: why it failed or was skipped.
    """

    file: BenchFile
    device: str
    latency: Latency | None = None
    peak_memory_bytes: int | None = None
    idle_memory_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    verdict: Verdict = Verdict.PASS
    reason: str = ""


class _Pair:
    """A file on a device, with what has been measured so far."""

    def __init__(self, file: BenchFile, device: Device) -> None:
        self.file = file
        self.device = device
        self._sample = file.sample()
        self._session: Session | None = None
        self._runs = 1  # of a turn; as many as fit into it, once the first run has shown how long one takes
        self._latencies_ms: list[float] = []
        self._row = BenchRow(file, device.name)

    def begin(self, stack: ExitStack, effort: Effort) -> None:
        """Starts the process, loads the file for the first time and runs it once."""
        try:
            self._session = stack.enter_context(start(self.device))
        except DeviceError as error:
            self._stop(Verdict.SKIPPED, str(error))
            return
        with suppress(DeviceError):  # the run below meets it again, and says whether it is missing or broken
            self._session.hello(effort.timeout_s)
        idle = peak_memory_bytes(self._session.pid)
        first = self._run(1 + _SETTLING_RUNS, effort)
        if first and self._session is not None:
            # Now, and not behind all turns: each of them loads the file again, beside what is left of the last one.
            peak = peak_memory_bytes(self._session.pid)
            self._row = replace(self._row, peak_memory_bytes=peak, idle_memory_bytes=idle)
            self._runs = effort.runs_at(first[-1])

    def turn(self, effort: Effort) -> None:
        """Loads the file again and measures."""
        self._latencies_ms += self._run(self._runs + _SETTLING_RUNS, effort)[_SETTLING_RUNS:]

    def row(self) -> BenchRow:
        """The result, with the latencies summed up."""
        measured = self._latencies_ms and self._row.verdict is Verdict.PASS
        return replace(self._row, latency=summary_of(self._latencies_ms) if measured else None)

    def _run(self, count: int, effort: Effort) -> tuple[float, ...]:
        if self._session is None:
            return ()
        run = self._session.run(self.file.artifact, [self._sample] * count, timeout_s=effort.timeout_s)
        self._row = replace(self._row, environment=run.environment)
        if run.verdict is not Verdict.PASS:
            self._stop(run.verdict, run.reason)
        return run.latency_ms

    def _stop(self, verdict: Verdict, reason: str) -> None:
        self._session = None
        self._row = replace(self._row, verdict=verdict, reason=reason)


def bench(
    files: Sequence[BenchFile],
    devices: Sequence[Device],
    *,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> tuple[BenchRow, ...]:
    """Measures every file on every device that takes its format, with one thread each.

    The files of one folder take turns with each other; folders come one after another.

    Args:
        files: from `find_files`.
        devices: where; one that is not installed gives rows that were skipped.
        effort: how long.
        progress: notified of the rounds.

    Returns:
        One row per pair: the files in their order, for each its devices in theirs. What a runtime does (refuse,
        crash, hang) is a row with its reason and never raised.
    """
    effort, progress = effort or Effort(), progress or Silent()
    rows: list[BenchRow] = []
    for _, group in groupby(files, lambda file: file.artifact.path.parent):
        rows += _bench_folder(list(group), devices, effort, progress)
    return tuple(rows)


def _bench_folder(
    files: Sequence[BenchFile], devices: Sequence[Device], effort: Effort, progress: Progress
) -> list[BenchRow]:
    pairs = [_Pair(file, device) for file in files for device in devices if file.artifact.format in device.formats]
    with ExitStack() as stack:
        for pair in pairs:
            with progress.stage(f"{pair.file.name} on {pair.device.name}"):
                pair.begin(stack, effort)
        with progress.stage(f"{effort.rounds} rounds"):
            for index in range(effort.rounds):
                # Back and forth, so that no pair always comes right after the same other one.
                for pair in pairs if index % 2 == 0 else reversed(pairs):
                    pair.turn(effort)
    return [pair.row() for pair in pairs]


@dataclass(frozen=True)
class Latency:
    """Wall time of one inference, in milliseconds.

    Attributes:
        median_ms: half of the runs were faster.
        p90_ms: nine of ten runs were faster.
        min_ms: the fastest run: what the machine can do when nothing disturbs it.
        runs: how many were measured.
    """

    median_ms: float
    p90_ms: float
    min_ms: float
    runs: int


def summary_of(latencies_ms: Sequence[float]) -> Latency:
    """Sums up at least one latency.

    Raises:
        ValueError: there is none.
    """
    if not latencies_ms:
        raise ValueError("no latency was measured")
    values = np.asarray(latencies_ms, np.float64)
    return Latency(float(np.median(values)), float(np.percentile(values, 90)), float(values.min()), len(latencies_ms))


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over pairs of ``ours / theirs``.

    Both numbers of a pair were measured one right after the other, so that whatever else the machine was doing
    slowed them alike; the ratio of two medians would not know that.

    Raises:
        ValueError: the lists differ in length, or are empty.
    """
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def peak_memory_bytes(pid: int) -> int | None:
    """The most physical memory that a running process has held so far (``VmHWM`` of Linux's /proc).

    Returns:
        Bytes; None where the system does not tell, or the process has gone.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            # "VmHWM:  123456 kB", where kB are 1024 bytes (proc_pid_status(5)).
            return int(line.split()[1]) * 1024
    return None
