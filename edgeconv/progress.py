"""The interface through which the flow reports progress; the command line decides how it looks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """Receives every stage of the flow, and notes."""

    def stage(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """Wraps one stage; yields a function that takes one line about how far the stage is."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should know, one line."""
        ...


class Silent:
    """Reports nothing; the default of the Python interface."""

    def stage(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """Wraps a stage in nothing."""
        return nullcontext(_unheard)

    def note(self, text: str) -> None:
        """Drops the note."""


def _unheard(_: str) -> None:
    """Where nobody listens."""
