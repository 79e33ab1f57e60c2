"""Saves and restores the process state that foreign code may change."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM") if hasattr(signal, name))


def saved_state() -> Callable[[], None]:
    """Saves the state; returns the function that restores it."""
    undo = [_folder(), _streams(), _signals(), _torch(), _rest()]

    def put_back() -> None:
        for put_back_part in undo:
            put_back_part()

    return put_back


def _folder() -> Callable[[], None]:
    """The working folder, held by its descriptor: it may be renamed meanwhile."""
    try:
        here = os.open(".", os.O_RDONLY)
    except OSError:
        return lambda: None

    def put_back() -> None:
        with suppress(OSError):
            os.fchdir(here)
            os.close(here)

    return put_back


def _streams() -> Callable[[], None]:
    streams = sys.stdin, sys.stdout, sys.stderr
    hooks = sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook
    limit = sys.getrecursionlimit()

    def put_back() -> None:
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook = hooks
        sys.setrecursionlimit(limit)

    return put_back


def _signals() -> Callable[[], None]:
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}

    def put_back() -> None:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return put_back


def _torch() -> Callable[[], None]:
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    grad, threads = torch.is_grad_enabled(), torch.get_num_threads()
    deterministic, precision = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()

    def put_back() -> None:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        torch.set_grad_enabled(grad)
        if torch.are_deterministic_algorithms_enabled() != deterministic:  # setting it imports torch's compiler: 0.4 s
            torch.use_deterministic_algorithms(deterministic)
        torch.set_float32_matmul_precision(precision)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    return put_back


def _rest() -> Callable[[], None]:
    errors, collects, mask = np.geterr(), gc.isenabled(), os.umask(0o077)
    os.umask(mask)
    environment = dict(os.environ)

    def put_back() -> None:
        np.seterr(**errors)
        (gc.enable if collects else gc.disable)()
        os.umask(mask)
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)

    return put_back
