"""Decides whose fault an unmapped exception is: the module's code, the machine's, or a bug of ours.

Of the machine: full disks, missing memory, limits on files and processes.
"""

from __future__ import annotations

import errno
import linecache
import re
import sys
import traceback
from pathlib import PurePath

from edgeconv.errors import EdgeconvError, EmitError, causes_of, printable
from edgeconv.recipe.foreign import text_of


def blame(error: BaseException) -> str:
    """One line where the module's code raised the error or the machine lacks something; empty for a bug of ours."""
    lack = lacking(error)
    if lack:
        return lack
    place = _foreign_place(error)
    if not place:
        return ""
    text = " ".join(text_of(error).split())[:300]
    return f"the module's code raised {type(error).__name__}{f': {text}' if text else ''} ({place}); fix that code"


def _foreign_place(error: BaseException) -> str:
    """File, line and function of foreign code that raised it; empty where our code or a library that we called did.

    Frames come outermost first. Behind one of ours, foreign code is searched anew: a library that the module's code
    called is still the module's affair, and one that our code called is ours.
    """
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if top == "edgeconv":
            place = ""
        elif not _is_library(top, frame.f_code.co_filename):
            place = printable(f"{PurePath(frame.f_code.co_filename).name}, line {line}, in {frame.f_code.co_name}")
    return place


def _is_library(top: str, file: str) -> bool:
    """Whether a module is of the standard library or of a package that edgeconv depends on."""
    if not top or top == "__main__" or top in sys.stdlib_module_names or file.startswith("<"):
        return True
    from edgeconv.recipe.imports import OURS, is_needed

    return top in OURS or is_needed(top)


# Texts of errors: the message alone tells these from others of the same class.
_MEMORY = (
    *("can't allocate memory", "not enough memory", "Unable to allocate"),  # of torch and numpy
    *("Cannot allocate memory", "cannot allocate memory", "failed to map segment"),  # the system's, and of the loader
)
_FILES = ("too many files are open", "raise the limit (ulimit -n)")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PROCESSES = ("no further process can be started", "end others, or raise the limit (ulimit -u)")
_LACKS = {errno.EMFILE: _FILES, errno.ENFILE: _FILES}
# Functions that start a process, by module and name of a frame; and calls of built-in ones, in a line of source.
_STARTERS = {
    ("edgeconv.cli._supervisor", "supervised"),
    ("multiprocessing.popen_fork", "_launch"),
    ("multiprocessing.util", "spawnv_passfds"),
    ("pty", "fork"),
    ("subprocess", "_execute_child"),
}
_STARTS = re.compile(r"\b(fork|forkpty|posix_spawnp?)\(")
# A part of an error's text, what is lacking, and the hint.
_OTHER_TEXTS = (
    ("No usable temporary directory", "no folder for temporary files can be written", "name one in TMPDIR"),
    ("can't start new thread", "no further thread can be started", "raise the limits (ulimit -u, ulimit -v)"),
)


def lacking(error: BaseException) -> str:
    """One line on what the machine lacks, by an exception or its causes; empty where none of them is about that.

    Our own error on a full output folder keeps its words. So does our own error on memory: a damaged file may ask for
    more than any machine has.
    """
    where = f"{error.where}: " if isinstance(error, EdgeconvError) and error.where else ""
    for cause in causes_of(error):
        text = text_of(cause)
        if isinstance(cause, OSError) and cause.errno in _FULL:
            if isinstance(error, EmitError) and str(cause.strerror) in error.what:
                return ""
            return f"{where}cannot write{f' {cause.filename}' if cause.filename else ''}: {cause.strerror}; make room"
        if isinstance(cause, OSError) and (cause.errno in _LACKS or _is_of_a_start(cause)):
            what, hint = _LACKS.get(cause.errno or 0, _PROCESSES)
            return f"{where}{what}; {hint}"
        for part, what, hint in _OTHER_TEXTS:
            if part in text:
                return f"{where}{what}; {hint}"
        if not isinstance(error, EdgeconvError) and (isinstance(cause, MemoryError) or any(x in text for x in _MEMORY)):
            message = " ".join(text.split())[:200]
            what = f"there is not enough memory{f' ({message})' if message else ''}"
            return f"{what}; simplify the model, or use a larger machine"
    return ""


def _is_of_a_start(error: OSError) -> bool:
    """Whether the system refused a further process: EAGAIN, which reading an empty non-blocking stream raises too.

    So the traceback has to show that a process was started. Built-in functions have no frame: for these, the innermost
    line of source has to call one.
    """
    if error.errno != errno.EAGAIN:
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    if any((frame.f_globals.get("__name__"), frame.f_code.co_name) in _STARTERS for frame, _ in frames):
        return True
    lines = [linecache.getline(frame.f_code.co_filename, line, frame.f_globals) for frame, line in frames[-1:]]
    return any(map(_STARTS.search, lines))
