"""Decides whose fault an unmapped exception is: the module's code, the machine's, or a bug of ours."""

from __future__ import annotations

import sys
import traceback
from pathlib import PurePath

from edgeconv.cli._machine import lacking
from edgeconv.errors import printable
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
