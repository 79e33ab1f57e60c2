"""Ctrl-C while the program is still being imported ends it without a traceback: nothing has begun yet."""

from __future__ import annotations

import signal
import threading

_usual = signal.getsignal(signal.SIGINT)
# Only in a program of its own: an embedding one may have set a handler, and threads other than the main one cannot.
_is_ours = _usual is signal.default_int_handler and threading.current_thread() is threading.main_thread()
if _is_ours:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def put_back() -> None:
    """Restores Python's own handler, for programs that import the command line to call it."""
    if _is_ours:
        signal.signal(signal.SIGINT, _usual)
