"""How progress looks: rich on a terminal, plain lines in CI, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgeconv.cli._streams import say
from edgeconv.cli._supervisor import asked_to_end
from edgeconv.errors import printable
from edgeconv.progress import Progress, Silent

_BETWEEN_S = 10.0  # seconds between two lines of a log about one long stage


class Plain:
    """For logs: one line per finished stage, and every ten seconds the progress of a long one."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[str], None]]:
        """Writes how long the stage took when it is done."""
        start_ns = last_line_ns = time.perf_counter_ns()

        def tell(how_far: str) -> None:
            nonlocal last_line_ns
            if time.perf_counter_ns() - last_line_ns >= _BETWEEN_S * 1e9:
                last_line_ns = time.perf_counter_ns()
                say(f"  {printable(title)}: {printable(how_far)}")

        yield tell
        say(f"  {printable(title)}: {(time.perf_counter_ns() - start_ns) / 1e9:.2f} s")

    def note(self, text: str) -> None:
        """A line of its own."""
        say(f"  note: {printable(text)}")


class Interruptible:
    """Stops at the next stage boundary once a signal has asked to end, even if some code swallowed its exception."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[str], None]]:
        """Wraps a stage; raises what the signal raised."""
        _end_if_asked()
        with self._progress.stage(title) as tell:
            yield tell
            _end_if_asked()

    def note(self, text: str) -> None:
        """Passes it on."""
        self._progress.note(text)


def _end_if_asked() -> None:
    end = asked_to_end()
    if end is not None:
        raise end


def progress_for(*, silent: bool) -> Progress:
    """The progress that suits where standard output goes."""
    if silent:
        return Interruptible(Silent())
    if not sys.stdout.isatty():
        return Interruptible(Plain())
    from edgeconv.cli._live import Live  # rich, which takes as long to import as a small file to write

    return Interruptible(Live())
