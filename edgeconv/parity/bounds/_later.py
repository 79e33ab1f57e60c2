"""What is left to be computed until somebody asks for it.

What a block of elements makes may be read at once by the steps that follow, and nothing of it be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgeconv.core import Array
from edgeconv.core.blocks import any_block, by_blocks, each_block

_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class Later:
    """A function of each element that nobody has asked for yet.

    Attributes:
        function: see `by_blocks`.
        operands: likewise.
    """

    function: Callable[..., Sequence[Array]]
    operands: tuple[Array, ...]

    @classmethod
    def known(cls, *arrays: Array) -> Later:
        """Of arrays that are there."""
        return cls(lambda *parts: parts, arrays)

    def then(self, function: Callable[..., Sequence[Array]], *operands: Array) -> Later:
        """A function of further operands, and of these results behind them."""
        return Later(self._behind(function, len(operands)), (*operands, *self.operands))

    def beside(self, other: Later) -> Later:
        """These results, and those of another behind them."""
        count = len(self.operands)

        def both(*operands: Array) -> Sequence[Array]:
            return *self.function(*operands[:count]), *other.function(*operands[count:])

        return Later(both, (*self.operands, *other.operands))

    def is_any(self, place: int) -> bool:
        """Whether any element of the result in a place is not 0: mostly the first block tells."""
        with np.errstate(all="ignore"):
            return any_block(lambda *operands: bool(self.function(*operands)[place].any()), *self.operands)

    def each(self, function: Callable[..., _Result], *operands: Array) -> list[_Result]:
        """What a function makes of each block of further operands, and of these results behind them."""
        with np.errstate(all="ignore"):
            return each_block(self._behind(function, len(operands)), *operands, *self.operands)

    def whole(self, places: Sequence[int]) -> tuple[Array, ...]:
        """The results in these places."""

        def chosen(*operands: Array) -> list[Array]:
            results = self.function(*operands)
            return [results[at] for at in places]

        with np.errstate(all="ignore"):
            return by_blocks(chosen, *self.operands)

    def _behind(self, function: Callable[..., _Result], count: int) -> Callable[..., _Result]:
        return lambda *arrays: function(*arrays[:count], *self.function(*arrays[count:]))
