"""Silence around onnxsim and the runtime inside it: what fails is told by an error, in one line."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def mute() -> Iterator[None]:
    """Drops what Python and C++ print while a library runs: warnings, tracebacks, logs.

    stderr is redirected by its file descriptor, since C++ knows no other.
    """
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:  # there is none
        stderr = None
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        if stderr is not None:
            os.dup2(devnull, 2)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        os.close(devnull)
        if stderr is not None:
            os.dup2(stderr, 2)
            os.close(stderr)
