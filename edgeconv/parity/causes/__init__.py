"""Why a layer is wrong: hypotheses, each tried by evaluating the layer under it.

Public names
    `cause_of`: the first hypothesis that explains a result, in words.
    `cause_in_constants`: the same, of the constants that a file has, where all others have been tried.
    `cause_in_operators`: the same, by the change of one of the file's own operators that mends it.
    `change_of_constant`: how a constant of a file was changed, in words.
    `Piece`: the layers between values that are held and one that is judged, on arrays.
    `HELD`: the suffix of values that the caller reads in place of computed ones.
    `Stated`: what a file states in its own nodes.
    `Part`, `Operation`, `Skipped`: the file's own operators before a value, each of which can be computed again.
    `Evidence`: what was computed in fact, and the bound of a right result.
"""

from __future__ import annotations

from edgeconv.parity.causes._constants import change_of_constant
from edgeconv.parity.causes._explain import cause_in_constants, cause_in_operators, cause_of
from edgeconv.parity.causes._mends import Operation, Part, Skipped
from edgeconv.parity.causes._piece import HELD, Evidence, Piece
from edgeconv.parity.causes._stated import Stated

__all__ = [
    "HELD",
    "Evidence",
    "Operation",
    "Part",
    "Piece",
    "Skipped",
    "Stated",
    "cause_in_constants",
    "cause_in_operators",
    "cause_of",
    "change_of_constant",
]
