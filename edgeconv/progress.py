"""What the flow tells of its progress, and to whom; how it looks is the command line's affair."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """Hears of every stage while it runs."""

    def stage(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """Wraps one stage of the flow; what it gives is told how far a long one is, in one line."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should know, one line."""
        ...


class Silent:
    """Says nothing: what the Python interface uses."""

    def stage(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """Wraps a stage in nothing."""
        return nullcontext(_unheard)

    def note(self, text: str) -> None:
        """Drops the note."""


def _unheard(_: str) -> None:
    """Where nobody listens."""
