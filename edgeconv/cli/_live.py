"""Progress on a terminal that somebody watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from edgeconv.cli._streams import writing
from edgeconv.errors import printable


class Live:
    """A spinner for the stage that runs, a tick for each that is done."""

    def __init__(self) -> None:
        self._console = Console()
        rich_glyphs = _carries(self._console.encoding, "✓⠋")
        self._tick, self._spinner = ("✓", "dots") if rich_glyphs else ("ok", "line")

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[str], None]]:
        """Spins while the stage runs."""
        start_ns = time.perf_counter_ns()
        with self._console.status(Text(printable(title)), spinner=self._spinner) as status:
            yield lambda how_far: status.update(Text(printable(f"{title}: {how_far}")))
        seconds = f"{(time.perf_counter_ns() - start_ns) / 1e9:.2f} s"
        self._line((f"{self._tick} ", "green"), f"{printable(title)} ", (seconds, "dim"))

    def note(self, text: str) -> None:
        """A line of its own."""
        self._line(("note: ", "yellow"), printable(text))

    def _line(self, *parts: str | tuple[str, str]) -> None:
        with writing():
            self._console.print(Text.assemble("  ", *parts), soft_wrap=True)


def _carries(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
