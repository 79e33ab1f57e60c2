"""Recognizes errors that are due to the machine: full disks, missing memory, limits on files and processes."""

from __future__ import annotations

import errno
import linecache
import re
import traceback

from edgeconv.errors import EdgeconvError, EmitError, causes_of

_MEMORY = (
    *("can't allocate memory", "not enough memory", "Unable to allocate"),
    *("Cannot allocate memory", "cannot allocate memory", "failed to map segment"),  # the system's, and of a library
)
_FILES = ("too many files are open", "raise the limit (ulimit -n)")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PROCESSES = ("no further process can be started", "end others, or raise the limit (ulimit -u)")
_LACKS = {errno.EMFILE: _FILES, errno.ENFILE: _FILES}
_STARTERS = {
    ("edgeconv.cli._supervisor", "supervised"),
    ("multiprocessing.popen_fork", "_launch"),
    ("multiprocessing.util", "spawnv_passfds"),
    ("pty", "fork"),
    ("subprocess", "_execute_child"),
}
_STARTS = re.compile(r"\b(fork|forkpty|posix_spawnp?)\(")
_SAID = (
    ("No usable temporary directory", "no folder for temporary files can be written", "name one in TMPDIR"),
    ("can't start new thread", "no further thread can be started", "raise the limits (ulimit -u, ulimit -v)"),
)


def lacking(error: BaseException) -> str:
    """A line about what an exception, or one that it came of, says that the machine lacks; empty where it says none.

    What is said of an output folder that is full stands; so does what ours say of memory, as a file may ask for more
    than any machine has.
    """
    where = f"{error.where}: " if isinstance(error, EdgeconvError) and error.where else ""
    for cause in causes_of(error):
        text = _text_of(cause)
        if isinstance(cause, OSError) and cause.errno in _FULL:
            if isinstance(error, EmitError) and str(cause.strerror) in error.what:
                return ""
            return f"{where}cannot write{f' {cause.filename}' if cause.filename else ''}: {cause.strerror}; make room"
        if isinstance(cause, OSError) and (cause.errno in _LACKS or _is_of_a_start(cause)):
            what, hint = _LACKS.get(cause.errno or 0, _PROCESSES)
            return f"{where}{what}; {hint}"
        for sign, what, hint in _SAID:
            if sign in text:
                return f"{where}{what}; {hint}"
        if not isinstance(error, EdgeconvError) and (isinstance(cause, MemoryError) or any(x in text for x in _MEMORY)):
            said = " ".join(text.split())[:200]
            what = f"there is not enough memory{f' ({said})' if said else ''}"
            return f"{what}; simplify the model, or use a larger machine"
    return ""


def _is_of_a_start(error: OSError) -> bool:
    """Whether the system refused a further process; it says the same of a stream that must not wait, and has nothing.

    Built-in functions have no frame: a line that calls one of them tells, where it raised the error itself.
    """
    if error.errno != errno.EAGAIN:
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    if any((frame.f_globals.get("__name__"), frame.f_code.co_name) in _STARTERS for frame, _ in frames):
        return True
    lines = [linecache.getline(frame.f_code.co_filename, line, frame.f_globals) for frame, line in frames[-1:]]
    return any(map(_STARTS.search, lines))


def _text_of(error: BaseException) -> str:
    from edgeconv.recipe.foreign import text_of

    return text_of(error)
