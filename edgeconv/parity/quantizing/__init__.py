"""Link 2 of a variant of integers: each number is what the float graph and the plan say.

Public names
    `quantizing`: judges a graph of integers beside what it was made from.
    `changing`: judges the float graph that it was made from beside the one of link 1.
    `keeping`: judges one whose source rounds by itself, beside what that states: each a `StatedRounding`.
    `Origin`: the float graphs before it, and the plan. `Change`, `Holds`: how the float graph was changed.

Nothing of `edgeconv.quantize` is asked: what a number should be is stated here once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import on_first_use
from edgeconv.parity.quantizing._origin import Change, Holds, Origin
from edgeconv.parity.quantizing._stated import StatedRounding

if TYPE_CHECKING:
    from edgeconv.parity.quantizing._judge import changing, keeping, quantizing

__all__ = ["Change", "Holds", "Origin", "StatedRounding", "changing", "keeping", "quantizing"]

# They evaluate graphs by torch, which an export that is not proved does without.
__getattr__ = on_first_use(__name__, {"_judge": ("changing", "keeping", "quantizing")})
