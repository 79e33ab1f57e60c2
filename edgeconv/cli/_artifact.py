"""A file of any converter, judged by a recipe: what `edgeconv parity --artifact` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeconv.errors import Caller, ParityError, telling

if TYPE_CHECKING:
    from edgeconv.flow.foreign import Ends
    from edgeconv.progress import Progress
    from edgeconv.recipe import Recipe
    from edgeconv.report import Report


def judged_artifact(
    path: Path, recipe: Recipe, out: Path, devices: list[str] | None, ends: Ends, progress: Progress
) -> Report:
    """See `edgeconv.flow.foreign.judge_file`."""
    from edgeconv.flow.foreign import judge_file

    with telling(Caller.COMMAND_LINE):
        return judge_file(path, recipe, out, devices=devices, ends=ends, progress=progress)


def stated_ends(matches: list[str], layout: str) -> Ends:
    """``--match images_nhwc=images`` and ``--layout nhwc``.

    Raises:
        ParityError: a text names no two, or there is no such layout.
    """
    from edgeconv.core import NCHW, NHWC
    from edgeconv.flow.foreign import Ends

    names: dict[str, str] = {}
    for text in matches:
        theirs, sign, ours = text.rpartition("=")
        if not sign or not theirs or not ours:
            raise ParityError(f"{text!r:.80} names no two", where="--match", hint="write THEIRS=OURS")
        names[theirs] = ours
    if layout and layout not in (NHWC, NCHW):
        raise ParityError(f"{layout!r:.80} is no layout", where="--layout", hint=f"write {NHWC} or {NCHW}")
    return Ends(names, layout)
