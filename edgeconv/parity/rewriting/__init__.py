"""Links 1 and 2 of the proof, rewrites and rounding: the graph computes what the module does, before it is rounded.

Link 1 compares in float64, with constants as they were before they were rounded. The module's outputs are compared with
those of the graph that was captured, and this graph with the rewritten one at every value that both have, as link 3
compares a graph and its file: held at all other such values, so that no error adds up and the first that differs is
where the fault lies (`edgeconv.parity.writing`). What both graphs compute by the same node of the same operands need
not be compared. Parts that clamp or saturate are evaluated on operands that are larger than the sample's, too.

The bound is float64's rounding: `GAMMA` times the largest magnitude of the value. Where that is not enough, what
such a relative change of every number on the way would make of the value is measured, with random signs: by so much may
any two evaluations differ (a mean is subtracted from numbers near to it, a difference is divided by a small one).

Link 2 has no bound: what rounding the constants costs is stated, and of a graph of integers what quantization costs.
Whether each integer is the one that was stated is for `edgeconv.parity.quantizing` to say.

`moved` tells what rounding every number on the way to float32 may make of a graph.
"""

from __future__ import annotations

from edgeconv.parity.rewriting._calls import capturing
from edgeconv.parity.rewriting._judge import rewriting
from edgeconv.parity.rewriting._rounding import rounding
from edgeconv.parity.rewriting._signs import moved

__all__ = ["capturing", "moved", "rewriting", "rounding"]
