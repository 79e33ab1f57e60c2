"""Saves and restores the process state that foreign code may change."""

from __future__ import annotations

import builtins
import gc
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM") if hasattr(signal, name))

_OUTPUTS = (1, 2)  # descriptors of stdout and stderr
_NAMESPACES = (builtins, hashlib, io, json, os, shutil)  # what the files and their checksums are written with


def saved_state() -> Callable[[], None]:
    """Saves the state; returns the function that restores it."""
    # Modules first: what puts the rest back imports.
    undo = [_modules(), _functions(), _folder(), _streams(), _signals(), _torch(), _numpy_and_process()]

    def put_back() -> None:
        for put_back_part in undo:
            put_back_part()

    return put_back


def _functions() -> Callable[[], None]:
    """Remembers the functions that write files and print results, which foreign code may replace."""
    before = [(namespace, dict(vars(namespace))) for namespace in _NAMESPACES]

    def put_back() -> None:
        for namespace, members in before:
            now = vars(namespace)
            for name, member in members.items():
                if now.get(name) is not member:
                    setattr(namespace, name, member)

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
    """The standard streams, also where foreign code has closed them, or what lies beneath them."""
    streams = sys.stdin, sys.stdout, sys.stderr
    hooks = sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook
    limit = sys.getrecursionlimit()
    copies = {}
    for descriptor in _OUTPUTS:
        with suppress(OSError):
            copies[descriptor] = os.dup(descriptor)

    def put_back() -> None:
        for descriptor, copy in copies.items():
            with suppress(OSError):
                os.dup2(copy, descriptor)
                os.close(copy)
        sys.stdin, sys.stdout, sys.stderr = streams
        for name, descriptor in (("stdout", 1), ("stderr", 2)):
            if getattr(getattr(sys, name), "closed", False):
                setattr(sys, name, os.fdopen(descriptor, "w", errors="backslashreplace", closefd=False))
        sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook = hooks
        sys.setrecursionlimit(limit)

    return put_back


def _signals() -> Callable[[], None]:
    """The handlers of signals, which Python lets only the main thread set."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}

    def put_back() -> None:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return put_back


def _torch() -> Callable[[], None]:
    """What torch computes in and on. A setting is written only where it changed: some of them import much."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    grad, threads = torch.is_grad_enabled(), torch.get_num_threads()
    autocast, autocast_dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    deterministic, precision = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()

    def put_back() -> None:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        torch.set_grad_enabled(grad)
        torch.set_autocast_enabled("cpu", autocast)
        torch.set_autocast_dtype("cpu", autocast_dtype)
        if torch.are_deterministic_algorithms_enabled() != deterministic:  # setting it imports torch's compiler: 0.4 s
            torch.use_deterministic_algorithms(deterministic)
        torch.set_float32_matmul_precision(precision)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    return put_back


def _modules() -> Callable[[], None]:
    """Remembers the imported modules: these are put back, and what foreign code imported besides stays.

    A second copy of one that was there goes: `sys` itself is imported anew, half empty, where it was taken away.
    """
    before = dict(sys.modules)

    def put_back() -> None:
        for name in [name for name, module in sys.modules.items() if module is None and name not in before]:
            del sys.modules[name]  # a None says that it must not be imported
        sys.modules.update(before)

    return put_back


def _numpy_and_process() -> Callable[[], None]:
    """numpy's error state, garbage collection, the mask of new files, warning filters, the environment."""
    errors, collects, mask = np.geterr(), gc.isenabled(), os.umask(0o077)
    os.umask(mask)  # it can be read only by setting another one
    environment, filters = dict(os.environ), warnings.catch_warnings()
    filters.__enter__()

    def put_back() -> None:
        np.seterr(**errors)
        (gc.enable if collects else gc.disable)()
        os.umask(mask)
        filters.__exit__(None, None, None)
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)

    return put_back
