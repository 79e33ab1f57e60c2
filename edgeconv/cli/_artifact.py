"""Reads ``--match`` and ``--layout``: what the user says of the inputs and outputs of another converter's file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.errors import ParityError

if TYPE_CHECKING:
    from edgeconv.flow.foreign import Ends


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
