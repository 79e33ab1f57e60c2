"""The border to the user's code that a recipe names: what it prints, raises, and changes of the process."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

_LIMIT = 400  # characters of a foreign message
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Sends what foreign code prints to stderr: stdout belongs to the command's own result (``--json``)."""
    with state_restored(), redirect_stdout(sys.stderr):
        yield


@contextmanager
def state_restored() -> Iterator[None]:
    """Restores process state that foreign code may change: working folder, streams, signals, torch's settings.

    What is written afterwards must land where the caller said, and be computed as if that code had not run.
    """
    from edgeconv.recipe.settings import saved_state

    put_back, process = saved_state(), os.getpid()
    try:
        yield
    finally:
        if os.getpid() != process:  # that code has forked: the copy would write the same files, and print them again
            os._exit(0)
        put_back()


def clause_of(error: BaseException) -> str:
    """A foreign exception as a clause, ``raised ValueError: its text``: one printable line of limited length."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else foreign_line(repr(error.code))})"
    text = foreign_line(text_of(error))
    return f"raised {type(error).__name__}" + (f": {text}" if text else "")


def text_of(error: BaseException) -> str:
    """The text of an exception; empty where its ``__str__`` itself raises."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001  (a class of anybody's)
        return ""


def foreign_line(text: str) -> str:
    """One line without control characters (terminals obey some of them), cut where it is long."""
    line = " ".join(_ANSI.sub("", text).split())
    line = "".join(char for char in line if char.isprintable())
    return line if len(line) <= _LIMIT else f"{line[: _LIMIT - 3]}..."
