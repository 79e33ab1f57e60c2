"""The border to code that a recipe names: what it prints and what it raises."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from edgeconv.errors import Ending

_LIMIT = 400
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Sends what foreign code prints to stderr: stdout belongs to the command's own result (``--json``)."""
    with unchanged(), redirect_stdout(sys.stderr):
        yield


def passed(error: BaseException) -> None:
    """Raises what is not foreign code's own: whoever asked the process to end is obeyed.

    The foreign border catches every ``BaseException``, as a module may make classes of its own.
    """
    if isinstance(error, Ending | KeyboardInterrupt):
        raise error


@contextmanager
def unchanged() -> Iterator[None]:
    """Takes back what foreign code does to the process: its folder, streams, signals, and torch's settings.

    What is written afterwards must land where the caller said, and be computed as if that code had not run.
    """
    from edgeconv.recipe.settings import taken

    put_back = taken()
    try:
        yield
    finally:
        put_back()


def told(error: BaseException) -> str:
    """A foreign exception as a clause: ``raised ValueError: its text``, without control characters and not endless."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else printable(repr(error.code))})"
    text = printable(text_of(error))
    return f"raised {type(error).__name__}" + (f": {text}" if text else "")


def text_of(error: BaseException) -> str:
    """An exception's text; nothing where its own code cannot tell it."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001  (a class of anybody's)
        return ""


def printable(text: str) -> str:
    """One line without control characters (terminals obey some of them), cut where it is long."""
    line = " ".join(_ANSI.sub("", text).split())
    line = "".join(char for char in line if char.isprintable())
    return line if len(line) <= _LIMIT else f"{line[: _LIMIT - 3]}..."
