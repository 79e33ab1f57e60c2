"""The border to code that a recipe names: what it prints and what it raises."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

_LIMIT = 400
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Sends what foreign code prints to stderr: stdout belongs to the command's own result (``--json``)."""
    with redirect_stdout(sys.stderr):
        yield


def told(error: BaseException) -> str:
    """A foreign exception as a clause: ``raised ValueError: its text``, without control characters and not endless."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else printable(repr(error.code))})"
    text = printable(str(error))
    return f"raised {type(error).__name__}" + (f": {text}" if text else "")


def printable(text: str) -> str:
    """One line without control characters (terminals obey some of them), cut where it is long."""
    line = " ".join(_ANSI.sub("", text).split())
    line = "".join(char for char in line if char.isprintable())
    return line if len(line) <= _LIMIT else f"{line[: _LIMIT - 3]}..."
